"""The two frusta: coordinates and ray bounds in closed form."""

import jax.numpy as jnp
import numpy as np

from genvs_jax.geometry import camera_paths
from genvs_jax.geometry import cameras
from genvs_jax.geometry import unit_cube

POSE = camera_paths.look_at(jnp.array([0.9, 0.5, 0.8]), jnp.zeros(3))
INTRINSICS = jnp.array([131.25, 131.25, 64.0, 64.0])


def test_near_far_maps_image_corners_and_planes_to_plus_minus_one():
  kind = cameras.NearFar(0.8, 1.8, (128, 128))
  origins, directions = cameras.pixel_rays(
    POSE, INTRINSICS, jnp.array([[0.0, 0.0], [128.0, 128.0], [64.0, 64.0]])
  )
  forward = directions @ POSE[:3, 2]
  for depth, w in ((0.8, -1), (1.3, 0), (1.8, 1)):
    points = origins + (depth / forward)[:, None] * directions
    uvw, _ = kind.coordinates(points, POSE, INTRINSICS)
    np.testing.assert_allclose(
      uvw, [[-1, -1, w], [1, 1, w], [0, 0, w]], atol=2e-6
    )


def test_near_far_covers_only_its_inside():
  kind = cameras.NearFar(0.8, 1.8, (128, 128))
  pixels = jnp.array([[64.0, 64.0]] * 4 + [[-1.0, 64.0], [64.0, 129.0]])
  origins, directions = cameras.pixel_rays(POSE, INTRINSICS, pixels)
  distances = jnp.array([0.7, 1.0, 1.9, -1.0, 1.2, 1.2])
  points = origins + distances[:, None] * directions
  _, inside = kind.coordinates(points, POSE, INTRINSICS)
  assert inside.tolist() == [False, True, False, False, False, False]


def test_unit_cube_has_its_far_plane_first_and_its_bottom_row_first():
  kind = unit_cube.UnitCube()
  distance = float(jnp.linalg.norm(POSE[:3, 3]))
  right, down, forward = POSE[:3, 0], POSE[:3, 1], POSE[:3, 2]
  centre = POSE[:3, 3] + distance * forward
  slope = 131.25 / 64
  step = 0.3
  points = jnp.stack(
    [
      centre,
      centre + 0.5 * forward,
      centre - 0.5 * forward,
      centre + step * right,
      centre + step * down,
    ]
  )
  uvw, covered = kind.coordinates(points, POSE, INTRINSICS)
  moved = slope * step / distance
  np.testing.assert_allclose(
    uvw,
    [[0, 0, 0], [0, 0, -0.5], [0, 0, 0.5], [moved, 0, 0], [0, -moved, 0]],
    atol=1e-6,
  )
  assert covered.all()


def test_unit_cube_bounds_enter_and_leave_the_cube():
  kind = unit_cube.UnitCube()
  origins = jnp.array([[3.0, 0.2, 0.1], [3.0, 0.2, 0.1], [0.0, 0.0, 1.2]])
  directions = jnp.array([[-1.0, 0, 0], [1.0, 0, 0], [0, 0, -1.0]])
  near, far = kind.ray_bounds(origins, directions, INTRINSICS)
  np.testing.assert_allclose(near, [2, 0.5, 0.5], rtol=1e-6)
  np.testing.assert_allclose(far, [4, 0.5, 2.2], rtol=1e-6)  # a miss: equal
