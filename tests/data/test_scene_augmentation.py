"""Changed scenes against renders of the changed world, and closed forms."""

import dataclasses

import numpy as np
import pytest

from configs import debug
from genvs_jax.data import scene_augmentation
from genvs_jax.geometry import cameras
from tfds_srn import camera_poses
from tfds_srn import pixel_rays
from tfds_srn.synthetic_cars import cars
from tfds_srn.synthetic_cars import ray_caster

SIZE = 64
FOCAL = pixel_rays.FOCAL_PER_WIDTH * SIZE
NONE = scene_augmentation.Options()


@pytest.fixture(scope="module")
def views():
  car = cars.sample_car(0, "train", 4)
  rng = np.random.default_rng(0)
  poses = camera_poses.random_poses(rng, 3)
  images = [ray_caster.render_view(car, pose, SIZE)[0] for pose in poses]
  return {
    "images": (np.stack(images) * 255 + 0.5).astype(np.uint8),
    "poses": poses,
    "intrinsics": np.tile(np.float32([FOCAL, FOCAL, 32, 32]), (3, 1)),
  }


def pixels_of(views, points):
  """Where world points [P,3] are seen: [N,P,2]."""
  return np.stack(
    [
      np.asarray(cameras.project(points, pose, intrinsics)[0])
      for pose, intrinsics in zip(
        views["poses"], views["intrinsics"], strict=True
      )
    ]
  )


POINTS = np.float32([[0.2, 0.1, 0.05], [-0.3, 0.2, 0.1], [0, -0.1, -0.1]])


def test_the_mirrored_scene_is_seen_by_mirrored_cameras(views):
  views = {
    **views,
    "intrinsics": views["intrinsics"] + np.float32([0, 0, 3, 0]),
  }
  mirrored = scene_augmentation.mirror(views)
  here = pixels_of(views, POINTS)
  there = pixels_of(mirrored, POINTS * np.float32([1, -1, 1]))
  np.testing.assert_allclose(there[..., 0], SIZE - here[..., 0], atol=1e-3)
  np.testing.assert_allclose(there[..., 1], here[..., 1], atol=1e-3)
  np.testing.assert_array_equal(mirrored["images"], views["images"][:, :, ::-1])
  # Rotations stay rotations, and twice is nothing.
  assert np.linalg.det(mirrored["poses"][:, :3, :3]) == pytest.approx(1)
  twice = scene_augmentation.mirror(mirrored)
  for key in views:
    np.testing.assert_allclose(twice[key], views[key], atol=1e-6)


def test_a_symmetric_body_mirrored_is_itself(views):
  """A picture of the mirrored world, rendered anew."""
  body = ray_caster.ConvexBody(
    np.concatenate([np.eye(3), -np.eye(3)]),
    np.array([0.3, 0.2, 0.1, 0.3, 0.2, 0.1]),
    # Another colour at the front and above; the same left and right.
    lambda points, faces: np.float32([0.2, 0.5, 0.8, 0.9, 0.5, 0.4])[
      faces, None
    ].repeat(3, 1),
  )
  # A light as symmetric as the box.
  light = ray_caster.Light(towards=(0.36, 0.0, 0.93))
  solid = ray_caster.Solid("box", (body,), (), (0.31, 0.21, 0.11), light)
  images = [
    ray_caster.render_view(solid, pose, SIZE)[0] for pose in views["poses"]
  ]
  box = {**views, "images": (np.stack(images) * 255 + 0.5).astype(np.uint8)}
  mirrored = scene_augmentation.mirror(box)
  again = [
    ray_caster.render_view(solid, pose, SIZE)[0] for pose in mirrored["poses"]
  ]
  error = np.abs(mirrored["images"] / 255 - np.stack(again))
  assert error.mean() < 1e-3


