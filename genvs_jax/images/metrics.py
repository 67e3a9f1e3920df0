"""Image scores on [0,1] images [..,H,W,3], the same as scikit-image's."""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray
_WINDOW = 7  # pixels of SSIM's window along each side


def psnr(image: Array, truth: Array, mask: Array | None = None) -> jax.Array:
  """Peak signal-to-noise ratio in dB, [..]; with `mask` bool [..,H,W], over
  its pixels alone (NaN where it is empty)."""
  error = jnp.mean((image - truth) ** 2, -1)
  if mask is None:
    mean = jnp.mean(error, (-2, -1))
  else:
    mean = jnp.sum(error * mask, (-2, -1)) / jnp.sum(mask, (-2, -1))
  return -10 * jnp.log10(jnp.maximum(mean, 1e-10))


def sharpness(image: jax.Array, truth: jax.Array) -> jax.Array:
  """Mean gradient of a picture over that of the truth, [..]: 1 is as sharp,
  NaN if the truth has none."""

  def gradient(x):
    """Mean absolute difference of neighbouring pixels, both ways."""
    return sum(
      jnp.mean(jnp.abs(jnp.diff(x, axis=axis)), (-3, -2, -1))
      for axis in (-3, -2)
    )

  of_truth = gradient(truth)
  return jnp.where(of_truth > 0, gradient(image) / of_truth, jnp.nan)


def ssim(image: jax.Array, truth: jax.Array) -> jax.Array:
  """Structural similarity [..] (Wang et al. 2004), mean over channels.

  The variant that the field reports, scikit-image's default and pixelNeRF's:
  uniform 7x7 windows that lie inside the picture, variances with n - 1.
  """
  count = _WINDOW**2

  def local_mean(x):
    flat = x.reshape(-1, *x.shape[-3:])
    window = (1, _WINDOW, _WINDOW, 1)
    total = jax.lax.reduce_window(
      flat, 0.0, jax.lax.add, window, (1, 1, 1, 1), "VALID"
    )
    return total.reshape(*x.shape[:-3], *total.shape[1:]) / count

  # Variances do not change when a constant is taken off, and round less.
  x, y = image - 0.5, truth - 0.5
  mean_x, mean_y = local_mean(x), local_mean(y)
  unbiased = count / (count - 1)
  var_x = unbiased * (local_mean(x * x) - mean_x**2)
  var_y = unbiased * (local_mean(y * y) - mean_y**2)
  covariance = unbiased * (local_mean(x * y) - mean_x * mean_y)
  mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
  c1, c2 = 0.01**2, 0.03**2
  similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
  similar /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
  return jnp.mean(similar, (-3, -2, -1))
