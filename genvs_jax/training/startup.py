"""Where a run starts: a checkpoint of its own, other weights, or nothing."""

from typing import Any

import jax
from absl import logging
from etils import epath

from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import warm_start
from genvs_jax.models import pipeline
from genvs_jax.runtime import sharding
from genvs_jax.training import train_state

DAMAGED_FOLDER = "damaged_checkpoints"
# A run goes on only if these are what they were; sections end with a dot.
_FIXED = (
  "model.",
  "frustum.",
  "objective.name",
  "optimizer.frozen",
  "diffusion.sigma_data",
)
# What may change all the same: it alters neither shapes nor their meaning.
_FREE = (
  "model.dtype",
  "model.resize",
  "model.encoder.remat",
  "model.denoiser.remat",
  "model.denoiser.dropout",
)


def start(
  config,
  model: pipeline.Model,
  mesh: jax.sharding.Mesh,
  checkpointer: checkpoints.Checkpointer,
  workdir: str,
) -> train_state.TrainState:
  """The state that a run starts with, placed on the mesh.

  A checkpoint that cannot be read is moved to `workdir/damaged_checkpoints`
  with a warning, and the one before it is taken.

  Raises:
    ValueError: if the checkpoint belongs to another config, or there is none
      that can be read.
  """
  abstract = jax.eval_shape(lambda: train_state.init_state(config, model))
  shardings = sharding.split_state(mesh, abstract)
  steps = checkpointer.steps()
  for step in reversed(steps):
    state = _restore(config, checkpointer, step, abstract, shardings)
    if state is not None:
      logging.info("going on from the checkpoint of step %d", step)
      return state
    _set_aside(checkpointer, step, epath.Path(workdir) / DAMAGED_FOLDER)
  if steps:
    raise checkpoints.CheckpointError(
      f"none of the checkpoints {steps} of {workdir} can be read; they are in"
      f" {workdir}/{DAMAGED_FOLDER}: choose another --workdir, or start the"
      " same command again to train from the beginning"
    )
  state = train_state.init_on_devices(config, model, shardings)
  return warm_start.warm_start(config, model, state)


def differing_fields(config, saved) -> tuple[list[str], list[str]]:
  """Fields whose values differ from a saved config's.

  Returns:
    (those that must not, the others), each as "name = saved value, here ...".
    Fields that one of the two does not have are left out.
  """
  ours, theirs = _flat(config), _flat(saved)
  fixed, free = [], []
  for name in sorted(ours.keys() & theirs.keys()):
    if ours[name] == theirs[name]:
      continue
    kept = name not in _FREE and any(
      name.startswith(start) if start.endswith(".") else name == start
      for start in _FIXED
    )
    (fixed if kept else free).append(
      f"{name} = {theirs[name]!r}, here {ours[name]!r}"
    )
  return fixed, free


def _restore(config, checkpointer, step: int, abstract, shardings):
  """The state of a checkpoint, or None if it cannot be read."""
  problem = ""
  try:
    saved = checkpointer.read_config(step, to_resume=True)
  except checkpoints.CheckpointError:
    raise
  # A damaged checkpoint raises whatever its reader happened to meet.
  except Exception as error:
    problem = repr(error)
  if sharding.any_process(bool(problem)):
    logging.warning("the config of checkpoint %d: %s", step, problem)
    return None
  fixed, free = differing_fields(config, saved)
  if fixed:
    raise ValueError(
      f"the checkpoint of step {step} was trained with another config:"
      f" {'; '.join(fixed)}. Use the same values, or choose another --workdir"
    )
  if free:
    logging.info("the config has changed since: %s", "; ".join(free))
  try:
    state = checkpointer.restore(
      step, checkpoints.abstract_like(abstract, shardings)
    )
  except Exception as error:  # as above
    problem, state = repr(error), None
  if sharding.any_process(bool(problem)):
    logging.warning("the arrays of checkpoint %d: %s", step, problem[:500])
    return None
  return state


def _set_aside(checkpointer, step: int, folder: epath.Path) -> None:
  if jax.process_index() == 0:
    moved = checkpointer.set_aside(step, folder)
    logging.warning(
      "the checkpoint of step %d cannot be read: it was moved to %s, and the"
      " one before it is taken",
      step,
      moved,
    )
  sharding.any_process(False)  # all wait here until it has been moved
  checkpointer.reload()


def _flat(config) -> dict[str, Any]:
  """{"section.field": value} with lists and tuples alike."""
  values = checkpoints.config_to_dict(config)
  found = {}

  def visit(tree: dict, prefix: str) -> None:
    for name, value in tree.items():
      if isinstance(value, dict):
        visit(value, f"{prefix}{name}.")
      else:
        found[prefix + name] = value

  visit(values, "")
  return found
