"""`--mode=sample`: rolls scenes out along a path and writes what was drawn.

Each scene gets a folder under WORKDIR/samples: frames as PNG, a film, a GIF, a
contact sheet and frames.npz with poses, depth and opacity. Frames are written
as they are drawn, so that a rollout that was killed goes on where it stopped.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from genvs_jax import camera_paths
from genvs_jax import checkpoints
from genvs_jax import data
from genvs_jax import files
from genvs_jax import photos
from genvs_jax import pictures
from genvs_jax import pipeline
from genvs_jax import pretrained
from genvs_jax import rollouts
from genvs_jax import sharding
from genvs_jax import synthesis

# What a finished frame depends on; other values start a rollout anew.
_SECTIONS = (
  "photos",
  "sampler",
  "rollout",
  "sample",
  "seed",
  "model",
  "rendering",
)


def sample(
  config,
  model: pipeline.Model,
  variables: pipeline.Variables,
  workdir: str,
  images: str = "",
) -> dict[str, epath.Path]:
  """Draws scenes along a path.

  Args:
    config: sample, rollout, sampler and data are read from it.
    model: the model.
    variables: of the model, on all devices.
    workdir: the files go to `workdir/samples`.
    images: folder or picture to start from instead of a scene of the dataset.

  Returns:
    the files of the first scene by kind: mp4, gif, sheet and npz; a sheet of
    any objects alone if the model has no encoder.
  """
  root = epath.Path(workdir) / "samples"
  if "encoder" not in variables:
    keys = jax.random.split(jax.random.key(config.seed), 8)
    drawn = synthesis.build_unconditional(config, model)(variables, keys)
    path = root / "unconditional.png"
    pictures.save_png(path, synthesis.unconditional_sheet(drawn))
    return {"sheet": path}
  options = config.sample
  if images:
    inputs = load_photos(config, model, images)
    names = [f"photos_{epath.Path(images).stem}"]
  else:
    inputs = load_inputs(config, model, workdir)
    names = [f"{options.split}_{i:04d}" for i in inputs["scene"]]
  distance = float(np.linalg.norm(inputs["poses"][0, 0, :3, 3]))
  poses = build_path(config, distance)
  folders = [root / name for name in names]
  values = checkpoints.config_to_dict(config)
  told = {name: values[name] for name in _SECTIONS} | {
    "weights": pretrained.fingerprint(variables),
    "images": images,
  }
  finished = _finished(folders, told, len(poses))
  if finished:
    logging.info("going on after %d finished frames", len(finished))
  has_denoiser = "denoiser" in variables
  count = len(inputs["scene"])
  mesh = sharding.make_local_mesh(count)
  placed = sharding.split_batch(mesh)
  rollout = rollouts.Rollout(
    config,
    model,
    has_denoiser,
    lambda tree: jax.device_put(tree, placed),
  )
  frames = list(finished)
  variables = jax.device_put(variables, sharding.replicated(mesh))
  for frame in rollout.run(
    variables, inputs, poses, config.seed, finished=finished
  ):
    for b, folder in enumerate(folders):
      _write_frame(
        folder, len(frames), jax.tree.map(lambda x, b=b: x[b], frame)
      )
    frames.append(frame)
    logging.log_every_n_seconds(
      logging.INFO, "drew %d of %d frames", 10, len(frames), len(poses)
    )
  report = rollout.report
  logging.info(
    "%d views kept in %.2f GiB, %d encoded again",
    report.slots,
    report.bank_bytes / 2**30,
    report.encoded_again,
  )
  for b, folder in enumerate(folders):
    of_scene = [jax.tree.map(lambda x, b=b: x[b, 0], f) for f in frames]
    written = _write_scene(
      folder,
      of_scene,
      np.asarray(poses),
      inputs["intrinsics"][b],
      list(inputs["images"][b]),
      options.fps,
    )
    if b == 0:
      first = written
  return first


def load_inputs(
  config, model: pipeline.Model, workdir: str
) -> dict[str, np.ndarray]:
  """The input views of the scenes to draw, as `rollouts` takes them.

  Raises:
    ValueError: if a scene or a view does not exist.
  """
  options = config.sample
  records = data.load_split(config, workdir, options.split)
  scenes = range(options.scene, options.scene + options.scenes)
  if not scenes or scenes[0] < 0 or scenes[-1] >= len(records):
    raise ValueError(
      f"sample.scene is {options.scene} and sample.scenes {options.scenes},"
      f" expected scenes from 0 to {len(records) - 1} (split {options.split})"
    )
  given = list(options.input_views)
  items = []
  for scene in scenes:
    views = len(records[scene]["poses"])
    if not given or min(given) < 0 or max(given) >= views:
      raise ValueError(
        f"sample.input_views is {tuple(given)}, expected one or more from 0 to"
        f" {views - 1}"
      )
    items.append(
      data.decode_views(
        records[scene], given, model.image_size, config.model.resize
      )
    )
  batch = {k: np.stack([item[k] for item in items]) for k in items[0]}
  return {**batch, "scene": np.array(scenes)}


def load_photos(
  config, model: pipeline.Model, path: str
) -> dict[str, np.ndarray]:
  """Pictures of the user's own, as one scene."""
  given = photos.load(path, size=model.image_size, **config.photos)
  frustum = config.frustum
  photos.warn_of_odd_cameras(given["poses"], frustum.near, frustum.far)
  return {k: v[None] for k, v in given.items()} | {"scene": np.zeros(1, int)}


