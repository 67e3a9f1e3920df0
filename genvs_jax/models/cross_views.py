"""Attention from a view that is drawn to the pictures of the input views.

The features of a render hold what the volumes kept of the input pictures; this
lets the denoiser look at the pictures themselves. Each picture becomes N tokens
on a grid, whose keys and values (of all layers at once) are computed once per
view, so that a rollout keeps them beside the view's volume.

Cameras enter as relative poses (Kong et al. 2024, EscherNet, sec. 3.2; Miyato
et al. 2024, GTA): keys and values are turned, four channels at a time, from
their camera to the world, queries and results between the world and the target
camera. Products then depend on the pose of one camera in the other alone.
"""

import re
from typing import Any
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from genvs_jax.geometry import cameras
from genvs_jax.models import camera_channels
from genvs_jax.models import layers

WIDTH = 64  # channels of a layer's keys, and of its values
_HEADS = 2
_PATCH = 4  # pixels along each side that a token stands for


class Views(NamedTuple):
  """What n views that are drawn attend to.

  Attributes:
    keys: [n,V,N,2 WIDTH layers] of `encode`.
    mask: bool [n,V], the input views in use.
    poses: [n,4,4] camera-to-world of the views that are drawn.
    intrinsics: [n,4] of them, in units of the image's width.
  """

  keys: jax.Array
  mask: jax.Array
  poses: jax.Array
  intrinsics: jax.Array


class ViewEncoder(nn.Module):
  """A picture to the keys and values of all layers.

  Attributes:
    layers: that attend.
    dtype: of the computation.
  """

  layers: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array, directions: jax.Array) -> jax.Array:
    """[n,H,W,3] and [n,N,3] of the tokens' rays, camera frame -> [n,N,K]."""
    # Two halvings: a token for every four by four pixels.
    x = images.astype(self.dtype)
    for i, (width, stride) in enumerate(((32, 1), (64, 2), (128, 2))):
      x = nn.Conv(
        width,
        (3, 3),
        stride,
        padding=1,
        kernel_init=layers.he_fan_in,
        dtype=self.dtype,
        name=f"conv{i}",
      )(x)
      x = layers.gelu(x)
    # Where a token is in its picture is told by its ray; a convolution would
    # not know.
    x = x.reshape(len(x), -1, x.shape[-1])
    x = jnp.concatenate([x, directions.astype(self.dtype)], -1)
    return nn.Dense(2 * WIDTH * self.layers, dtype=self.dtype, name="keys")(x)


class CrossAttention(nn.Module):
  """Attention from all pixels to all tokens of all views, added to the input.

  Attributes:
    index: of the layer, which says where its keys lie.
    dtype: of the computation.
  """

  index: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, vector: jax.Array, views: Views):
    """[n,h,w,c], [n,embedding] and the views -> [n,h,w,c]."""
    n, h, w, c = x.shape
    y = layers.AdaGroupNorm(self.dtype, name="norm")(x, vector)
    # Pixels of this level know their rays too, in the frame of their camera.
    scale = jnp.array([w, h, w, h])
    rays = camera_directions(views.intrinsics * scale, h)
    y = jnp.concatenate([y.reshape(n, h * w, c), rays.astype(self.dtype)], -1)
    q = nn.Dense(WIDTH, dtype=self.dtype, name="query")(y)
    # All tokens of all views side by side: views are a set.
    at = 2 * WIDTH * self.index
    keys = views.keys[..., at : at + 2 * WIDTH].astype(self.dtype)
    tokens = keys.shape[2]
    keys = keys.reshape(n, -1, 2 * WIDTH)
    # Of camera-to-world poses: world-to-camera.
    inverse = jnp.linalg.inv(views.poses)
    # q^T (P_t^-1 P_v) k: queries meet keys in the world.
    q = turn(q, jnp.swapaxes(inverse, -1, -2))
    k, v = jnp.split(keys, 2, -1)
    # [n,pixels or tokens,heads,channels of a head].
    head = WIDTH // _HEADS
    q, k, v = (z.reshape(n, -1, _HEADS, head) for z in (q, k, v))
    logits = jnp.einsum("nqhc,nkhc->nhqk", q, k).astype(jnp.float32)
    logits = logits * head**-0.5
    # A mask of views is one of their tokens.
    mask = jnp.repeat(views.mask, tokens, -1)[:, None, None]
    logits = jnp.where(mask, logits, -jnp.inf)
    # A key of zero with a value of zero: without views nothing is added.
    logits = jnp.concatenate([logits, jnp.zeros((*logits.shape[:3], 1))], -1)
    weights = nn.softmax(logits, -1)[..., :-1].astype(self.dtype)
    y = jnp.einsum("nhqk,nkhc->nqhc", weights, v).reshape(n, h * w, WIDTH)
    y = turn(y, inverse).reshape(n, h, w, WIDTH)
    # Zeros at the start: a denoiser that has learned without goes on as it was.
    return x + nn.Dense(
      c,
      use_bias=False,
      kernel_init=nn.initializers.zeros,
      dtype=self.dtype,
      name="out",
    )(y)


