"""Seconds on one core to draw a view of a synthetic car, and a sheet of them.

  python -m benchmarks.car_views --sheet=docs/synthetic_cars.png

Processor time of views all over the sphere, as median and largest over the
cars, planning included. The sheet has three views of each of 24 cars.
"""

import pathlib
import statistics
import time

import numpy as np
from absl import app
from absl import flags

from genvs_jax.images import encoding
from tfds_srn import camera_poses
from tfds_srn.synthetic_cars import car_scenes
from tfds_srn.synthetic_cars import cars
from tfds_srn.synthetic_cars import ray_caster

_SIZE = flags.DEFINE_integer("size", 128, "Pixels a side.")
_CARS = flags.DEFINE_integer("cars", 40, "That are timed.")
_SHEET = flags.DEFINE_string("sheet", None, "PNG to write.")
_VIEWS = 5
# A view of the sheet: its size, and what is cut off around the car.
_SHEET_SIZE, _MARGINS = 200, (58, 38, 17, 17)
_DIRECTIONS = ((1.0, 0.75, 0.5), (-1.0, 0.7, 0.55), (0.25, -1.0, 0.2))


def main(argv):
  del argv
  seconds = []
  for index in range(_CARS.value):
    poses = car_scenes.train_poses(0, "train", index, _VIEWS)
    begin = time.process_time()
    car = cars.sample_car(0, "train", index)
    for pose in poses:
      ray_caster.render_view(car, pose, _SIZE.value)
    seconds.append((time.process_time() - begin) / _VIEWS)
  print(
    f"{_CARS.value} cars at {_SIZE.value} pixels, seconds a view: median"
    f" {statistics.median(seconds):.3f}, largest {max(seconds):.3f}"
  )
  if _SHEET.value:
    rows = [[_views(8 * row + i) for i in range(8)] for row in range(3)]
    sheet = np.concatenate([np.concatenate(row, 1) for row in rows], 0)
    sheet = (sheet * 255 + 0.5).astype(np.uint8)
    pathlib.Path(_SHEET.value).write_bytes(encoding.png(sheet))


def _views(index: int) -> np.ndarray:
  """Three views of a car, one above the other, [3h,w,3]."""
  car = cars.sample_car(1, "train", index)
  views = []
  for direction in _DIRECTIONS:
    position = (
      camera_poses.DISTANCE * np.array(direction) / np.linalg.norm(direction)
    )
    pose = camera_poses.look_at_origin(position)
    image, _ = ray_caster.render_view(car, pose, _SHEET_SIZE)
    above, below, left, right = _MARGINS
    views.append(image[above:-below, left:-right])
  return np.concatenate(views, 0)


if __name__ == "__main__":
  app.run(main)
