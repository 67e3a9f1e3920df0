"""AdamW with one learning rate per part, and the moving average of parameters.

Parameters are {part: tree} as in `pipeline`. The gradient is clipped over all
parts together before each part takes its own step.
"""

import collections
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax

from genvs_jax.models import pipeline
from genvs_jax.runtime import messages

SCHEDULES = ("constant", "cosine", "cosine_restarts")
EMAS = ("half_life", "inverse_power", "none")

# Of more the compiler for TPUs makes one operation that takes it half a minute.
_SUMMED_TOGETHER = 8


def learning_rate(
  step: jax.Array,
  peak: float,
  *,
  schedule: str,
  warmup: int,
  period: int,
  final: float,
) -> jax.Array:
  """The rate of step `step` (0 for the first).

  Args:
    step: steps taken before this one.
    peak: the highest rate.
    schedule: "constant"; "cosine", from `peak` to `final` in `period` steps;
      "cosine_restarts", the same again and again (Loshchilov and Hutter 2017;
      torch's CosineAnnealingWarmRestarts with T_mult = 1).
    warmup: steps over which the rate rises linearly, 0 for none.
    period: in steps.
    final: lowest rate of the cosines.
  """
  messages.check_choice("optimizer.schedule", schedule, SCHEDULES)
  rate = jnp.float32(peak)
  if schedule != "constant":
    if period < 1:
      raise ValueError(
        f"optimizer.period is {period}, expected the steps of a cosine"
      )
    # Past its end a cosine stays at `final`, or starts again at `peak`.
    at = jnp.minimum(step, period) if schedule == "cosine" else step % period
    rate = final + (peak - final) * (1 + jnp.cos(jnp.pi * at / period)) / 2
  # The first step already moves: 1 / warmup, not 0.
  return rate * jnp.minimum((step + 1) / max(warmup, 1), 1.0)


def trainable(params: dict, frozen: tuple[str, ...]) -> dict:
  """The parts {part: tree} that are not frozen.

  Raises:
    ValueError: if `frozen` names no part, or nothing is left.
  """
  # Frozen parts get neither gradient nor moments.
  unknown = set(frozen) - set(pipeline.PARTS)
  rest = {part: tree for part, tree in params.items() if part not in frozen}
  if unknown or not rest:
    raise ValueError(
      f"optimizer.frozen is {tuple(frozen)}, expected some of"
      f" {', '.join(pipeline.PARTS)} and a part left to train"
    )
  return rest


def squared_norms(tree: dict) -> dict[str, jax.Array]:
  """The sum of squares of each part of {part: tree}.

  Arrays of one shape are added up first, some at a time, so that a step has
  fewer sums and compiles sooner.
  """
  result = {}
  for part, arrays in tree.items():
    by_shape = collections.defaultdict(list)
    for array in jax.tree.leaves(arrays):
      by_shape[array.shape].append(jnp.square(array))
    sums = [
      jnp.sum(sum(squares[start : start + _SUMMED_TOGETHER]))
      for squares in by_shape.values()
      for start in range(0, len(squares), _SUMMED_TOGETHER)
    ]
    result[part] = sum(sums, jnp.zeros(()))
  return result


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """Scales all gradients so that their common norm is at most `max_norm`.

  As optax's, but a product that XLA fuses with what follows: optax's quotient
  and choice is an array of the size of all parameters that is written first.
  """

  def clip(grads, params):
    del params
    norm = jnp.sqrt(sum(squared_norms(grads).values()))
    scale = jnp.minimum(1.0, max_norm / norm)
    return jax.tree.map(lambda grad: scale * grad, grads)

  return optax.stateless(clip)


def build_optimizer(
  config: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """From `config.optimizer`."""
  options = config.optimizer
  rates = {
    "encoder": options.encoder_rate,
    "field": options.field_rate,
    "denoiser": options.denoiser_rate,
  }

  def adamw(peak: float) -> optax.GradientTransformation:
    # Weight decay is decoupled, and scaled by the rate as in PyTorch.
    return optax.adamw(
      lambda step: learning_rate(
        step,
        peak,
        schedule=options.schedule,
        warmup=options.warmup,
        period=options.period or config.train.steps,
        final=options.final_rate,
      ),
      b1=options.b1,
      b2=options.b2,
      eps=options.eps,
      weight_decay=options.weight_decay,
    )

  # The order matters: the norm is that of all parts together.
  # Each part has an AdamW of its own, told apart by the top of the tree.
  return optax.chain(
    clip_by_global_norm(options.clip_norm),
    optax.multi_transform(
      {part: adamw(rate) for part, rate in rates.items()},
      lambda params: {part: part for part in params},
    ),
  )


def half_life_decay(
  step: jax.Array, batch_size: int, half_life: float, ramp_up: float
) -> jax.Array:
  """Share of the old average that a step keeps (EDM's half-life in images).

  The half-life is at most `ramp_up` times the images seen, so that early
  averages forget the random start.
  """
  # In float32: int32 ends at 2^31 images.
  images = (step + 1.0) * batch_size
  at_most = jnp.minimum(half_life, ramp_up * images)
  # After half_life / batch_size steps, 0.5 of the old average is left.
  return 0.5 ** (batch_size / jnp.maximum(at_most, 1e-8))


def inverse_power_decay(
  step: jax.Array, power: float, largest: float
) -> jax.Array:
  """Share that a step keeps by k-diffusion's EMA warm-up (its `inverse`)."""
  return jnp.minimum(1 - (1 + step) ** -power, largest)


def build_ema_decay(
  config: ml_collections.ConfigDict,
) -> Callable[[jax.Array], jax.Array] | None:
  """step -> share of the old average that is kept, from `config.train`; None
  for a run without an average."""
  train = config.train
  messages.check_choice("train.ema", train.ema, EMAS)
  if train.ema == "half_life":
    return lambda step: half_life_decay(
      step, train.batch_size, train.ema_half_life, train.ema_ramp_up
    )
  if train.ema == "inverse_power":
    return lambda step: inverse_power_decay(
      step, train.ema_power, train.ema_max_decay
    )
  return None