def test_a_quarter_turn_is_exact_and_any_turn_follows_the_points(views):
  quarter = scene_augmentation.turn_and_zoom(
    views, np.full(3, 90.0), np.ones(3)
  )
  error = quarter["images"].astype(int) - np.rot90(views["images"], axes=(1, 2))
  assert np.abs(error).max() <= 1  # a rounding
  angles = np.array([20.0, -35.0, 110.0])
  factors = np.array([1.0, 1.2, 0.9])
  turned = scene_augmentation.turn_and_zoom(views, angles, factors)
  here, there = pixels_of(views, POINTS), pixels_of(turned, POINTS)
  for i, (angle, factor) in enumerate(
    zip(np.radians(angles), factors, strict=True)
  ):
    offset = (here[i] - 32) * factor
    cosine, sine = np.cos(angle), np.sin(angle)
    expected = offset @ np.array([[cosine, -sine], [sine, cosine]])
    np.testing.assert_allclose(there[i] - 32, expected, atol=1e-2)
  np.testing.assert_allclose(
    turned["intrinsics"][:, 0], FOCAL * factors, rtol=1e-5
  )


def test_a_turned_camera_sees_what_is_rendered_there(views):
  car = cars.sample_car(0, "train", 4)
  turned = scene_augmentation.turn_and_zoom(
    views, np.array([25.0, -60.0, 10.0]), np.ones(3)
  )
  for image, before, pose in zip(
    turned["images"], views["images"], turned["poses"], strict=True
  ):
    again = ray_caster.render_view(car, pose, SIZE)[0]
    error = np.abs(image / 255 - again).mean()
    assert error < 0.012 < np.abs(before / 255 - again).mean()


def test_a_scene_of_another_size_has_the_same_pictures(views):
  larger = scene_augmentation.resize_scene(views, 1.5)
  np.testing.assert_allclose(
    pixels_of(larger, POINTS * 1.5), pixels_of(views, POINTS), atol=1e-2
  )
  assert larger["images"] is views["images"]
  # Near and far grow with it.
  bounds = np.tile(np.float32([0.8, 1.8]), (3, 1))
  with_bounds = np.concatenate([views["intrinsics"], bounds], 1)
  larger = scene_augmentation.resize_scene(
    {**views, "intrinsics": with_bounds}, 1.5
  )
  np.testing.assert_allclose(
    larger["intrinsics"],
    np.concatenate([views["intrinsics"], 1.5 * bounds], 1),
    rtol=1e-6,
  )


def test_colours_turn_around_grey_and_white_stays():
  colours = np.array(
    [[255, 0, 0], [0, 255, 0], [255, 255, 255], [0, 0, 0], [90, 90, 90]],
    np.uint8,
  )
  third = scene_augmentation.recolour(colours, 120, 1.0)
  np.testing.assert_array_equal(
    third, [[0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [90, 90, 90]]
  )
  dark = scene_augmentation.recolour(colours, 0, 2.0)
  assert dark[4].tolist() == [round(255 * (90 / 255) ** 2)] * 3
  assert dark[2].tolist() == [255] * 3
  same = scene_augmentation.recolour(colours, 0, 1.0)
  np.testing.assert_array_equal(same, colours)


@pytest.mark.parametrize(
  "name", [f.name for f in dataclasses.fields(NONE) if f.name != "background"]
)
def test_each_option_alone_acts_and_none_changes_nothing(views, name):
  options = dataclasses.replace(
    NONE, **{name: 0.5 if name != "mirror" else 1.0}
  )
  if name in ("roll", "hue"):
    options = dataclasses.replace(NONE, **{name: 40.0})
  result = scene_augmentation.augment(views, options, np.random.default_rng(1))
  same = scene_augmentation.augment(views, NONE, np.random.default_rng(1))
  changed = {
    key for key in views if not np.array_equal(result[key], views[key])
  }
  assert (
    changed
    == {
      "mirror": {"images", "poses"},
      "roll": {"images", "poses"},
      "focal": {"images", "intrinsics"},
      "scale": {"poses"},
      "hue": {"images"},
      "gamma": {"images"},
    }[name]
  )
  assert all(same[key] is views[key] for key in views)
  assert result["images"].dtype == np.uint8
  assert result["poses"].dtype == result["intrinsics"].dtype == np.float32


def test_values_that_make_no_sense_are_named():
  config = debug.get_config()
  config.augment.roll = 200.0
  with pytest.raises(ValueError, match=r"augment\.roll is 200, .* 0 to 180"):
    scene_augmentation.build_options(config)
