"""Synthetic cars made when they are asked for, without a dataset."""

import numpy as np

from tfds_srn import camera_poses
from tfds_srn import pixel_rays
from tfds_srn.synthetic_cars import cars
from tfds_srn.synthetic_cars import ray_caster

VIEWS = camera_poses.SPIRAL_VIEWS
_SPLIT = "test"


def input_view(
  seed: int, scene: int, view: int, size: int, has_markings: bool = True
) -> dict[str, np.ndarray]:
  """A view of a test car.

  Args:
    seed: of the whole dataset.
    scene: number of the car, 0 or more.
    view: of SRN's test spiral, 0 to VIEWS - 1.
    size: H = W in pixels.
    has_markings: see `cars.sample_car`.

  Returns:
    images u8 [1,size,size,3], poses f32 [1,4,4], intrinsics f32 [4].
  """
  pose = camera_poses.spiral_poses()[view]
  car = cars.sample_car(seed, _SPLIT, scene, has_markings)
  image, _ = ray_caster.render_view(car, pose, size)
  focal = pixel_rays.FOCAL_PER_WIDTH * size
  return {
    "images": (image[None] * 255 + 0.5).astype(np.uint8),
    "poses": pose[None],
    "intrinsics": np.array([focal, focal, size / 2, size / 2], np.float32),
  }
