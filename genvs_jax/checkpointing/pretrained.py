"""A trained model in three lines, for those who only want to use it.

  from genvs_jax.checkpointing import pretrained, synthesis
  genvs = pretrained.load("WORKDIR")
  draw = synthesis.build_synthesize(genvs.config, genvs.model)

`genvs.variables` goes into `synthesis.encode_views`, `pipeline.encode`,
`pipeline.render_features`, `pipeline.denoise` and `draw` as it is.
"""

import contextlib
import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from genvs_jax.checkpointing import checkpoints
from genvs_jax.models import pipeline
from genvs_jax.runtime import sharding
from genvs_jax.training import train_state


class Pretrained(NamedTuple):
  """What a checkpoint holds for use.

  Attributes:
    config: that it was trained with, see `configs/base.py`.
    model: the networks and the geometry that joins them.
    variables: trained parameters and buffers of all parts, on all devices.
    step: of the checkpoint.
  """

  config: ml_collections.ConfigDict
  model: pipeline.Model
  variables: pipeline.Variables
  step: int


def load(
  path: str, step: int | None = None, weights: str = "ema"
) -> Pretrained:
  """Loads a checkpoint, without the optimizer's state.

  Args:
    path: a workdir, its checkpoints folder, or one checkpoint; local or gs://.
    step: which one, by default the newest.
    weights: "ema" for the averaged parameters, or "params".

  Raises:
    CheckpointError: if there is none.
    ValueError: if its config lacks a field that the model needs, or it has no
      such weights.
  """
  checkpointer, step = checkpoints.open_existing(path, step)
  with contextlib.closing(checkpointer):
    config = checkpointer.read_config(step)
    train_state.check_weights(config, weights)
    try:
      model = pipeline.build_model(config)
    except AttributeError as error:
      raise ValueError(
        f"{path}: the checkpoint's config lacks a field ({error}), so an older"
        " version of genvs_jax wrote it: use that version"
      ) from error
    state = jax.eval_shape(lambda: train_state.init_state(config, model))
    wanted = {weights: getattr(state, weights), "buffers": state.buffers}
    everywhere = sharding.replicated(sharding.make_mesh())
    restored = checkpointer.restore_some(
      step, checkpoints.abstract_like(wanted, everywhere)
    )
  variables = pipeline.join_variables(restored[weights], restored["buffers"])
  return Pretrained(config, model, variables, step)


def fingerprint(variables: pipeline.Variables) -> str:
  """Tells weights apart: 16 digits from the first values of every leaf."""
  leaves = jax.tree.leaves(variables)
  first = jax.jit(lambda xs: jnp.concatenate([x.ravel()[:16] for x in xs]))
  values = np.asarray(first(leaves), np.float32)
  return hashlib.sha256(values.tobytes()).hexdigest()[:16]
