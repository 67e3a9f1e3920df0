"""Pixels: value ranges and sizes. Images are [..,H,W,channels]."""

import jax
import jax.numpy as jnp
import numpy as np

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def from_uint8(
  images: jax.Array, image_range: tuple[float, float]
) -> jax.Array:
  """u8 0..255 to float32 in `image_range`: the only place that does this."""
  low, high = image_range
  return images.astype(jnp.float32) / 255 * (high - low) + low


def to_unit(images: jax.Array, image_range: tuple[float, float]) -> jax.Array:
  """From `image_range` to [0,1], clipped."""
  low, high = image_range
  return jnp.clip((images - low) / (high - low), 0, 1)


def imagenet_normalize(unit: jax.Array) -> jax.Array:
  """[0,1] to the zero-mean, unit-deviation range of ImageNet networks."""
  return (unit - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)


def resize(images: jax.Array, size: tuple[int, int], method: str) -> jax.Array:
  """Resizes [..,H,W,c] to `size` (height, width).

  Args:
    images: any leading axes.
    size: (height, width) in pixels.
    method: "nearest" or "bilinear" (half-pixel centres).
  """
  height, width = size
  if images.shape[-3:-1] == (height, width):
    return images
  shape = (*images.shape[:-3], height, width, images.shape[-1])
  return jax.image.resize(images, shape, method, antialias=False)


def double_aligned(images: jax.Array) -> jax.Array:
  """Twice the height and width, bilinear, corner pixels on corner pixels.

  PyTorch's `align_corners=True`: output i of n pixels reads the input at
  i (n - 1) / (2 n - 1).
  """

  def matrix(count: int) -> jax.Array:
    at = np.arange(2 * count) * (count - 1) / (2 * count - 1)
    distance = np.abs(at[:, None] - np.arange(count))
    return jnp.asarray(np.maximum(1 - distance, 0), jnp.float32)

  height, width = images.shape[-3:-1]
  highest = jax.lax.Precision.HIGHEST
  x = images.astype(jnp.float32)
  x = jnp.einsum("yh,...hwc->...ywc", matrix(height), x, precision=highest)
  x = jnp.einsum("xw,...ywc->...yxc", matrix(width), x, precision=highest)
  return x.astype(images.dtype)
