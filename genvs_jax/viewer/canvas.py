"""Cameras and canvases of browsers; viser's cameras are OpenCV's, as ours."""

import math

import numpy as np
from PIL import Image

_SHOWN_SIZE = 512  # pixels of a picture's shorter side in the browser
_FIRST_TURN = 35.0  # degrees from the input view, where a camera starts


def pose_of(camera) -> np.ndarray:
  """f32 [4,4] camera-to-world."""
  w, x, y, z = camera.wxyz
  pose = np.eye(4, dtype=np.float32)
  pose[:3, :3] = [
    [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
    [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
  ]
  pose[:3, 3] = camera.position
  return pose


def quaternion(pose: np.ndarray) -> np.ndarray:
  """(w, x, y, z) of the rotation of a pose."""
  import viser.transforms  # noqa: PLC0415  (an optional extra)

  return viser.transforms.SO3.from_matrix(pose[:3, :3].astype(np.float64)).wxyz


def vertical_fov(inputs: dict[str, np.ndarray], view: int = 0) -> float:
  """Of an input picture, radians."""
  height = inputs["images"].shape[1]
  intrinsics = np.atleast_2d(inputs["intrinsics"])
  return 2 * math.atan(
    height / 2 / float(intrinsics[view % len(intrinsics)][1])
  )


def turned(position: np.ndarray) -> np.ndarray:
  """A place to the side of an input camera, at the same distance."""
  angle = math.radians(_FIRST_TURN)
  x, y, z = map(float, position)
  cos, sin = math.cos(angle), math.sin(angle)
  return np.array([cos * x - sin * y, sin * x + cos * y, z])


def enlarged(image: np.ndarray, size: int) -> np.ndarray:
  """A square picture u8 [H,H,3] at `size` pixels, unless it is larger."""
  picture = Image.fromarray(image)
  if size > image.shape[0]:
    picture = picture.resize((size, size), Image.Resampling.BICUBIC)
  return np.asarray(picture)


def on_canvas(image: np.ndarray, aspect: float) -> np.ndarray:
  """A square picture in the middle of a white canvas of some aspect."""
  image = enlarged(image, _SHOWN_SIZE)
  side = image.shape[0]
  width, height = max(side, round(side * aspect)), side
  if aspect < 1:
    height = round(side / aspect)
  canvas = np.full((height, width, 3), 255, np.uint8)
  top, left = (height - side) // 2, (width - side) // 2
  canvas[top : top + side, left : left + side] = image
  return canvas
