"""`--mode=sample`: rolls scenes out along a path and writes what was drawn.

Each scene gets a folder under WORKDIR/samples, see `sample_files`. Frames are
written as they are drawn, so that a rollout that was killed goes on where it
stopped.
"""

import functools
import io
import zipfile
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import pretrained
from genvs_jax.data import loading
from genvs_jax.data import photos
from genvs_jax.geometry import camera_paths
from genvs_jax.images import pictures
from genvs_jax.models import pipeline
from genvs_jax.runtime import files
from genvs_jax.runtime import sharding
from genvs_jax.sampling import exports
from genvs_jax.sampling import rollout_files
from genvs_jax.sampling import rollouts
from genvs_jax.sampling import view_synthesis


def sample(
  config,
  model: pipeline.Model,
  variables: pipeline.Variables,
  workdir: str,
  images: str = "",
  export: str = "",
) -> dict[str, epath.Path]:
  """Draws scenes along a path.

  Args:
    config: sample, rollout, sampler and data are read from it.
    model: the model.
    variables: of the model, on all devices.
    workdir: the files go to `workdir/samples`.
    images: folder or picture to start from instead of a scene of the dataset.
    export: "ply" also writes points from the depth and a mesh of the field.

  Returns:
    the files of the first scene by kind: mp4, gif, sheet, npz, and progress,
    points, mesh and unconditional if asked for; unconditional alone if the
    model has no encoder.
  """
  root = epath.Path(workdir) / "samples"
  if "encoder" not in variables:
    if images or export:
      raise ValueError(
        "the checkpoint holds a denoiser alone, which draws any object:"
        " --images and --export need an encoder and a field"
      )
    count = config.sample.unconditional or 8
    return _draw_unconditional(config, model, variables, root, count)
  options = config.sample
  if images:
    inputs = load_photos(config, model, images)
    names = [f"photos_{epath.Path(images).stem}"]
  else:
    inputs = load_inputs(config, model, workdir)
    names = [f"{options.split}_{i:04d}" for i in inputs["scene"]]
  # Each scene is seen from as far as its first input view.
  distances = np.linalg.norm(inputs["poses"][:, 0, :3, 3], axis=-1)
  poses = np.stack([build_path(config, float(d)) for d in distances])
  folders = [root / name for name in names]
  count = poses.shape[1]
  settings = _settings(config, variables, inputs, poses)
  frames = rollout_files.read_finished(folders, settings, count)
  if frames:
    logging.info("going on after %d finished frames", len(frames))
  mesh = sharding.make_local_mesh(len(names))
  placed = sharding.split_batch(mesh)
  rollout = rollouts.Rollout(
    config,
    model,
    "denoiser" in variables,
    lambda tree: jax.device_put(tree, placed),
    progress=tuple(options.progress),
  )
  variables = jax.device_put(variables, sharding.replicated(mesh))
  for frame in rollout.run(
    variables, inputs, poses, config.seed, finished=tuple(frames)
  ):
    for b, folder in enumerate(folders):
      of_scene = jax.tree.map(lambda x, b=b: x[b], frame)
      rollout_files.write_frame(folder, len(frames), of_scene)
    frames.append(frame)
    logging.log_every_n_seconds(
      logging.INFO, "drew %d of %d frames", 10, len(frames), count
    )
  report = rollout.report
  logging.info(
    "%d views kept in %.2f GiB, %d encoded again",
    report.slots,
    report.bank_bytes / 2**30,
    report.encoded_again,
  )
  written = []
  extent = model.frustum.half_extent
  encode = jax.jit(functools.partial(view_synthesis.encode_views, model))
  for b, folder in enumerate(folders):
    scene = rollout_files.Scene(
      frames=[jax.tree.map(lambda x, b=b: x[b, 0], f) for f in frames],
      poses=poses[b],
      intrinsics=inputs["intrinsics"][b],
      inputs=list(inputs["images"][b]),
    )
    written.append(
      rollout_files.write_scene(folder, scene, options.fps, extent)
    )
    if export:
      of_scene = jax.tree.map(lambda x, b=b: x[b : b + 1], inputs)
      field = exports.build_field(model, variables, encode(variables, of_scene))
      written[-1] |= _export(options, folder, scene, field, extent)
  if options.unconditional and "denoiser" in variables:
    written[0] |= _draw_unconditional(
      config, model, variables, root, options.unconditional
    )
  return written[0]


def _draw_unconditional(
  config, model, variables, root: epath.Path, count: int
) -> dict[str, epath.Path]:
  """Pictures of any objects, one by one and on a sheet."""
  keys = jax.random.split(jax.random.key(config.seed), count)
  drawn = view_synthesis.build_unconditional(config, model)(variables, keys)
  for i, image in enumerate(np.asarray(drawn)):
    single = root / "unconditional" / f"{i:04d}.png"
    pictures.save_png(single, pictures.to_uint8(image))
  path = root / "unconditional.png"
  pictures.save_png(path, view_synthesis.unconditional_sheet(drawn))
  return {"unconditional": path}


def _settings(config, variables, inputs, poses) -> dict[str, Any]:
  """What finished frames depend on."""
  values = checkpoints.config_to_dict(config)
  sections = (*view_synthesis.CONFIG_SECTIONS, "rollout")
  return {name: values[name] for name in sections} | {
    "progress": values["sample"]["progress"],
    "weights": pretrained.fingerprint(variables),
    "inputs": files.digest(inputs),
    "poses": files.digest(poses),
  }


def _export(
  options, folder: epath.Path, scene: rollout_files.Scene, field, extent: float
) -> dict[str, epath.Path]:
  """Points from all frames, and a mesh of the field of the input views."""
  points = exports.points_of_frames(*scene.surfaces())
  written = {"points": folder / "points.ply"}
  exports.save_ply(written["points"], points)
  if not len(points.vertices):
    logging.warning("no mesh: no pixel of any frame is half opaque")
    return written
  level = options.mesh_level or float(np.median(field(points.vertices)[0]))
  try:
    mesh = exports.mesh_of_field(field, extent, options.mesh_resolution, level)
  except ValueError as error:
    logging.warning("no mesh: %s", error)
    return written
  written["mesh"] = folder / "mesh.ply"
  exports.save_ply(written["mesh"], mesh)
  return written


def load_inputs(
  config, model: pipeline.Model, workdir: str
) -> dict[str, np.ndarray]:
  """The input views of the scenes to draw, as `rollouts` takes them.

  Raises:
    ValueError: if a scene or a view does not exist.
  """
  options = config.sample
  records = loading.load_split(config, workdir, options.split)
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
      loading.decode_views(
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
    "srn_spiral": lambda: camera_paths.srn_spiral(distance)[
      np.round(np.linspace(0, 250, options.frames)).astype(int)
    ],
    "reference_spiral": lambda: camera_paths.reference_spiral(
      options.frames, 1, (0.0, 80.0), distance
    ),
    "reference_spiral_2": lambda: camera_paths.reference_spiral(
      options.frames, 2, (-10.0, 60.0), distance
    ),
  }
  if options.frames < 1:
    raise ValueError(f"sample.frames is {options.frames}, expected 1 or more")
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
  turned = poses[:, :3, :3] @ np.swapaxes(poses[:, :3, :3], 1, 2)
  rigid = np.abs(turned - np.eye(3)).max((1, 2)) < 1e-3
  rigid &= np.linalg.det(poses[:, :3, :3]) > 0
  if not rigid.all():
    raise ValueError(
      f"{path}: pose {np.argmin(rigid)} is no rotation and translation,"
      " expected OpenCV camera-to-world matrices in world units"
    )
  return poses.astype(np.float32)
