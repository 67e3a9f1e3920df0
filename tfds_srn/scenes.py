"""Reads scenes in SRN layout, in either of the two published packagings.

A scene is a folder with `rgb/NAME.png` and `pose/NAME.txt`, and intrinsics as

  pixelNeRF   one `intrinsics.txt`: "f cx cy 0." / barycentre / scale /
              "height width" / optionally 1 for world-to-camera poses
  SRN         one `intrinsics/NAME.txt` per view: a 3x3 matrix that belongs to
              a render of 2 cx pixels, whatever the size of the PNG

Both give the same `Scene`. All that is wrong with a scene is found at once.
"""

import dataclasses
import posixpath
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tfds_srn import parsing
from tfds_srn import trees


class BadScenesError(ValueError):
  """Some scenes cannot be read; the message lists every problem found."""

  def __init__(self, problems: list[str]):
    self.problems = problems
    lines = "\n".join(f"  {p}" for p in problems)
    super().__init__(
      f"{len(problems)} problem(s) in the scenes:\n{lines}\nCorrect them, or"
      " leave these scenes out with --skip_bad_scenes."
    )


@dataclasses.dataclass(frozen=True)
class Scene:
  """One scene, its images undecoded.

  Attributes:
    scene_id: the folder's name.
    images: PNG bytes of the views, in the order of their names.
    poses: f32 [views,4,4] camera-to-world, OpenCV axes, world units.
    intrinsics: f32 [4] fx, fy, cx, cy in pixels of the stored images.
    image_size: (height, width) in pixels.
    depths: PNG bytes of 16-bit depth along the optical axis in 1/10000 world
      units, 0 where empty; an empty list where the scene has none.
  """

  scene_id: str
  images: list[bytes]
  poses: np.ndarray
  intrinsics: np.ndarray
  image_size: tuple[int, int]
  depths: list[bytes]


@dataclasses.dataclass(frozen=True)
class SceneFolder:
  """Where a scene lies."""

  tree: trees.Tree
  path: str

  @property
  def scene_id(self) -> str:
    return posixpath.basename(self.path)

  def __str__(self) -> str:
    return f"{self.tree.name}/{self.path}"

  def files(self, name: str, suffix: str) -> dict[str, str]:
    """{name without suffix: path in the scene} of the files in a folder of the
    scene, in the order of their numbers."""
    if name not in self.tree.children(self.path)[0]:
      return {}
    inside = self.tree.children(f"{self.path}/{name}")[1]
    stems = {
      file[: -len(suffix)]: f"{name}/{file}"
      for file in inside
      if file.lower().endswith(suffix)
    }
    return {stem: stems[stem] for stem in sorted(stems, key=_natural)}

  def read(self, name: str, problems: list[str]) -> bytes | None:
    """The bytes of a file of the scene, or None and another problem."""
    try:
      return self.tree.read(f"{self.path}/{name}")
    except OSError as error:
      reason = error.strerror or str(error)
      problems.append(f"{self}/{name} {reason}")
      return None


class Summary(NamedTuple):
  """What is known of a whole scene without keeping its images.

  Attributes:
    views: how many.
    distance: mean of its cameras from the origin, world units.
    off_centre: of the principal point from the image's centre, as a share of
      the width.
    has_depth: whether every view has a depth map.
  """

  views: int
  distance: float
  off_centre: float
  has_depth: bool


def survey(
  folders: Iterable[SceneFolder],
) -> tuple[dict[SceneFolder, Summary], dict[SceneFolder, list[str]]]:
  """Reads all scenes: summaries of the whole ones, problems of the others."""
  summaries, problems = {}, {}
  for folder in folders:
    scene, lines = _inspect(folder)
    if scene is None or lines:
      problems[folder] = lines
    else:
      summaries[folder] = summary_of(scene)
  return summaries, problems


def summary_of(scene: Scene) -> Summary:
  """The summary of a scene."""
  height, width = scene.image_size
  centre = scene.intrinsics[2:] - np.array([width, height]) / 2
  return Summary(
    views=len(scene.images),
    distance=float(np.linalg.norm(scene.poses[:, :3, 3], axis=-1).mean()),
    off_centre=float(np.abs(centre).max() / width),
    has_depth=bool(scene.depths),
  )


def read_scene(folder: SceneFolder) -> Scene:
  """Reads one scene.

  Raises:
    BadScenesError: with every problem of the scene.
  """
  scene, problems = _inspect(folder)
  if scene is None:
    raise BadScenesError(problems)
  return scene


def _natural(name: str) -> tuple:
  """Sorts 2 before 10."""
  return tuple(
    (0, int(part), "") if part.isdecimal() else (1, 0, part)
    for part in re.split(r"(\d+)", name)
    if part
  )


