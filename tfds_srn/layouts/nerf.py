"""NeRF's and nerfstudio's layout: pictures listed by transforms*.json.

A scene is a folder with `transforms.json`, or, without it, with
`transforms_train.json`, _val or _test, whose views are taken together. Cameras
are OpenGL camera-to-world (x right, y up, z backwards); intrinsics come from
`camera_angle_x` or from `fl_x`, `fl_y`, `cx`, `cy`, `w`, `h`, of the file or of
each frame. Pictures may differ in size; an alpha channel becomes white.
"""

import json
import math
import posixpath
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfds_srn import parsing
from tfds_srn import scenes
from tfds_srn import trees

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # y and z turned round
# Structure from motion writes fewer digits than a renderer.
_TOLERANCE = 1e-2
_SHAPE_TOLERANCE = 0.02  # a small copy's sides are whole pixels


class NerfScene(scenes.SceneFolder):
  """A scene in this layout."""

  EXPECTED = "folders with transforms.json or transforms_train.json"

  @staticmethod
  def is_scene(tree: trees.Tree, path: str) -> bool:
    return bool(_lists(tree.children(path)[1]))

  def inspect(self) -> tuple[scenes.Scene | None, list[str]]:
    problems: list[str] = []
    views = [
      self._view(frame, name, problems)
      for name in _lists(self.tree.children(self.path)[1])
      for frame in self._frames(name, problems)
    ]
    whole = [view for view in views if view is not None]
    if not whole and not problems:
      problems.append(f"{self} has no list of views that names any")
    if problems:
      return None, problems
    images, poses, intrinsics, sizes = zip(*whole, strict=True)
    scene = scenes.Scene(
      scene_id=self.scene_id,
      images=list(images),
      poses=np.stack(poses).astype(np.float32),
      intrinsics=np.stack(intrinsics).astype(np.float32),
      image_sizes=np.array(sizes, np.int32),
      depths=[],
    )
    return scene, []

  def _frames(self, name: str, problems: list[str]) -> list[dict[str, Any]]:
    """The frames of a list, each with what the file says of all."""
    text = self.read(name, problems)
    if text is None:
      return []
    try:
      content = json.loads(text)
      return [{**content, **frame} for frame in content["frames"]]
    except (ValueError, KeyError, TypeError) as error:
      problems.append(
        f"{self}/{name} holds no list of frames ({error}), expected JSON with"
        " `frames`"
      )
      return []

  def _view(self, frame: dict[str, Any], name: str, problems: list[str]):
    """(bytes, pose, intrinsics, size) of a frame; None and another problem."""
    try:
      file, matrix = str(frame["file_path"]), frame["transform_matrix"]
    except KeyError as error:
      problems.append(
        f"{self}/{name} has a frame without {error}, expected file_path and"
        " transform_matrix"
      )
      return None
    path = self._find(file)
    if path is None:
      problems.append(f"{self}/{name} names {file}, which is not there")
      return None
    picture = self.read_picture(path, FORMATS, problems)
    if picture is None:
      return None
    data, size = picture
    pose, problem = pose_of(matrix)
    intrinsics, second = intrinsics_of(frame, size)
    if pose is None or intrinsics is None:
      problems.append(f"{self}/{name}, frame {file}: {problem or second}")
      return None
    return data, pose, intrinsics, size

  def _find(self, file: str) -> str | None:
    """A picture's path; Blender's files leave the suffix out."""
    path = posixpath.normpath(file)
    if path.startswith("..") or posixpath.isabs(path):
      return None
    folder, stem = posixpath.split(path)
    try:
      inside = self.tree.children(posixpath.join(self.path, folder))[1]
    except OSError:
      return None
    names = [stem, *(stem + suffix for suffix in SUFFIXES)]
    there = [n for n in names if n in inside]
    return posixpath.join(folder, there[0]) if there else None


def pose_of(matrix: Any) -> tuple[np.ndarray | None, str]:
  """OpenCV camera-to-world f64 [4,4] from a frame's matrix, or what is wrong
  with it."""
  try:
    pose = np.array(matrix, float).reshape(-1, 4)
  except ValueError:
    return None, "transform_matrix is no 4x4 matrix of numbers"
  if pose.shape == (3, 4):
    pose = np.concatenate([pose, [[0, 0, 0, 1]]])
  if pose.shape != (4, 4):
    return None, f"transform_matrix has {pose.size} numbers, expected 16"
  problem = parsing.rigid_problem(pose, _TOLERANCE)
  if problem:
    return None, f"transform_matrix {problem}"
  return pose @ FROM_OPENGL, ""


def intrinsics_of(
  values: Mapping[str, Any], size: tuple[int, int]
) -> tuple[np.ndarray | None, str]:
  """fx, fy, cx, cy f64 [4] in pixels of a picture, or what is wrong.

  Args:
    values: of the file and the frame.
    size: (height, width) of the picture.
  """
  height, width = size
  try:
    if "fl_x" in values:
      scale = width / float(values.get("w", width))
      theirs = float(values.get("h", height / scale)) * scale
      if abs(theirs / height - 1) > _SHAPE_TOLERANCE:
        return None, (
          f"w and h are {values.get('w', width)} and {values['h']}, expected"
          f" the shape of the picture, {width}x{height}"
        )
      fx = float(values["fl_x"])
      fy = float(values.get("fl_y", fx))
      cx = float(values.get("cx", width / scale / 2))
      cy = float(values.get("cy", height / scale / 2))
      result = np.array([fx, fy, cx, cy]) * scale
    elif "camera_angle_x" in values:
      focal = width / 2 / math.tan(float(values["camera_angle_x"]) / 2)
      result = np.array([focal, focal, width / 2, height / 2])
    else:
      return None, "expected camera_angle_x (radians) or fl_x (pixels)"
  except (TypeError, ValueError, ZeroDivisionError) as error:
    return None, f"the intrinsics are no numbers ({error})"
  if not np.isfinite(result).all() or (result <= 0).any():
    return None, f"the intrinsics are {result.tolist()}, expected above 0"
  return result, ""


def _lists(files: Sequence[str]) -> list[str]:
  """Those of a scene's files that list its views, each once."""
  if "transforms.json" in files:
    return ["transforms.json"]
  names = (f"transforms_{split}.json" for split in ("train", "val", "test"))
  return [name for name in names if name in files]
