"""What a denoiser can be conditioned on beside the features of a view: its
camera's rays, and how deep and how opaque the render is.

Rays tell where the camera is and which way each pixel looks; depth and opacity
tell a surface from fog, which features alone leave open.
"""

from typing import Any

import jax
import jax.numpy as jnp

from genvs_jax.geometry import cameras

# Names of `model.denoiser.geometry`, with their channels.
CHANNELS = {"directions": 3, "pluecker": 6, "depth": 1, "opacity": 1}


def count(names: tuple[str, ...]) -> int:
  """G, the channels of all of them."""
  return sum(CHANNELS[name] for name in names)


def of_render(
  names: tuple[str, ...],
  weighted_depth: jax.Array,
  opacity: jax.Array,
  poses: jax.Array,
) -> list[jax.Array]:
  """Those of the names that a render gives, images [B,Q,h,w,1].

  Args:
    names: of `CHANNELS`.
    weighted_depth: [B,Q,h,w] of `rendering.Render`, world units.
    opacity: [B,Q,h,w].
    poses: [B,Q,4,4] camera-to-world.
  """
  images = []
  if "depth" in names:
    # Opacity times (depth - the camera's distance from the origin): 0 beside
    # the object and about -0.5 to 0.5 on it, however far the camera is.
    distance = jnp.linalg.norm(poses[..., :3, 3], axis=-1)[..., None, None]
    images.append((weighted_depth - opacity * distance)[..., None])
  if "opacity" in names:
    images.append(opacity[..., None])
  return images


def target_intrinsics(inputs: Any) -> jax.Array:
  """Those of the views to draw, [B,Q,4], or [B,1,4] for all of them.

  Args:
    inputs: `pipeline.InputViews`.
  """
  # A path is drawn with the lens of the picture that it starts from.
  if inputs.drawn_with is None:
    return cameras.by_view(inputs.intrinsics)[:, :1]
  return cameras.by_view(inputs.drawn_with)


def of_camera(
  names: tuple[str, ...], poses: jax.Array, intrinsics: jax.Array, size: int
) -> list[jax.Array]:
  """Those of the names that the camera gives, images [B,Q,size,size,3].

  Args:
    names: of `CHANNELS`.
    poses: [B,Q,4,4] camera-to-world.
    intrinsics: [B,4] or [B,Q,4] pixels of an image of `size`.
    size: of the image, in pixels.
  """
  if not {"directions", "pluecker"} & set(names):
    return []
  batch, views = poses.shape[:2]
  origins, directions = cameras.pixel_rays(
    poses,
    jnp.broadcast_to(
      cameras.pinhole(cameras.by_view(intrinsics)), (batch, views, 4)
    ),
    cameras.pixel_centres(size, size),
  )
  rays = [directions] if "directions" in names else []
  if "pluecker" in names:
    # (d, o x d): the same for every point of a line (Sitzmann et al. 2021,
    # "Light Field Networks", sec. 3).
    rays += [directions, jnp.cross(origins, directions)]
  return [x.reshape(batch, views, size, size, 3) for x in rays]
