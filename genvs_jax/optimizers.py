"""AdamW with one learning rate per part behind a global-norm clip."""

import optax

from genvs_jax import pipeline


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
  transforms = {
    part: optax.adamw(
      optax.linear_schedule(
        rate / max(options.warmup, 1), rate, max(options.warmup - 1, 1)
      ),
      b1=options.b1,
      b2=options.b2,
      eps=options.eps,
      weight_decay=options.weight_decay,
    )
    for part, rate in rates.items()
  }
  return optax.chain(
    optax.clip_by_global_norm(options.clip_norm),
    optax.multi_transform(transforms, {p: p for p in pipeline.PARTS}),
  )
