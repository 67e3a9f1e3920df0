"""The ResNet34 trunk (He et al. 2016): images to features at five strides."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genvs_jax.models import convolution
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
    # Without norms a block starts as its shortcut; otherwise sixteen sums
    # would let the activations grow a hundredfold.
    last_init = nn.initializers.zeros if self.norm == "none" else None

    def conv(x, kernel: int, stride: int, name: str, norm: str, init=None):
      x = convolution.Conv(
        self.width,
        (kernel, kernel),
        stride,
        padding=kernel // 2 * self.dilation,
        kernel_dilation=self.dilation,
        use_bias=self.norm == "none",
        kernel_init=init or layers.he_fan_out,
        dtype=self.dtype,
        name=name,
      )(x)
      return layers.normalize(x, self.norm, norm, train, self.dtype)

    y = nn.relu(conv(x, 3, self.stride, "conv1", "norm1"))
    y = conv(y, 3, 1, "conv2", "norm2", last_init)
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
    x = convolution.Conv(
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
