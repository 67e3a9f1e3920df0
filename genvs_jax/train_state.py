"""Everything a run carries from step to step, and the step itself."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from genvs_jax import objectives
from genvs_jax import optimizers
from genvs_jax import pipeline


@flax.struct.dataclass
class TrainState:
  """What a checkpoint holds: arrays alone, neither key nor iterator.

  Attributes:
    step: i32, steps taken; randomness and data order follow from it.
    params: trained parameters by part.
    ema: their exponential moving average.
    buffers: running statistics and constants by part.
    opt_state: optimizer state.
  """

  step: jax.Array
  params: Any
  ema: Any
  buffers: Any
  opt_state: Any


def init_state(config, model: pipeline.Model) -> TrainState:
  """A fresh state, a function of `config.seed` alone."""
  objectives.check_name(config.objective.name)
  parts = objectives.PARTS[config.objective.name]
  params, buffers = pipeline.split_variables(
    pipeline.init_variables(model, jax.random.key(config.seed), parts)
  )
  trained = optimizers.trained(params, config.optimizer.frozen)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema=jax.tree.map(jnp.copy, params),
    buffers=buffers,
    opt_state=optimizers.build_optimizer(config).init(trained),
  )


def init_on_devices(
  config, model: pipeline.Model, sharding: jax.sharding.Sharding | None = None
) -> TrainState:
  """`init_state`, compiled and placed as `sharding` says."""
  # Initialisation is a long program of small random draws that runs once: on
  # CPU, optimising it takes four times as long as not.
  options = {"xla_backend_optimization_level": 0}
  on_cpu = jax.default_backend() == "cpu"
  return jax.jit(
    lambda: init_state(config, model),
    out_shardings=sharding,
    compiler_options=options if on_cpu else None,
  )()


def sampling_variables(state: TrainState, weights: str) -> pipeline.Variables:
  """Variables for inference: `weights` is "ema" or "params"."""
  check_weights(weights)
  return pipeline.join_variables(getattr(state, weights), state.buffers)


def check_weights(weights: str) -> None:
  """Raises ValueError unless `weights` names parameters of a state."""
  if weights not in ("ema", "params"):
    raise ValueError(
      f"sampler.weights is {weights!r}, expected 'ema' or 'params'"
    )


def ema_decay(
  step: jax.Array, batch_size: int, half_life: float, ramp_up: float
) -> jax.Array:
  """Share of the old average kept in a step (EDM's half-life in images).

  The half-life is at most `ramp_up` times the images seen, so that early
  averages forget the random start.
  """
  images = (step + 1) * batch_size
  half_life = jnp.minimum(half_life, ramp_up * images)
  return 0.5 ** (batch_size / jnp.maximum(half_life, 1e-8))


def inverse_power_decay(
  step: jax.Array, power: float, largest: float
) -> jax.Array:
  """Share kept in a step by k-diffusion's EMA warm-up (its `inverse`)."""
  return jnp.minimum(1 - (1 + step) ** -power, largest)


def build_ema_decay(config) -> Callable[[jax.Array], jax.Array]:
  """step -> share of the old average kept, from `config.train`."""
  train = config.train
  if train.ema == "half_life":
    return lambda step: ema_decay(
      step, train.batch_size, train.ema_half_life, train.ema_ramp_up
    )
  if train.ema == "inverse_power":
    return lambda step: inverse_power_decay(
      step, train.ema_power, train.ema_max_decay
    )
  raise ValueError(
    f"train.ema is {train.ema!r}, expected 'half_life' or 'inverse_power'"
  )


def build_train_step(config, model: pipeline.Model) -> Callable:
  """(state, batch) -> (state, metrics): one update, for `jax.jit`.

  Args:
    config: objective, optimizer and EMA are read from it.
    model: the model.
  """
  objectives.check_name(config.objective.name)
  objective = objectives.OBJECTIVES[config.objective.name]
  frozen = tuple(config.optimizer.frozen)
  options = objectives.build_options(config)
  optimizer = optimizers.build_optimizer(config)
  decay_at = build_ema_decay(config)
  seed = config.seed

  def train_step(state: TrainState, batch: dict[str, jax.Array]):
    keys = objectives.step_keys(seed, state.step)

    trained = optimizers.trained(state.params, frozen)

    def loss_fn(trained):
      params = {**state.params, **trained}
      variables = pipeline.join_variables(params, state.buffers)
      return objective(model, options, variables, batch, keys)

    grads, (metrics, buffers) = jax.grad(loss_fn, has_aux=True)(trained)
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    params = {**state.params, **optax.apply_updates(trained, updates)}
    ema = optax.incremental_update(params, state.ema, 1 - decay_at(state.step))
    metrics["gradient_norm"] = optax.global_norm(grads)
    metrics["update_norm"] = optax.global_norm(updates)
    return (
      TrainState(state.step + 1, params, ema, buffers, opt_state),
      metrics,
    )

  return train_step
