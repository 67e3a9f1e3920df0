"""`--mode=sample`: rolls scenes out along a path and writes what was drawn.

Each scene gets a folder under WORKDIR/samples, see `rollout_files`. Frames are
written as they are drawn, so that a rollout that was killed goes on where it
stopped.
"""

import functools
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from genvs_jax import config_fields
from genvs_jax.data import paths
from genvs_jax.data import photo_files
from genvs_jax.images import encoding
from genvs_jax.images import grids
from genvs_jax.models import pipeline
from genvs_jax.runtime import console
from genvs_jax.runtime import files
from genvs_jax.runtime import messages
from genvs_jax.runtime import sharding
from genvs_jax.sampling import exports
from genvs_jax.sampling import rollout_files
from genvs_jax.sampling import rollouts
from genvs_jax.sampling import scene_inputs
from genvs_jax.sampling import view_synthesis

COLOURS = ("samples", "renders")  # of points


class _Scenes(NamedTuple):
  """What is to be drawn.

  Attributes:
    folders: of the scenes.
    inputs: images u8 [B,V,H,W,3], poses, intrinsics and scene.
    poses: f32 [B,frames,4,4].
  """

  folders: list[epath.Path]
  inputs: dict[str, np.ndarray]
  poses: np.ndarray


def sample(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  variables: pipeline.Variables,
  workdir: str,
  images: str = "",
  export: str = "",
) -> list[dict[str, epath.Path]]:
  """Draws scenes along a path.

  Args:
    config: sample, rollout, sampler and data are read from it.
    model: the model.
    variables: of the model, on all devices.
    workdir: the files go to `workdir/samples`.
    images: folder or picture to start from instead of a scene of the dataset.
    export: "ply" or "glb" also writes points from the depth and a mesh of the
      field.

  Returns:
    the files of each scene by kind: mp4, gif, grid, npz, and trajectory, points
    and mesh if asked for; unconditional with the first if asked for, and alone
    if the model has no encoder.
  """
  root = epath.Path(workdir) / "samples"
  if "encoder" not in variables:
    if images or export:
      raise ValueError(
        "the checkpoint holds a denoiser alone, which draws any object:"
        " --images and --export need an encoder and a field"
      )
    count = config.sample.unconditional or 8
    return [_draw_unconditional(config, model, variables, root, count)]
  if config.sample.unconditional and "denoiser" in variables:
    view_synthesis.build_unconditional(config, model)  # refuses at once
  scenes = _load(config, model, workdir, images)
  frames = _run(config, model, variables, scenes)
  paths = _write(config, model, variables, scenes, frames, export)
  if config.sample.unconditional and "denoiser" in variables:
    paths[0] |= _draw_unconditional(
      config, model, variables, root, config.sample.unconditional
    )
  return paths


def _load(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  workdir: str,
  images: str,
) -> _Scenes:
  """Input views and the path of each scene."""
  if images:
    inputs = scene_inputs.load_photos(config, model, images)
    scene_paths = photo_files.scenes(images)
    names = [f"photos_{name}" for name in _names(scene_paths)]
  else:
    inputs = scene_inputs.load_inputs(config, model, workdir)
    names = [f"{config.sample.split}_{i:04d}" for i in inputs["scene"]]
  # Each scene is seen from as far as its first input view.
  distances = np.linalg.norm(inputs["poses"][:, 0, :3, 3], axis=-1)
  poses = [paths.build_path(config, float(d)) for d in distances]
  root = epath.Path(workdir) / "samples"
  return _Scenes([root / name for name in names], inputs, np.stack(poses))


def _names(paths: Sequence[str]) -> list[str]:
  """Of files and folders: without endings, if that tells them apart."""
  stems = [epath.Path(path).stem for path in paths]
  is_clear = len(set(stems)) == len(stems)
  return stems if is_clear else [epath.Path(path).name for path in paths]


def _run(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  variables,
  scenes: _Scenes,
) -> list[view_synthesis.Views]:
  """All frames [B,1,..], those of an interrupted rollout among them; each is
  written as it is drawn."""
  count = scenes.poses.shape[1]
  settings = _settings(config, variables, scenes)
  mesh = sharding.make_local_mesh(len(scenes.folders))
  split = sharding.split_batch(mesh)
  rollout = rollouts.build_rollout(
    config,
    model,
    "denoiser" in variables,
    lambda tree: jax.device_put(tree, split),
    config.sample.trajectories,
  )
  order = rollout.order(scenes.inputs["images"].shape[1], count)
  frames = rollout_files.read_finished(scenes.folders, settings, order)
  if len(frames) == count:
    logging.info("all %d frames are there already", count)
  elif frames:
    logging.info("going on after %d finished frames", len(frames))
  variables = jax.device_put(variables, sharding.replicated(mesh))
  drawn_frames = rollout.run(
    variables,
    scenes.inputs,
    scenes.poses,
    config.seed,
    finished=tuple(frames),
  )
  left = count - len(frames)
  for frame in console.progress(drawn_frames, left, "drawing frames"):
    for b, folder in enumerate(scenes.folders):
      of_scene = jax.tree.map(lambda x, b=b: x[b], frame)
      rollout_files.write_frame(folder, order[len(frames)], of_scene)
    frames.append(frame)
  report = rollout.report
  logging.debug(
    "%d slots for views in %.2f GiB, %d views encoded again",
    report.slots,
    report.bank_bytes / 2**30,
    report.encoded_again,
  )
  by_number = dict(zip(order, frames, strict=True))
  return [by_number[i] for i in range(count)]


