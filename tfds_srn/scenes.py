"""Reads scenes in SRN layout, in either of the two published packagings.

A scene is a folder with `rgb/NAME.png` and `pose/NAME.txt`, and intrinsics as

  pixelNeRF   one `intrinsics.txt`: "f cx cy 0." / barycentre / scale /
              "height width" / optionally 1 for world-to-camera poses
  SRN         one `intrinsics/NAME.txt` per view: a 3x3 matrix that belongs to
              a render of 2 cx pixels, whatever the size of the PNG

Both give the same `Scene`. Scenes lie in folders named by split
(`cars_train/ID/..`, perhaps one level deeper as in chairs), on disk or inside
zip files. All that is wrong with a scene is found at once.
"""

import collections
import dataclasses
import pathlib
import posixpath
import random
import re
from collections.abc import Iterable
from collections.abc import Iterator

import numpy as np

from tfds_srn import parsing
from tfds_srn import trees

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {
  "train": "train",
  "val": "validation",
  "validation": "validation",
  "test": "test",
}


class BadScenesError(ValueError):
  """Some scenes cannot be read; the message lists every problem found."""

  def __init__(self, problems: list[str]):
    self.problems = problems
    lines = "\n".join(f"  {p}" for p in problems)
    super().__init__(
      f"{len(problems)} problem(s) in the scenes:\n{lines}\nMend them, or leave"
      " these scenes out with --skip_bad_scenes."
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

  def stems(self, name: str, suffix: str) -> list[str]:
    """Names of the files in a folder of the scene, without their suffix."""
    if name not in self.tree.children(self.path)[0]:
      return []
    inside = self.tree.children(f"{self.path}/{name}")[1]
    stems = [n[: -len(suffix)] for n in inside if n.lower().endswith(suffix)]
    return sorted(stems, key=_natural)

  def read(self, name: str) -> bytes:
    """The bytes of a file of the scene."""
    return self.tree.read(f"{self.path}/{name}")


def find_scenes(source: str) -> dict[str, list[SceneFolder]]:
  """Scene folders by split, sorted by id.

  Args:
    source: a folder that holds split folders, a split folder, a folder of
      scenes, a folder of zip files, or zip files separated by commas.

  Returns:
    {split: folders} for the splits that are there. Where training scenes come
    without validation scenes, a tenth of them is cut off by the reference's
    rule: ids sorted, shuffled by `random` with seed 1, the first 90 % stay.

  Raises:
    ValueError: if the source is missing or holds no scenes.
  """
  splits: dict[str, list[SceneFolder]] = {}
  for tree in trees.open_trees(source):
    for split, folders in _split_folders(tree):
      splits.setdefault(split, []).extend(folders)
  if not any(splits.values()):
    raise ValueError(
      f"no scenes in {source}: expected folders like cars_train/ID/ with rgb/"
      " and pose/ inside, or zip files of them"
    )
  splits = {
    split: sorted(folders, key=lambda f: f.scene_id)
    for split, folders in splits.items()
  }
  for split, folders in splits.items():
    counts = collections.Counter(f.scene_id for f in folders)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
      raise ValueError(
        f"{source} holds scene {repeated[0]} twice in split {split}: name only"
        " one packaging of each split"
      )
  if "train" in splits and "validation" not in splits:
    train, validation = cut_validation(splits["train"])
    splits["train"], splits["validation"] = train, validation
  return {split: splits[split] for split in SPLITS if split in splits}


def cut_validation(folders: list) -> tuple[list, list]:
  """The reference's 90/10 cut of sorted scenes, each part sorted again."""
  order = list(range(len(folders)))
  random.Random(1).shuffle(order)
  count = int(0.9 * len(folders))
  return (
    [folders[i] for i in sorted(order[:count])],
    [folders[i] for i in sorted(order[count:])],
  )


def check_scenes(
  folders: Iterable[SceneFolder],
) -> dict[SceneFolder, list[str]]:
  """The problems of each scene that has any."""
  problems = {folder: _inspect(folder)[1] for folder in folders}
  return {folder: lines for folder, lines in problems.items() if lines}


def read_scene(folder: SceneFolder) -> Scene:
  """Reads one scene.

  Raises:
    BadScenesError: with every problem of the scene.
  """
  scene, problems = _inspect(folder)
  if scene is None:
    raise BadScenesError(problems)
  return scene


def _split_folders(tree: trees.Tree) -> Iterator[tuple[str, list[SceneFolder]]]:
  """(split, scenes) for each split folder of a tree, searching two levels."""
  own = _split_of(pathlib.PurePath(tree.name).stem)
  top, _ = tree.children("")
  named = [(name, _split_of(name)) for name in top]
  if not any(split for _, split in named):
    nested = [
      (f"{outer}/{name}", _split_of(name))
      for outer in top
      if not _is_scene(tree, outer)
      for name in tree.children(outer)[0]
    ]
    if any(split for _, split in nested):
      named = nested
    else:  # the tree itself is a split, or a plain folder of scenes
      yield own or "train", list(_scenes_below(tree, ""))
      return
  for path, split in named:
    if split:
      yield split, list(_scenes_below(tree, path))


def _split_of(name: str) -> str | None:
  return _SPLIT_NAMES.get(re.split(r"[_\-]", name)[-1].lower())


def _is_scene(tree: trees.Tree, path: str) -> bool:
  folders, _ = tree.children(path)
  return "rgb" in folders or "pose" in folders


def _scenes_below(tree: trees.Tree, path: str) -> Iterator[SceneFolder]:
  """Scenes in a split folder, through one extra level where there is one."""
  for name in tree.children(path)[0]:
    child = posixpath.join(path, name)
    below = [posixpath.join(child, n) for n in tree.children(child)[0]]
    if not _is_scene(tree, child) and any(_is_scene(tree, b) for b in below):
      yield from (SceneFolder(tree, b) for b in below)
    else:
      yield SceneFolder(tree, child)


def _natural(name: str) -> tuple:
  """Sorts 2 before 10."""
  return tuple(
    (0, int(part), "") if part.isdigit() else (1, 0, part)
    for part in re.split(r"(\d+)", name)
    if part
  )


def _inspect(folder: SceneFolder) -> tuple[Scene | None, list[str]]:
  """The scene, or None and everything that is wrong with it."""
  problems: list[str] = []
  names, pose_names = folder.stems("rgb", ".png"), folder.stems("pose", ".txt")
  if not names:
    return None, [f"{folder} is empty: expected views in rgb/NAME.png"]
  for name in sorted(set(names) - set(pose_names), key=_natural):
    problems.append(
      f"{folder}/rgb/{name}.png has no pose: expected pose/{name}.txt"
    )
  for name in sorted(set(pose_names) - set(names), key=_natural):
    problems.append(
      f"{folder}/pose/{name}.txt has no view: expected rgb/{name}.png"
    )
  images, size = _read_images(folder, names, problems)
  poses = _read_poses(folder, [n for n in names if n in pose_names], problems)
  if size is None:
    return None, problems
  intrinsics, world_to_camera = _read_intrinsics(folder, size, problems)
  depths = _read_depths(folder, names, problems)
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
  folder: SceneFolder, names: list[str], problems: list[str]
) -> tuple[list[bytes], tuple[int, int] | None]:
  """The views' bytes and their common (height, width)."""
  images: list[bytes] = []
  common: tuple[int, int] | None = None
  for name in names:
    data = folder.read(f"rgb/{name}.png")
    size, problem = parsing.image_size(data)
    if size is None:
      problems.append(f"{folder}/rgb/{name}.png {problem}")
      continue
    common = common or size
    if size != common:
      problems.append(
        f"{folder}/rgb/{name}.png is {size[1]}x{size[0]} pixels, expected"
        f" {common[1]}x{common[0]} like the views before it"
      )
    images.append(data)
  return images, common