def _inspect(folder: SceneFolder) -> tuple[Scene | None, list[str]]:
  """The scene, or None and everything that is wrong with it."""
  problems: list[str] = []
  views, pose_files = folder.files("rgb", ".png"), folder.files("pose", ".txt")
  if not views:
    return None, [f"{folder} is empty: expected views in rgb/NAME.png"]
  for name in sorted(views.keys() - pose_files, key=_natural):
    problems.append(
      f"{folder}/{views[name]} has no pose: expected pose/{name}.txt"
    )
  for name in sorted(pose_files.keys() - views, key=_natural):
    problems.append(
      f"{folder}/{pose_files[name]} has no view: expected rgb/{name}.png"
    )
  images, size = _read_images(folder, list(views.values()), problems)
  poses = _read_poses(
    folder, [pose_files[n] for n in views if n in pose_files], problems
  )
  if size is None:
    return None, problems
  intrinsics, world_to_camera = _read_intrinsics(folder, size, problems)
  depths = _read_depths(folder, list(views), problems)
  if problems or intrinsics is None:
    return None, problems
  matrices = np.stack(poses)
  if world_to_camera:
    matrices = np.linalg.inv(matrices)
  scene = Scene(
    scene_id=folder.scene_id,
    images=images,
    poses=matrices.astype(np.float32),
    intrinsics=intrinsics,
    image_size=size,
    depths=depths,
  )
  return scene, []


def _read_images(
  folder: SceneFolder, paths: list[str], problems: list[str]
) -> tuple[list[bytes], tuple[int, int] | None]:
  """The views' bytes and their common (height, width)."""
  images: list[bytes] = []
  common: tuple[int, int] | None = None
  for path in paths:
    data = folder.read(path, problems)
    if data is None:
      continue
    size, problem = parsing.image_size(data)
    if size is None:
      problems.append(f"{folder}/{path} {problem}")
      continue
    common = common or size
    if size != common:
      problems.append(
        f"{folder}/{path} is {size[1]}x{size[0]} pixels, expected"
        f" {common[1]}x{common[0]} like the views before it"
      )
    images.append(data)
  return images, common


def _read_poses(
  folder: SceneFolder, paths: list[str], problems: list[str]
) -> list[np.ndarray]:
  poses = []
  for path in paths:
    text = folder.read(path, problems)
    if text is None:
      continue
    pose, problem = parsing.parse_pose(text)
    if pose is None:
      problems.append(f"{folder}/{path} {problem}")
    else:
      poses.append(pose)
  return poses


def _read_intrinsics(
  folder: SceneFolder, size: tuple[int, int], problems: list[str]
) -> tuple[np.ndarray | None, bool]:
  """fx, fy, cx, cy from either packaging, and the world-to-camera flag."""
  values: list[tuple[str, np.ndarray]] = []
  flag = False
  per_view = folder.files("intrinsics", ".txt")
  whole = "intrinsics.txt" in folder.tree.children(folder.path)[1]
  if not whole and not per_view:
    problems.append(
      f"{folder} has no intrinsics: expected intrinsics.txt (pixelNeRF's"
      " packaging) or intrinsics/NAME.txt (SRN's)"
    )
  if whole:
    text = folder.read("intrinsics.txt", problems)
    if text is not None:
      value, flag, problem = parsing.parse_pixelnerf_intrinsics(text, size)
      if value is None:
        problems.append(f"{folder}/intrinsics.txt {problem}")
      else:
        values.append((f"{folder}/intrinsics.txt", value))
  for path in per_view.values():
    text = folder.read(path, problems)
    if text is None:
      continue
    value, problem = parsing.parse_srn_intrinsics(text, size)
    if value is None:
      problems.append(f"{folder}/{path} {problem}")
    else:
      values.append((f"{folder}/{path}", value))
  for file, value in values[1:]:
    first_file, first = values[0]
    if not np.allclose(value, first, rtol=1e-4):
      problems.append(
        f"{file} gives fx, fy, cx, cy = {value.tolist()} in pixels of the"
        f" image, expected {first.tolist()} as in {first_file}: one camera per"
        " scene"
      )
  return (values[0][1] if values else None), flag


def _read_depths(
  folder: SceneFolder, names: list[str], problems: list[str]
) -> list[bytes]:
  maps = folder.files("depth", ".png")
  if not maps:
    return []
  if list(maps) != names:
    problems.append(
      f"{folder}/depth has {len(maps)} maps for {len(names)} views: expected"
      " one of the same name per view, or none"
    )
    return []
  contents = []
  for path in maps.values():
    content = folder.read(path, problems)
    if content is not None:
      problem = parsing.image_size(content)[1]
      problems += [f"{folder}/{path} {problem}"] if problem else []
      contents.append(content)
  return contents
