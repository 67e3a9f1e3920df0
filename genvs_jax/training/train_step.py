"""The state of a run, and the step that changes it.

From disk to checkpoint, a batch takes these steps; the middle ones are the
function `train_step` inside `build_train_step`:

  1  a record per scene is read, and the chosen views decoded  data/loading
  2  records are shuffled and batched, as (seed, step) say     data/loading
  3  each process puts its rows on its devices                 runtime/sharding
  4  parameters are gathered, whole on every device            train_step
  5  input views become frustum volumes                        pipeline.encode
  6  target rays become feature images          pipeline.render_features
  7  noisy targets are denoised                                denoising.predict
  8  losses, gradient, scatter, AdamW, EMA                     train_step
  9  norms and losses go to the log                            train_step, loop
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax
from absl import logging

from genvs_jax.models import builders
from genvs_jax.models import pipeline
from genvs_jax.runtime import compilation
from genvs_jax.runtime import flops
from genvs_jax.runtime import memory
from genvs_jax.runtime import platforms
from genvs_jax.runtime import sharding
from genvs_jax.training import objectives
from genvs_jax.training import optimizers
from genvs_jax.training import randomness


@flax.struct.dataclass
class TrainState:
  """What a checkpoint holds: arrays alone, neither key nor iterator.

  Attributes:
    step: i32, steps taken; randomness and data order follow from it.
    params: trained parameters by part.
    ema: their exponential moving average; {} if the run has none.
    buffers: running statistics and constants by part.
    opt_state: optimizer state.
    skipped: i32 [2], updates left out because the gradient was not finite:
      all of them, and those in a row up to this step.
  """

  step: jax.Array
  params: Any
  ema: Any
  buffers: Any
  opt_state: Any
  skipped: jax.Array

  def variables(self, params: str) -> pipeline.Variables:
    """For inference: with the averaged parameters, "ema", or the "raw" ones."""
    values = self.ema if params == "ema" else self.params
    return pipeline.join_variables(values, self.buffers)


def build_train_step(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  mesh: jax.sharding.Mesh,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """(state, batch) -> (state, metrics): one update, for `compile_step`.

  Written for the global batch, as if one device did it all; where arrays lie
  on the mesh is said by constraints alone, from which XLA makes the
  communication.
  """
  objective = objectives.OBJECTIVES[config.objective.name]
  options = objectives.build_options(config)
  optimizer = optimizers.build_optimizer(config)
  ema_decay = optimizers.build_ema_decay(config)
  frozen = tuple(config.optimizer.frozen)
  place = jax.lax.with_sharding_constraint

  def train_step(state: TrainState, batch: objectives.Batch):
    keys = randomness.step_keys(config.seed, state.step, len(batch["images"]))

    # 4. Gather: a copy of the state is spread over the mesh's shards between
    # steps; here all of it is needed on every device.
    params, buffers = place(
      (state.params, state.buffers), sharding.replicated(mesh)
    )

    # 5-7. Loss and gradient, of the parts that are trained. Other parts and
    # the running statistics are constants of the loss.
    def loss_fn(trainable, buffers, batch, keys):
      variables = pipeline.join_variables({**params, **trainable}, buffers)
      return objective(model, options, variables, batch, keys)

    grads, metrics, buffers = accumulate(
      jax.grad(loss_fn, has_aux=True),
      config.train.accumulation,
      optimizers.trainable(params, frozen),
      buffers,
      batch,
      keys,
    )

    # 8. Scatter: the sum over devices, of which each keeps the part that it
    # has of the state, and updates that.
    grads = place(grads, sharding.split_state(mesh, grads))
    trainable = optimizers.trainable(state.params, frozen)
    updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
    params = {**state.params, **optax.apply_updates(trainable, updates)}
    ema = {}
    if ema_decay is not None:
      rate = 1 - ema_decay(state.step)
      ema = optax.incremental_update(params, state.ema, rate)

    # A step whose gradient is not finite changes nothing but its count. The
    # gradient alone decides: clipped and finite it gives a finite update, and
    # if the update were asked too, each new array would be written twice,
    # first to be asked and then to its place.
    gradient_norms = _norms("gradient_norm", grads)
    finite = jnp.isfinite(gradient_norms["gradient_norm"])
    new = dataclasses.replace(
      state, params=params, ema=ema, buffers=buffers, opt_state=opt_state
    )
    new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
    skipped, in_a_row = state.skipped
    skipped, in_a_row = skipped + ~finite, jnp.where(finite, 0, in_a_row + 1)
    new = dataclasses.replace(
      new, step=state.step + 1, skipped=jnp.stack([skipped, in_a_row])
    )

    # 9. What the log shows beside the losses.
    metrics |= {
      **gradient_norms,
      **_norms("update_norm", updates),
      **_norms("parameter_norm", new.params),
      "skipped": skipped,
      "skipped_in_a_row": in_a_row,
    }
    return new, metrics

  return train_step


def accumulate(
  gradient: Callable,
  count: int,
  trainable: dict,
  buffers: dict,
  batch: objectives.Batch,
  keys: randomness.StepKeys,
) -> tuple[dict, dict[str, jax.Array], dict]:
  """A gradient over `count` pieces of a batch, one after another.

  The gradient and the metrics are means over the pieces, and running
  statistics pass from piece to piece. Memory is that of one piece.

  Args:
    gradient: (trainable, buffers, batch, keys) -> (gradient, (metrics,
      buffers)).
    count: of pieces, which divides the batch.
    trainable: parameters of the parts that are trained.
    buffers: of all parts.
    batch: of B examples.
    keys: of the step.

  Returns:
    the gradient, the metrics and the new buffers.
  """
  if count == 1:
    grads, (metrics, buffers) = gradient(trainable, buffers, batch, keys)
    return grads, metrics, buffers

  def add_piece(carry, piece):
    total, buffers = carry
    grads, (metrics, buffers) = gradient(trainable, buffers, *piece)
    return (jax.tree.map(jnp.add, total, grads), buffers), metrics

  # [B,..] -> [count,B/count,..], a scan over the first axis.
  pieces = jax.tree.map(lambda x: randomness.interleave(x, count), batch)
  zeros = jax.tree.map(jnp.zeros_like, trainable)
  (total, buffers), metrics = jax.lax.scan(
    add_piece, (zeros, buffers), (pieces, keys.pieces(count))
  )
  grads = jax.tree.map(lambda x: x / count, total)
  return grads, jax.tree.map(jnp.mean, metrics), buffers


def _norms(name: str, tree: dict) -> dict[str, jax.Array]:
  """The norm of all parts {part: tree} together, and of each."""
  squared = optimizers.squared_norms(tree)
  norms = {f"{name}/{part}": jnp.sqrt(x) for part, x in squared.items()}
  return {name: jnp.sqrt(sum(squared.values())), **norms}


def compile_step(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  mesh: jax.sharding.Mesh,
  state: TrainState,
) -> tuple[jax.stages.Compiled, int]:
  """The compiled (state, batch) -> (state, metrics), and its operations.

  Args:
    config: see `configs/base.py`.
    model: that it describes.
    mesh: the devices.
    state: placed on them, or its shapes.
  """
  # Shapes and places are the same at every step: compiled once, called often.
  platform = mesh.devices.flat[0].platform
  state_shardings = sharding.split_state(mesh, state)
  step = jax.jit(
    build_train_step(config, model, mesh),
    # The new state takes the memory of the old one.
    donate_argnums=0,
    in_shardings=(state_shardings, sharding.split_batch(mesh)),
    out_shardings=(state_shardings, sharding.replicated(mesh)),
    compiler_options=platforms.gradient_options(platform),
  )
  # Traced once, for both: operations are counted before XLA rewrites them.
  logging.info("tracing the train step")
  with platforms.programs_for(platform):
    traced = step.trace(state, builders.batch_spec(config))
  operations = flops.count(traced.jaxpr)
  compiled = compilation.compile_traced(traced, platform, "train step")
  logging.info(
    "a step takes %.3g TFLOP and %.2f GiB on each device",
    operations / 1e12,
    memory.of_program(compiled) / 2**30,
  )
  return compiled, operations
