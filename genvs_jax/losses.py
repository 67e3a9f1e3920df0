"""Training losses, each a scalar mean over the batch; float32 throughout."""

import jax
import jax.numpy as jnp


def denoising(
  output: jax.Array, target: jax.Array, log_variance: jax.Array
) -> jax.Array:
  """Gaussian likelihood of the network's target with a learned variance.

  Args:
    output: F(c_in x) [B,H,W,3].
    target: `edm.network_target` [B,H,W,3].
    log_variance: [B]; zeros give half the squared error.

  Returns:
    mean of ((F - target)^2 / exp(v) + v) / 2, as k-diffusion's
    DenoiserWithVariance.
  """
  error = jnp.mean((output - target) ** 2, (1, 2, 3))
  return jnp.mean(error * jnp.exp(-log_variance) + log_variance) / 2


def rgb(features: jax.Array, images: jax.Array) -> jax.Array:
  """Squared error of the first three feature channels, [..,H,W,F] and [..,3].

  The reference broadcasts renders [B,3,H,W] against targets [B,1,3,H,W] and so
  pulls every render to the batch's mean; here each meets its own target.
  """
  if features.shape[:-1] != images.shape[:-1]:
    raise ValueError(
      f"features {features.shape} and images {images.shape} differ in size"
    )
  return jnp.mean((features[..., :3] - images) ** 2)
