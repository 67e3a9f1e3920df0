"""The ResNet34 trunk (He et al. 2016): images to features at five strides."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genvs_jax.models import layers


class BasicBlock(nn.Module):
  """Two 3x3 convolutions with a shortcut."""

  width: int
  stride: int
  frozen: bool
  dtype: layers.Dtype

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    def conv(kernel: int, stride: int, name: str):
      return nn.Conv(
        self.width,
        (kernel, kernel),
        stride,
        padding=kernel // 2,
        use_bias=False,
        kernel_init=layers.he_fan_out,
        dtype=self.dtype,
        name=name,
      )

    def norm(name: str):
      return layers.BatchNorm(frozen=self.frozen, dtype=self.dtype, name=name)

    y = nn.relu(norm("norm1")(conv(3, self.stride, "conv1")(x), train))
    y = norm("norm2")(conv(3, 1, "conv2")(y), train)
    if self.stride != 1 or x.shape[-1] != self.width:
      x = conv(1, self.stride, "shortcut")(x)
      x = norm("shortcut_norm")(x, train)
    return nn.relu(x + y)


class ResNet34(nn.Module):
  """Stem and four stages.

  Attributes:
    width: channels of the stem and the first stage; each later stage doubles.
    stage_sizes: blocks per stage; (3, 4, 6, 3) is ResNet34.
    frozen: normalise by stored statistics that are never updated.
    dtype: of the computation.
  """

  width: int = 64
  stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
  frozen: bool = False
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
    """Images [n,H,W,3] -> the stem's and the stages' outputs, strides 2 to 32.

    The stem's output is taken after its activation, before pooling.
    """
    x = nn.Conv(
      self.width,
      (7, 7),
      2,
      padding=3,
      use_bias=False,
      kernel_init=layers.he_fan_out,
      dtype=self.dtype,
      name="stem",
    )(x)
    norm = layers.BatchNorm(
      frozen=self.frozen, dtype=self.dtype, name="stem_norm"
    )
    x = nn.relu(norm(x, train))
    features = [x]
    x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    for stage, blocks in enumerate(self.stage_sizes):
      for block in range(blocks):
        x = BasicBlock(
          self.width * 2**stage,
          stride=2 if stage > 0 and block == 0 else 1,
          frozen=self.frozen,
          dtype=self.dtype,
          name=f"stage{stage + 1}_block{block}",
        )(x, train)
      features.append(x)
    return features
