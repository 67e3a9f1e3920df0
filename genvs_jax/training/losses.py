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


def denoising_edm(output: jax.Array, target: jax.Array) -> jax.Array:
  """EDM's weighted denoising loss (EDM, table 1 and eq. 8).

  Its weights (sigma^2 + s^2) / (sigma s)^2 on |D - x0|^2 are the inverse of
  c_out^2, so that it is the squared error of the network's own target.

  Args:
    output: F(c_in x) [B,H,W,3].
    target: `edm.network_target` [B,H,W,3].
  """
  return jnp.mean((output - target) ** 2)


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


def opacity(render_opacity: jax.Array) -> jax.Array:
  """Mean opacity [..,h,w]: discourages fog."""
  return jnp.mean(render_opacity)


def depth_prior(
  depth: jax.Array, render_opacity: jax.Array, distance: jax.Array
) -> jax.Array:
  """Pulls what is opaque to the distance at which the object stands.

  Args:
    depth: [..,h,w] sum of weight times distance.
    render_opacity: [..,h,w].
    distance: of the camera from the world's origin, broadcast against [..].

  Returns:
    mean of opacity (expected depth - distance)^2.
  """
  expected = depth / (render_opacity + 1e-6)
  return jnp.mean(render_opacity * (expected - distance) ** 2)


def consistency(values: jax.Array, others: jax.Array) -> jax.Array:
  """Squared difference of two renders of one view from different inputs.

  Args:
    values: depth or opacity [..,h,w].
    others: the same from the other input view; takes no gradient.
  """
  return jnp.mean((values - jax.lax.stop_gradient(others)) ** 2)