def build_path(config, distance: float) -> np.ndarray:
  """The poses [frames,4,4] that `config.sample` names.

  Args:
    config: sample.path, .frames and .elevation are read from it.
    distance: of the cameras from the origin, world units.
  """
  options = config.sample
  paths = {
    "orbit": lambda: camera_paths.orbit(
      options.frames, options.elevation, distance
    ),
    "srn_spiral": lambda: camera_paths.srn_spiral(distance, options.frames),
    "reference_spiral": lambda: camera_paths.reference_spiral(
      options.frames, 1, (0.0, 80.0), distance
    ),
    "reference_spiral_2": lambda: camera_paths.reference_spiral(
      options.frames, 2, (-10.0, 60.0), distance
    ),
  }
  if options.path in paths:
    return np.asarray(paths[options.path]())
  if not epath.Path(options.path).exists():
    raise ValueError(
      f"sample.path is {options.path!r}, expected one of {', '.join(paths)} or"
      " a file of poses (.npy, or .npz with an array `poses`)"
    )
  return _read_poses(options.path)


def _read_poses(path: str) -> np.ndarray:
  """Poses from a file of arrays."""
  try:
    with epath.Path(path).open("rb") as file:
      loaded = np.load(io.BytesIO(file.read()), allow_pickle=False)
    poses = loaded["poses"] if path.endswith(".npz") else loaded
  except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
    raise ValueError(
      f"{path}: expected a .npy file of poses, or .npz with an array `poses`"
      f" ({error})"
    ) from error
  if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses):
    raise ValueError(
      f"{path}: poses have shape {poses.shape}, expected [frames,4,4]"
      " camera-to-world"
    )
  return poses.astype(np.float32)


def _finished(
  folders: Sequence[epath.Path], told: dict[str, Any], count: int
) -> list[synthesis.Views]:
  """Frames of an earlier rollout of the same kind, for all scenes alike."""
  wanted = json.dumps(told, sort_keys=True, indent=1)
  same = all(
    (f / "rollout.json").exists() and (f / "rollout.json").read_text() == wanted
    for f in folders
  )
  frames = []
  while same and len(frames) < count:
    paths = [f / "frames" / f"{len(frames):04d}.npz" for f in folders]
    if not all(path.exists() for path in paths):
      break
    scenes = [_read_frame(path) for path in paths]
    frames.append(jax.tree.map(lambda *x: np.stack(x), *scenes))
  for folder in folders:
    if not same and (folder / "frames").exists():
      (folder / "frames").rmtree()
    files.write_whole(folder / "rollout.json", wanted.encode())
  return frames


def _write_frame(folder: epath.Path, index: int, frame: synthesis.Views):
  """The arrays, and the picture; `frame` has Q = 1 and no B."""
  buffer = io.BytesIO()
  arrays = {k: v for k, v in frame._asdict().items() if v is not None}
  np.savez(buffer, **arrays)
  name = folder / "frames" / f"{index:04d}"
  picture = frame.rgb if frame.sample is None else frame.sample
  pictures.save_png(name.with_suffix(".png"), pictures.to_uint8(picture[0]))
  files.write_whole(name.with_suffix(".npz"), buffer.getvalue())


def _read_frame(path: epath.Path) -> synthesis.Views:
  with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as loaded:
    arrays = {name: loaded[name] for name in loaded.files}
  return synthesis.Views(**{"sample": None, **arrays})


def _write_scene(
  folder: epath.Path,
  frames: list[synthesis.Views],
  poses: np.ndarray,
  intrinsics: np.ndarray,
  inputs: list[np.ndarray],
  fps: float,
) -> dict[str, epath.Path]:
  """Film, GIF, sheet and arrays of a scene whose frames have no B and Q."""
  drawn = [f.rgb if f.sample is None else f.sample for f in frames]
  film = [pictures.to_uint8(picture) for picture in drawn]
  written = {
    "mp4": folder / "turntable.mp4",
    "gif": folder / "turntable.gif",
    "sheet": folder / "sheet.png",
    "npz": folder / "frames.npz",
  }
  pictures.save_mp4(written["mp4"], film, fps)
  pictures.save_gif(written["gif"], film, fps)
  chosen = _evenly(len(frames), 8)
  shown = [frames[i] for i in chosen]
  distance = float(np.linalg.norm(poses[0, :3, 3]))
  near, far = distance - 0.5, distance + 0.5
  # A model without a denoiser has renders alone, and films those.
  samples = (
    [] if frames[0].sample is None else [("samples", [film[i] for i in chosen])]
  )
  pictures.save_png(
    written["sheet"],
    pictures.sheet(
      [
        ("input", inputs),
        *samples,
        ("RGB render", [pictures.to_uint8(f.rgb) for f in shown]),
        ("depth", [synthesis.depth_picture(f, near, far) for f in shown]),
        ("opacity", [pictures.to_uint8(f.opacity) for f in shown]),
      ]
    ),
  )
  opacity = np.stack([f.opacity for f in frames])
  buffer = io.BytesIO()
  np.savez_compressed(
    buffer,
    poses=poses,
    intrinsics=intrinsics,
    images=np.stack(film),
    opacity=opacity,
    depth=np.stack([f.depth for f in frames]) / np.maximum(opacity, 1e-6),
  )
  files.write_whole(written["npz"], buffer.getvalue())
  return written


def _evenly(count: int, wanted: int) -> list[int]:
  return sorted({round(i) for i in np.linspace(0, count - 1, wanted)})
