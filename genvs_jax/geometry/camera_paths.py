"""Paths of cameras around an object at the world's origin, up +z."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def orbit(
  frames: int, elevation: float, distance: float, azimuth: float = 0.0
) -> jax.Array:
  """One turn at constant elevation.

  Args:
    frames: number of poses.
    elevation: degrees above the horizon.
    distance: from the origin in world units.
    azimuth: of the first pose, degrees from +x towards +y.

  Returns:
    poses f32 [frames,4,4], camera-to-world.
  """
  # The last frame is one step before the first, so that a film can loop.
  angles = np.linspace(0, 2 * np.pi, frames, endpoint=False)
  angles += np.radians(azimuth)
  return _around(angles, np.full(frames, np.radians(elevation)), distance)


def srn_spiral(distance: float = 1.3, views: int = 251) -> jax.Array:
  """The poses of every SRN test scene, from the horizon up to the pole."""
  # In closed form, within 3e-7 of the published files.
  i = np.arange(views)
  return _around(
    0.08 * (views - 1 - i), (np.pi / 2) * i / (views - 1), distance
  )


def reference_spiral(
  frames: int,
  turns: float,
  elevations: tuple[float, float],
  distance: float,
) -> jax.Array:
  """The spirals of the reference's sampling scripts.

  Args:
    frames: number of poses; one more would close the last turn.
    turns: around the object (1 in the first script, 2 in the later one).
    elevations: degrees at the start and at the end, (0, 80) and (-10, 60)
      there.
    distance: from the origin in world units.

  Returns:
    poses f32 [frames,4,4], camera-to-world.
  """
  azimuth = np.linspace(0, 2 * np.pi * turns, frames, endpoint=False)
  elevation = np.radians(np.linspace(*elevations, frames, endpoint=False))
  return _around(np.pi / 2 - azimuth, elevation, distance)


def spread_targets(
  poses: np.ndarray, inputs: Sequence[int], count: int, min_angle: float
) -> np.ndarray:
  """Indices of `count` views far from the input views and from each other.

  Each is the one farthest in angle from all chosen before, among the views
  that are `min_angle` degrees or more away from every input view.

  Args:
    poses: [views,4,4] camera-to-world.
    inputs: indices of the input views.
    count: how many to choose.
    min_angle: in degrees, as seen from the origin.

  Raises:
    ValueError: if fewer views than that are far enough.
  """
  # Farthest-point sampling on the sphere.
  angles = np.degrees(view_angle(poses[:, None], poses[None]))
  nearest = angles[list(inputs)].min(0)
  allowed = nearest >= min_angle
  allowed[list(inputs)] = False
  if allowed.sum() < count:
    raise ValueError(
      f"{allowed.sum()} views are {min_angle:g} degrees or more from views"
      f" {tuple(inputs)}, expected evaluate.spread_views = {count}"
    )
  indices: list[int] = []
  for _ in range(count):
    best = int(np.argmax(np.where(allowed, nearest, -1)))
    indices.append(best)
    allowed[best] = False
    nearest = np.minimum(nearest, angles[best])
  return np.array(indices)


def _around(azimuth, elevation, distance: float) -> jax.Array:
  positions = distance * np.stack(
    [
      np.cos(elevation) * np.cos(azimuth),
      np.cos(elevation) * np.sin(azimuth),
      np.sin(elevation),
    ],
    -1,
  )
  return look_at(jnp.asarray(positions), jnp.zeros(3))


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
  # Right-handed with y down and z forwards: down = forward x right.
  down = jnp.cross(forward, right)
  top = jnp.stack([right, down, forward, position], -1)
  bottom = jnp.broadcast_to(
    jnp.array([0.0, 0.0, 0.0, 1.0]), (*top.shape[:-2], 1, 4)
  )
  return jnp.concatenate([top, bottom], -2)


def view_angle(
  poses_a: jax.Array | np.ndarray, poses_b: jax.Array | np.ndarray
) -> jax.Array:
  """Angles [..] in radians between cameras, as seen from the world's origin.

  Args:
    poses_a: [..,4,4] camera-to-world.
    poses_b: [..,4,4] camera-to-world, of a shape that broadcasts.
  """
  a, b = poses_a[..., :3, 3], poses_b[..., :3, 3]
  # By the tangent: exact for small angles too, where a cosine is not.
  return jnp.arctan2(
    jnp.linalg.norm(jnp.cross(a, b), axis=-1), jnp.sum(a * b, -1)
  )


def flip_axes(poses):
  """Camera-to-world poses [..,4,4] from OpenCV's to OpenGL's axes, or back."""
  # OpenGL cameras have y up and look along -z: two columns change sign.
  return poses * np.array([1.0, -1.0, -1.0, 1.0], np.float32)
