"""Noise that stays on the surfaces of an object while the camera moves.

What a denoiser makes of noise that stands still on the screen slides over the
object when that turns. Here each point of the world has a value of its own,
and a pixel takes that of the surface point that it shows: frames that see the
same point see the same noise there (the aim of Chang et al. 2024, "How I
Warped Your Noise", who carry noise along optical flow).
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genvs_jax.diffusion import samplers
from genvs_jax.geometry import cameras
from genvs_jax.geometry import rendering
from genvs_jax.models import pipeline

SPACING = 1.1  # of the lattice, in pixels at the middle of the depth range
_CELLS = 1024  # lattice points along an axis, after which noise repeats
# Interpolated at points a distance d apart, lattice noise has a correlation of
# about (_REACH - d)^2 / 2, and none from _REACH on: fitted to planes at any
# tilt for d of 0.8 to 1.5. This share of it, taken off both sides, leaves none.
_REACH = 1.75
_SHARE = 0.56
_HIGHEST_CORRELATION = 0.5  # that the fit holds for


class Surface(NamedTuple):
  """What n frames show.

  Attributes:
    points: f32 [n,H,W,3] of the surfaces, in units of the lattice's spacing.
    opaque: bool [n,H,W], where there is a surface.
  """

  points: jax.Array
  opaque: jax.Array


def surface_of(
  model: pipeline.Model,
  poses: jax.Array,
  intrinsics: jax.Array,
  weighted_depth: jax.Array,
  opacity: jax.Array,
) -> Surface:
  """The surface points of rendered frames.

  Args:
    model: whose frustum says how far away the scene is.
    poses: [n,4,4] camera-to-world.
    intrinsics: [n,4] or [n,6] pixels of the image.
    weighted_depth: [n,H,W] of `rendering.Render`, at the image's size.
    opacity: [n,H,W].
  """
  size = opacity.shape[-1]
  depth = rendering.expected_depth(weighted_depth, opacity)
  origins, directions = cameras.pixel_rays(
    poses, intrinsics, cameras.pixel_centres(size, size)
  )
  points = origins + depth.reshape(len(poses), -1, 1) * directions
  # The same spacing in all frames of a path, as long as they are as far away.
  middle = cameras.pixel_rays(poses, intrinsics, jnp.full((1, 2), size / 2))
  near, far = model.frustum.ray_bounds(*middle, intrinsics)  # [n,1]
  spacing = SPACING * (near + far) / 2 / intrinsics[:, :1]
  points /= spacing[..., None]
  return Surface(points.reshape(*opacity.shape, 3), opacity > 0.5)


def normal(keys: jax.Array, surface: Surface) -> jax.Array:
  """Unit Gaussian noise [n,H,W,3], nearly white, that sticks to surfaces.

  Beside them it stands still on the screen. Frames with the same key share it.

  Args:
    keys: [n].
    surface: of `surface_of`.
  """
  low = jnp.floor(surface.points)
  fraction = surface.points - low
  # Trilinear interpolation, with weights whose squares add up to 1.
  noise = jnp.zeros_like(surface.points)
  squares = jnp.zeros_like(noise[..., :1])
  for corner in itertools.product((0, 1), repeat=3):
    upper = jnp.array(corner, bool)
    weight = jnp.prod(
      jnp.where(upper, fraction, 1 - fraction), -1, keepdims=True
    )
    noise += weight * _at_cells(keys, low.astype(jnp.int32) + upper)
    squares += weight**2
  noise /= jnp.sqrt(squares)
  for axis in (1, 2):
    noise = _whiten(noise, surface.points, axis)
  still = samplers.normal_like(keys, noise)
  return jnp.where(surface.opaque[..., None], noise, still)


def _at_cells(keys: jax.Array, cells: jax.Array) -> jax.Array:
  """Unit Gaussian [n,H,W,3] that depends on keys [n] and cells i32 [n,H,W,3],
  not on the pixel."""
  x, y, z = jnp.moveaxis(cells % _CELLS, -1, 0)
  numbers = (x + _CELLS * (y + _CELLS * z)).astype(jnp.uint32)
  fold_in = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))
  of_cells = fold_in(keys, numbers.reshape(len(keys), -1)).reshape(-1)
  return samplers.normal_like(of_cells, cells.reshape(-1, 3)).reshape(
    cells.shape
  )


def _whiten(noise: jax.Array, points: jax.Array, axis: int) -> jax.Array:
  """Takes off each pixel what it has in common with both neighbours on an
  axis: they are the more alike, the nearer their points are to each other."""
  distance = jnp.linalg.norm(jnp.diff(points, axis=axis), axis=-1)[..., None]
  correlation = jnp.clip(_REACH - distance, 0.0) ** 2 / 2
  correlation = jnp.minimum(correlation, _HIGHEST_CORRELATION)
  share = _SHARE * correlation
  # Pixels at the edge have one neighbour: from [..,n-1,..] to [..,n,..].
  first = [(1, 0) if i == axis else (0, 0) for i in range(noise.ndim)]
  last = [pads[::-1] for pads in first]
  size = noise.shape[axis]
  before = jax.lax.slice_in_dim(noise, 0, size - 1, axis=axis)
  after = jax.lax.slice_in_dim(noise, 1, size, axis=axis)
  common = jnp.pad(share * before, first) + jnp.pad(share * after, last)
  # Var(x - a y - a z) for x, y, z of variance 1, y and z independent.
  change = share**2 - 2 * share * correlation
  variance = 1 + jnp.pad(change, first) + jnp.pad(change, last)
  return (noise - common) / jnp.sqrt(variance)
