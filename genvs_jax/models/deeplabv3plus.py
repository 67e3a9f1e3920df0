"""`deeplabv3plus`: the paper's kind of encoder, an image to a frustum volume.

A ResNet34 trunk at output stride 16, atrous spatial pyramid pooling, and
learned upsampling with a skip at every resolution down to the image itself
(DeepLabV3+, Chen et al. 2018, as the reference's later branch modifies it).
The decoder has neither norms nor dropout. [n,H,W,3] -> [n,H,W,D,C].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genvs_jax.models import layers
from genvs_jax.models import resnet

ATROUS_RATES = (12, 24, 36)
_SKIP_WIDTH = 48  # of the reduced stride-4 features, as in DeepLabV3+


class SeparableConv(nn.Module):
  """Depthwise 3x3 convolution, then pointwise, without biases."""

  width: int
  dilation: int
  dtype: layers.Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[n,h,w,c] -> [n,h,w,width]."""
    # A group for each channel: nine numbers per channel instead of 9 c.
    x = nn.Conv(
      x.shape[-1],
      (3, 3),
      padding=self.dilation,
      kernel_dilation=self.dilation,
      feature_group_count=x.shape[-1],
      use_bias=False,
      kernel_init=layers.torch_default,
      dtype=self.dtype,
      name="depthwise",
    )(x)
    return _pointwise(x, self.width, "pointwise", self.dtype)


class AtrousPyramid(nn.Module):
  """Looks at several scales at once: the ASPP of DeepLab.

  On maps smaller than a rate the outer taps of that branch see padding alone,
  so that it is a 1x1 convolution with a scale per channel; for the reference's
  128-pixel images (8x8 maps) this is true of all three.
  """

  width: int
  dtype: layers.Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[n,h,w,c] -> [n,h,w,width]."""
    branches = [_pointwise(x, self.width, "point", self.dtype)]
    for rate in ATROUS_RATES:
      branch = SeparableConv(self.width, rate, self.dtype, name=f"rate{rate}")
      branches.append(branch(x))
    # The whole image at a glance, the same at every pixel.
    pooled = jnp.mean(x, (1, 2), keepdims=True)
    pooled = _pointwise(pooled, self.width, "pooled", self.dtype)
    branches.append(jnp.broadcast_to(pooled, branches[0].shape))
    x = nn.relu(jnp.concatenate(branches, -1))
    x = nn.relu(_pointwise(x, self.width, "project", self.dtype))
    return nn.relu(SeparableConv(self.width, 1, self.dtype, name="smooth")(x))


class LearnedUpsample(nn.Module):
  """A transposed 2x2 convolution of stride 2: four matrices per pixel."""

  width: int
  dtype: layers.Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[n,h,w,c] -> [n,2h,2w,width]."""
    n, h, w, c = x.shape
    # PyTorch counts a transposed convolution's fan-in on its output side.
    init = layers.torch_bias(4 * self.width)
    kernel = self.param("kernel", init, (c, 2, 2, self.width))
    bias = self.param("bias", init, (self.width,))
    x, kernel, bias = (v.astype(self.dtype) for v in (x, kernel, bias))
    # With stride 2 the four taps never overlap: pixel (2h+i, 2w+j) is matrix
    # (i, j) times pixel (h, w).
    y = jnp.einsum("nhwc,cijo->nhiwjo", x, kernel)
    return y.reshape(n, 2 * h, 2 * w, self.width) + bias


class UpBlock(nn.Module):
  """Doubles the resolution and merges a skip connection."""

  width: int
  dtype: layers.Dtype

  @nn.compact
  def __call__(self, x: jax.Array, skip: jax.Array) -> jax.Array:
    """[n,h,w,c] and [n,2h,2w,c'] -> [n,2h,2w,width]."""
    x = LearnedUpsample(self.width, self.dtype, name="up")(x)
    x = jnp.concatenate([x, skip], -1)
    # The convolution mixes what was raised with what skipped the bottom.
    return nn.Conv(
      self.width,
      (3, 3),
      padding=1,
      kernel_init=layers.torch_default,
      bias_init=layers.torch_bias(9 * x.shape[-1]),
      dtype=self.dtype,
      name="conv",
    )(x)


class DeepLabV3Plus(nn.Module):
  """The encoder.

  Attributes:
    channels: C of the volume.
    depth_planes: D of the volume; the decoder is D C channels wide.
    trunk_width: channels of ResNet's first stage (64 in ResNet34).
    stage_sizes: blocks per ResNet stage.
    norm: of the trunk, see `resnet.ResNet34`; "frozen" is meant for
      statistics that come with ImageNet weights.
    remat: whether the backward pass computes blocks again.
    dtype: of the computation; the volume has it too.
  """

  channels: int = 16
  depth_planes: int = 64
  trunk_width: int = 64
  stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
  norm: str = "frozen"
  remat: bool = False
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Normalised images [n,H,W,3] -> volumes [n,H,W,D,C].

    Args:
      x: images, height and width multiples of 16.
      train: matters to norm="batch" alone.
    """
    width = self.depth_planes * self.channels
    image = x.astype(self.dtype)
    stride2, stride4, stride8, _, x = resnet.ResNet34(
      self.trunk_width,
      self.stage_sizes,
      self.norm,
      output_stride=16,
      remat=self.remat,
      dtype=self.dtype,
      name="trunk",
    )(image, train)
    # Stride 16 and 8; every map from here on is D C channels wide.
    pyramid = layers.block(AtrousPyramid, self.remat)
    up = layers.block(UpBlock, self.remat)
    x = pyramid(width, self.dtype, name="pyramid")(x)
    x = nn.relu(up(width, self.dtype, name="up8")(x, stride8))
    x = double_aligned(x)
    # Stride 4, where DeepLabV3+ itself ends, with a narrow skip so that it
    # does not outweigh what comes from above.
    skip = nn.relu(_pointwise(stride4, _SKIP_WIDTH, "skip4", self.dtype))
    x = jnp.concatenate([x, skip], -1)
    x = nn.relu(SeparableConv(width, 1, self.dtype, name="merge4")(x))
    # The dlv3 branch goes on to stride 2 and to the image itself.
    x = nn.relu(up(width, self.dtype, name="up2")(x, stride2))
    x = up(width, self.dtype, name="up1")(x, image)
    return x.reshape(*x.shape[:3], self.depth_planes, self.channels)


def double_aligned(images: jax.Array) -> jax.Array:
  """Twice the height and width, bilinear, corner pixels on corner pixels.

  PyTorch's `align_corners=True`: output i of n pixels reads the input at
  i (n - 1) / (2 n - 1).
  """

  def matrix(count: int) -> jax.Array:
    # Row i holds the two weights of output pixel i, a tent around its place.
    at = np.arange(2 * count) * (count - 1) / (2 * count - 1)
    distance = np.abs(at[:, None] - np.arange(count))
    return jnp.asarray(np.maximum(1 - distance, 0), jnp.float32)

  height, width = images.shape[-3:-1]
  highest = jax.lax.Precision.HIGHEST
  x = images.astype(jnp.float32)
  x = jnp.einsum("yh,...hwc->...ywc", matrix(height), x, precision=highest)
  x = jnp.einsum("xw,...ywc->...yxc", matrix(width), x, precision=highest)
  return x.astype(images.dtype)


def _pointwise(x: jax.Array, width: int, name: str, dtype) -> jax.Array:
  return nn.Conv(
    width,
    (1, 1),
    use_bias=False,
    kernel_init=layers.torch_default,
    dtype=dtype,
    name=name,
  )(x)