def _read_poses(
  folder: SceneFolder, names: list[str], problems: list[str]
) -> list[np.ndarray]:
  poses = []
  for name in names:
    pose, problem = parsing.parse_pose(folder.read(f"pose/{name}.txt"))
    if pose is None:
      problems.append(f"{folder}/pose/{name}.txt {problem}")
    else:
      poses.append(pose)
  return poses


def _read_intrinsics(
  folder: SceneFolder, size: tuple[int, int], problems: list[str]
) -> tuple[np.ndarray | None, bool]:
  """fx, fy, cx, cy from either packaging, and the world-to-camera flag."""
  values: list[tuple[str, np.ndarray]] = []
  flag = False
  per_view = folder.stems("intrinsics", ".txt")
  whole = "intrinsics.txt" in folder.tree.children(folder.path)[1]
  if not whole and not per_view:
    problems.append(
      f"{folder} has no intrinsics: expected intrinsics.txt (pixelNeRF's"
      " packaging) or intrinsics/NAME.txt (SRN's)"
    )
  if whole:
    value, flag, problem = parsing.parse_pixelnerf_intrinsics(
      folder.read("intrinsics.txt"), size
    )
    if value is None:
      problems.append(f"{folder}/intrinsics.txt {problem}")
    else:
      values.append((f"{folder}/intrinsics.txt", value))
  for name in per_view:
    file = f"intrinsics/{name}.txt"
    value, problem = parsing.parse_srn_intrinsics(folder.read(file), size)
    if value is None:
      problems.append(f"{folder}/{file} {problem}")
    else:
      values.append((f"{folder}/{file}", value))
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
  depth_names = folder.stems("depth", ".png")
  if not depth_names:
    return []
  if depth_names != names:
    problems.append(
      f"{folder}/depth has {len(depth_names)} maps for {len(names)} views:"
      " expected one of the same name per view, or none"
    )
    return []
  return [folder.read(f"depth/{name}.png") for name in names]