def _write(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  variables,
  scenes: _Scenes,
  frames: list[view_synthesis.Views],
  export: str,
) -> list[dict[str, epath.Path]]:
  """Films, grids and exports, by kind for each scene."""
  options, extent = config.sample, model.frustum.half_extent
  encode = jax.jit(functools.partial(view_synthesis.encode_views, model))
  paths = []
  for b, folder in enumerate(scenes.folders):
    scene = rollout_files.DrawnScene(
      frames=[jax.tree.map(lambda x, b=b: x[b, 0], f) for f in frames],
      poses=scenes.poses[b],
      # The frames have the camera of the first input view.
      intrinsics=np.atleast_2d(scenes.inputs["intrinsics"][b])[0],
      inputs=list(scenes.inputs["images"][b]),
    )
    of_scene = rollout_files.write_scene(
      folder, scene, options.film, options.fps, extent
    )
    if export:
      logging.info("making points and the mesh of the field")
      inputs = jax.tree.map(lambda x, b=b: x[b : b + 1], scenes.inputs)
      field = exports.build_field(model, variables, encode(variables, inputs))
      of_scene |= _export(options, folder, scene, field, extent, export)
    paths.append(of_scene)
  return paths


def _draw_unconditional(
  config: ml_collections.ConfigDict,
  model,
  variables,
  root: epath.Path,
  count: int,
) -> dict[str, epath.Path]:
  """Pictures of any objects, one by one and on a grid."""
  keys = jax.random.split(jax.random.key(config.seed), count)
  draw = view_synthesis.build_unconditional(config, model)
  pictures = np.asarray(draw(variables, keys))
  roles = (config_fields.MEANING, config_fields.PICTURE)
  rollout_files.open_folder(
    root / "unconditional",
    {
      **config_fields.of_roles(config, *roles),
      "count": count,
      "variables": files.fingerprint(variables),
    },
  )
  for i, image in enumerate(pictures):
    path = root / "unconditional" / f"{i:04d}.png"
    files.write_whole(path, encoding.png(grids.picture(image)))
  path = root / "unconditional" / "grid.png"
  grid = grids.wrapped_grid("unconditional", pictures)
  files.write_whole(path, encoding.png(grid))
  return {"unconditional": path}


def _settings(
  config: ml_collections.ConfigDict, variables, scenes: _Scenes
) -> list[dict[str, Any]]:
  """What finished frames of each scene depend on."""
  score = config_fields.of_roles(config, config_fields.SCORE)
  common = {
    **config_fields.of_roles(
      config, config_fields.MEANING, config_fields.PICTURE
    ),
    **{k: v for k, v in score.items() if k.startswith("rollout.")},
    "trajectories": score["sample.trajectories"],
    "variables": files.fingerprint(variables),
  }
  # Of this scene alone: it looks the same whatever is drawn beside it.
  return [
    {
      **common,
      "inputs": files.digest({k: v[b] for k, v in scenes.inputs.items()}),
      "poses": files.digest(scenes.poses[b]),
    }
    for b in range(len(scenes.folders))
  ]


def _export(
  options,
  folder: epath.Path,
  scene: rollout_files.DrawnScene,
  field,
  extent: float,
  export: str,
) -> dict[str, epath.Path]:
  """Points from all frames, and a mesh of the field of the input views."""
  messages.check_choice("sample.point_colours", options.point_colours, COLOURS)
  images, *surfaces = scene.surfaces()
  if options.point_colours == "renders":
    images = np.stack(scene.renders())
  points = exports.points_of_frames(images, *surfaces)
  paths = {"points": folder / f"points.{export}"}
  exports.save(paths["points"], points)
  if not len(points.vertices):
    logging.warning("no mesh: no pixel of any frame is half opaque")
    return paths
  level = options.mesh_level or float(np.median(field(points.vertices)[0]))
  try:
    mesh = exports.mesh_of_field(field, extent, options.mesh_resolution, level)
  except ValueError as error:
    logging.warning("no mesh: %s", error)
    return paths
  paths["mesh"] = folder / f"mesh.{export}"
  exports.save(paths["mesh"], mesh)
  return paths
