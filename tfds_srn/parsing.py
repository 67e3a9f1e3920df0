"""The small files of a scene: bytes to numbers, or what is wrong with them.

Each function returns (value, problem); the problem is "" when all is well, and
else ends a sentence that begins with the file's name.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

_MAX_PIXELS = 1 << 26  # of a view: 8192 x 8192


def image_size(
  data: bytes, formats: Sequence[str] = ("PNG",), sixteen_bits: bool = False
) -> tuple[tuple[int, int] | None, str]:
  """((height, width), "") of a picture that decodes, else (None, problem).

  Args:
    data: of the file.
    formats: as Pillow calls them.
    sixteen_bits: expect one channel of 16 bits.
  """
  try:
    with Image.open(io.BytesIO(data), formats=list(formats)) as image:
      if image.width * image.height > _MAX_PIXELS:
        return None, (
          f"has {image.width}x{image.height} pixels, expected at most"
          f" {_MAX_PIXELS:,}"
        )
      if sixteen_bits and image.mode not in ("I;16", "I;16B", "I"):
        return None, (
          f"has pixels of mode {image.mode}, expected grey ones of 16 bits:"
          " depth along the optical axis in 1/10000 of a world unit, 0 for none"
        )
      image.load()
      return (image.height, image.width), ""
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
    return None, (
      f"is no whole {' or '.join(formats)} ({len(data)} bytes, {e}): expected"
      " an undamaged file"
    )


def _numbers(text: bytes) -> list[float] | None:
  try:
    return [float(v) for v in text.decode("ascii").split()]
  except (UnicodeDecodeError, ValueError):
    return None


def parse_pose(text: bytes) -> tuple[np.ndarray | None, str]:
  """A 4x4 rigid motion, on one line or four, or what is wrong with it."""
  values = _numbers(text)
  if values is None or len(values) != 16:
    count = "text" if values is None else f"{len(values)} numbers"
    return None, f"holds {count}, expected 16 numbers (a 4x4 pose)"
  pose = np.array(values, np.float64).reshape(4, 4)
  problem = rigid_problem(pose)
  return (None if problem else pose), problem


def rigid_problem(pose: np.ndarray, tolerance: float = 1e-3) -> str:
  """Why a [4,4] matrix is no rotation and translation; "" if it is one."""
  if not np.isfinite(pose).all():
    return "holds a number that is not finite, expected a 4x4 pose"
  # A rotation has R R^T = 1 and determinant 1; a mirror has -1.
  rotation = pose[:3, :3]
  error = np.abs(rotation @ rotation.T - np.eye(3)).max()
  bottom = np.abs(pose[3] - [0, 0, 0, 1]).max()
  determinant = np.linalg.det(rotation)
  if error <= tolerance and bottom <= tolerance and determinant > 0:
    return ""
  mirror = " (it mirrors the world)" if determinant < 0 else ""
  return (
    "is no rigid motion: expected an orthonormal rotation of determinant 1"
    f" above the row 0 0 0 1, found R R^T off by {error:.2g}, determinant"
    f" {determinant:.3g}{mirror}, last row {pose[3].tolist()}"
  )


def parse_pixelnerf_intrinsics(
  text: bytes, size: tuple[int, int]
) -> tuple[np.ndarray | None, bool, str]:
  """(fx, fy, cx, cy for `size`, world-to-camera flag, problem)."""
  expected = (
    "expected 'f cx cy 0.' / barycentre / scale / 'height width', as in"
    " pixelNeRF's packaging"
  )
  rows = []
  for line in filter(bytes.strip, text.splitlines()):
    row = _numbers(line)
    if row is None:
      return None, False, f"holds text, {expected}"
    rows.append(row)
  if [len(row) for row in rows[:3]] in ([3, 3, 3], [9]) or (
    len(rows) == 1 and len(rows[0]) in (9, 16)
  ):
    return (
      None,
      False,
      (
        "holds a matrix, which belongs to SRN's own packaging (one"
        f" intrinsics/NAME.txt per view); {expected}"
      ),
    )
  if len(rows) not in (4, 5) or len(rows[0]) < 3 or len(rows[3]) != 2:
    return None, False, f"has {len(rows)} lines, {expected}"
  focal, cx, cy = rows[0][:3]
  height, width = rows[3]
  values = [focal, cx, cy, height, width]
  if not np.isfinite(values).all() or min(values) <= 0:
    return None, False, f"holds a number that is not positive, {expected}"
  if abs(height / width - size[0] / size[1]) > 1e-3:
    return (
      None,
      False,
      (
        f"is for {width:g}x{height:g} pixels, expected the shape of the images,"
        f" {size[1]}x{size[0]}"
      ),
    )
  scale = size[1] / width
  value = np.array([focal, focal, cx, cy]) * scale
  flag = len(rows) == 5 and bool(rows[4]) and rows[4][0] == 1
  return value.astype(np.float32), flag, ""


def parse_srn_intrinsics(
  text: bytes, size: tuple[int, int]
) -> tuple[np.ndarray | None, str]:
  """fx, fy, cx, cy for `size` from a 3x3 matrix, or what is wrong with it."""
  values = _numbers(text)
  if values is None or len(values) not in (9, 16):
    rows = [_numbers(row) or [] for row in text.splitlines() if row.strip()]
    belongs = (
      ", which belongs to pixelNeRF's packaging (one intrinsics.txt per scene)"
      if len(rows) >= 4 and len(rows[0]) in (3, 4)
      else ""
    )
    count = "text" if values is None else f"{len(values)} numbers"
    return None, (
      f"holds {count}{belongs}; expected the 9 numbers of a 3x3 matrix, as in"
      " SRN's own packaging"
    )
  side = 3 if len(values) == 9 else 4
  matrix = np.array(values).reshape(side, side)
  fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
  if not np.isfinite(matrix).all():
    return None, f"holds {values}, expected finite numbers"
  if min(fx, fy, cx, cy) <= 0 or matrix[1, 0] or matrix[2, 0] or matrix[2, 1]:
    return None, (
      f"holds {values}, expected a matrix [fx 0 cx; 0 fy cy; 0 0 1]"
    )
  # The matrix belongs to a render of 2 cx pixels (512 in SRN's files).
  scale = size[1] / (2 * cx)
  return np.array([fx, fy, cx, cy], np.float32) * np.float32(scale), ""
