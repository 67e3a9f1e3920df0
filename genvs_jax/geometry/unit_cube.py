"""The reference's frustum, and the world in which its cube turns."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from genvs_jax.geometry import cameras

_HIGHEST = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True)
class UnitCube:
  """The reference's frustum: the cube [-1,1]^3 seen from the input camera.

  The camera looks at the cube's centre from distance d = |t|; x and y are
  divided by depth, and depth planes run from d+1 (w = -1, far) to d-1 (w = 1,
  near). v points up: row 0 of the volume is the bottom of the image. Points
  outside are clamped to the border voxels and count as covered. Square pixels
  and a centred principal point are assumed, as in the reference.

  Attributes:
    min_near: rays start no nearer than this (world units).
  """

  min_near: float = 0.5
  align_corners: ClassVar[bool] = True
  half_extent: ClassVar[float] = 1.0

  def coordinates(
    self, points: jax.Array, poses: jax.Array, intrinsics: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """As `cameras.NearFar.coordinates`; everything is covered."""
    local = cameras.world_to_camera(points, poses)
    distance = jnp.linalg.norm(poses[..., :3, 3], axis=-1)[..., None]
    # With the principal point in the middle, f / cx is the slope at which a
    # ray leaves the image, where u = 1.
    slope = (intrinsics[..., 0] / intrinsics[..., 2])[..., None]
    depth = local[..., 2]
    divisor = jnp.maximum(depth, cameras.LEAST_DEPTH)
    u = slope * local[..., 0] / divisor
    v = slope * -local[..., 1] / divisor
    uvw = jnp.stack([u, v, distance - depth], -1)
    return jnp.clip(uvw, -1, 1), jnp.ones(uvw.shape[:-1], bool)

  def ray_bounds(
    self, origins: jax.Array, directions: jax.Array, intrinsics: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Entry and exit distances [..,R] of the cube; equal for a ray that misses.

    Between equal bounds all intervals are of length 0, so that no sample of
    such a ray weighs anything.
    """
    del intrinsics
    # Slabs: the ray is inside where it is between all three pairs of planes.
    slope = directions + 1e-15  # never 0; the planes are then far away
    a, b = (-1 - origins) / slope, (1 - origins) / slope
    near = jnp.max(jnp.minimum(a, b), -1)
    far = jnp.min(jnp.maximum(a, b), -1)
    # The reference clamps `near` after this test only, so that a cube behind
    # the camera gives near > far; we count it as a miss.
    miss = (far < near) | (far < self.min_near)
    near = jnp.where(miss, self.min_near, jnp.maximum(near, self.min_near))
    return near, jnp.where(miss, self.min_near, far)


def relative_to_first(poses: jax.Array) -> jax.Array:
  """Moves the world so that the first camera stands on its z axis.

  Args:
    poses: [N,4,4] camera-to-world.

  Returns:
    [N,4,4] in a world whose axes are camera 0's right, up and backwards, where
    camera 0 stands at (0, 0, distance): if it looked at the origin, the origin
    stays where it is (the reference's `normalize_first_view`).
  """
  rotation, position = poses[0, :3, :3], poses[0, :3, 3]
  # OpenCV's y and z (down, forwards) become up and backwards.
  inverse = (rotation * jnp.array([1.0, -1.0, -1.0])).T
  back = jnp.array([0.0, 0.0, 1.0]) * jnp.linalg.norm(position)
  shift = back - jnp.matmul(inverse, position, precision=_HIGHEST)
  move = jnp.eye(4).at[:3, :3].set(inverse).at[:3, 3].set(shift)
  return jnp.matmul(move, poses, precision=_HIGHEST)
