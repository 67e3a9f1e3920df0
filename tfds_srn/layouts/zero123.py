"""Objaverse as Zero-1-to-3 rendered it: ID/000.png and ID/000.npy, 12 views.

The arrays are [3,4] world-to-camera with Blender's camera axes (y up, z
backwards), z up in the world; the lens has 35 mm before a sensor of 32, the
object's largest side is 1, cameras stand 1.5 to 2.2 away. Pictures are RGBA.
"""

import io

import numpy as np

from tfds_srn import parsing
from tfds_srn import scenes
from tfds_srn import trees
from tfds_srn.layouts import nerf

FOCAL_PER_WIDTH = 35 / 32
_TOLERANCE = 1e-2


class Zero123Scene(scenes.SceneFolder):
  """A scene in this layout."""

  EXPECTED = "folders like ID/ with 000.png and 000.npy inside"

  @staticmethod
  def is_scene(tree: trees.Tree, path: str) -> bool:
    return "000.npy" in tree.children(path)[1]

  def inspect(self) -> tuple[scenes.Scene | None, list[str]]:
    problems: list[str] = []
    files = set(self.tree.children(self.path)[1])
    names = sorted(
      file.removesuffix(".npy") for file in files if file.endswith(".npy")
    )
    if not names:
      return None, [f"{self} is empty: expected 000.png and 000.npy"]
    images, poses, intrinsics, sizes = [], [], [], []
    for name in names:
      pose = self._pose(f"{name}.npy", problems)
      picture = self.read_picture(f"{name}.png", ("PNG",), problems)
      if picture is None or pose is None:
        continue
      data, size = picture
      height, width = size
      focal = FOCAL_PER_WIDTH * max(height, width)
      images.append(data)
      poses.append(pose)
      intrinsics.append([focal, focal, width / 2, height / 2])
      sizes.append(size)
    if problems:
      return None, problems
    scene = scenes.Scene(
      scene_id=self.scene_id,
      images=images,
      poses=np.stack(poses).astype(np.float32),
      intrinsics=np.array(intrinsics, np.float32),
      image_sizes=np.array(sizes, np.int32),
      depths=[],
    )
    return scene, []

  def _pose(self, file: str, problems: list[str]) -> np.ndarray | None:
    """OpenCV camera-to-world [4,4]."""
    data = self.read(file, problems)
    if data is None:
      return None
    try:
      matrix = np.load(io.BytesIO(data), allow_pickle=False)
      matrix = np.asarray(matrix, float).reshape(3, 4)
    except (ValueError, OSError, EOFError) as error:
      problems.append(
        f"{self}/{file} cannot be read ({error}), expected an array [3,4]"
      )
      return None
    matrix = np.concatenate([matrix, [[0, 0, 0, 1]]])
    problem = parsing.rigid_problem(matrix, _TOLERANCE)
    if problem:
      problems.append(f"{self}/{file} {problem}")
      return None
    return np.linalg.inv(matrix) @ nerf.FROM_OPENGL
