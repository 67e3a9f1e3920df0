"""Pinhole cameras: pixels to rays, points to pixels, poses on a sphere.

Poses are OpenCV camera-to-world matrices [..,4,4] in world units; intrinsics
are [..,4] = (fx, fy, cx, cy) in pixels, where the centre of the top left pixel
is (0.5, 0.5). Geometry stays in float32 whatever the networks compute in.
"""

import jax
import jax.numpy as jnp


def pixel_centres(height: int, width: int) -> jax.Array:
  """Pixel centres (x, y) f32 [height * width, 2], row by row."""
  y, x = jnp.meshgrid(
    jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij"
  )
  return jnp.stack([x, y], -1).reshape(-1, 2).astype(jnp.float32)


def scale_intrinsics(intrinsics: jax.Array, factor: float) -> jax.Array:
  """Intrinsics [..,4] of the same camera, its image `factor` times as wide."""
  return intrinsics * factor


def pixel_rays(
  poses: jax.Array, intrinsics: jax.Array, pixels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Rays through pixels.

  Args:
    poses: [..,4,4] camera-to-world.
    intrinsics: [..,4] in pixels, leading axes as in `poses`.
    pixels: [R,2] (x, y) in pixels.

  Returns:
    origins and unit directions, both [..,R,3] in world axes.
  """
  focal, centre = jnp.split(intrinsics[..., None, :], 2, -1)
  xy = (pixels - centre) / focal
  local = jnp.concatenate([xy, jnp.ones_like(xy[..., :1])], -1)
  local /= jnp.linalg.norm(local, axis=-1, keepdims=True)
  directions = jnp.einsum(
    "...ij,...rj->...ri",
    poses[..., :3, :3],
    local,
    precision=jax.lax.Precision.HIGHEST,
  )
  origins = jnp.broadcast_to(poses[..., None, :3, 3], directions.shape)
  return origins, directions


def world_to_camera(points: jax.Array, poses: jax.Array) -> jax.Array:
  """Points [..,P,3] in the axes of the cameras `poses` [..,4,4]."""
  return jnp.einsum(
    "...ji,...pj->...pi",
    poses[..., :3, :3],
    points - poses[..., None, :3, 3],
    precision=jax.lax.Precision.HIGHEST,
  )


def project(
  points: jax.Array, poses: jax.Array, intrinsics: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Pixels (x, y) [..,P,2] and depth along the optical axis [..,P].

  Points behind the camera have negative depth and a meaningless pixel.
  """
  local = world_to_camera(points, poses)
  depth = local[..., 2]
  safe = jnp.where(jnp.abs(depth) < 1e-6, 1e-6, depth)
  focal, centre = jnp.split(intrinsics[..., None, :], 2, -1)
  return local[..., :2] / safe[..., None] * focal + centre, depth


def flip_axes(poses: jax.Array) -> jax.Array:
  """Camera-to-world poses [..,4,4] from OpenCV's to OpenGL's axes, or back.

  The camera's y and z axes (columns) change sign: OpenGL cameras have y up and
  look along -z.
  """
  return poses * jnp.array([1.0, -1.0, -1.0, 1.0])


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
  highest = jax.lax.Precision.HIGHEST
  inverse = (rotation * jnp.array([1.0, -1.0, -1.0])).T
  back = jnp.array([0.0, 0.0, 1.0]) * jnp.linalg.norm(position)
  shift = back - jnp.matmul(inverse, position, precision=highest)
  move = jnp.eye(4).at[:3, :3].set(inverse).at[:3, 3].set(shift)
  return jnp.matmul(move, poses, precision=highest)


def look_at(position: jax.Array, target: jax.Array) -> jax.Array:
  """Poses f32 [..,4,4] at `position` [..,3] facing `target` [..,3], up +z.

  Straight above or below the target, where up is undefined, the camera's
  right is world -x, as in the last view of SRN's test spiral.
  """
  position = jnp.asarray(position, jnp.float32)
  forward = target - position
  forward /= jnp.linalg.norm(forward, axis=-1, keepdims=True)
  right = jnp.cross(forward, jnp.array([0.0, 0.0, 1.0]))
  norm = jnp.linalg.norm(right, axis=-1, keepdims=True)
  right = jnp.where(
    norm > 1e-6, right / jnp.maximum(norm, 1e-6), jnp.array([-1.0, 0.0, 0.0])
  )
  down = jnp.cross(forward, right)
  top = jnp.stack([right, down, forward, position], -1)
  bottom = jnp.broadcast_to(
    jnp.array([0.0, 0.0, 0.0, 1.0]), (*top.shape[:-2], 1, 4)
  )
  return jnp.concatenate([top, bottom], -2)


def view_angle(poses_a: jax.Array, poses_b: jax.Array) -> jax.Array:
  """Angle in radians between two cameras as seen from the world's origin."""
  a, b = poses_a[..., :3, 3], poses_b[..., :3, 3]
  return jnp.arctan2(
    jnp.linalg.norm(jnp.cross(a, b), axis=-1), jnp.sum(a * b, -1)
  )
