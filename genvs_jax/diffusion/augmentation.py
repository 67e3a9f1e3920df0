"""Non-leaky augmentation (EDM, appendix F.2): warps and their labels.

Each item of a batch is mirrored, flipped, scaled, rotated, stretched and
shifted at random, and the denoiser takes the parameters as labels, 9 numbers
(0 for none), so that it can tell a warped image from a true one. The target
and its feature image take the same warp.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LABEL_SIZE = 9
DRAWS = 13
_OCTAVES = 0.2  # standard deviation of log2 of scale and stretch
_SHIFT = 1 / 8  # standard deviation of the shift in image widths
_UNIFORM = (1, 3, 5, 6, 7, 8, 10)  # columns of the draws in [0,1)
_COINS = (0, 2)
_HIGHEST = jax.lax.Precision.HIGHEST


class Warp(NamedTuple):
  """Parameters per item [B]; all zeros warp nothing.

  Attributes:
    mirror: 1 mirrors left and right.
    flip: 1 turns upside down.
    scale: enlarges by 2^(0.2 scale).
    rotation: radians.
    stretch_axis: radians.
    stretch: by 2^(0.2 stretch) along that axis, and inversely across.
    shift_x: in eighths of the image width.
    shift_y: in eighths of the image height.
  """

  mirror: jax.Array
  flip: jax.Array
  scale: jax.Array
  rotation: jax.Array
  stretch_axis: jax.Array
  stretch: jax.Array
  shift_x: jax.Array
  shift_y: jax.Array


def augment(
  images: jax.Array,
  features: jax.Array,
  keys: jax.Array,
  share: float,
  probability: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Warps images and their features alike, example by example.

  Args:
    images: [B,H,W,3].
    features: [B,H,W,F].
    keys: [B].
    share: of the examples that are warped at all.
    probability: of each kind of warp in those.

  Returns:
    both, and the augmentation labels [B,9].
  """
  coin_keys, draw_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
  is_warped = jax.vmap(jax.random.bernoulli, (0, None))(coin_keys, share)
  warp = warp_from_draws(jax.vmap(draw)(draw_keys), probability)
  # A warp of zeros is the identity, with labels of zeros.
  warp = jax.tree.map(lambda x: jnp.where(is_warped, x, 0.0), warp)
  maps = matrices(warp, *images.shape[1:3])
  return apply(images, maps), apply(features, maps), labels(warp)


def draw(key: jax.Array) -> jax.Array:
  """The random numbers f32 [13] of one item for `warp_from_draws`."""
  uniform_key, normal_key = jax.random.split(key)
  uniform = jax.random.uniform(uniform_key, (DRAWS,))
  normal = jax.random.normal(normal_key, (DRAWS,))
  # Every column is drawn from both laws, and takes the one that it needs.
  columns = jnp.arange(DRAWS)
  draws = jnp.where(jnp.isin(columns, jnp.array(_UNIFORM)), uniform, normal)
  coins = (uniform < 0.5).astype(jnp.float32)
  return jnp.where(jnp.isin(columns, jnp.array(_COINS)), coins, draws)


def warp_from_draws(draws: jax.Array, probability: jax.Array | float) -> Warp:
  """Chooses what is done to each item, independently.

  Args:
    draws: [B,13]: mirror coin, then a uniform chance followed by the value
      for flip (coin), scale (normal), rotation (uniform), stretch axis
      (uniform) and stretch (normal), shift x and y (normal); the mirror has no
      chance of its own. In the order in which the reference draws them.
    probability: of each kind but the mirror, which half of the items get.
  """
  mirror, *rest = jnp.moveaxis(draws, -1, 0)
  do_flip, flip, do_scale, scale, do_rotate, rotate = rest[:6]
  do_stretch, axis, stretch, do_shift, shift_x, shift_y = rest[6:]

  def maybe(chance, value):
    return jnp.where(chance < probability, value, 0.0)

  def angle(unit):
    return 2 * jnp.pi * unit - jnp.pi

  return Warp(
    mirror=mirror,
    flip=maybe(do_flip, flip),
    scale=maybe(do_scale, scale),
    rotation=maybe(do_rotate, angle(rotate)),
    stretch_axis=maybe(do_stretch, angle(axis)),
    stretch=maybe(do_stretch, stretch),
    shift_x=maybe(do_shift, shift_x),
    shift_y=maybe(do_shift, shift_y),
  )


