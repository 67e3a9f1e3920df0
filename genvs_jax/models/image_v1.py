"""`image_v1`: k-diffusion's U-Net denoiser, as the reference uses it.

Input is the noisy image (already times c_in) with the conditioning features
beside it; output the preconditioned prediction and one log-variance per image.
Blocks are named by resolution (`down_64_block0`), so that a network grown by a
new outer level is a union of trees.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genvs_jax.models import cross_views
from genvs_jax.models import layers


class ImageV1(nn.Module):
  """The denoiser network F.

  Attributes:
    channels: of each level, outermost first.
    depths: residual blocks per level.
    attention: whether each level has self-attention.
    embedding: width of the conditioning vector (256 in the reference).
    dropout: rate, whole channels at a time.
    remat: whether the backward pass computes blocks again.
    dtype: of the computation.
  """

  channels: tuple[int, ...] = (128, 256, 512, 512)
  depths: tuple[int, ...] = (2, 2, 4, 4)
  attention: tuple[bool, ...] = (False, False, True, True)
  embedding: int = 256
  dropout: float = 0.05
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
    views: cross_views.Views | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Predicts F(x; sigma, features).

    Args:
      x: [B,H,W,3] noisy image times c_in; sides divisible by 2^(levels-1).
      sigma: [B] noise level in image units.
      features: [B,H,W,F] conditioning, not scaled.
      augment_labels: [B,9] of `augmentation.labels`, zeros for none.
      train: whether to drop channels ("dropout" rng).

    Returns:
      F f32 [B,H,W,3] and the log-variance f32 [B].
    """
    vector = self._embed(sigma, augment_labels)
    x = jnp.concatenate([x, features], -1).astype(self.dtype)
    x = _conv(x, self.channels[0], 1, "input", self.dtype)

    # Down: the blocks of a level, then half the resolution. One skip a level.
    skips = []
    layer = 0
    for i, width in enumerate(self.channels):
      if i > 0:
        x = layers.blur_downsample(x)
      for j in range(self.depths[i]):
        x = self._block(x, vector, i, j, width, "down", train)
        x, layer = self._attend(x, vector, i, j, "down", views, layer)
      skips.append(x)
    # Up: the deepest level has no skip to join; the last block of a level
    # already has the width of the next one.
    for i in reversed(range(len(self.channels))):
      if i < len(self.channels) - 1:
        x = jnp.concatenate([x, skips[i]], -1)
      for j in range(self.depths[i]):
        last = j == self.depths[i] - 1
        width = self.channels[max(i - 1, 0) if last else i]
        x = self._block(x, vector, i, j, width, "up", train)
        x, layer = self._attend(x, vector, i, j, "up", views, layer)
      if i > 0:
        x = layers.blur_upsample(x)
    # Three channels of F and one whose mean is the log-variance. Zeros at the
    # start: D(x) = c_skip x.
    x = nn.Conv(
      4,
      (1, 1),
      kernel_init=nn.initializers.zeros,
      name="output",
    )(x.astype(jnp.float32))
    return x[..., :3], jnp.mean(x[..., 3], (1, 2))

  def _embed(self, sigma: jax.Array, augment_labels: jax.Array) -> jax.Array:
    """The conditioning vector [B,embedding], float32."""
    # Drawn once and never trained.
    frequencies = self.variable(
      "constants",
      "frequencies",
      lambda: jax.random.normal(
        self.make_rng("params"), (self.embedding // 2,)
      ),
    ).value
    vector = fourier_features(sigma, frequencies)
    vector += nn.Dense(
      self.embedding,
      use_bias=False,
      kernel_init=layers.torch_default,
      name="augmentation",
    )(augment_labels)
    # k-diffusion's two mapping layers.
    for i in range(2):
      vector = nn.Dense(
        self.embedding,
        kernel_init=nn.initializers.orthogonal(),
        bias_init=layers.torch_bias(self.embedding),
        name=f"mapping{i}",
      )(vector)
      vector = layers.gelu(vector)
    return vector

  def _block(
    self, x, vector, level: int, index: int, width: int, path: str, train: bool
  ) -> jax.Array:
    """The blocks `index` of a level, residual and attention; `path` is "down"
    or "up". The residual one has the level's width inside, `width` at its
    end."""
    resolution = x.shape[2]
    name = f"{path}_{resolution}_block{index}"
    x = layers.block(ResBlock, self.remat, (3,))(
      self.channels[level], width, self.dropout, self.dtype, name=name
    )(x, vector, train)
    if self.attention[level]:
      x = layers.block(SelfAttention, self.remat, (3,))(
        self.dropout,
        self.dtype,
        name=f"{path}_{resolution}_attention{index}",
      )(x, vector, train)
    return x

  def _attend(self, x, vector, level, index, path, views, layer):
    if views is None or not self.attention[level]:
      return x, layer
    name = f"{path}_{x.shape[2]}_views{index}"
    x = cross_views.CrossAttention(layer, self.dtype, name=name)(
      x, vector, views
    )
    return x, layer + 1


def fourier_features(sigma: jax.Array, frequencies: jax.Array) -> jax.Array:
  """[cos, sin] of log(sigma)/4 at random frequencies, [B,2 frequencies]."""
  # log(sigma) / 4 is EDM's c_noise.
  phase = 2 * jnp.pi * jnp.log(sigma)[:, None] / 4 * frequencies
  return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], -1)


