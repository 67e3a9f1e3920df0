"""Views of a record as arrays of the model's size."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from genvs_jax.images import squares
from tfds_srn import srn_writer

Record = dict[str, Any]


def decode_views(
  record: Record, views: Sequence[int], image_size: int, resize: str
) -> dict[str, np.ndarray]:
  """Decodes some views of a record.

  Images are composited onto white and padded to a square with white; the
  intrinsics follow.

  Args:
    record: a scene.
    views: their indices.
    image_size: H = W in pixels.
    resize: how images become that size, see `squares.resize`.

  Returns:
    `images` u8 [N,H,W,3], `poses` f32 [N,4,4], `intrinsics` f32 [4].
  """
  images = [_decode_rgb(record, i, image_size, resize) for i in views]
  height, width = (int(v) for v in record["image_size"])
  side = max(height, width)
  fx, fy, cx, cy = (float(v) for v in record["intrinsics"])
  intrinsics = np.array(
    [fx, fy, cx + (side - width) // 2, cy + (side - height) // 2], np.float32
  )
  return {
    "images": np.stack(images),
    "poses": np.asarray(record["poses"])[np.asarray(views)],
    "intrinsics": intrinsics * np.float32(image_size / side),
  }


def decode_depths(
  record: Record, views: Sequence[int], image_size: int
) -> np.ndarray | None:
  """Depth of the object's pixels, or None if the record has none.

  A pixel is the object's if more than half of it is, and has the mean depth
  of that part.

  Returns:
    f32 [N,H,W] along the optical axis in world units, 0 beside the object.
  """
  if not len(record["depths"]):
    return None
  size = (image_size, image_size)
  depths = []
  for i in views:
    png = np.array(Image.open(io.BytesIO(record["depths"][i])))
    full = _pad_to_square(png.astype(np.float32) / srn_writer.DEPTH_UNITS)
    covered, total = (
      np.array(Image.fromarray(x).resize(size, Image.Resampling.BOX))
      for x in ((full > 0).astype(np.float32), full)
    )
    mean = total / np.maximum(covered, 1e-6)
    depths.append(np.where(covered > 0.5, mean, 0).astype(np.float32))
  return np.stack(depths)


def _pad_to_square(depth: np.ndarray) -> np.ndarray:
  """Empty borders where `squares.square` puts white ones."""
  height, width = depth.shape
  side = max(height, width)
  top, left = (side - height) // 2, (side - width) // 2
  padded = np.zeros((side, side), depth.dtype)
  padded[top : top + height, left : left + width] = depth
  return padded


def _decode_rgb(
  record: Record, view: int, size: int, resize: str
) -> np.ndarray:
  """u8 [size,size,3]."""
  try:
    image = Image.open(io.BytesIO(record["images"][view]))
    image.load()
  except OSError as error:
    raise ValueError(
      f"scene {record['scene_id'].decode()}, view {view}: {error}; the record"
      " is damaged, prepare the dataset anew"
    ) from error
  square, _, _ = squares.square(
    squares.flatten_onto_white(image), max(image.size)
  )
  return np.asarray(squares.resize(square, size, resize))
