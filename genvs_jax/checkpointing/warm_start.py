"""Starts a run from parts of other checkpoints: combine, widen, grow, replace.

`config.init_from` names a checkpoint for each part (encoder, field,
denoiser), or "" for a fresh start. Leaves are matched by name and shape:

  widened   a denoiser that took 3 channels takes features too: its first
            kernel is filled up with zeros, so that it draws what it drew
  grown     a denoiser gets new outer levels, whose blocks are named by
            resolution, and keeps the inner ones

Anything else that does not match is refused, and so is a checkpoint whose
images or frustum mean something else.
"""

import re
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from genvs_jax import config_fields
from genvs_jax.checkpointing import pretrained
from genvs_jax.models import cross_views
from genvs_jax.models import pipeline

Leaves = dict[str, jax.Array]
# Of each encoder the layer that gives every pixel its column of the volume.
_LAST_LAYERS = {
  "resnet34_unet": "params/head/",
  "deeplabv3plus": "params/up1/conv/",
}


class MergeReport(NamedTuple):
  """What became of the leaves of a part, by name.

  Attributes:
    same: taken over as they are.
    widened: filled up with zeros.
    fresh: ones of this run that the checkpoint has not.
    unused: ones of the checkpoint that the model has not.
  """

  same: list[str]
  widened: list[str]
  fresh: list[str]
  unused: list[str]


def sources(config: ml_collections.ConfigDict) -> dict[str, str]:
  """{part: checkpoint} of the parts that are not to start fresh."""
  return {
    part: config.init_from[part]
    for part in pipeline.PARTS
    if config.init_from[part]
  }


def warm_start(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  params: dict,
  buffers: dict,
) -> tuple[dict, dict]:
  """Fresh variables with the parts that `config.init_from` names taken over.

  Args:
    config: of the run that starts.
    model: of that run.
    params: fresh parameters by part, placed on the devices.
    buffers: fresh ones, likewise.

  Returns:
    parameters and buffers, those of the other parts as they were.

  Raises:
    ValueError: if a checkpoint does not fit; says in what.
  """
  opened: dict[str, pretrained.Pretrained] = {}
  params, buffers = dict(params), dict(buffers)
  for part, path in sources(config).items():
    if part not in params:
      raise ValueError(
        f"init_from.{part} is {path}, but objective.name ="
        f" {config.objective.name!r} trains no {part}: leave it empty"
      )
    if path not in opened:
      opened[path] = pretrained.load(path, params=config.init_from.params)
    source = opened[path]
    check_meaning(config, source.config, part, path)
    if part not in source.variables:
      parts = ", ".join(source.variables)
      raise ValueError(
        f"init_from.{part} = {path} holds no {part}, only {parts}"
      )
    fresh = {"params": params[part], **buffers[part]}
    merged, report = merge(fresh, source.variables[part])
    check_explained(report, part, path, model, source.config.model.image_size)
    log_report(report, part, path, source.step)
    if part == "encoder" and gains_skip(config, source.config):
      merged = without_colours(merged, config)
    params[part] = merged.pop("params")
    buffers[part] = merged
  return params, buffers


def check_meaning(
  config: ml_collections.ConfigDict, checkpoint_config, part: str, path: str
) -> None:
  """Refuses weights that were trained on other images or another frustum."""
  differing = config_fields.disagreements(config, checkpoint_config, part)
  if gains_skip(config, checkpoint_config):
    differing.pop("model.encoder.image_skip", None)
  for field, (ours, theirs) in differing.items():
    raise ValueError(
      f"init_from.{part} = {path} was trained with {field} = {theirs},"
      f" expected {ours} as in this run: set --config.{field}={theirs} or"
      " choose another checkpoint"
    )


def gains_skip(config: ml_collections.ConfigDict, checkpoint_config) -> bool:
  """Whether an encoder learned without the skip of images that it now has."""
  ours, theirs = (
    c.model.encoder.image_skip for c in (config, checkpoint_config)
  )
  return ours and not theirs


