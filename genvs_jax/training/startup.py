"""Where a run starts: a checkpoint of its own, other weights, or nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging
from etils import epath

from genvs_jax import config_fields
from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import warm_start
from genvs_jax.models import builders
from genvs_jax.models import pipeline
from genvs_jax.runtime import messages
from genvs_jax.runtime import platforms
from genvs_jax.runtime import processes
from genvs_jax.runtime import sharding
from genvs_jax.training import optimizers
from genvs_jax.training import train_step

DAMAGED_FOLDER = "damaged_checkpoints"


def start(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  mesh: jax.sharding.Mesh,
  checkpointer: checkpoints.Checkpointer,
  workdir: str,
) -> train_step.TrainState:
  """The state that a run starts with, placed on the mesh.

  The cases, in the order in which they are tried:

    1  the newest checkpoint of the workdir, if its config fits
    2  the one before it, if the newest is damaged, and so on; what is damaged
       is moved to `workdir/damaged_checkpoints` with a warning, the last one
       left apart, at which the run stops
    3  a fresh state, with the parts that `config.init_from` names taken from
       other checkpoints, if the workdir has no checkpoint
    4  a fresh state, if nothing is named

  Raises:
    ValueError: if the checkpoint belongs to another config, or there is none
      that can be read.
  """
  # Shapes and places of the state, so that arrays are read straight to where
  # they belong, on any number of devices.
  abstract = jax.eval_shape(lambda: init_state(config, model))
  shardings = sharding.split_state(mesh, abstract)
  # Cases 1 and 2.
  steps = checkpointer.steps()
  for step in reversed(steps):
    state = _restore(config, checkpointer, step, abstract, shardings)
    if state is not None:
      logging.info("resuming from the checkpoint of step %d", step)
      return state
    if step == steps[0]:
      raise checkpoints.CheckpointError(
        f"none of the checkpoints {steps} of {workdir} can be read; that of"
        f" step {step} stays where it is, others are in"
        f" {workdir}/{DAMAGED_FOLDER}: bring back a whole one, choose another"
        f" --workdir, or remove {workdir}/{checkpoints.FOLDER} to train from"
        " the beginning"
      )
    _set_aside(checkpointer, step, epath.Path(workdir) / DAMAGED_FOLDER)
  # Cases 3 and 4.
  state = init_on_devices(config, model, shardings)
  return take_over(config, model, state)


def take_over(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  state: train_step.TrainState,
) -> train_step.TrainState:
  """A fresh state with the parts that `config.init_from` names taken from
  other checkpoints; their average starts at the same values."""
  if not warm_start.sources(config):
    return state
  params, buffers = warm_start.warm_start(
    config, model, state.params, state.buffers
  )
  ema = jax.tree.map(jnp.copy, params) if state.ema else {}
  return dataclasses.replace(state, params=params, ema=ema, buffers=buffers)


def _restore(
  config: ml_collections.ConfigDict,
  checkpointer: checkpoints.Checkpointer,
  step: int,
  abstract: train_step.TrainState,
  shardings: Any,
) -> train_step.TrainState | None:
  """The state of a checkpoint, or None if its files are damaged.

  Raises:
    ValueError: if it belongs to another config, or cannot be read for now.
  """
  checkpoint_config = _read(
    f"the config of checkpoint {step}",
    lambda: checkpointer.read_config(step, to_resume=True),
  )
  if checkpoint_config is None:
    return None
  # Config and shapes are compared before the arrays: a mismatch is no damage.
  forbidden, allowed = config_fields.changed(config, checkpoint_config)
  if forbidden:
    raise ValueError(
      f"the checkpoint of step {step} was trained with another config:"
      f" {'; '.join(forbidden)}. Use the same values, or choose another"
      " --workdir"
    )
  if allowed:
    logging.info("the config has changed since: %s", "; ".join(allowed))
  differences = _read(
    f"the description of checkpoint {step}",
    lambda: checkpointer.differences(step, abstract),
  )
  if differences:
    more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
    raise ValueError(
      f"the checkpoint of step {step} holds another state than this config"
      f" makes: {'; '.join(differences[:3])}{more}. Use the config that it was"
      " trained with, or choose another --workdir"
    )
  if differences is None:
    return None
  return _read(
    f"the arrays of checkpoint {step}",
    lambda: checkpointer.restore(
      step, checkpoints.abstract_like(abstract, shardings)
    ),
  )


def _read(what: str, read: Callable[[], Any]) -> Any:
  """What `read` returns, or None if a process finds it damaged.

  Raises:
    CheckpointError: if storage or memory fails: that is no damage.
  """
  value, problem = None, ""
  try:
    value = read()
  except checkpoints.CheckpointError:
    raise
  # A damaged checkpoint raises whatever its reader happened to meet.
  except Exception as error:
    if not checkpoints.is_damage(error):
      raise checkpoints.CheckpointError(
        f"{what} cannot be read now ({messages.first_line(error)}), which is no"
        " fault of the checkpoint; nothing was moved: start the same command"
        " again when storage and memory are there"
      ) from error
    problem = repr(error)
  # What one process cannot read, none goes on with.
  if processes.any_process(bool(problem)):
    logging.warning("%s: %s", what, problem[:500])
    return None
  return value


def _set_aside(
  checkpointer: checkpoints.Checkpointer, step: int, folder: epath.Path
) -> None:
  if jax.process_index() == 0:
    target = checkpointer.set_aside(step, folder)
    logging.warning(
      "the checkpoint of step %d cannot be read: it was moved to %s, and the"
      " one before it is taken",
      step,
      target,
    )
  processes.any_process(False)  # all wait here until it has been moved
  checkpointer.reload()


def init_state(
  config: ml_collections.ConfigDict, model: pipeline.Model
) -> train_step.TrainState:
  """A fresh state, a function of `config.seed` alone."""
  parts = builders.parts_of(config.objective.name)
  params, buffers = pipeline.split_variables(
    builders.init_variables(model, jax.random.key(config.seed), parts)
  )
  # Frozen parts have no optimizer state.
  trainable = optimizers.trainable(params, config.optimizer.frozen)
  has_ema = config.train.ema != "none"
  return train_step.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema=jax.tree.map(jnp.copy, params) if has_ema else {},
    buffers=buffers,
    opt_state=optimizers.build_optimizer(config).init(trainable),
    skipped=jnp.zeros((2,), jnp.int32),
  )


def init_on_devices(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  placement: Any = None,
) -> train_step.TrainState:
  """`init_state`, compiled; `placement` is a sharding or a tree of them."""
  return jax.jit(
    lambda: init_state(config, model),
    out_shardings=placement,
    compiler_options=platforms.initialisation_options(),
  )()
