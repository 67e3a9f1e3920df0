"""LPIPS, DISTS and the Frechet distance, from the networks' features.

LPIPS    Zhang et al. 2018, version 0.1 of its weights; lower is closer
DISTS    Ding et al. 2020; lower is closer
FID      Heusel et al. 2017; between two sets of pictures, lower is closer

Pictures are [n,H,W,3] in [0,1].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genvs_jax.models import layers
from genvs_jax.perceptual import networks

# LPIPS's own normalisation of pictures in [-1,1].
_LPIPS_SHIFT = (-0.030, -0.088, -0.188)
_LPIPS_SCALE = (0.458, 0.448, 0.450)
# Channels of what DISTS compares: the picture and VGG16's five stages.
DISTS_CHANNELS = (3, 64, 128, 256, 512, 512)


def lpips_vgg(weights, images: jax.Array, truth: jax.Array) -> jax.Array:
  """LPIPS [n] on VGG16.

  Args:
    weights: "vgg16" and "lpips_vgg" of `weights.load`.
    images: [n,H,W,3] in [0,1].
    truth: the same.
  """
  return _lpips(
    networks.vgg16, weights["vgg16"], weights["lpips_vgg"], images, truth
  )


def vgg16_features(weights, images: jax.Array) -> jax.Array:
  """Means over pixels after VGG16's last ReLU [n,512]; pictures in [0,1]."""
  *_, last = networks.vgg16(weights, layers.imagenet_normalize(images))
  return jnp.mean(last, (1, 2))


def lpips_alex(weights, images: jax.Array, truth: jax.Array) -> jax.Array:
  """LPIPS [n] on AlexNet, whose first layer needs 32 pixels or more."""
  return _lpips(
    networks.alexnet, weights["alexnet"], weights["lpips_alex"], images, truth
  )


def dists(weights, images: jax.Array, truth: jax.Array) -> jax.Array:
  """DISTS [n]; pictures above 256 pixels are shrunk first, as its authors do.

  Args:
    weights: "vgg16" and "dists" of `weights.load`.
    images: [n,H,W,3] in [0,1].
    truth: the same.
  """

  def features(x):
    normal = layers.imagenet_normalize(x)
    return [x, *networks.vgg16(weights["vgg16"], normal, _l2_pool)]

  shorter = min(images.shape[1:3])
  if shorter > 256:
    size = [round(n * 256 / shorter) for n in images.shape[1:3]]
    shape = (len(images), *size, 3)
    images, truth = (
      jax.image.resize(x, shape, "linear") for x in (images, truth)
    )
  alpha, beta = weights["dists"]["alpha"], weights["dists"]["beta"]
  whole = jnp.sum(alpha) + jnp.sum(beta)
  edges = np.cumsum(DISTS_CHANNELS)[:-1]
  similar = jnp.zeros(len(images))
  for x, y, a, b in zip(
    features(images),
    features(truth),
    jnp.split(alpha / whole, edges),
    jnp.split(beta / whole, edges),
    strict=True,
  ):
    mean_x, mean_y = jnp.mean(x, (1, 2)), jnp.mean(y, (1, 2))
    var_x, var_y = jnp.var(x, (1, 2)), jnp.var(y, (1, 2))
    centred = (x - mean_x[:, None, None]) * (y - mean_y[:, None, None])
    covariance = jnp.mean(centred, (1, 2))
    tiny = 1e-6
    texture = (2 * mean_x * mean_y + tiny) / (mean_x**2 + mean_y**2 + tiny)
    structure = (2 * covariance + tiny) / (var_x + var_y + tiny)
    similar += jnp.sum(a * texture + b * structure, -1)
  return 1 - similar


class FeatureStatistics:
  """Count, mean and covariance of features, added up in float64.

  Attributes:
    count: of pictures so far.
  """

  def __init__(self):
    self.count = 0
    self._sum: Any = 0.0
    self._products: Any = 0.0

  def add(self, features: np.ndarray) -> None:
    """Adds features [n,d] of `networks.inception`."""
    features = features.astype(np.float64)
    self.count += len(features)
    self._sum = self._sum + features.sum(0)
    self._products = self._products + features.T @ features

  def mean(self) -> np.ndarray:
    """[d]."""
    return self._sum / self.count

  def covariance(self) -> np.ndarray:
    """[d,d], unbiased."""
    mean = self.mean()
    centred = self._products - self.count * np.outer(mean, mean)
    return centred / (self.count - 1)


def frechet(first: FeatureStatistics, second: FeatureStatistics) -> float:
  """Frechet distance between Gaussians fitted to two sets of features.

  |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64. The trace of the
  root is that of (C1^(1/2) C2 C1^(1/2))^(1/2), whose eigenvalues are real.

  Raises:
    ValueError: for fewer than two pictures in a set.
  """
  if min(first.count, second.count) < 2:
    raise ValueError(
      f"a Frechet distance compares sets, expected 2 or more pictures in each,"
      f" found {first.count} and {second.count}"
    )
  apart = first.mean() - second.mean()
  c1, c2 = first.covariance(), second.covariance()
  values, vectors = np.linalg.eigh(c1)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  roots = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ c2 @ root), 0))
  trace = np.trace(c1) + np.trace(c2) - 2 * np.sum(roots)
  return float(apart @ apart + trace)


def _lpips(network, trunk, heads, images, truth) -> jax.Array:
  shift, scale = jnp.array(_LPIPS_SHIFT), jnp.array(_LPIPS_SCALE)

  def features(x):
    maps = network(trunk, (2 * x - 1 - shift) / scale)
    return [
      m / (jnp.sqrt(jnp.sum(m**2, -1, keepdims=True)) + 1e-10) for m in maps
    ]

  distance = jnp.zeros(len(images))
  pairs = zip(features(images), features(truth), strict=True)
  for i, (x, y) in enumerate(pairs):
    per_pixel = jnp.sum((x - y) ** 2 * heads[f"lin{i}"], -1)
    distance += jnp.mean(per_pixel, (1, 2))
  return distance


def _l2_pool(x: jax.Array) -> jax.Array:
  """DISTS's pooling: root of the blurred squares, a 3x3 Hann window."""
  window = np.hanning(5)[1:-1]
  taps = np.outer(window, window)
  kernel = jnp.asarray(taps / taps.sum(), x.dtype)[:, :, None, None]
  channels = x.shape[-1]
  squares = jax.lax.conv_general_dilated(
    x**2,
    jnp.tile(kernel, (1, 1, 1, channels)),
    (2, 2),
    [(1, 1), (1, 1)],
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=channels,
    precision=jax.lax.Precision.HIGHEST,
  )
  return jnp.sqrt(squares + 1e-12)