def without_colours(encoder: dict, config: ml_collections.ConfigDict) -> dict:
  """An encoder's variables whose volumes are 0 where a skip adds the image.

  The image takes the place of the colours that the encoder had learned to draw;
  what differs from the image behind the surface it learns from there.
  """
  layer = _LAST_LAYERS[config.model.encoder.name]

  def without(path, leaf):
    if not _name(path).startswith(layer):
      return leaf
    # [..,D C], the channels of each plane side by side.
    by_plane = leaf.reshape(*leaf.shape[:-1], -1, config.model.volume_channels)
    return _like(by_plane.at[..., :3].set(0).reshape(leaf.shape), leaf)

  return jax.tree_util.tree_map_with_path(without, encoder)


def merge(fresh: dict, checkpoint: dict) -> tuple[dict, MergeReport]:
  """Leaves of `checkpoint` where they fit, of `fresh` elsewhere.

  Raises:
    ValueError: if a leaf of both has shapes that no rule explains.
  """
  ours, structure = jax.tree.flatten_with_path(fresh)
  theirs = {
    _name(at): leaf for at, leaf in jax.tree.leaves_with_path(checkpoint)
  }
  report = MergeReport([], [], [], [])
  merged = []
  for at, leaf in ours:
    name = _name(at)
    source = theirs.pop(name, None)
    if source is None:
      report.fresh.append(name)
      merged.append(leaf)
    elif source.shape == leaf.shape:
      report.same.append(name)
      merged.append(_like(source, leaf))
    elif lacks_features(name, source.shape, leaf.shape):
      report.widened.append(name)
      merged.append(_like(widen(source, leaf.shape[2]), leaf))
    else:
      raise ValueError(
        f"init_from: {name} has shape {source.shape} in the checkpoint,"
        f" expected {leaf.shape}"
      )
  report.unused.extend(theirs)
  return jax.tree.unflatten(structure, merged), report


def lacks_features(
  name: str, shape: tuple[int, ...], expected: tuple[int, ...]
) -> bool:
  """Whether a leaf is the first kernel of a denoiser that takes no features.

  Args:
    name: of the leaf in its part.
    shape: [k,k,3,O] for such a kernel.
    expected: [k,k,3+F,O].
  """
  if name != "params/input/kernel" or len(shape) != 4:
    return False
  same = (*shape[:2], shape[3]) == (*expected[:2], expected[3])
  return same and shape[2] == 3 < expected[2]


def widen(kernel, channels: int):
  """[k,k,3,O] -> [k,k,channels,O] with zeros for the features, JAX or NumPy:
  the denoiser draws what it drew."""
  pad = jnp.pad if isinstance(kernel, jax.Array) else np.pad
  return pad(kernel, ((0, 0), (0, 0), (0, channels - 3), (0, 0)))


def check_explained(
  report: MergeReport, part: str, path: str, model: pipeline.Model, size: int
) -> None:
  """Refuses fresh leaves that are neither new outer levels nor attention to
  input views, which adds nothing at first, and unused ones."""
  missing = report.fresh
  if part == "denoiser":
    missing = [
      name
      for name in missing
      if not (_is_outside(name, size) or cross_views.is_leaf(name))
    ]
  problems = [f"{name} is not in the checkpoint" for name in missing]
  problems += [f"{name} has no place in this run" for name in report.unused]
  if problems:
    listed = "; ".join(problems[:5])
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    network = type(getattr(model, part)).__name__
    raise ValueError(
      f"init_from.{part} = {path} does not fit {network} of this run:"
      f" {listed}{more}"
    )


def log_report(report: MergeReport, part: str, path: str, step: int) -> None:
  logging.info(
    "%s starts from step %d of %s: %d leaves loaded, %d widened, %d fresh",
    part,
    step,
    path,
    len(report.same),
    len(report.widened),
    len(report.fresh),
  )
  for name in (*report.widened, *report.fresh):
    how = "widened by zeros" if name in report.widened else "fresh"
    logging.info("  %s/%s is %s", part, name, how)


def _name(path: tuple[Any, ...]) -> str:
  return "/".join(key.key for key in path)


def _like(source: jax.Array, leaf: jax.Array) -> jax.Array:
  return jax.device_put(source.astype(leaf.dtype), leaf.sharding)


def _is_outside(name: str, size: int) -> bool:
  """Whether a leaf belongs to a level of more than `size` pixels."""
  level = re.search(r"/(?:down|up|encoder|decoder)_(\d+)_", f"/{name}")
  # ddpmpp enters a level by a block of its own, which the outermost lacks.
  entry = f"/encoder_{size}_down/" in f"/{name}"
  return entry or (level is not None and int(level[1]) > size)
