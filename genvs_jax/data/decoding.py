"""Views of a record as arrays of the model's size."""

import io
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from genvs_jax.images import squares
from tfds_srn import srn_writer

Record = dict[str, Any]


def decode_views(
  record: Record,
  views: Sequence[int],
  image_size: int,
  resize: str,
  behind: Sequence[squares.Colour] = (),
  *,
  with_bounds: bool = False,
) -> dict[str, np.ndarray]:
  """Decodes some views of a record.

  Images are composited onto white and padded to a square with white; the
  intrinsics follow.

  Args:
    record: a scene.
    views: their indices.
    image_size: H = W in pixels.
    resize: how images become that size, see `squares.resize`.
    with_bounds: near and far of the scene stand after each view's intrinsics.
    behind: colours behind transparent pictures, one for each of the first
      views; white behind the others.

  Returns:
    `images` u8 [N,H,W,3], `poses` f32 [N,4,4], `intrinsics` f32 [N,4], or
    [N,6] with bounds.
  """
  colours = [*behind, *["white"] * (len(views) - len(behind))]
  images = [
    _decode_rgb(record, i, image_size, resize, colour)
    for i, colour in zip(views, colours, strict=True)
  ]
  index = np.asarray(views)
  count = len(record["poses"])
  # Records of the first version have one camera and one size for all views.
  intrinsics, sizes = (
    np.broadcast_to(record[key], (count, width))[index]
    for key, width in (("intrinsics", 4), ("image_size", 2))
  )
  sides = sizes.max(1, keepdims=True)
  # Of what is padded, half comes before the picture: x, then y.
  before = (sides - sizes)[:, ::-1] // 2
  intrinsics = intrinsics + np.concatenate([0.0 * before, before], 1)
  intrinsics *= image_size / sides
  if with_bounds:
    bounds = np.tile([record["near"], record["far"]], (len(index), 1))
    intrinsics = np.concatenate([intrinsics, bounds], 1)
  return {
    "images": np.stack(images),
    "poses": np.asarray(record["poses"])[index],
    "intrinsics": intrinsics.astype(np.float32),
  }


def decode_for(
  config: ml_collections.ConfigDict, record: Record, views: Sequence[int]
) -> dict[str, np.ndarray]:
  """`decode_views` as the model of a config takes them."""
  return decode_views(
    record,
    views,
    config.model.image_size,
    config.model.resize,
    with_bounds=config.frustum.bounds == "scene",
  )


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
  record: Record, view: int, size: int, resize: str, behind: squares.Colour
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
  square, _, _ = squares.square(squares.flatten(image, behind), max(image.size))
  return np.asarray(squares.resize(square, size, resize))
