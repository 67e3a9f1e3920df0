"""The files of a rollout: frames as they are drawn, then films and grids.

A scene's folder holds frames/0000.png and .npz, turntable.mp4 and .gif,
grid.png, frames.npz with poses, depth and opacity, and, if asked for,
trajectory_0000.mp4 and .png, points.ply and mesh.ply (or .glb).
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from genvs_jax.geometry import rendering
from genvs_jax.images import encoding
from genvs_jax.images import grids
from genvs_jax.runtime import files
from genvs_jax.runtime import messages
from genvs_jax.sampling import view_grids
from genvs_jax.sampling import view_synthesis

# Input, sample and render beside each other, or one of them.
FILMS = ("side_by_side", "sample", "render")
_COLUMNS = 8  # pictures in a row of a grid
_TRAJECTORY_SECONDS = 4.0


@dataclasses.dataclass(frozen=True)
class DrawnScene:
  """A finished rollout of one scene.

  Attributes:
    frames: without B and Q.
    poses: f32 [frames,4,4] camera-to-world.
    intrinsics: f32 [4] in pixels.
    inputs: the input pictures, u8 [H,W,3].
  """

  frames: list[view_synthesis.Views]
  poses: np.ndarray
  intrinsics: np.ndarray
  inputs: list[np.ndarray]

  def pictures(self) -> list[np.ndarray]:
    """u8 [H,W,3]: samples, or renders if there are none."""
    return [grids.picture(f.picture) for f in self.frames]

  def renders(self) -> list[np.ndarray]:
    """u8 [H,W,3]."""
    return [grids.picture(f.rgb) for f in self.frames]

  def film(self, kind: str) -> list[np.ndarray]:
    """Frames u8 [H,W,3] of a kind of `FILMS`.

    Raises:
      ValueError: for another kind.
    """
    messages.check_choice("sample.film", kind, FILMS)
    if kind != "side_by_side":
      return self.pictures() if kind == "sample" else self.renders()
    columns = [[self.inputs[0]] * len(self.frames), self.renders()]
    if self.frames[0].sample is not None:
      columns.insert(1, self.pictures())
    return [np.concatenate(row, 1) for row in zip(*columns, strict=True)]

  def surfaces(self) -> tuple[np.ndarray, ...]:
    """Images u8 [N,H,W,3], depth as expected distance [N,H,W] in world units,
    opacity [N,H,W], poses and intrinsics."""
    opacity = np.stack([f.opacity for f in self.frames])
    weighted = np.stack([f.weighted_depth for f in self.frames])
    depth = rendering.expected_depth(weighted, opacity)
    images = np.stack(self.pictures())
    return images, depth, opacity, self.poses, self.intrinsics


def read_finished(
  folders: Sequence[epath.Path],
  settings: Sequence[dict[str, Any]],
  order: Sequence[int],
) -> list[view_synthesis.Views]:
  """Frames that an earlier rollout of the same kind drew for all scenes.

  A folder that holds a rollout of another kind is renamed to NAME.before, or
  NAME.before_2 and so on: nothing is deleted.

  Args:
    folders: of the scenes.
    settings: what the frames of each scene depend on.
    order: numbers of the frames in the order in which they are drawn.
  """
  for folder, values in zip(folders, settings, strict=True):
    open_folder(folder, values)
  frames: list[view_synthesis.Views] = []
  for number in order:
    paths = [f / "frames" / f"{number:04d}.npz" for f in folders]
    if not all(path.exists() for path in paths):
      break
    try:
      scenes = [_read_frame(path) for path in paths]
    except ValueError as error:
      logging.warning(
        "%s: this frame and those after it are drawn again", error
      )
      break
    frames.append(jax.tree.map(lambda *x: np.stack(x), *scenes))
  return frames


def open_folder(folder: epath.Path, settings: dict[str, Any]) -> None:
  """Makes room for pictures: others in the folder are renamed, not deleted."""
  text = json.dumps(settings, sort_keys=True, indent=1)
  description = folder / "rollout.json"
  if description.exists() and description.read_text() == text:
    return
  if folder.exists():
    before = _free_name(folder.with_name(f"{folder.name}.before"))
    folder.rename(before)
    logging.info("%s was drawn otherwise, and is now %s", folder, before)
  files.write_whole(description, text.encode())


def _free_name(path: epath.Path) -> epath.Path:
  """The path, or PATH_2, PATH_3 ... if it exists."""
  number, free = 1, path
  while free.exists():
    number += 1
    free = path.with_name(f"{path.name}_{number}")
  return free


def write_frame(
  folder: epath.Path, index: int, frame: view_synthesis.Views
) -> None:
  """The arrays, and the picture; `frame` has Q = 1 and no B."""
  name = folder / "frames" / f"{index:04d}"
  picture = grids.picture(frame.picture[0])
  files.write_whole(name.with_suffix(".png"), encoding.png(picture))
  # The arrays come last: they mark the frame as finished.
  arrays = {k: v for k, v in frame._asdict().items() if v is not None}
  files.write_arrays(name.with_suffix(".npz"), arrays)


def _read_frame(path: epath.Path) -> view_synthesis.Views:
  arrays: dict[str, Any] = files.read_arrays(path)
  return view_synthesis.Views(**{"sample": None, **arrays})


def write_scene(
  folder: epath.Path,
  scene: DrawnScene,
  kind: str,
  fps: float,
  half_extent: float,
) -> dict[str, epath.Path]:
  """Film, GIF, grid and arrays, and films of denoising trajectories.

  Args:
    folder: of the scene.
    scene: what was drawn.
    kind: of the film.
    fps: frames per second of the films.
    half_extent: of the scene around the origin, for the shades of the depth.
  """
  film = scene.film(kind)
  paths = {
    "mp4": folder / "turntable.mp4",
    "gif": folder / "turntable.gif",
    "grid": folder / "grid.png",
    "npz": folder / "frames.npz",
  }
  files.write_whole(paths["mp4"], encoding.mp4(film, fps))
  files.write_whole(paths["gif"], encoding.gif(film, fps))
  grid = encoding.png(_grid(scene, half_extent))
  files.write_whole(paths["grid"], grid)
  images, depth, opacity, poses, intrinsics = scene.surfaces()
  arrays = {
    "poses": poses,
    "intrinsics": intrinsics,
    "images": images,
    "renders": np.stack(scene.renders()),
    "opacity": opacity,
    "depth": depth,
  }
  files.write_arrays(paths["npz"], arrays, compressed=True)
  for i, frame in enumerate(scene.frames):
    if frame.estimates is not None:
      path = _write_trajectory(folder, i, frame)
      paths.setdefault("trajectory", path)
  return paths


def _grid(scene: DrawnScene, half_extent: float) -> np.ndarray:
  """Inputs, and samples, renders, depth and opacity of some frames."""
  indices = grids.evenly_spaced(len(scene.frames), _COLUMNS)
  frames = [scene.frames[i] for i in indices]
  distance = float(np.linalg.norm(scene.poses[0, :3, 3]))
  near, far = distance - half_extent, distance + half_extent
  rows: list[tuple[str, list[np.ndarray]]] = [("input", scene.inputs)]
  # A model without a denoiser has renders alone.
  if frames[0].sample is not None:
    rows.append(("samples", [grids.picture(f.picture) for f in frames]))
  rows.append(("RGB render", [grids.picture(f.rgb) for f in frames]))
  rows.append(("depth", [view_grids.shade_depth(f, near, far) for f in frames]))
  rows.append(("opacity", [grids.picture(f.opacity) for f in frames]))
  return grids.image_grid(rows)


def _write_trajectory(
  folder: epath.Path, index: int, frame: view_synthesis.Views
) -> epath.Path:
  """The estimates [steps,H,W,3] of a frame as a film and a grid."""
  assert frame.estimates is not None
  steps = [grids.picture(estimate) for estimate in frame.estimates]
  steps.append(grids.picture(frame.picture))
  path = folder / f"trajectory_{index:04d}.mp4"
  # A few seconds whatever the number of steps, and a look at the end.
  fps = len(steps) / _TRAJECTORY_SECONDS
  film = steps + [steps[-1]] * round(fps)
  files.write_whole(path, encoding.mp4(film, fps))
  tiles = [steps[i] for i in grids.evenly_spaced(len(steps), _COLUMNS)]
  grid = grids.image_grid([(f"frame {index}", tiles)])
  files.write_whole(path.with_suffix(".png"), encoding.png(grid))
  return path
