"""Image scores on [0,1] images [..,H,W,3]."""

import jax
import jax.numpy as jnp


def psnr(
  image: jax.Array, truth: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  """Peak signal-to-noise ratio in dB, [..]; with `mask` bool [..,H,W], over
  its pixels alone (NaN where it is empty)."""
  error = jnp.mean((image - truth) ** 2, -1)
  if mask is None:
    mean = jnp.mean(error, (-2, -1))
  else:
    mean = jnp.sum(error * mask, (-2, -1)) / jnp.sum(mask, (-2, -1))
  return -10 * jnp.log10(jnp.maximum(mean, 1e-10))
