"""Noise on surfaces: white on the screen, and the same from everywhere."""

import types

import jax
import numpy as np
import pytest

from genvs_jax.diffusion import samplers
from genvs_jax.geometry import cameras
from genvs_jax.sampling import surface_noise

SIZE, FOCAL, DISTANCE = 48, 50.0, 1.3
FRUSTUM = cameras.NearFar(0.8, 1.8, SIZE)
INTRINSICS = np.array([[FOCAL, FOCAL, SIZE / 2, SIZE / 2]], np.float32)
KEYS = jax.random.split(jax.random.key(0), 1)


def look_at_plane(shift=(0.0, 0.0), normal=(0.0, 0.0, 1.0), opacity=1.0):
  """The surface that a camera at (shift, -DISTANCE) sees, which looks along z:
  a plane through the origin."""
  pose = np.eye(4, dtype=np.float32)
  pose[:3, 3] = *shift, -DISTANCE
  origins, directions = cameras.pixel_rays(
    pose, INTRINSICS[0], cameras.pixel_centres(SIZE, SIZE)
  )
  normal = np.asarray(normal) / np.linalg.norm(normal)
  depth = -(origins @ normal) / (directions @ normal)
  opacity = np.full((1, SIZE, SIZE), opacity, np.float32)
  return surface_noise.surface_of(
    types.SimpleNamespace(frustum=FRUSTUM),
    pose[None],
    INTRINSICS,
    np.asarray(depth, np.float32).reshape(1, SIZE, SIZE) * opacity,
    opacity,
  )


def test_it_moves_with_the_surface():
  """A camera that moves by three pixels of a plane sees its noise move by
  three; noise on the screen would stand still."""
  pixel = DISTANCE / FOCAL
  first = surface_noise.normal(KEYS, look_at_plane())[0]
  second = surface_noise.normal(KEYS, look_at_plane((3 * pixel, 0.0)))[0]
  # The two columns at the edge lack a neighbour.
  np.testing.assert_allclose(second[2:-2, 2:-5], first[2:-2, 5:-2], atol=2e-2)
  assert np.abs(second - first)[2:-2, 2:-2].mean() > 0.5


@pytest.mark.parametrize(
  "normal", [(0.0, 0.0, 1.0), (0.3, 0.2, 1.0), (0.7, -0.4, 1.0)]
)
def test_it_is_nearly_white(normal):
  """As the denoiser knows noise: mean 0, variance 1, no neighbours alike."""
  surface = look_at_plane((0.013, 0.031), normal)
  keys = jax.random.split(jax.random.key(1), 20)
  noise = np.concatenate(
    [surface_noise.normal(keys[i : i + 1], surface) for i in range(20)]
  )[:, 2:-2, 2:-2]
  variance = noise.var()
  assert abs(noise.mean()) < 0.02
  assert 0.9 < variance < 1.1
  for beside in (
    noise[:, 1:] * noise[:, :-1],
    noise[:, :, 1:] * noise[:, :, :-1],
    noise[:, 1:, 1:] * noise[:, :-1, :-1],
    noise[..., 1:] * noise[..., :-1],
  ):
    assert abs(beside.mean()) < 0.12


def test_it_stands_still_beside_surfaces():
  noise = surface_noise.normal(KEYS, look_at_plane(opacity=0.1))
  np.testing.assert_array_equal(noise, samplers.normal_like(KEYS, noise))


def test_another_key_is_another_noise():
  surface = look_at_plane()
  other = jax.random.split(jax.random.key(1), 1)
  first, second = (surface_noise.normal(k, surface) for k in (KEYS, other))
  assert abs(np.mean(first * second)) < 0.05
