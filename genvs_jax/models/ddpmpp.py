"""`ddpmpp`: the DDPM++ U-Net of EDM, which the paper builds on.

Song et al. 2021 (score SDE) in the arrangement of Karras et al. 2022 (EDM,
SongUNet): residual blocks that also resample, one skip per block, sums scaled
by 1/sqrt(2), a positional embedding of the noise level, box resampling.
Blocks are named by resolution (`encoder_64_block0`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genvs_jax.models import layers

_SUM_SCALE = 0.5**0.5


def xavier(gain: float = 1.0) -> nn.initializers.Initializer:
  """EDM's initialisation: Xavier's uniform, its values times `gain`."""
  return nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")


# What ends a residual branch starts near zero.
near_zero = xavier(1e-5)


class DDPMpp(nn.Module):
  """The denoiser network F; it has no log-variance head.

  Attributes:
    channels: of each level, outermost first.
    depths: residual blocks per level of the encoder (the decoder has one
      more).
    attention: whether each level has self-attention.
    embedding: width of the conditioning vector; the network starts with a
      quarter as many channels.
    dropout: rate, single values.
    augmentation: whether it takes the augmentation labels.
    remat: whether the backward pass computes blocks again.
    dtype: of the computation.
  """

  channels: tuple[int, ...] = (128, 128, 256, 256, 256)
  depths: tuple[int, ...] = (4, 4, 4, 4, 4)
  attention: tuple[bool, ...] = (False, False, False, True, False)
  embedding: int = 512
  dropout: float = 0.1
  augmentation: bool = False
  remat: bool = False
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    sigma: jax.Array,
    features: jax.Array,
    augment_labels: jax.Array,
    train: bool,
  ) -> tuple[jax.Array, jax.Array]:
    """Predicts F(x; sigma, features); the arguments of `image_v1.ImageV1`.

    Returns:
      F f32 [B,H,W,3], and zeros [B] in place of a log-variance.
    """
    vector = self._embed(sigma, augment_labels)
    x = jnp.concatenate([x, features], -1).astype(self.dtype)

    def block(x, name, width, resample="", attention=False):
      name = name.format(resolution)
      return layers.block(Block, self.remat, (3,))(
        width, resample, attention, self.dropout, self.dtype, name=name
      )(x, vector, train)

    # Down: every block leaves a skip, and so do the first convolution and the
    # blocks that halve the resolution.
    resolution = x.shape[2]
    x = conv(x, self.embedding // 4, 3, "input", self.dtype)
    skips = [x]
    for level, width in enumerate(self.channels):
      if level > 0:
        resolution //= 2
        x = block(x, "encoder_{}_down", x.shape[-1], "down")
        skips.append(x)
      for i in range(self.depths[level]):
        attention = self.attention[level]
        x = block(x, f"encoder_{{}}_block{i}", width, "", attention)
        skips.append(x)
    # At the bottom two blocks, the first with attention.
    x = block(x, "decoder_{}_in0", self.channels[-1], "", True)
    x = block(x, "decoder_{}_in1", self.channels[-1])
    # Up: one block more a level than down, so that each takes one skip.
    for level, width in reversed(list(enumerate(self.channels))):
      if level < len(self.channels) - 1:
        resolution *= 2
        x = block(x, "decoder_{}_up", x.shape[-1], "up")
      for i in range(self.depths[level] + 1):
        attention = self.attention[level] and i == self.depths[level]
        x = jnp.concatenate([x, skips.pop()], -1)
        x = block(x, f"decoder_{{}}_block{i}", width, "", attention)
    # The last layer in float32, starting near zero: D(x) = c_skip x.
    x = nn.silu(group_norm(x, "output_norm", jnp.float32))
    x = conv(x, 3, 3, "output", jnp.float32, near_zero)
    return x, jnp.zeros(len(x))

  def _embed(self, sigma: jax.Array, augment_labels: jax.Array) -> jax.Array:
    """The conditioning vector [B,embedding], float32."""
    vector = positional_features(sigma, self.embedding // 4)
    if self.augmentation:
      vector += nn.Dense(
        vector.shape[-1],
        use_bias=False,
        kernel_init=xavier(),
        name="augmentation",
      )(augment_labels)
    # EDM's two mapping layers.
    for i in range(2):
      vector = nn.Dense(
        self.embedding, kernel_init=xavier(), name=f"mapping{i}"
      )(vector)
      vector = nn.silu(vector)
    return vector


def positional_features(sigma: jax.Array, width: int) -> jax.Array:
  """[sin, cos] of log(sigma)/4 at `width`/2 frequencies, [B,width]."""
  # DDPM's frequencies, from 1 down to 1/10000; log(sigma) / 4 is c_noise.
  count = width // 2
  frequencies = (1 / 10_000) ** (jnp.arange(count) / (count - 1))
  phase = jnp.log(sigma)[:, None] / 4 * frequencies
  return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], -1)


class Block(nn.Module):
  """A residual block that may halve or double the resolution on its way."""

  width: int
  resample: str  # "", "down" or "up"
  attention: bool
  dropout: float
  dtype: layers.Dtype

  @nn.compact
  def __call__(self, x: jax.Array, vector: jax.Array, train: bool):
    """[n,h,w,c] and [n,embedding] -> [n,h',w',width]."""
    y = nn.silu(group_norm(x, "norm0", self.dtype))
    y = conv(_resample(y, self.resample), self.width, 3, "conv0", self.dtype)
    # The conditioning vector enters as one number per channel.
    shift = nn.Dense(self.width, kernel_init=xavier(), name="shift")(vector)
    y += shift[:, None, None].astype(self.dtype)
    y = nn.silu(group_norm(y, "norm1", self.dtype))
    y = nn.Dropout(self.dropout)(y, deterministic=not train)
    y = conv(y, self.width, 3, "conv1", self.dtype, near_zero)
    # The shortcut resamples too; a 1x1 convolution where the width changes.
    if self.resample or x.shape[-1] != self.width:
      x = _resample(x, self.resample)
      x = conv(x, self.width, 1, "skip", self.dtype)
    # A sum of two of variance 1 has variance 1 again.
    x = (x + y) * _SUM_SCALE
    return self._attend(x) if self.attention else x

  def _attend(self, x: jax.Array) -> jax.Array:
    """Self-attention between all pixels with one head."""
    n, h, w, c = x.shape
    y = group_norm(x, "norm2", self.dtype)
    qkv = conv(y, 3 * c, 1, "qkv", self.dtype, xavier(0.2**0.5))
    q, k, v = jnp.split(qkv.reshape(n, h * w, 3 * c), 3, -1)
    # Softmax in float32 whatever the products are in.
    logits = jnp.einsum("nqc,nkc->nqk", q, k / c**0.5)
    weights = nn.softmax(logits.astype(jnp.float32), -1).astype(self.dtype)
    y = jnp.einsum("nqk,nkc->nqc", weights, v).reshape(n, h, w, c)
    return (x + conv(y, c, 1, "proj", self.dtype, near_zero)) * _SUM_SCALE


def conv(
  x: jax.Array, width: int, kernel: int, name: str, dtype, init=None
) -> jax.Array:
  """A convolution with EDM's initialisation."""
  return nn.Conv(
    width,
    (kernel, kernel),
    padding=kernel // 2,
    kernel_init=init or xavier(),
    dtype=dtype,
    name=name,
  )(x)


def group_norm(x: jax.Array, name: str, dtype) -> jax.Array:
  """Group norm with scale and offset, statistics in float32."""
  y = nn.GroupNorm(
    num_groups=min(32, x.shape[-1] // 4),
    epsilon=1e-6,
    use_fast_variance=False,
    name=name,
  )(x.astype(jnp.float32))
  return y.astype(dtype)


def _resample(x: jax.Array, how: str) -> jax.Array:
  """Means of 2x2 pixels, or each pixel four times."""
  if how == "down":
    n, h, w, c = x.shape
    return jnp.mean(x.reshape(n, h // 2, 2, w // 2, 2, c), (2, 4))
  if how == "up":
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
  return x
