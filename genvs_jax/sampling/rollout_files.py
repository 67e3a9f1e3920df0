"""The files of a rollout: frames as they are drawn, then films and sheets.

A scene's folder holds frames/0000.png and .npz, turntable.mp4 and .gif,
sheet.png, frames.npz with poses, depth and opacity, and what was asked for
besides: progress_0000.mp4 and .png, points.ply and mesh.ply.
"""

import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from genvs_jax.images import pictures
from genvs_jax.runtime import files
from genvs_jax.sampling import view_synthesis

_SHOWN = 8  # pictures in a row of a sheet
_PROGRESS_SECONDS = 4.0


@dataclasses.dataclass(frozen=True)
class Scene:
  """A finished rollout of one scene.

  Attributes:
    frames: without B and Q.
    poses: f32 [frames,4,4] camera-to-world.
    intrinsics: f32 [4] in pixels.
    inputs: the given pictures, u8 [H,W,3].
  """

  frames: list[view_synthesis.Views]
  poses: np.ndarray
  intrinsics: np.ndarray
  inputs: list[np.ndarray]

  def pictures(self) -> list[np.ndarray]:
    """u8 [H,W,3]: samples, or renders if there are none."""
    return [
      pictures.to_uint8(f.rgb if f.sample is None else f.sample)
      for f in self.frames
    ]

  def surfaces(self) -> tuple[np.ndarray, ...]:
    """Images u8 [N,H,W,3], depth as expected distance [N,H,W] in world units,
    opacity [N,H,W], poses and intrinsics."""
    opacity = np.stack([f.opacity for f in self.frames])
    depth = np.stack([f.depth for f in self.frames]) / np.maximum(opacity, 1e-6)
    images = np.stack(self.pictures())
    return images, depth, opacity, self.poses, self.intrinsics


def read_finished(
  folders: Sequence[epath.Path], settings: dict[str, Any], count: int
) -> list[view_synthesis.Views]:
  """Frames that an earlier rollout of the same kind drew for all scenes.

  A folder that holds a rollout of another kind is renamed to NAME.before.
  """
  wanted = json.dumps(settings, sort_keys=True, indent=1)
  for folder in folders:
    told = folder / "rollout.json"
    if folder.exists() and not (told.exists() and told.read_text() == wanted):
      before = folder.with_name(f"{folder.name}.before")
      if before.exists():
        before.rmtree()
      folder.rename(before)
      logging.info("%s was drawn otherwise, and is now %s", folder, before)
    files.write_whole(told, wanted.encode())
  frames = []
  while len(frames) < count:
    paths = [f / "frames" / f"{len(frames):04d}.npz" for f in folders]
    if not all(path.exists() for path in paths):
      break
    scenes = [_read_frame(path) for path in paths]
    frames.append(jax.tree.map(lambda *x: np.stack(x), *scenes))
  return frames


def write_frame(
  folder: epath.Path, index: int, frame: view_synthesis.Views
) -> None:
  """The arrays, and the picture; `frame` has Q = 1 and no B."""
  buffer = io.BytesIO()
  arrays = {k: v for k, v in frame._asdict().items() if v is not None}
  np.savez(buffer, **arrays)
  name = folder / "frames" / f"{index:04d}"
  picture = frame.rgb if frame.sample is None else frame.sample
  pictures.save_png(name.with_suffix(".png"), pictures.to_uint8(picture[0]))
  files.write_whole(name.with_suffix(".npz"), buffer.getvalue())


def _read_frame(path: epath.Path) -> view_synthesis.Views:
  with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as loaded:
    arrays = {name: loaded[name] for name in loaded.files}
  return view_synthesis.Views(**{"sample": None, **arrays})


def write_scene(
  folder: epath.Path, scene: Scene, fps: float, half_extent: float
) -> dict[str, epath.Path]:
  """Film, GIF, sheet and arrays, and films of the sampler's progress.

  Args:
    folder: of the scene.
    scene: what was drawn.
    fps: frames per second of the films.
    half_extent: of the scene around the origin, for the shades of the depth.
  """
  frames = scene.frames
  film = scene.pictures()
  written = {
    "mp4": folder / "turntable.mp4",
    "gif": folder / "turntable.gif",
    "sheet": folder / "sheet.png",
    "npz": folder / "frames.npz",
  }
  pictures.save_mp4(written["mp4"], film, fps)
  pictures.save_gif(written["gif"], film, fps)
  chosen = _evenly(len(frames), _SHOWN)
  shown = [frames[i] for i in chosen]
  distance = float(np.linalg.norm(scene.poses[0, :3, 3]))
  near, far = distance - half_extent, distance + half_extent
  # A model without a denoiser has renders alone, and films those.
  samples = (
    [] if frames[0].sample is None else [("samples", [film[i] for i in chosen])]
  )
  pictures.save_png(
    written["sheet"],
    pictures.sheet(
      [
        ("input", scene.inputs),
        *samples,
        ("RGB render", [pictures.to_uint8(f.rgb) for f in shown]),
        ("depth", [view_synthesis.depth_picture(f, near, far) for f in shown]),
        ("opacity", [pictures.to_uint8(f.opacity) for f in shown]),
      ]
    ),
  )
  images, depth, opacity, poses, intrinsics = scene.surfaces()
  buffer = io.BytesIO()
  np.savez_compressed(
    buffer,
    poses=poses,
    intrinsics=intrinsics,
    images=images,
    opacity=opacity,
    depth=depth,
  )
  files.write_whole(written["npz"], buffer.getvalue())
  for i, frame in enumerate(frames):
    if frame.estimates is not None:
      path = _write_progress(folder, i, frame)
      written.setdefault("progress", path)
  return written


def _write_progress(
  folder: epath.Path, index: int, frame: view_synthesis.Views
) -> epath.Path:
  """The estimates [steps,H,W,3] of a frame as a film and a sheet."""
  steps = [pictures.to_uint8(estimate) for estimate in frame.estimates]
  steps.append(pictures.to_uint8(frame.sample))
  film = folder / f"progress_{index:04d}.mp4"
  # A few seconds whatever the number of steps, and a look at the end.
  fps = len(steps) / _PROGRESS_SECONDS
  pictures.save_mp4(film, steps + [steps[-1]] * round(fps), fps)
  chosen = [steps[i] for i in _evenly(len(steps), _SHOWN)]
  pictures.save_png(
    film.with_suffix(".png"), pictures.sheet([(f"frame {index}", chosen)])
  )
  return film


def _evenly(count: int, wanted: int) -> list[int]:
  return sorted({round(i) for i in np.linspace(0, count - 1, wanted)})
