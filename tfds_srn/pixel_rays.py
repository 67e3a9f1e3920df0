"""The rays of a pinhole view with several rays a pixel.

Cameras are OpenCV camera-to-world matrices; images are RGB in [0,1] on white.
"""

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

FOCAL_PER_WIDTH = 131.25 / 128.0  # SRN cars: 131.25 pixels at width 128


def draw_view(
  trace: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
  half_extent: Sequence[float],
  pose: np.ndarray,
  size: int,
  focal: float,
  supersampling: int = 3,
) -> tuple[np.ndarray, np.ndarray]:
  """Draws one view.

  Args:
    trace: (origin f32 [3], directions f32 [n,3]) -> colours f32 [n,3] over
      white and the ray parameter f32 [n] of what each ray meets, 0 for nothing.
    half_extent: [3] half the sides of a box around the origin that holds all.
    pose: [4,4] OpenCV camera-to-world.
    size: width and height in pixels; the principal point is the middle.
    focal: in pixels.
    supersampling: rays per pixel and axis, odd so that one passes through the
      pixel's centre and gives its depth.

  Returns:
    image f32 [size,size,3] in [0,1] on white, and depth f32 [size,size] along
    the optical axis in world units, 0 where the central ray meets nothing.
  """
  if supersampling % 2 == 0:
    raise ValueError(
      f"supersampling is {supersampling}, expected an odd number"
    )
  pose = np.asarray(pose, np.float64)
  top, bottom, left, right = image_bounds(half_extent, pose, focal, size)
  rows = (np.arange((bottom - top) * supersampling) + 0.5) / supersampling
  columns = (np.arange((right - left) * supersampling) + 0.5) / supersampling
  y, x = np.meshgrid(rows + top, columns + left, indexing="ij")
  local = np.stack(
    [(x - size / 2) / focal, (y - size / 2) / focal, np.ones_like(x)], -1
  ).reshape(-1, 3)
  # Unnormalised directions: the ray parameter is depth on the optical axis.
  directions = (local @ pose[:3, :3].T).astype(np.float32)
  colour, depth = trace(pose[:3, 3].astype(np.float32), directions)

  shape = (bottom - top, supersampling, right - left, supersampling)
  image = np.ones((size, size, 3), np.float32)
  depths = np.zeros((size, size), np.float32)
  centre = supersampling // 2
  image[top:bottom, left:right] = colour.reshape(*shape, 3).mean((1, 3))
  depths[top:bottom, left:right] = depth.reshape(shape)[:, centre, :, centre]
  return image, depths


def image_bounds(
  half_extent: Sequence[float], pose: np.ndarray, focal: float, size: int
) -> tuple[int, int, int, int]:
  """Pixel rows and columns (top, bottom, left, right) outside which all is
  white: the projected corners of a box around the origin, or everything if one
  of them lies behind the camera."""
  signs = np.stack(np.meshgrid(*[(-1, 1)] * 3), -1).reshape(-1, 3)
  corners = signs * half_extent - pose[:3, 3]
  x, y, z = (corners @ pose[:3, :3]).T
  if z.min() < 1e-3:
    return 0, size, 0, size
  columns, rows = focal * x / z + size / 2, focal * y / z + size / 2
  top, left = (int(np.floor(v.min())) for v in (rows, columns))
  bottom, right = (int(np.ceil(v.max())) for v in (rows, columns))
  top, left = (min(max(v, 0), size - 1) for v in (top, left))
  bottom, right = (max(min(v, size), 1) for v in (bottom, right))
  return top, max(bottom, top + 1), left, max(right, left + 1)
