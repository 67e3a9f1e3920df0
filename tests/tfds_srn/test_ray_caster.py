"""The caster of synthetic cars, in closed form."""

import dataclasses

import numpy as np

from tfds_srn.synthetic_cars import markings
from tfds_srn.synthetic_cars import ray_caster

HALF = np.array([0.3, 0.2, 0.1])
EVEN = ray_caster.Light(ambient=1.0, sun=0.0)
RED, BLUE = np.array([0.8, 0.0, 0.0]), np.array([0.0, 0.0, 0.6])


def box(half, colour=None, rounding=0.0):
  faces = [(s * axis, s * axis * half) for axis in np.eye(3) for s in (1, -1)]
  body = ray_caster.convex_body(faces, (0, 0, 0), rounding=rounding)
  if colour is None:
    return body
  return dataclasses.replace(
    body, paint=lambda points, faces: np.tile(colour, (len(points), 1))
  )


def trace_down(solid, points):
  """Colours and parameters of rays straight down through points (x, y)."""
  points = np.float32(points)
  origin = np.float32([0, 0, 2])
  # Directions from one origin, through the points on the plane z = 0.
  directions = np.concatenate([points, np.full((len(points), 1), -2)], -1)
  nearest, colour = ray_caster.trace(solid, origin, np.float32(directions))
  return colour, nearest


def test_an_edge_touches_the_cylinder_inside_it():
  radius = 0.04
  body = box(HALF, rounding=radius)
  assert len(body.normals) == 6 + 12
  for normal, offset in zip(body.normals[6:], body.offsets[6:], strict=True):
    inner = np.abs(normal) @ (HALF - radius * (normal != 0))
    np.testing.assert_allclose(offset, inner + radius, atol=1e-6)
  np.testing.assert_allclose(body.box, [-HALF, HALF], atol=1e-6)


def test_planes_that_touch_nothing_are_left_out():
  # The edge of two opposite slopes lies above the top that cuts it off.
  faces = [((1, 0, 1), (0.3, 0, 0)), ((-1, 0, 1), (-0.3, 0, 0))]
  faces += [((0, s, 0), (0, s * 0.2, 0)) for s in (1, -1)]
  faces += [((0, 0, 1), (0, 0, 0.1)), ((0, 0, -1), (0, 0, -0.1))]
  rounded = ray_caster.convex_body(faces, (0, 0, 0), rounding=0.01)
  assert not (np.abs(rounded.normals[6:] - [0, 0, 1]).max(-1) < 1e-6).any()
  assert len(rounded.normals) > 6


def test_shading_turns_over_at_an_edge():
  body = box(HALF, rounding=0.02)
  edge = next(
    i
    for i, n in enumerate(body.normals)
    if np.allclose(n, np.sqrt([0.5, 0, 0.5]))
  )
  point = (HALF - 0.02) * [1, 0, 1] + 0.02 * body.normals[edge]
  middle, far = ray_caster._smooth_normals(
    body, np.array([point, [0.1, 0, HALF[2]]]), np.array([edge, 4])
  )
  np.testing.assert_allclose(middle, body.normals[edge], atol=1e-6)
  np.testing.assert_allclose(far, [0, 0, 1], atol=1e-6)


def test_light_by_its_three_parts():
  light = ray_caster.Light(0.3, 0.4, 0.2, (0.6, 0.0, 0.8))
  up, down, side = light.on(np.eye(3)[[2, 2, 0]] * [[1], [-1], [1]])[:, 0]
  np.testing.assert_allclose(up, 0.3 + 0.4 + 0.16, rtol=1e-6)
  np.testing.assert_allclose(down, 0.3, rtol=1e-6)
  np.testing.assert_allclose(side, 0.3 + 0.2 + 0.12, rtol=1e-6)


def test_glass_shows_what_is_inside_and_what_is_beyond():
  glass = dataclasses.replace(
    box(HALF, BLUE), opacity=lambda points, faces: np.full(len(points), 0.25)
  )
  inner = box(0.3 * HALF, RED)
  below = dataclasses.replace(
    inner,
    normals=inner.normals,
    offsets=inner.offsets - 0.5 * inner.normals[:, 2],
  )
  below = dataclasses.replace(below, box=None)
  alone = ray_caster.Solid("glass", (glass,), (), (1, 1, 1), EVEN)
  full = dataclasses.replace(alone, bodies=(glass, inner))
  beyond = dataclasses.replace(alone, bodies=(below, glass))

  colour, nearest = trace_down(full, [(0, 0), (0.2, 0.1), (0.9, 0)])
  np.testing.assert_allclose(colour[0], 0.25 * BLUE + 0.75 * RED, atol=1e-6)
  through = 0.25 * BLUE + 0.75 * (0.25 * BLUE + 0.75)
  np.testing.assert_allclose(colour[1], through, atol=1e-6)
  np.testing.assert_array_equal(colour[2], 1)
  # The glass is the surface.
  np.testing.assert_allclose(nearest[:2], 1.9 / 2, rtol=1e-6)
  assert np.isinf(nearest[2])
  colour, _ = trace_down(beyond, [(0, 0)])
  through = 0.25 * BLUE + 0.75 * (0.25 * BLUE + 0.75 * RED)
  np.testing.assert_allclose(colour[0], through, atol=1e-6)


def test_a_frame_is_dark_from_inside():
  """Glass above, paint below: the floor is seen through the roof, unlit."""
  body = box(HALF, BLUE)
  body = dataclasses.replace(
    body, opacity=lambda points, faces: np.where(points[:, 2] > 0, 0.5, 1.0)
  )
  solid = ray_caster.Solid("lid", (body,), (), (1, 1, 1), EVEN)
  colour, _ = trace_down(solid, [(0, 0)])
  expected = 0.5 * BLUE + 0.5 * ray_caster._LINING * BLUE
  np.testing.assert_allclose(colour[0], expected, atol=1e-6)


def test_prints_are_read_from_left_to_right_from_outside():
  left_half = np.array([[True, False]])
  for axis, side, right in (
    # A viewer's right: up is +z at the sides, backwards on the hood.
    (0, 1, (0, 1, 0)),
    (0, -1, (0, -1, 0)),
    (1, 1, (-1, 0, 0)),
    (1, -1, (1, 0, 0)),
    (2, 1, (0, 1, 0)),
  ):
    marking = markings._print(left_half, axis, side, (0, 0), (0.2, 0.1), 0.5)
    outward = side * np.eye(3)[axis]
    points = 0.5 * outward + np.outer([-0.1, 0.1, -0.25], right)
    covered = marking.covers(points, np.tile(outward, (3, 1)))
    np.testing.assert_array_equal(covered, [True, False, False])
    assert not marking.covers(points, np.tile(-outward, (3, 1))).any()
