"""Everything a run carries from step to step, and the step itself."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from genvs_jax.models import pipeline
from genvs_jax.training import objectives
from genvs_jax.training import optimizers
from genvs_jax.training import randomness


@flax.struct.dataclass
class TrainState:
  """What a checkpoint holds: arrays alone, neither key nor iterator.

  Attributes:
    step: i32, steps taken; randomness and data order follow from it.
    params: trained parameters by part.
    ema: their exponential moving average; {} if the run keeps none.
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
    ema=jax.tree.map(jnp.copy, params) if has_ema(config) else {},
    buffers=buffers,
    opt_state=optimizers.build_optimizer(config).init(trained),
    skipped=jnp.zeros((2,), jnp.int32),
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
  return pipeline.join_variables(getattr(state, weights), state.buffers)


def has_ema(config) -> bool:
  """Whether a state of the config holds averaged parameters."""
  return config.train.ema != "none"


def check_weights(config, weights: str) -> None:
  """Raises ValueError unless states of the config have such parameters.

  Args:
    config: of the run that makes or made the state.
    weights: "ema" or "params".
  """
  if weights not in ("ema", "params"):
    raise ValueError(
      f"sampler.weights is {weights!r}, expected 'ema' or 'params'"
    )
  if weights == "ema" and not has_ema(config):
    raise ValueError(
      "train.ema is 'none', so there are no averaged weights: choose the raw"
      " ones, sampler.weights='params' (init_from.weights for a warm start)"
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


def build_ema_decay(config) -> Callable[[jax.Array], jax.Array] | None:
  """step -> share of the old average kept, from `config.train`; None for no
  average."""
  train = config.train
  if train.ema == "half_life":
    return lambda step: ema_decay(
      step, train.batch_size, train.ema_half_life, train.ema_ramp_up
    )
  if train.ema == "inverse_power":
    return lambda step: inverse_power_decay(
      step, train.ema_power, train.ema_max_decay
    )
  if not has_ema(config):
    return None
  raise ValueError(
    f"train.ema is {train.ema!r}, expected 'half_life', 'inverse_power' or"
    " 'none'"
  )


def build_train_step(
  config,
  model: pipeline.Model,
  gather: Callable[[Any], Any] = lambda tree: tree,
  scatter: Callable[[Any], Any] = lambda tree: tree,
) -> Callable:
  """(state, batch) -> (state, metrics): one update, for `jax.jit`.

  An update whose gradient is not finite is left out and counted.

  Args:
    config: objective, optimizer, accumulation and EMA are read from it.
    model: the model.
    gather: places parameters and buffers whole on every device.
    scatter: places gradients as the state's parameters are.
  """
  gradient = _build_gradient(config, model)
  frozen = tuple(config.optimizer.frozen)
  optimizer = optimizers.build_optimizer(config)
  decay_at = build_ema_decay(config)

  def train_step(state: TrainState, batch: dict[str, jax.Array]):
    keys = randomness.step_keys(config.seed, state.step, len(batch["images"]))
    grads, metrics, buffers = gradient(
      gather(state.params), gather(state.buffers), batch, keys
    )
    grads = scatter(grads)
    trained = optimizers.trained(state.params, frozen)
    updates, opt_state = optimizer.update(grads, state.opt_state, trained)
    params = {**state.params, **optax.apply_updates(trained, updates)}
    ema = {}
    if decay_at is not None:
      share = 1 - decay_at(state.step)
      ema = optax.incremental_update(params, state.ema, share)
    # A clipped gradient that is finite gives a finite update. If the update
    # were asked too, each new array would be written twice, first to be asked
    # and then to its place.
    gradient_norms = _norms("gradient_norm", grads)
    finite = jnp.isfinite(gradient_norms["gradient_norm"])
    all_skipped, in_a_row = state.skipped
    new = state.replace(
      params=params, ema=ema, buffers=buffers, opt_state=opt_state
    )
    new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
    new = new.replace(
      step=state.step + 1,
      skipped=jnp.stack(
        [all_skipped + ~finite, jnp.where(finite, 0, in_a_row + 1)]
      ),
    )
    metrics |= {
      **gradient_norms,
      **_norms("update_norm", updates),
      **_norms("parameter_norm", new.params),
      "skipped": new.skipped[0],
      "skipped_in_a_row": new.skipped[1],
    }
    return new, metrics

  return train_step


def _build_gradient(config, model: pipeline.Model) -> Callable:
  """(params, buffers, batch, keys) -> (gradient, metrics, new buffers).

  The batch may be cut into pieces that are computed one after another: the
  gradient is the mean, and running statistics pass from piece to piece.
  """
  objectives.check_name(config.objective.name)
  objective = objectives.OBJECTIVES[config.objective.name]
  options = objectives.build_options(config)
  frozen = tuple(config.optimizer.frozen)
  count = config.train.accumulation

  def of_piece(params, buffers, batch, keys):
    def loss_fn(trained):
      variables = pipeline.join_variables({**params, **trained}, buffers)
      return objective(model, options, variables, batch, keys)

    trained = optimizers.trained(params, frozen)
    grads, (metrics, buffers) = jax.grad(loss_fn, has_aux=True)(trained)
    return grads, metrics, buffers

  def of_batch(params, buffers, batch, keys):
    def add_piece(carry, piece):
      total, buffers = carry
      grads, metrics, buffers = of_piece(params, buffers, *piece)
      return (jax.tree.map(jnp.add, total, grads), buffers), metrics

    pieces = jax.tree.map(lambda x: randomness.interleave(x, count), batch)
    zeros = jax.tree.map(jnp.zeros_like, optimizers.trained(params, frozen))
    (total, buffers), metrics = jax.lax.scan(
      add_piece, (zeros, buffers), (pieces, keys.pieces(count))
    )
    grads = jax.tree.map(lambda x: x / count, total)
    return grads, jax.tree.map(jnp.mean, metrics), buffers

  return of_piece if count == 1 else of_batch


def _norms(name: str, tree: dict) -> dict[str, jax.Array]:
  """The norm of all parts {part: tree} together, and of each."""
  norms = {f"{name}/{part}": optax.global_norm(x) for part, x in tree.items()}
  return {name: optax.global_norm(tree), **norms}