def key_shape(encoder: ViewEncoder, size: int) -> tuple[int, int]:
  """(N, K) of a view of `size` pixels."""
  return (size // _PATCH) ** 2, 2 * WIDTH * encoder.layers


def is_leaf(name: str) -> bool:
  """Whether a leaf of a denoiser, "params/down_8_views0/..", is of this."""
  return re.match(r"params/(views|\w+_views\d+)/", name) is not None


def turn(x: jax.Array, matrices: jax.Array) -> jax.Array:
  """Every four channels of x [..,N,c] times matrices [..,4,4]."""
  y = x.reshape(*x.shape[:-1], -1, 4)
  y = jnp.einsum("...ij,...ncj->...nci", matrices.astype(x.dtype), y)
  return y.reshape(x.shape)


def camera_directions(intrinsics: jax.Array, size: int) -> jax.Array:
  """Unit ray directions [..,size*size,3] in the camera's frame."""
  eye = jnp.broadcast_to(jnp.eye(4), (*intrinsics.shape[:-1], 4, 4))
  pixels = cameras.pixel_centres(size, size)
  _, directions = cameras.pixel_rays(eye, intrinsics, pixels)
  return directions.reshape(*intrinsics.shape[:-1], size * size, 3)


def encode(
  model: Any,
  variables: dict,
  images: jax.Array,
  poses: jax.Array,
  intrinsics: jax.Array,
  noise: jax.Array | None = None,
) -> jax.Array | None:
  """Keys and values [B,V,N,K] of input views, in the world.

  Args:
    model: a `pipeline.Model`.
    variables: of all its parts.
    images: [B,V,H,W,3] in [0,1].
    poses: [B,V,4,4] camera-to-world.
    intrinsics: [B,4] or [B,V,4] pixels of the images.
    noise: [B,V,H,W,3] added to the ImageNet-normalised images, or None.

  Returns:
    None if the model has no denoiser, or one that does not attend to views.
  """
  if model.view_encoder is None or "denoiser" not in variables:
    return None
  batch, views, size = images.shape[:3]
  x = layers.imagenet_normalize(images)
  x = x if noise is None else x + noise
  # Rays of each view's own camera, one for a patch.
  each = cameras.pinhole(cameras.by_view(intrinsics))
  each = jnp.broadcast_to(each, (batch, views, 4))
  each = each.reshape(-1, 4) / _PATCH
  directions = camera_directions(each, size // _PATCH)
  with layers.products(model.precision):
    keys = model.view_encoder.apply(
      {"params": variables["denoiser"]["params"]["views"]},
      x.reshape(-1, *x.shape[2:]),
      directions,
    )
    return turn(keys.reshape(batch, views, *keys.shape[1:]), poses)


def of_targets(inputs: Any, poses: jax.Array, size: int) -> Views | None:
  """What the views at `poses` [B,Q,4,4] attend to, n = B Q; None for nothing.

  Args:
    inputs: `pipeline.InputViews` of the scenes.
    poses: camera-to-world.
    size: of the images, in pixels.
  """
  if inputs.keys is None:
    return None
  keys, mask = (
    jnp.repeat(x, poses.shape[1], 0) for x in (inputs.keys, inputs.mask)
  )
  intrinsics = cameras.pinhole(camera_channels.target_intrinsics(inputs))
  intrinsics = jnp.broadcast_to(intrinsics / size, (*poses.shape[:2], 4))
  return Views(keys, mask, poses.reshape(-1, 4, 4), intrinsics.reshape(-1, 4))
