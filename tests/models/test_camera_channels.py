"""What the denoiser is told of a camera, against closed forms."""

import jax.numpy as jnp
import numpy as np

from genvs_jax.geometry import cameras
from genvs_jax.models import camera_channels
from tfds_srn.synthetic_cars import car_scenes

POSES = car_scenes.train_poses(0, "train", 0, 6).reshape(2, 3, 4, 4)
INTRINSICS = jnp.array([[32.0, 32.0, 8.0, 8.0], [20.0, 20.0, 8.0, 8.0]])


def test_rays_are_those_of_the_pixels():
  """A point of each ray falls onto its pixel, and has the ray's moment."""
  names = ("directions", "pluecker")
  told, directions, moments = camera_channels.of_camera(
    names, POSES, INTRINSICS, 16
  )
  np.testing.assert_array_equal(told, directions)
  np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1, atol=1e-6)
  points = POSES[:, :, None, None, :3, 3] + 2.5 * np.asarray(directions)
  pixels, _ = cameras.project(
    jnp.asarray(points.reshape(2, 3, -1, 3)), POSES, INTRINSICS[:, None]
  )
  np.testing.assert_allclose(
    pixels[1, 2], cameras.pixel_centres(16, 16), atol=1e-3
  )
  np.testing.assert_allclose(np.cross(points, directions), moments, atol=1e-5)
  assert camera_channels.count(names) == 9


def test_depth_is_counted_from_the_origin():
  """A wall through the origin is at 0, whatever is in front of it."""
  distance = np.linalg.norm(POSES[..., :3, 3], axis=-1)[..., None, None]
  opacity = np.linspace(0, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
  wall, opaque = camera_channels.of_render(
    ("opacity", "depth"), opacity * distance, opacity, POSES
  )
  np.testing.assert_allclose(wall, 0, atol=1e-6)
  np.testing.assert_array_equal(opaque[..., 0], opacity)
  (nearer,) = camera_channels.of_render(
    ("depth",), opacity * (distance - 0.25), opacity, POSES
  )
  np.testing.assert_allclose(nearer[..., 0], -0.25 * opacity, atol=1e-6)
