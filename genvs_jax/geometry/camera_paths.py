"""Paths of cameras around an object at the world's origin, up +z."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from genvs_jax.geometry import cameras


def orbit(frames: int, elevation: float, distance: float) -> jax.Array:
  """One turn at constant elevation.

  Args:
    frames: number of poses.
    elevation: degrees above the horizon.
    distance: from the origin in world units.

  Returns:
    poses f32 [frames,4,4], camera-to-world.
  """
  azimuth = np.linspace(0, 2 * np.pi, frames, endpoint=False)
  return _around(azimuth, np.full(frames, np.radians(elevation)), distance)


def srn_spiral(distance: float = 1.3, views: int = 251) -> jax.Array:
  """The poses of every SRN test scene, from the horizon up to the pole."""
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
  angles = np.degrees(cameras.view_angle(poses[:, None], poses[None]))
  nearest = angles[list(inputs)].min(0)
  allowed = nearest >= min_angle
  if allowed.sum() < count:
    raise ValueError(
      f"{allowed.sum()} views are {min_angle:g} degrees or more from views"
      f" {tuple(inputs)}, expected evaluate.spread = {count}"
    )
  chosen: list[int] = []
  for _ in range(count):
    best = int(np.argmax(np.where(allowed, nearest, -1)))
    chosen.append(best)
    allowed[best] = False
    nearest = np.minimum(nearest, angles[best])
  return np.array(chosen)


def _around(azimuth, elevation, distance: float) -> jax.Array:
  positions = distance * np.stack(
    [
      np.cos(elevation) * np.cos(azimuth),
      np.cos(elevation) * np.sin(azimuth),
      np.sin(elevation),
    ],
    -1,
  )
  return cameras.look_at(jnp.asarray(positions), jnp.zeros(3))
