"""Arrays as pictures, and labelled grids of them; pictures are u8 [H,W,3]."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL import ImageDraw

_MIN_TILE = 96  # pixels; smaller pictures are enlarged on grids
_LABEL_WIDTH = 84
_GAP = 2
_COLUMNS = 8  # of a grid without labels of its own


def to_uint8(values):
  """[0,1], clipped, to u8 0..255; JAX or NumPy, of any shape."""
  return (values.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def picture(image: npt.ArrayLike) -> np.ndarray:
  """[0,1] [H,W], [H,W,1] or [H,W,3] -> u8 [H,W,3]."""
  values = np.asarray(image, np.float32)
  if values.ndim == 2:
    values = values[..., None]
  return to_uint8(np.broadcast_to(values, (*values.shape[:2], 3)))


def image_grid(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> np.ndarray:
  """Labelled rows of pictures, all brought to one tile size.

  Args:
    rows: (label, pictures) from top to bottom.
  """
  size = max(im.shape[0] for _, images in rows for im in images)
  tile = size * max(1, -(-_MIN_TILE // size))
  columns = max(len(images) for _, images in rows)
  width = _LABEL_WIDTH + columns * (tile + _GAP)
  canvas = Image.new("RGB", (width, len(rows) * (tile + _GAP)), "white")
  draw = ImageDraw.Draw(canvas)
  for i, (label, images) in enumerate(rows):
    top = i * (tile + _GAP)
    draw.text((4, top + tile // 2 - 5), label, fill="black")
    for j, image in enumerate(images):
      left = _LABEL_WIDTH + j * (tile + _GAP)
      canvas.paste(enlarge(image, tile), (left, top))
  return np.asarray(canvas)


def wrapped_grid(label: str, images: np.ndarray) -> np.ndarray:
  """Images [n,H,W,3] in [0,1] in rows of eight under one label."""
  tiles = [picture(image) for image in np.asarray(images)]
  starts = range(0, len(tiles), _COLUMNS)
  return image_grid([(label, tiles[i : i + _COLUMNS]) for i in starts])


def enlarge(image: np.ndarray, size: int) -> Image.Image:
  """A picture at `size` pixels: whole pixels where that is a multiple."""
  picture = Image.fromarray(image)
  if image.shape[0] == size:
    return picture
  method = Image.Resampling.NEAREST
  if size % image.shape[0]:
    method = Image.Resampling.BICUBIC
  return picture.resize((size, size), method)


def evenly_spaced(count: int, max_items: int) -> list[int]:
  """At most `max_items` indices of `count` items, first and last among them."""
  return sorted({round(i) for i in np.linspace(0, count - 1, max_items)})
