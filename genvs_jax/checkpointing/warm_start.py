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
from absl import logging

from genvs_jax.checkpointing import pretrained
from genvs_jax.models import pipeline
from genvs_jax.training import train_state

Leaves = dict[str, jax.Array]


class Report(NamedTuple):
  """What became of the leaves of a part, by name.

  Attributes:
    loaded: taken over as they are.
    widened: filled up with zeros.
    kept: fresh ones that the checkpoint has not.
    unused: ones of the checkpoint that the model has not.
  """

  loaded: list[str]
  widened: list[str]
  kept: list[str]
  unused: list[str]


def sources(config) -> dict[str, str]:
  """{part: checkpoint} of the parts that are not to start fresh."""
  return {
    part: config.init_from[part]
    for part in pipeline.PARTS
    if config.init_from[part]
  }


def warm_start(
  config, model: pipeline.Model, state: train_state.TrainState
) -> train_state.TrainState:
  """A fresh state with the parts that `config.init_from` names.

  Args:
    config: of the run that starts.
    model: of that run.
    state: fresh, placed on the devices.

  Returns:
    the state with parameters, their average and buffers taken over.

  Raises:
    ValueError: if a checkpoint does not fit; says in what.
  """
  opened: dict[str, pretrained.Pretrained] = {}
  params, ema, buffers = (
    dict(x) for x in (state.params, state.ema, state.buffers)
  )
  for part, path in sources(config).items():
    if part not in params:
      raise ValueError(
        f"init_from.{part} is {path}, but objective.name ="
        f" {config.objective.name!r} trains no {part}: leave it empty"
      )
    if path not in opened:
      opened[path] = pretrained.load(path, weights=config.init_from.weights)
    given = opened[path]
    check_meaning(config, given.config, part, path)
    if part not in given.variables:
      held = ", ".join(given.variables)
      raise ValueError(
        f"init_from.{part} = {path} holds no {part}, only {held}"
      )
    fresh = {"params": params[part], **buffers[part]}
    merged, report = merge(fresh, given.variables[part])
    check_explained(report, part, path, model, given.config.model.image_size)
    log_report(report, part, path, given.step)
    params[part] = merged.pop("params")
    if ema:
      ema[part] = jax.tree.map(jnp.copy, params[part])
    buffers[part] = merged
  return state.replace(params=params, ema=ema, buffers=buffers)


def check_meaning(config, given, part: str, path: str) -> None:
  """Refuses weights that were trained on other images or another frustum."""
  fields = ["model.image_range"]
  if part == "denoiser":
    fields += ["diffusion.sigma_data"]
  else:
    fields += ["frustum.kind", "frustum.flip_input"]
    if config.frustum.kind == "near_far":
      fields += ["frustum.near", "frustum.far"]
  if part == "field":
    names = ("skip", "aggregate", "activation", "density_activation")
    fields += [f"model.field.{n}" for n in (*names, "feature_activation")]
  for field in fields:
    ours, theirs = config, given
    for name in field.split("."):
      ours, theirs = ours[name], theirs[name]
    if ours != theirs:
      raise ValueError(
        f"init_from.{part} = {path} was trained with {field} = {theirs},"
        f" expected {ours} as in this run: set --config.{field}={theirs} or"
        " choose another checkpoint"
      )


def merge(fresh: dict, given: dict) -> tuple[dict, Report]:
  """Leaves of `given` where they fit, of `fresh` elsewhere.

  Raises:
    ValueError: if a leaf of both has shapes that no rule explains.
  """
  ours, structure = jax.tree.flatten_with_path(fresh)
  theirs = {_name(at): leaf for at, leaf in jax.tree.leaves_with_path(given)}
  report = Report([], [], [], [])
  merged = []
  for at, leaf in ours:
    name = _name(at)
    source = theirs.pop(name, None)
    if source is None:
      report.kept.append(name)
      merged.append(leaf)
    elif source.shape == leaf.shape:
      report.loaded.append(name)
      merged.append(_like(source, leaf))
    elif name == "params/input/kernel" and _is_narrower(source, leaf):
      report.widened.append(name)
      rest = jnp.zeros((*leaf.shape[:2], leaf.shape[2] - 3, leaf.shape[3]))
      merged.append(_like(jnp.concatenate([source, rest], 2), leaf))
    else:
      raise ValueError(
        f"init_from: {name} has shape {source.shape} in the checkpoint,"
        f" expected {leaf.shape}"
      )
  report.unused.extend(theirs)
  return jax.tree.unflatten(structure, merged), report


def check_explained(
  report: Report, part: str, path: str, model: pipeline.Model, size: int
) -> None:
  """Refuses kept leaves that are not new outer levels, and unused ones."""
  kept = report.kept
  if part == "denoiser":
    kept = [name for name in kept if not _is_outside(name, size)]
  problems = [f"{name} is not in the checkpoint" for name in kept]
  problems += [f"{name} has no place in this run" for name in report.unused]
  if problems:
    shown = "; ".join(problems[:5])
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    network = type(getattr(model, part)).__name__
    raise ValueError(
      f"init_from.{part} = {path} does not fit {network} of this run:"
      f" {shown}{more}"
    )


def log_report(report: Report, part: str, path: str, step: int) -> None:
  logging.info(
    "%s starts from step %d of %s: %d leaves loaded, %d widened, %d kept",
    part,
    step,
    path,
    len(report.loaded),
    len(report.widened),
    len(report.kept),
  )
  for name in (*report.widened, *report.kept):
    how = "widened by zeros" if name in report.widened else "fresh"
    logging.info("  %s/%s is %s", part, name, how)


def _name(path: tuple[Any, ...]) -> str:
  return "/".join(key.key for key in path)


def _like(source: jax.Array, leaf: jax.Array) -> jax.Array:
  return jax.device_put(source.astype(leaf.dtype), leaf.sharding)


def _is_narrower(source: jax.Array, leaf: jax.Array) -> bool:
  same = (*source.shape[:2], source.shape[3]) == (
    *leaf.shape[:2],
    leaf.shape[3],
  )
  return same and source.shape[2] == 3 < leaf.shape[2]


def _is_outside(name: str, size: int) -> bool:
  """Whether a leaf belongs to a level of more than `size` pixels."""
  level = re.search(r"/(?:down|up|encoder|decoder)_(\d+)_", f"/{name}")
  # ddpmpp enters a level by a block of its own, which the outermost lacks.
  entry = f"/encoder_{size}_down/" in f"/{name}"
  return entry or (level is not None and int(level[1]) > size)