def labels(warp: Warp) -> jax.Array:
  """EDM's augment labels, f32 [B,9]; continuous in the warp."""
  # Angles as points on a circle, so that -pi and pi are the same label.
  return jnp.stack(
    [
      warp.mirror,
      warp.flip,
      warp.scale,
      jnp.cos(warp.rotation) - 1,
      jnp.sin(warp.rotation),
      warp.stretch * jnp.cos(warp.stretch_axis),
      warp.stretch * jnp.sin(warp.stretch_axis),
      warp.shift_x,
      warp.shift_y,
    ],
    -1,
  )


def matrices(warp: Warp, height: int, width: int) -> jax.Array:
  """Forward maps of pixel indices (x, y, 1), f32 [B,3,3].

  The last factor acts first: shift, stretch, rotate, scale, flip and mirror,
  all about the image's centre.
  """
  centre = jnp.array([width / 2 - 0.5, height / 2 - 0.5])
  scale = 2 ** (_OCTAVES * warp.scale)
  stretch = 2 ** (_OCTAVES * warp.stretch)
  # The stretch runs along an axis: rotate it to x, scale, rotate back.
  linear = _diagonal(1 - 2 * warp.mirror, 1 - 2 * warp.flip)
  for factor in (
    _diagonal(scale, scale),
    _rotation(-warp.rotation),
    _rotation(warp.stretch_axis),
    _diagonal(stretch, 1 / stretch),
    _rotation(-warp.stretch_axis),
  ):
    linear = jnp.matmul(linear, factor, precision=_HIGHEST)
  shift = jnp.stack(
    [_SHIFT * width * warp.shift_x, _SHIFT * height * warp.shift_y], -1
  )
  # p -> centre + L (p + shift - centre), split into L p and a constant.
  offset = centre + jnp.einsum(
    "bij,bj->bi", linear, shift - centre, precision=_HIGHEST
  )
  top = jnp.concatenate([linear, offset[..., None]], -1)
  bottom = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), (len(top), 1, 3))
  return jnp.concatenate([top, bottom], 1)


def apply(images: jax.Array, maps: jax.Array) -> jax.Array:
  """Warps images: out(p) = in(M^-1 p), bilinear, reflected at the border.

  Args:
    images: [B,H,W,c].
    maps: [B,3,3] from `matrices`.

  Returns:
    [B,H,W,c]; gradients flow to `images`.
  """
  height, width = images.shape[1:3]
  y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
  pixels = jnp.stack([x, y], -1).reshape(-1, 2).astype(jnp.float32)
  # Each output pixel asks where it came from: the inverse map, by the adjugate
  # of a 2x2 matrix.
  linear, offset = maps[:, :2, :2], maps[:, :2, 2]
  (a, b), (c, d) = jnp.moveaxis(linear, 0, -1)
  inverse = jnp.stack([jnp.stack([d, -b], -1), jnp.stack([-c, a], -1)], 1)
  inverse /= (a * d - b * c)[:, None, None]
  source = jnp.einsum(
    "bij,bpj->bpi", inverse, pixels - offset[:, None], precision=_HIGHEST
  )
  warped = jax.vmap(_bilinear)(images, source)
  return warped.reshape(images.shape)


def _bilinear(image: jax.Array, at: jax.Array) -> jax.Array:
  """image [H,W,c] at pixel indices (x, y) [P,2], reflected: [P,c]."""
  size = jnp.array([image.shape[1], image.shape[0]])
  # A reflected line of pixels has period 2 (n - 1): 0 1 2 3 2 1 | 0 1 ...
  period = 2 * (size - 1)
  at = jnp.abs((at + size - 1) % period - (size - 1))
  low = jnp.clip(jnp.floor(at), 0, size - 2)
  fraction = (at - low)[:, :, None]
  x, y = jnp.moveaxis(low.astype(jnp.int32), -1, 0)

  def row(y):
    left, right = image[y, x], image[y, x + 1]
    return left + (right - left) * fraction[:, 0]

  top, bottom = row(y), row(y + 1)
  return top + (bottom - top) * fraction[:, 1]


def _diagonal(x: jax.Array, y: jax.Array) -> jax.Array:
  zero = jnp.zeros_like(x)
  return jnp.stack([jnp.stack([x, zero], -1), jnp.stack([zero, y], -1)], -2)


def _rotation(angle: jax.Array) -> jax.Array:
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
