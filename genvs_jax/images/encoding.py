"""Pictures as the bytes of PNG, GIF and MP4 files; pictures are u8 [H,W,3]."""

import io
import pathlib
import tempfile
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

from genvs_jax.images import grids


def png(image: np.ndarray) -> bytes:
  """One picture."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format="PNG")
  return buffer.getvalue()


def gif(frames: Sequence[np.ndarray], fps: float) -> bytes:
  """An endless GIF."""
  size = _film_size(frames[0])
  first, *rest = [grids.enlarge(frame, size) for frame in frames]
  buffer = io.BytesIO()
  first.save(
    buffer,
    format="GIF",
    save_all=True,
    append_images=rest,
    duration=round(1000 / fps),
    loop=0,
  )
  return buffer.getvalue()


def mp4(frames: Sequence[np.ndarray], fps: float) -> bytes:
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
      picture = grids.enlarge(frame, size)
      writer.send(np.ascontiguousarray(picture).tobytes())
    writer.close()
    return film.read_bytes()


def _film_size(frame: np.ndarray) -> int:
  """A multiple of 16, as codecs want, and not tiny."""
  size = frame.shape[0]
  return -(-size * max(1, 256 // size) // 16) * 16
