"""AdamW with one learning rate per part behind a global-norm clip."""

import jax
import jax.numpy as jnp
import optax

from genvs_jax.models import pipeline

SCHEDULES = ("constant", "cosine", "cosine_restarts")


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
  if schedule not in SCHEDULES:
    raise ValueError(
      f"optimizer.schedule is {schedule!r}, expected one of"
      f" {', '.join(SCHEDULES)}"
    )
  rate = jnp.float32(peak)
  if schedule != "constant":
    if period < 1:
      raise ValueError(
        f"optimizer.period is {period}, expected the steps of a cosine"
      )
    at = jnp.minimum(step, period) if schedule == "cosine" else step % period
    rate = final + (peak - final) * (1 + jnp.cos(jnp.pi * at / period)) / 2
  return rate * jnp.minimum((step + 1) / max(warmup, 1), 1.0)


def trained(params: dict, frozen: tuple[str, ...]) -> dict:
  """The parts {part: tree} that are not frozen.

  Raises:
    ValueError: if `frozen` names no part, or nothing is left.
  """
  unknown = set(frozen) - set(pipeline.PARTS)
  rest = {part: tree for part, tree in params.items() if part not in frozen}
  if unknown or not rest:
    raise ValueError(
      f"optimizer.frozen is {tuple(frozen)}, expected some of"
      f" {', '.join(pipeline.PARTS)} and a part left to train"
    )
  return rest


def clip_by_global_norm(most: float) -> optax.GradientTransformation:
  """Scales all gradients so that their common norm is at most `most`.

  As optax's, but a product that XLA fuses with what follows: optax's quotient
  and choice is an array of the size of all parameters that is written first.
  """

  def clip(grads, params):
    del params
    scale = jnp.minimum(1.0, most / optax.global_norm(grads))
    return jax.tree.map(lambda grad: scale * grad, grads)

  return optax.stateless(clip)


def build_optimizer(config) -> optax.GradientTransformation:
  """From `config.optimizer`; parameters are {part: tree} as in `pipeline`.

  The gradient is clipped over all parts together before they are told apart.
  """
  options = config.optimizer
  rates = {
    "encoder": options.encoder_rate,
    "field": options.field_rate,
    "denoiser": options.denoiser_rate,
  }

  def adamw(peak: float) -> optax.GradientTransformation:
    return optax.adamw(
      lambda step: learning_rate(
        step,
        peak,
        schedule=options.schedule,
        warmup=options.warmup,
        period=options.period,
        final=options.final_rate,
      ),
      b1=options.b1,
      b2=options.b2,
      eps=options.eps,
      weight_decay=options.weight_decay,
    )

  return optax.chain(
    clip_by_global_norm(options.clip_norm),
    optax.multi_transform(
      {part: adamw(rate) for part, rate in rates.items()},
      lambda params: {part: part for part in params},
    ),
  )
