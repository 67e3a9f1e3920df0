"""Pinhole cameras: pixels to rays, points to pixels and to frustum volumes.

Poses are OpenCV camera-to-world matrices [..,4,4] in world units; intrinsics
are [..,4] = (fx, fy, cx, cy) in pixels, where the centre of the top left pixel
is (0.5, 0.5), or [..,6] with near and far of the view after them, where scenes
differ in theirs. Geometry stays in float32 whatever the networks compute in,
and its products are of the highest precision: the bfloat16 products that TPUs
take by default would move a point by a hundredth of its distance.

A frustum says where a world point lies in the volume that the encoder lifts an
input view to. Each kind (`NearFar` here, the reference's in `unit_cube`)
answers two questions: `coordinates` maps points to (u, v, w) in [-1,1], the
volume's columns, rows and depth planes, with a mask of the points that the
volume covers; `ray_bounds` says between which distances a target ray is worth
sampling. `align_corners` says whether -1 and 1 are the centres of the
outermost voxels (True) or their outer faces (False).
"""

import dataclasses
from typing import Any
from typing import ClassVar
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray
AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)  # of one kind
_HIGHEST = jax.lax.Precision.HIGHEST
# World units: depths nearer to the camera's own plane than this are taken for
# it, where a division would magnify every rounding.
LEAST_DEPTH = 1e-6


def pixel_centres(height: int, width: int) -> jax.Array:
  """Pixel centres (x, y) f32 [height * width, 2], row by row."""
  y, x = jnp.meshgrid(
    jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij"
  )
  return jnp.stack([x, y], -1).reshape(-1, 2).astype(jnp.float32)


def scale_intrinsics(intrinsics: jax.Array, factor: float) -> jax.Array:
  """Intrinsics of the same camera, its image `factor` times as wide."""
  return jnp.concatenate(
    [pinhole(intrinsics) * factor, intrinsics[..., 4:]], -1
  )


def pinhole(intrinsics: Any) -> Any:
  """fx, fy, cx, cy [..,4] of intrinsics with or without near and far."""
  return intrinsics[..., :4]


def by_view(intrinsics: AnyArray) -> AnyArray:
  """Intrinsics [B,4] that all views of a scene share as [B,1,4], those of each
  view [B,V,4] as they are: both broadcast against [B,V,4]."""
  return intrinsics[:, None] if intrinsics.ndim == 2 else intrinsics


def pixel_rays(
  poses: Array, intrinsics: Array, pixels: Array
) -> tuple[jax.Array, jax.Array]:
  """Rays through pixels.

  Args:
    poses: [..,4,4] camera-to-world.
    intrinsics: [..,4] in pixels, or [..,6], leading axes as in `poses`.
    pixels: [R,2] (x, y) in pixels.

  Returns:
    origins and unit directions, both [..,R,3] in world axes.
  """
  # [..,1,2] each
  focal, centre = jnp.split(pinhole(intrinsics)[..., None, :], 2, -1)
  # On the plane at depth 1, then to unit length: distances along a ray are
  # Euclidean, not depths along the optical axis.
  xy = (pixels - centre) / focal
  local = jnp.concatenate([xy, jnp.ones_like(xy[..., :1])], -1)  # [..,R,3]
  local /= jnp.linalg.norm(local, axis=-1, keepdims=True)
  directions = jnp.einsum(
    "...ij,...rj->...ri", poses[..., :3, :3], local, precision=_HIGHEST
  )
  origins = jnp.broadcast_to(poses[..., None, :3, 3], directions.shape)
  return origins, directions


def world_to_camera(points: jax.Array, poses: jax.Array) -> jax.Array:
  """Points [..,P,3] in the axes of the cameras `poses` [..,4,4]."""
  # R^T (p - t): the transpose is in the order of the indices.
  return jnp.einsum(
    "...ji,...pj->...pi",
    poses[..., :3, :3],
    points - poses[..., None, :3, 3],
    precision=_HIGHEST,
  )


def project(
  points: jax.Array, poses: jax.Array, intrinsics: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Pixels (x, y) [..,P,2] and depth along the optical axis [..,P].

  Points behind the camera have negative depth and a meaningless pixel.
  """
  local = world_to_camera(points, poses)
  depth = local[..., 2]
  divisor = jnp.where(jnp.abs(depth) < LEAST_DEPTH, LEAST_DEPTH, depth)
  focal, centre = jnp.split(pinhole(intrinsics)[..., None, :], 2, -1)
  return local[..., :2] / divisor[..., None] * focal + centre, depth


@dataclasses.dataclass(frozen=True)
class NearFar:
  """The camera's pyramid between two planes, linear in depth (pixelNeRF).

  Attributes:
    near: depth of the first plane in world units; also where rays start.
    far: depth of the last plane; also where rays end. Views whose intrinsics
      have a near and a far use those.
    image_size: (height, width) in pixels of the image behind the intrinsics.
  """

  near: float
  far: float
  image_size: tuple[int, int]
  align_corners: ClassVar[bool] = False

  @property
  def half_extent(self) -> float:
    """Of the cube around the origin that cameras at their usual distance, in
    the middle of near and far, cover; world units."""
    return (self.far - self.near) / 2

  def coordinates(
    self, points: jax.Array, poses: jax.Array, intrinsics: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Volume coordinates of world points.

    Args:
      points: [..,P,3] world units.
      poses: [..,4,4] camera-to-world of the input views.
      intrinsics: [..,4] pixels, or [..,6].

    Returns:
      uvw [..,P,3] in [-1,1] (clamped), and bool [..,P], True inside.
    """
    pixels, depth = project(points, poses, intrinsics)
    height, width = self.image_size
    # The image's borders are the volume's outer faces, and so are the planes
    # at near (w = -1) and far (w = 1).
    uv = pixels / jnp.array([width, height], jnp.float32) * 2 - 1
    near, far = self._bounds(intrinsics)
    w = (depth - near) / (far - near) * 2 - 1
    uvw = jnp.concatenate([uv, w[..., None]], -1)
    # A point behind the camera can land on a pixel all the same.
    inside = jnp.all(jnp.abs(uvw) <= 1, -1) & (depth > 0)
    return jnp.clip(uvw, -1, 1), inside

  def ray_bounds(
    self, origins: jax.Array, directions: jax.Array, intrinsics: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Distances [..,R] along unit rays between which samples are placed.

    Args:
      origins: [..,R,3] world units.
      directions: [..,R,3].
      intrinsics: [..,4] of the view that the rays are of, or [..,6].
    """
    del directions
    near, far = self._bounds(intrinsics)
    shape = origins.shape[:-1]
    return jnp.broadcast_to(near, shape), jnp.broadcast_to(far, shape)

  def _bounds(self, intrinsics: jax.Array) -> tuple[Any, Any]:
    """Near and far of views, [..,1] each, or of all."""
    if intrinsics.shape[-1] == 4:
      return self.near, self.far
    return intrinsics[..., 4:5], intrinsics[..., 5:6]
