"""Sheets, GIFs and films from arrays; images here are u8 [H,W,3]."""

import io
import pathlib
import tempfile
import warnings
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image
from PIL import ImageDraw

from genvs_jax.runtime import files

_MIN_TILE = 96  # pixels; smaller pictures are enlarged on sheets and in films
_LABEL_WIDTH = 84
_GAP = 2


def to_uint8(image: np.ndarray) -> np.ndarray:
  """[0,1] [H,W], [H,W,1] or [H,W,3] -> u8 [H,W,3]."""
  image = np.asarray(image, np.float32)
  if image.ndim == 2:
    image = image[..., None]
  image = np.broadcast_to(image, (*image.shape[:2], 3))
  return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def depth_to_unit(
  depth: np.ndarray, opacity: np.ndarray, near: float, far: float
) -> np.ndarray:
  """Rendered depth [..] as brightness: near is dark, empty space white."""
  expected = depth / np.maximum(opacity, 1e-6)
  unit = np.clip((expected - near) / (far - near), 0, 1)
  return opacity * unit + (1 - opacity)


def sheet(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> np.ndarray:
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
      canvas.paste(
        _enlarge(image, tile), (_LABEL_WIDTH + j * (tile + _GAP), top)
      )
  return np.asarray(canvas)


def save_png(path: epath.Path, image: np.ndarray) -> None:
  """Writes u8 [H,W,3]."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format="PNG")
  files.write_whole(path, buffer.getvalue())


def save_gif(
  path: epath.Path, frames: Sequence[np.ndarray], fps: float
) -> None:
  """An endless GIF."""
  size = _film_size(frames[0])
  first, *rest = [_enlarge(frame, size) for frame in frames]
  buffer = io.BytesIO()
  first.save(
    buffer,
    format="GIF",
    save_all=True,
    append_images=rest,
    duration=round(1000 / fps),
    loop=0,
  )
  files.write_whole(path, buffer.getvalue())


def save_mp4(
  path: epath.Path, frames: Sequence[np.ndarray], fps: float
) -> None:
  """H.264 that browsers play."""
  import imageio_ffmpeg  # noqa: PLC0415  (wanted for this alone)

  size = _film_size(frames[0])
  with tempfile.TemporaryDirectory() as folder:
    film = pathlib.Path(folder) / "film.mp4"
    writer = imageio_ffmpeg.write_frames(
      str(film), (size, size), fps=fps, quality=8, ffmpeg_log_level="error"
    )
    with warnings.catch_warnings():
      # JAX warns of any fork; this one starts ffmpeg at once.
      warnings.filterwarnings("ignore", message=r"os\.fork\(\)")
      writer.send(None)
    for frame in frames:
      writer.send(np.ascontiguousarray(_enlarge(frame, size)).tobytes())
    writer.close()
    files.write_whole(path, film.read_bytes())


def _film_size(frame: np.ndarray) -> int:
  """A multiple of 16, as codecs want, and not tiny."""
  size = frame.shape[0]
  return -(-size * max(1, 256 // size) // 16) * 16


def _enlarge(image: np.ndarray, size: int) -> Image.Image:
  picture = Image.fromarray(image)
  if image.shape[0] == size:
    return picture
  method = Image.Resampling.NEAREST
  if size % image.shape[0]:
    method = Image.Resampling.BICUBIC
  return picture.resize((size, size), method)