class ResBlock(nn.Module):
  """Two convolutions behind adaptive norms, with a skip."""

  middle: int
  width: int
  dropout: float
  dtype: layers.Dtype

  @nn.compact
  def __call__(self, x: jax.Array, vector: jax.Array, train: bool):
    """[n,h,w,c] and [n,embedding] -> [n,h,w,width]."""

    # Whole channels at a time (PyTorch's Dropout2d).
    def drop(y):
      return nn.Dropout(self.dropout, broadcast_dims=(1, 2))(
        y, deterministic=not train
      )

    y = layers.AdaGroupNorm(self.dtype, name="norm1")(x, vector)
    y = layers.gelu(y)
    y = drop(_conv(y, self.middle, 3, "conv1", self.dtype))
    y = layers.AdaGroupNorm(self.dtype, name="norm2")(y, vector)
    y = layers.gelu(y)
    y = drop(_conv(y, self.width, 3, "conv2", self.dtype))
    # A change of width goes through a matrix, orthogonal at the start.
    if x.shape[-1] != self.width:
      x = nn.Conv(
        self.width,
        (1, 1),
        use_bias=False,
        kernel_init=nn.initializers.orthogonal(),
        dtype=self.dtype,
        name="skip",
      )(x)
    return x + y


class SelfAttention(nn.Module):
  """Attention between all pixels, heads of 64 channels, added to the input."""

  dropout: float
  dtype: layers.Dtype

  @nn.compact
  def __call__(self, x: jax.Array, vector: jax.Array, train: bool):
    """[n,h,w,c] and [n,embedding] -> [n,h,w,c]."""
    # Heads of 64 channels, [n,pixels,3,heads,channels of a head].
    n, h, w, c = x.shape
    heads = max(1, c // 64)
    y = layers.AdaGroupNorm(self.dtype, name="norm")(x, vector)
    qkv = _conv(y, 3 * c, 1, "qkv", self.dtype)
    q, k, v = jnp.moveaxis(qkv.reshape(n, h * w, 3, heads, c // heads), 2, 0)
    # 1/sqrt(head width), half on either side: products stay small in bfloat16.
    scale = (c // heads) ** -0.25
    logits = jnp.einsum("nqhc,nkhc->nhqk", q * scale, k * scale)
    weights = nn.softmax(logits.astype(jnp.float32), -1).astype(self.dtype)
    weights = nn.Dropout(self.dropout)(weights, deterministic=not train)
    y = jnp.einsum("nhqk,nkhc->nqhc", weights, v).reshape(n, h, w, c)
    return x + _conv(y, c, 1, "out", self.dtype)


def _conv(x: jax.Array, width: int, kernel: int, name: str, dtype) -> jax.Array:
  return nn.Conv(
    width,
    (kernel, kernel),
    padding=kernel // 2,
    kernel_init=layers.torch_default,
    bias_init=layers.torch_bias(kernel**2 * x.shape[-1]),
    dtype=dtype,
    name=name,
  )(x)
