"""The renders of 13 ShapeNet classes by NMR, as DVR packed them.

  CLASS/softras_{train,val,test}.lst    names of objects, one a line
  CLASS/OBJECT/image/0000.png ...       24 views, 64x64
  CLASS/OBJECT/cameras.npz              world_mat_i (or world_mat_inv_i): world
                                        to camera, y up; camera_mat_i: focal
                                        length for an image from -1 to 1

pixelNeRF's second benchmark (Yu et al. 2021, sec. 5.1.2), whose conventions
are followed: the principal point is the middle, z becomes up.
"""

import io
import posixpath
import zipfile
import zlib

import numpy as np

from tfds_srn import parsing
from tfds_srn import scenes
from tfds_srn import trees

_LISTS = {"train": "train", "val": "validation", "test": "test"}
# (x, y, z) -> (x, -z, y): from y up to z up.
_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
_TOLERANCE = 1e-2
_DAMAGED = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)


class NmrScene(scenes.SceneFolder):
  """A scene in this layout."""

  EXPECTED = (
    "folders like CLASS/OBJECT/ with image/ and cameras.npz inside, and lists"
    " like CLASS/softras_train.lst"
  )

  @staticmethod
  def is_scene(tree: trees.Tree, path: str) -> bool:
    return "cameras.npz" in tree.children(path)[1]

  @classmethod
  def lists(cls, tree: trees.Tree) -> dict[str, list[scenes.SceneFolder]]:
    """Objects by split, of all classes that have lists."""
    result: dict[str, list[scenes.SceneFolder]] = {}
    # The zip file holds one folder around the classes.
    top = tree.children("")[0]
    inner = [posixpath.join(a, b) for a in top for b in tree.children(a)[0]]
    for path in [*top, *inner]:
      files = tree.children(path)[1]
      for suffix, split in _LISTS.items():
        name = f"softras_{suffix}.lst"
        if name in files:
          text = tree.read(posixpath.join(path, name)).decode()
          result.setdefault(split, []).extend(
            cls(tree, posixpath.join(path, line.strip()))
            for line in text.splitlines()
            if line.strip()
          )
    return result

  @property
  def category(self) -> str:
    """Number of the class, as in WordNet."""
    return posixpath.basename(posixpath.dirname(self.path))

  @property
  def scene_id(self) -> str:
    return f"{self.category}_{posixpath.basename(self.path)}"

  def inspect(self) -> tuple[scenes.Scene | None, list[str]]:
    problems: list[str] = []
    try:
      files = self.files("image", ".png") or self.files("image", ".jpg")
    except OSError:
      files = {}
    if not files:
      return None, [f"{self} is empty: expected views in image/0000.png"]
    cameras = self._cameras(problems)
    images, poses, intrinsics, sizes = [], [], [], []
    for name, path in files.items():
      picture = self.read_picture(path, ("PNG", "JPEG"), problems)
      if picture is None:
        continue
      if not name.isdecimal():
        problems.append(f"{self}/{path}: expected a number, as in 0000.png")
        continue
      pose, focal, problem = _camera(cameras, int(name))
      if pose is None:
        problems += [f"{self}/cameras.npz {problem}"] if cameras else []
        continue
      data, size = picture
      images.append(data)
      poses.append(pose)
      height, width = size
      # For an image from -1 to 1 in both directions.
      intrinsics.append(
        [focal[0] * width / 2, focal[1] * height / 2, width / 2, height / 2]
      )
      sizes.append(size)
    if problems or not images:
      return None, problems or [f"{self} has no view that can be read"]
    scene = scenes.Scene(
      scene_id=self.scene_id,
      images=images,
      poses=np.stack(poses).astype(np.float32),
      intrinsics=np.array(intrinsics, np.float32),
      image_sizes=np.array(sizes, np.int32),
      depths=[],
      category=self.category,
    )
    return scene, []

  def _cameras(self, problems: list[str]) -> dict[str, np.ndarray]:
    data = self.read("cameras.npz", problems)
    if data is None:
      return {}
    try:
      with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)
    except _DAMAGED as error:
      problems.append(f"{self}/cameras.npz cannot be read ({error})")
      return {}


def _camera(
  cameras: dict[str, np.ndarray], number: int
) -> tuple[np.ndarray | None, tuple[float, float], str]:
  """OpenCV camera-to-world [4,4] and focal lengths of a view, or a problem."""
  none = (0.0, 0.0)
  inverse, forward = f"world_mat_inv_{number}", f"world_mat_{number}"
  focal_name = f"camera_mat_{number}"
  if focal_name not in cameras or not {inverse, forward} & cameras.keys():
    return None, none, f"lacks {forward} or {focal_name}"
  matrix = np.asarray(cameras.get(inverse, cameras.get(forward)), float)
  if matrix.shape == (3, 4):
    matrix = np.concatenate([matrix, [[0, 0, 0, 1]]])
  if matrix.shape != (4, 4):
    return None, none, f"has {forward} of shape {matrix.shape}, expected [4,4]"
  problem = parsing.rigid_problem(matrix, _TOLERANCE)
  if problem:
    return None, none, f"has a {forward} that {problem}"
  pose = matrix if inverse in cameras else np.linalg.inv(matrix)
  focal = np.asarray(cameras[focal_name], float)
  if focal.ndim != 2 or min(focal[0, 0], focal[1, 1]) <= 0:
    return None, none, f"has no focal length in {focal_name}"
  return _Z_UP @ pose, (float(focal[0, 0]), float(focal[1, 1])), ""
