"""Paths of cameras, against closed forms."""

import numpy as np

from genvs_jax.geometry import camera_paths


def test_an_orbit_begins_at_its_azimuth_and_faces_the_origin():
  poses = np.asarray(camera_paths.orbit(4, 30.0, 2.0, azimuth=90.0))
  up, out = 2 * np.sin(np.radians(30)), 2 * np.cos(np.radians(30))
  expected = [[0, out, up], [-out, 0, up], [0, -out, up], [out, 0, up]]
  np.testing.assert_allclose(poses[:, :3, 3], expected, atol=1e-6)
  np.testing.assert_allclose(poses[:, :3, 2], -poses[:, :3, 3] / 2, atol=1e-6)
