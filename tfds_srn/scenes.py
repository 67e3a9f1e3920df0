"""Scenes as all layouts give them, and what is wrong with them.

A layout is a kind of `SceneFolder`; all that is wrong with a scene is found at
once.
"""

import dataclasses
import io
import pathlib
import posixpath
import re
from collections.abc import Iterable
from collections.abc import Sequence
from typing import ClassVar
from typing import NamedTuple

import numpy as np
from PIL import Image

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
    images: bytes of the views' PNG, JPEG or WEBP files, in the order of their
      names.
    poses: f32 [views,4,4] camera-to-world, OpenCV axes, world units.
    intrinsics: f32 [views,4] fx, fy, cx, cy in pixels of the stored images.
    image_sizes: i32 [views,2] height and width in pixels.
    depths: PNG bytes of 16-bit depth along the optical axis in 1/10000 world
      units, 0 where empty; an empty list where the scene has none.
    category: of the object; "" if it is not known.
  """

  scene_id: str
  images: list[bytes]
  poses: np.ndarray
  intrinsics: np.ndarray
  image_sizes: np.ndarray
  depths: list[bytes]
  category: str = ""


@dataclasses.dataclass(frozen=True)
class SceneFolder:
  """Where a scene lies, in one of the `layouts`.

  Attributes:
    EXPECTED: what such scenes look like, for messages.
    tree: with the scene in it.
    path: in the tree.
  """

  EXPECTED: ClassVar[str] = ""

  tree: trees.Tree
  path: str

  @classmethod
  def lists(cls, tree: trees.Tree) -> dict[str, list["SceneFolder"]]:
    """Scenes by split where the layout has lists of them; else nothing, and
    splits follow from the names of folders."""
    del tree
    return {}

  @staticmethod
  def is_scene(tree: trees.Tree, path: str) -> bool:
    """Whether a folder looks like a scene of this layout."""
    raise NotImplementedError

  def inspect(self) -> tuple[Scene | None, list[str]]:
    """The scene, or None and everything that is wrong with it."""
    raise NotImplementedError

  @property
  def scene_id(self) -> str:
    return (
      posixpath.basename(self.path) or pathlib.PurePath(self.tree.name).stem
    )

  def __str__(self) -> str:
    return f"{self.tree.name}/{self.path}"

  def files(self, name: str, suffix: str) -> dict[str, str]:
    """{name without suffix: path in the scene} of the files in a folder of the
    scene, in the order of their numbers."""
    if name not in self.tree.children(self.path)[0]:
      return {}
    inside = self.tree.children(posixpath.join(self.path, name))[1]
    stems = {
      file[: -len(suffix)]: f"{name}/{file}"
      for file in inside
      if file.lower().endswith(suffix)
    }
    return {stem: stems[stem] for stem in sorted(stems, key=natural)}

  def read(self, name: str, problems: list[str]) -> bytes | None:
    """The bytes of a file of the scene, or None and another problem."""
    try:
      return self.tree.read(posixpath.join(self.path, name))
    except OSError as error:
      reason = error.strerror or str(error)
      problems.append(f"{self}/{name} {reason}")
      return None

  def read_picture(
    self, name: str, formats: Sequence[str], problems: list[str]
  ) -> tuple[bytes, tuple[int, int]] | None:
    """The bytes of a picture of the scene and its (height, width), or None and
    another problem."""
    data = self.read(name, problems)
    if data is None:
      return None
    size, problem = parsing.image_size(data, formats)
    if size is None:
      problems.append(f"{self}/{name} {problem}")
      return None
    return data, size


class Summary(NamedTuple):
  """What is known of a whole scene without keeping its images.

  Attributes:
    views: how many.
    distance: the least and the largest of its cameras from the origin, world
      units.
    off_centre: the largest of the principal points from their images' centre,
      as a share of the width.
    has_depth: whether every view has a depth map.
  """

  views: int
  distance: tuple[float, float]
  off_centre: float
  has_depth: bool


def survey(
  folders: Iterable[SceneFolder],
) -> tuple[dict[SceneFolder, Summary], dict[SceneFolder, list[str]]]:
  """Reads all scenes: summaries of the whole ones, problems of the others."""
  summaries, problems = {}, {}
  for folder in folders:
    scene, lines = folder.inspect()
    if scene is None or lines:
      problems[folder] = lines
    else:
      summaries[folder] = summary_of(scene)
  return summaries, problems


def summary_of(scene: Scene) -> Summary:
  """The summary of a scene."""
  widths = scene.image_sizes[:, 1]
  centres = scene.intrinsics[:, 2:] - scene.image_sizes[:, ::-1] / 2
  distances = np.linalg.norm(scene.poses[:, :3, 3], axis=-1)
  return Summary(
    views=len(scene.images),
    distance=(float(distances.min()), float(distances.max())),
    off_centre=float((np.abs(centres).max(-1) / widths).max()),
    has_depth=bool(scene.depths),
  )


def read_scene(folder: SceneFolder) -> Scene:
  """Reads one scene.

  Raises:
    BadScenesError: with every problem of the scene.
  """
  scene, problems = folder.inspect()
  if scene is None:
    raise BadScenesError(problems)
  return scene


def shrink(scene: Scene, side: int) -> Scene:
  """A scene whose pictures have at most `side` pixels along their longer side;
  their intrinsics follow, depth maps stay as they are."""
  images, sizes = list(scene.images), scene.image_sizes.copy()
  intrinsics = scene.intrinsics.copy()
  for i in np.flatnonzero(sizes.max(1) > side):
    image: Image.Image = Image.open(io.BytesIO(images[i]))
    width, height = (
      max(round(v * side / max(image.size)), 1) for v in image.size
    )
    scale = np.array([width / image.width, height / image.height])
    if image.mode.startswith("I"):  # 16 bits, which PIL would clip at 255
      grey = np.asarray(image).astype(np.float32) / 257
      image = Image.fromarray(grey.round().astype(np.uint8))
    if image.mode != "RGB":  # what is transparent has no colour to mix in
      image = image.convert("RGBA").convert("RGBa")
    image = image.resize((width, height), Image.Resampling.BOX)
    file = io.BytesIO()
    image.convert("RGBA" if image.mode == "RGBa" else "RGB").save(file, "PNG")
    images[i], sizes[i] = file.getvalue(), (height, width)
    intrinsics[i] *= np.tile(scale, 2)
  return dataclasses.replace(
    scene, images=images, image_sizes=sizes, intrinsics=intrinsics
  )


def natural(name: str) -> tuple:
  """Sorts 2 before 10."""
  return tuple(
    (0, int(part), "") if part.isdecimal() else (1, 0, part)
    for part in re.split(r"(\d+)", name)
    if part
  )
