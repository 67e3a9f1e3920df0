"""Scenes seen by cameras unlike those of training, to try augmentation on.

Synthetic test cars whose cameras are rolled by up to 30 degrees and stand
between 1.15 and 1.45 from the origin, where those of training are upright at
1.3. The last rows of `benchmarks.ablations` are scored on them.
"""

import pathlib

import numpy as np

from tfds_srn import camera_poses
from tfds_srn import pixel_rays
from tfds_srn import srn_writer
from tfds_srn.synthetic_cars import cars
from tfds_srn.synthetic_cars import ray_caster

ROLL = 30.0  # degrees, at most, to either side
DISTANCES = (1.15, 1.45)  # world units


def write_scenes(
  folder: pathlib.Path, scenes: int = 12, views: int = 9, size: int = 32
) -> None:
  """Writes those test scenes of seed 0 that are not there, in SRN layout.

  Args:
    folder: that receives `test/held_out_00` and so on.
    scenes: how many.
    views: of each; the first is given.
    size: width and height in pixels.
  """
  for index in range(scenes):
    car = cars.sample_car(0, "test", index)
    poses = draw_poses(np.random.default_rng([0, index]), views)
    target = folder / "test" / f"held_out_{index:02d}"
    if target.exists():
      continue
    target.parent.mkdir(parents=True, exist_ok=True)
    srn_writer.write_scene(
      target,
      (ray_caster.render_view(car, pose, size) for pose in poses),
      poses,
      size=size,
      focal=pixel_rays.FOCAL_PER_WIDTH * size,
    )


def draw_poses(rng: np.random.Generator, views: int) -> np.ndarray:
  """Camera-to-world poses f32 [views,4,4] that look at the origin, rolled."""
  poses = camera_poses.random_poses(rng, views, distance=1.0)
  poses[:, :3, 3] *= rng.uniform(*DISTANCES, (views, 1))
  angle = np.deg2rad(rng.uniform(-ROLL, ROLL, views))
  roll = np.zeros((views, 3, 3))
  roll[:, 0, 0] = roll[:, 1, 1] = np.cos(angle)
  roll[:, 1, 0] = np.sin(angle)
  roll[:, 0, 1] = -roll[:, 1, 0]
  roll[:, 2, 2] = 1
  poses[:, :3, :3] = poses[:, :3, :3] @ roll
  return poses
