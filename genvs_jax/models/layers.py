"""Layers shared by the networks: normalisation, resampling, initialisation.

Images are [n,H,W,c]. Parameters are float32; `dtype` is what a layer computes
in, statistics and softmax apart, which stay float32.
"""

import contextlib
from collections.abc import Iterator
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genvs_jax.runtime import platforms

Dtype = jnp.dtype

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# PyTorch's default for convolutions and linear layers: U(+-1/sqrt(fan_in)).
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# He et al. 2015, by fan-in and by fan-out.
he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
  """How the networks that are traced in here multiply; `precision` is that of
  their float32 products, see `configs/base.py`."""
  with platforms.convolutions(), jax.default_matmul_precision(precision):
    yield


def imagenet_normalize(unit: jax.Array) -> jax.Array:
  """[0,1] to the zero-mean, unit-deviation range of ImageNet networks."""
  return (unit - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
  """PyTorch's default bias: U(+-1/sqrt(fan_in))."""
  bound = fan_in**-0.5

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def icnr(key, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
  """He initialisation whose four sub-pixel channels start equal.

  For convolutions that feed `pixel_shuffle` (Aitken et al. 2017): the shuffle
  then starts as nearest-neighbour upsampling, free of checkerboards.
  """
  *rest, out = shape
  # Channel 4k+2i+j is sub-pixel (i, j) of channel k: four alike in a row.
  kernel = he_fan_in(key, (*rest, out // 4), dtype)
  return jnp.repeat(kernel, 4, axis=-1)


def pixel_shuffle(x: jax.Array) -> jax.Array:
  """[n,H,W,4c] -> [n,2H,2W,c], out[2y+i, 2x+j, k] = x[y, x, 4k+2i+j]."""
  n, h, w, c = x.shape
  x = x.reshape(n, h, w, c // 4, 2, 2)
  return x.transpose(0, 1, 4, 2, 5, 3).reshape(n, 2 * h, 2 * w, c // 4)


def resize(images: jax.Array, size: tuple[int, ...], method: str) -> jax.Array:
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


def blur_downsample(x: jax.Array) -> jax.Array:
  """Halves height and width with the filter [1,3,3,1]/8, reflected borders."""
  # The filter is separable: rows, then columns, four strided taps each.
  for axis in (1, 2):
    padding = [(0, 0)] * x.ndim
    padding[axis] = (1, 1)
    p = jnp.pad(x, padding, mode="reflect")
    count = x.shape[axis] // 2

    def tap(start, p=p, axis=axis, count=count):
      stop = start + 2 * count - 1
      return jax.lax.slice_in_dim(p, start, stop, 2, axis)

    x = (tap(0) + 3 * tap(1) + 3 * tap(2) + tap(3)) / 8
  return x


def blur_upsample(x: jax.Array) -> jax.Array:
  """Doubles height and width with the filter [1,3,3,1]/4, reflected borders."""
  for axis in (1, 2):
    padding = [(0, 0)] * x.ndim
    padding[axis] = (1, 1)
    p = jnp.pad(x, padding, mode="reflect")
    size = x.shape[axis]
    # Zeros between the pixels, then the filter: each output has two taps, 3/4
    # of the nearer pixel and 1/4 of the farther one.
    before = jax.lax.slice_in_dim(p, 0, size, axis=axis)
    after = jax.lax.slice_in_dim(p, 2, size + 2, axis=axis)
    pairs = jnp.stack([(before + 3 * x) / 4, (3 * x + after) / 4], axis + 1)
    shape = list(x.shape)
    shape[axis] *= 2
    x = pairs.reshape(shape)
  return x


def gelu(x: jax.Array) -> jax.Array:
  """x times the normal cdf at x, exactly, as PyTorch computes it; the erfc of
  `nn.gelu` keeps more digits far to the left, and takes longer on CPU."""
  # Phi(x) = (1 + erf(x / sqrt 2)) / 2.
  return x * (1 + jax.lax.erf(x * 0.5**0.5)) / 2


class BatchNorm(nn.Module):
  """Batch normalisation with PyTorch's running statistics.

  Training normalises by the statistics of the global batch (also when it is
  spread over devices) and updates the running ones; otherwise the running
  ones are used. The running variance is the unbiased one, as in PyTorch and
  unlike `nn.BatchNorm`, so that converted weights keep training as they did.

  Attributes:
    frozen: scale and offset are buffers as well, and nothing is ever updated.
  """

  momentum: float = 0.1
  epsilon: float = 1e-5
  bias_init: nn.initializers.Initializer = nn.initializers.zeros
  frozen: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[n,h,w,c] -> the same; `train` normalises by the batch."""
    shape = x.shape[-1:]
    mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
    variance = self.variable("batch_stats", "var", jnp.ones, shape)
    if self.frozen:
      scale = self.variable("batch_stats", "scale", jnp.ones, shape).value
      bias = self.variable("batch_stats", "bias", jnp.zeros, shape).value
    else:
      scale = self.param("scale", nn.initializers.ones, shape)
      bias = self.param("bias", self.bias_init, shape)
    x32 = x.astype(jnp.float32)
    if train and not self.frozen:
      # Over a batch that is spread over devices, XLA sums across them.
      batch_mean = jnp.mean(x32, (0, 1, 2))
      batch_variance = jnp.mean((x32 - batch_mean) ** 2, (0, 1, 2))
      if not self.is_initializing():
        count = x.size // x.shape[-1]
        # PyTorch normalises by the biased variance but stores the unbiased.
        unbiased = batch_variance * (count / max(count - 1, 1))
        keep = 1 - self.momentum
        mean.value = keep * mean.value + self.momentum * batch_mean
        variance.value = keep * variance.value + self.momentum * unbiased
    else:
      batch_mean, batch_variance = mean.value, variance.value
    y = (x32 - batch_mean) * jax.lax.rsqrt(batch_variance + self.epsilon)
    return (y * scale + bias).astype(self.dtype)


class AdaGroupNorm(nn.Module):
  """Group norm whose scale and shift come from the conditioning vector."""

  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array, vector: jax.Array) -> jax.Array:
    """[n,h,w,c] and [n,embedding] -> [n,h,w,c]."""
    channels = x.shape[-1]
    scale_shift = nn.Dense(
      2 * channels,
      kernel_init=torch_default,
      bias_init=torch_bias(vector.shape[-1]),
      name="mapper",
    )(vector)
    scale, shift = jnp.split(scale_shift[:, None, None], 2, -1)
    y = nn.GroupNorm(
      num_groups=max(1, channels // 32),
      epsilon=1e-5,
      use_bias=False,
      use_scale=False,
      use_fast_variance=False,
    )(x.astype(jnp.float32))
    # The mapper gives the scale's distance from 1.
    return (y * (scale + 1) + shift).astype(self.dtype)


def block(
  module: type[nn.Module], remat: bool, flag: tuple[int, ...] = ()
) -> type[nn.Module]:
  """The module, or one that the backward pass computes again to save memory.

  `flag` is where `train` stands among the arguments of its `__call__`, self
  included.
  """
  return nn.remat(module, static_argnums=flag) if remat else module


NORMS = ("batch", "frozen", "none")


def normalize(
  x: jax.Array,
  norm: str,
  name: str,
  train: bool,
  dtype: Dtype,
  bias_init: nn.initializers.Initializer = nn.initializers.zeros,
) -> jax.Array:
  """One of `NORMS` inside a compact method.

  "batch" is `BatchNorm`, "frozen" the same with everything stored and nothing
  trained, "none" does nothing.
  """
  if norm == "none":
    return x
  layer = BatchNorm(
    bias_init=bias_init, frozen=norm == "frozen", dtype=dtype, name=name
  )
  return layer(x, train)
