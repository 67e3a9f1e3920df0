"""Pictures as the bytes of PNG, JPEG, GIF and MP4 files; all u8 [H,W,3]."""

import io
import pathlib
import tempfile
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image

_LEAST_SIDE = 256  # pixels of a film's shorter side


def png(image: np.ndarray) -> bytes:
  """One picture."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format="PNG")
  return buffer.getvalue()


def jpeg(image: np.ndarray) -> bytes:
  """One picture, smaller than a PNG and not exact."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format="JPEG", quality=92)
  return buffer.getvalue()


def gif(frames: Sequence[np.ndarray], fps: float) -> bytes:
  """An endless GIF."""
  first, *rest = [_film_frame(frame) for frame in frames]
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

  pictures = [_film_frame(frame) for frame in frames]
  with tempfile.TemporaryDirectory() as folder:
    film = pathlib.Path(folder) / "film.mp4"
    writer = imageio_ffmpeg.write_frames(
      str(film), pictures[0].size, fps=fps, quality=8, ffmpeg_log_level="error"
    )
    with warnings.catch_warnings():
      # JAX warns of any fork; this one starts ffmpeg at once.
      warnings.filterwarnings("ignore", message=r"os\.fork\(\)")
      writer.send(None)
    for picture in pictures:
      writer.send(np.ascontiguousarray(picture).tobytes())
    writer.close()
    return film.read_bytes()


def _film_frame(frame: np.ndarray) -> Image.Image:
  """A frame in sides that are multiples of 16, as codecs want, and not tiny:
  whole pixels where that is possible."""
  picture = Image.fromarray(frame)
  factor = max(1, _LEAST_SIDE // min(picture.size))
  size = [-(-side * factor // 16) * 16 for side in picture.size]
  is_whole = all(
    a == factor * b for a, b in zip(size, picture.size, strict=True)
  )
  method = Image.Resampling.NEAREST if is_whole else Image.Resampling.BICUBIC
  return picture.resize((size[0], size[1]), method)
