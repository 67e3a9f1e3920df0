"""`resnet34_unet`: the reference's encoder, an image to a frustum volume.

A ResNet34 trunk, then a U-Net decoder that doubles the resolution five times
by pixel shuffles (fastai's DynamicUnet with its halving of widths removed).
[n,H,W,3] -> [n,H,W,D,C].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genvs_jax.models import convolution
from genvs_jax.models import layers
from genvs_jax.models import pixels
from genvs_jax.models import resnet34


class UpBlock(nn.Module):
  """Doubles the resolution and merges a skip connection."""

  width: int
  norm: str
  dtype: layers.Dtype

  @nn.compact
  def __call__(self, x: jax.Array, skip: jax.Array, train: bool) -> jax.Array:
    x = _shuffle_conv(self.width, self.dtype, "shuffle")(x)
    x = layers.pixel_shuffle(nn.relu(x))
    x = pixels.resize(x, skip.shape[1:3], "nearest")
    skip = _norm(skip, self.norm, "skip_norm", train, self.dtype)
    x = nn.relu(jnp.concatenate([x, skip], -1))
    x = nn.relu(_conv3(self.width, self.dtype, "conv1")(x))
    return nn.relu(_conv3(self.width, self.dtype, "conv2")(x))


class ResNetUNet(nn.Module):
  """The encoder.

  Attributes:
    channels: C of the volume.
    depth_planes: D of the volume.
    trunk_width: channels of ResNet's first stage (64 in ResNet34).
    stage_sizes: blocks per ResNet stage.
    decoder_width: channels throughout the decoder (512 in the reference).
    norm: of trunk and decoder, a name of `layers.NORMS`.
    remat: whether the backward pass computes blocks again.
    dtype: of the computation; the volume has it too.
  """

  channels: int = 16
  depth_planes: int = 64
  trunk_width: int = 64
  stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
  decoder_width: int = 512
  norm: str = "batch"
  remat: bool = False
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Normalised images [n,H,W,3] -> volumes [n,H,W,D,C].

    Args:
      x: images, height and width 32 or more.
      train: normalise by the batch and update the running statistics.
    """
    image = x.astype(self.dtype)
    *skips, x = resnet34.ResNet34(
      self.trunk_width,
      self.stage_sizes,
      self.norm,
      remat=self.remat,
      dtype=self.dtype,
      name="trunk",
    )(image, train)
    deepest = x.shape[-1]
    x = nn.relu(_norm(x, self.norm, "middle_norm", train, self.dtype))
    x = nn.relu(_conv3(2 * deepest, self.dtype, "middle1")(x))
    x = nn.relu(_conv3(deepest, self.dtype, "middle2")(x))
    for i, skip in enumerate(reversed(skips)):
      x = layers.block(UpBlock, self.remat, (3,))(
        self.decoder_width, self.norm, self.dtype, name=f"up{i}"
      )(x, skip, train)
    x = _shuffle_conv(self.decoder_width, self.dtype, "last_shuffle")(x)
    x = layers.pixel_shuffle(nn.relu(x))
    x = pixels.resize(x, image.shape[1:3], "nearest")
    x = jnp.concatenate([x, image], -1)
    width = x.shape[-1]
    y = nn.relu(_conv3(width, self.dtype, "residual1")(x))
    x = nn.relu(x + _conv3(width, self.dtype, "residual2")(y))
    x = convolution.Conv(
      self.depth_planes * self.channels,
      (1, 1),
      kernel_init=layers.torch_default,
      bias_init=nn.initializers.normal(0.01),
      dtype=self.dtype,
      name="head",
    )(x)
    return x.reshape(*x.shape[:3], self.depth_planes, self.channels)


def _conv3(width: int, dtype, name: str) -> nn.Conv:
  return convolution.Conv(
    width,
    (3, 3),
    padding=1,
    kernel_init=layers.he_fan_in,
    dtype=dtype,
    name=name,
  )


def _shuffle_conv(width: int, dtype, name: str) -> nn.Conv:
  return convolution.Conv(
    4 * width, (1, 1), kernel_init=layers.icnr, dtype=dtype, name=name
  )


def _norm(x: jax.Array, norm: str, name: str, train: bool, dtype) -> jax.Array:
  # fastai starts its own norms at bias 1e-3.
  bias_init = nn.initializers.constant(1e-3)
  return layers.normalize(x, norm, name, train, dtype, bias_init)
