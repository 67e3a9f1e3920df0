"""`resnet34_unet`: the reference's encoder, an image to a frustum volume.

A ResNet34 trunk (He et al. 2016), which `deeplabv3plus` has too, then a U-Net
decoder that doubles the resolution five times by pixel shuffles (fastai's
DynamicUnet with its halving of widths removed). [n,H,W,3] -> [n,H,W,D,C].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genvs_jax.models import layers


class BasicBlock(nn.Module):
  """Two 3x3 convolutions with a shortcut."""

  width: int
  stride: int
  dilation: int
  norm: str
  dtype: layers.Dtype

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[n,h,w,c] -> [n,h/stride,w/stride,width]."""
    # Without norms a block starts as its shortcut; otherwise sixteen sums
    # would let the activations grow a hundredfold.
    last_init = nn.initializers.zeros if self.norm == "none" else None

    def conv(x, kernel: int, stride: int, name: str, norm: str, init=None):
      x = nn.Conv(
        self.width,
        (kernel, kernel),
        stride,
        padding=kernel // 2 * self.dilation,
        kernel_dilation=self.dilation,
        # A norm's offset takes the place of a bias.
        use_bias=self.norm == "none",
        kernel_init=init or layers.he_fan_out,
        dtype=self.dtype,
        name=name,
      )(x)
      return layers.normalize(x, self.norm, norm, train, self.dtype)

    # The first convolution takes the stride, as in torchvision.
    y = nn.relu(conv(x, 3, self.stride, "conv1", "norm1"))
    y = conv(y, 3, 1, "conv2", "norm2", last_init)
    # Where size or width change, the shortcut is a 1x1 convolution.
    if x.shape != y.shape:
      x = conv(x, 1, self.stride, "shortcut", "shortcut_norm")
    return nn.relu(x + y)


class ResNet34(nn.Module):
  """Stem and four stages.

  Attributes:
    width: channels of the stem and the first stage; each later stage doubles.
    stage_sizes: blocks per stage; (3, 4, 6, 3) is ResNet34.
    norm: a name of `layers.NORMS`; without norms the convolutions have
      biases instead.
    output_stride: 32, or 16: the last stage then keeps the resolution and
      dilates its filters.
    remat: whether the backward pass computes blocks again.
    dtype: of the computation.
  """

  width: int = 64
  stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
  norm: str = "batch"
  output_stride: int = 32
  remat: bool = False
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
    """Images [n,H,W,3] -> the stem's and the stages' outputs.

    Their strides are 2, 4, 8, 16 and `output_stride`. The stem's output is
    taken after its activation, before pooling.
    """
    x = nn.Conv(
      self.width,
      (7, 7),
      2,
      padding=3,
      use_bias=self.norm == "none",
      kernel_init=layers.he_fan_out,
      dtype=self.dtype,
      name="stem",
    )(x)
    x = nn.relu(layers.normalize(x, self.norm, "stem_norm", train, self.dtype))
    features = [x]
    x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    for stage, blocks in enumerate(self.stage_sizes):
      last = stage == len(self.stage_sizes) - 1
      dilation = 2 if last and self.output_stride == 16 else 1
      for block in range(blocks):
        # The first block of each stage but the first halves the resolution.
        halve = stage > 0 and block == 0 and dilation == 1
        x = layers.block(BasicBlock, self.remat, (2,))(
          self.width * 2**stage,
          stride=2 if halve else 1,
          dilation=dilation,
          norm=self.norm,
          dtype=self.dtype,
          name=f"stage{stage + 1}_block{block}",
        )(x, train)
      features.append(x)
    return features


class UpBlock(nn.Module):
  """Doubles the resolution and merges a skip connection."""

  width: int
  norm: str
  dtype: layers.Dtype

  @nn.compact
  def __call__(self, x: jax.Array, skip: jax.Array, train: bool) -> jax.Array:
    """[n,h,w,c] and [n,2h,2w,c'] -> [n,2h,2w,width]."""
    x = _shuffle_conv(self.width, self.dtype, "shuffle")(x)
    x = layers.pixel_shuffle(nn.relu(x))
    # Sides that were odd have lost a pixel on the way down (fastai).
    x = layers.resize(x, skip.shape[1:3], "nearest")
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
    # Down to stride 32; the four finer maps come back as skips.
    *skips, x = ResNet34(
      self.trunk_width,
      self.stage_sizes,
      self.norm,
      remat=self.remat,
      dtype=self.dtype,
      name="trunk",
    )(image, train)
    # Two convolutions at the bottom, the first twice as wide (fastai).
    deepest = x.shape[-1]
    x = nn.relu(_norm(x, self.norm, "middle_norm", train, self.dtype))
    x = nn.relu(_conv3(2 * deepest, self.dtype, "middle1")(x))
    x = nn.relu(_conv3(deepest, self.dtype, "middle2")(x))
    # Up to stride 2, where the stem's output is the last skip ...
    for i, skip in enumerate(reversed(skips)):
      x = layers.block(UpBlock, self.remat, (3,))(
        self.decoder_width, self.norm, self.dtype, name=f"up{i}"
      )(x, skip, train)
    # ... and to the image itself, which joins as three more channels.
    x = _shuffle_conv(self.decoder_width, self.dtype, "last_shuffle")(x)
    x = layers.pixel_shuffle(nn.relu(x))
    x = layers.resize(x, image.shape[1:3], "nearest")
    x = jnp.concatenate([x, image], -1)
    width = x.shape[-1]
    # At full resolution one residual block cleans up.
    y = nn.relu(_conv3(width, self.dtype, "residual1")(x))
    x = nn.relu(x + _conv3(width, self.dtype, "residual2")(y))
    # Every pixel gets D C numbers: its column of the volume.
    x = nn.Conv(
      self.depth_planes * self.channels,
      (1, 1),
      kernel_init=layers.torch_default,
      bias_init=nn.initializers.normal(0.01),
      dtype=self.dtype,
      name="head",
    )(x)
    return x.reshape(*x.shape[:3], self.depth_planes, self.channels)


def _conv3(width: int, dtype, name: str) -> nn.Conv:
  return nn.Conv(
    width,
    (3, 3),
    padding=1,
    kernel_init=layers.he_fan_in,
    dtype=dtype,
    name=name,
  )


def _shuffle_conv(width: int, dtype, name: str) -> nn.Conv:
  return nn.Conv(
    4 * width, (1, 1), kernel_init=layers.icnr, dtype=dtype, name=name
  )


def _norm(x: jax.Array, norm: str, name: str, train: bool, dtype) -> jax.Array:
  # fastai starts its own norms at bias 1e-3.
  bias_init = nn.initializers.constant(1e-3)
  return layers.normalize(x, norm, name, train, dtype, bias_init)
