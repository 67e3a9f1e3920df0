"""Rays, projections and poses, in closed form and against the ray caster."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genvs_jax.geometry import camera_paths
from genvs_jax.geometry import cameras
from genvs_jax.geometry import unit_cube
from tfds_srn import camera_poses
from tfds_srn.synthetic_cars import car_scenes
from tfds_srn.synthetic_cars import cars
from tfds_srn.synthetic_cars import ray_caster

SIZE = 64
INTRINSICS = np.array([65.625, 65.625, 32, 32], np.float32)


def random_poses(count: int) -> np.ndarray:
  return car_scenes.train_poses(3, "train", 0, count)


def test_rays_project_back_to_their_pixels():
  poses = random_poses(5)
  pixels = cameras.pixel_centres(SIZE, SIZE)
  intrinsics = jnp.tile(INTRINSICS * [1, 1.1, 0.9, 1.05], (5, 1))
  origins, directions = cameras.pixel_rays(poses, intrinsics, pixels)
  np.testing.assert_allclose(jnp.linalg.norm(directions, axis=-1), 1, atol=1e-6)
  again, depth = cameras.project(origins + 1.7 * directions, poses, intrinsics)
  np.testing.assert_allclose(
    again, jnp.broadcast_to(pixels, again.shape), atol=1e-3
  )
  assert (depth > 0).all()


def test_first_pixel_is_half_a_pixel_inside_the_corner():
  np.testing.assert_allclose(
    cameras.pixel_centres(3, 2)[:3], [[0.5, 0.5], [1.5, 0.5], [0.5, 1.5]]
  )


def test_central_ray_of_a_camera_that_looks_at_the_origin():
  pose = camera_paths.look_at(jnp.array([1.0, -0.5, 0.7]), jnp.zeros(3))
  _, directions = cameras.pixel_rays(
    pose, INTRINSICS, jnp.array([[32.0, 32.0]])
  )
  expected = -pose[:3, 3] / jnp.linalg.norm(pose[:3, 3])
  np.testing.assert_allclose(directions[0], expected, atol=1e-6)
  # The image's down is the world's down as far as the view allows.
  assert pose[2, 1] < 0
  np.testing.assert_allclose(
    pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-6
  )
  np.testing.assert_allclose(jnp.linalg.det(pose[:3, :3]), 1, atol=1e-6)


def test_srn_spiral_agrees_with_the_synthetic_module():
  ours, theirs = camera_paths.srn_spiral(), camera_poses.spiral_poses()
  np.testing.assert_allclose(ours, theirs, atol=3e-6)
  np.testing.assert_allclose(
    ours[250, :3, :2], [[-1, 0], [0, 1], [0, 0]], atol=1e-6
  )


def test_view_angle():
  a = camera_paths.look_at(jnp.array([1.3, 0, 0]), jnp.zeros(3))
  b = camera_paths.look_at(jnp.array([0, 0, 2.0]), jnp.zeros(3))
  np.testing.assert_allclose(
    camera_paths.view_angle(a, b), np.pi / 2, rtol=1e-6
  )


def test_rays_agree_with_the_independent_ray_caster():
  """Depth from one module along rays of the other lands on the same car."""
  car = cars.sample_car(0, "train", 4)
  a, b = random_poses(2)
  _, depth_a = ray_caster.render_view(car, a, SIZE, 1)
  _, depth_b = ray_caster.render_view(car, b, SIZE, 1)
  origins, directions = cameras.pixel_rays(
    a, INTRINSICS, cameras.pixel_centres(SIZE, SIZE)
  )
  hit = depth_a.ravel() > 0
  distance = depth_a.ravel() / (directions @ a[:3, 2])
  points = (origins + distance[:, None] * directions)[hit]
  # Every point lies inside the car's box ...
  extent = np.array(car.half_extent)
  assert (np.abs(points) <= extent + 1e-3).all()
  # ... and none is in front of what the other camera sees.
  pixels, depth = cameras.project(points, b, INTRINSICS)
  column, row = np.floor(np.asarray(pixels)).astype(int).T
  seen = depth_b[row, column]
  visible = seen > 0
  gap = np.asarray(depth)[visible] - seen[visible]
  assert visible.mean() > 0.9
  assert (gap > -0.03).mean() > 0.97  # a pixel is 0.02 wide
  assert (np.abs(gap) < 0.03).sum() > 20  # both cameras see some of it


def test_ray_caster_hits_along_our_rays():
  """The caster's own intersection, given our rays, returns its own depth."""
  car, pose = cars.sample_car(0, "train", 1), random_poses(1)[0]
  _, depth = ray_caster.render_view(car, pose, SIZE, 1)
  origins, directions = cameras.pixel_rays(
    pose, INTRINSICS, cameras.pixel_centres(SIZE, SIZE)
  )
  distance, _ = ray_caster.trace(
    car, np.asarray(origins[0]), np.asarray(directions)
  )
  forward = np.asarray(directions) @ pose[:3, 2]
  hit = depth.ravel() > 0
  assert (np.isfinite(distance) == hit).mean() > 0.999
  both = hit & np.isfinite(distance)
  error = np.abs(distance[both] * forward[both] - depth.ravel()[both])
  assert np.quantile(error, 0.99) < 1e-4


def test_spread_targets_keep_their_distance():
  poses = random_poses(40)
  chosen = camera_paths.spread_targets(poses, [2, 7], 8, 30.0)
  assert len(set(chosen.tolist())) == 8
  for source in (2, 7):
    angles = jax.vmap(camera_paths.view_angle, (None, 0))(
      poses[source], poses[chosen]
    )
    assert (np.degrees(angles) >= 30).all()
  with pytest.raises(ValueError, match=r"expected evaluate\.spread_views = 41"):
    camera_paths.spread_targets(poses, [2], 41, 30.0)
  with pytest.raises(ValueError, match="39 views are 0 degrees or more"):
    camera_paths.spread_targets(poses, [2], 40, 0.0)  # an input is no target


def test_relative_poses_keep_what_cameras_see_of_each_other():
  positions = jnp.array([[1.0, 0.4, 0.3], [-0.6, 1.0, 0.2], [0.1, -1.1, 0.9]])
  poses = camera_paths.look_at(positions, jnp.zeros(3))
  moved = unit_cube.relative_to_first(poses)
  distance = jnp.linalg.norm(positions[0])
  np.testing.assert_allclose(moved[0, :3, 3], [0, 0, distance], atol=1e-6)
  np.testing.assert_allclose(
    moved[0, :3, :3], np.diag([1.0, -1.0, -1.0]), atol=1e-6
  )
  # It looked at the origin, so the origin stays where it is for all of them.
  seen = cameras.world_to_camera(jnp.zeros((3, 1, 3)), moved)
  before = cameras.world_to_camera(jnp.zeros((3, 1, 3)), poses)
  np.testing.assert_allclose(seen, before, atol=1e-6)
