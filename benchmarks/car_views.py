"""Seconds on one core to draw a view of a synthetic car, and how it looks.

  python -m benchmarks.car_views --sheet=docs/synthetic_cars.png
  python -m benchmarks.car_views --size=64 --scenes=FOLDER

Processor time of views all over the sphere, as median and largest over the
cars, planning included. The sheet has three views of each of 24 cars.

Contrast is the mean PSNR of cars that are painted in the mean of their own
pixels, over these pixels: of the generated cars, and of the test scenes of a
folder in SRN's layout. It is what a model gets that knows outlines and colours.
"""

import io
import pathlib
import statistics
import time

import numpy as np
from absl import app
from absl import flags
from PIL import Image

from genvs_jax.images import encoding
from tfds_srn import camera_poses
from tfds_srn import scenes
from tfds_srn import splits
from tfds_srn.synthetic_cars import car_scenes
from tfds_srn.synthetic_cars import cars
from tfds_srn.synthetic_cars import ray_caster

_SIZE = flags.DEFINE_integer("size", 128, "Pixels a side.")
_CARS = flags.DEFINE_integer("cars", 40, "That are timed.")
_SHEET = flags.DEFINE_string("sheet", None, "PNG to write.")
_SCENES = flags.DEFINE_string("scenes", None, "Folder, for its contrast.")
_VIEWS = 5
_SPIRAL_VIEWS = slice(None, None, 23)  # of test scenes, for their contrast
_WHITE = 250  # pixels darker than this are the object's
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
  contrast = [flat_psnr(_spiral_views(index)) for index in range(_CARS.value)]
  print(f"contrast of them: {np.mean(contrast):.2f} dB")
  if _SCENES.value:
    folders = splits.find_scenes(_SCENES.value)["test"]
    contrast = [
      flat_psnr(_pictures(scenes.read_scene(folder))) for folder in folders
    ]
    print(f"contrast of {len(folders)} scenes: {np.mean(contrast):.2f} dB")
  if _SHEET.value:
    rows = [[_views(8 * row + i) for i in range(8)] for row in range(3)]
    sheet = np.concatenate([np.concatenate(row, 1) for row in rows], 0)
    sheet = (sheet * 255 + 0.5).astype(np.uint8)
    pathlib.Path(_SHEET.value).write_bytes(encoding.png(sheet))


def flat_psnr(images: np.ndarray) -> float:
  """PSNR in dB of the mean colour of an object's pixels, over these pixels.

  Args:
    images: u8 [n,H,W,3] on white.
  """
  pixels = images[(images < _WHITE).any(-1)] / 255
  return float(-10 * np.log10(np.mean((pixels - pixels.mean(0)) ** 2)))


def _spiral_views(index: int) -> np.ndarray:
  """Views u8 [n,H,W,3] of a test car."""
  car = cars.sample_car(1, "test", index)
  views = [
    ray_caster.render_view(car, pose, _SIZE.value)[0]
    for pose in camera_poses.spiral_poses()[_SPIRAL_VIEWS]
  ]
  return (np.stack(views) * 255 + 0.5).astype(np.uint8)


def _pictures(scene: scenes.Scene) -> np.ndarray:
  """Pictures u8 [n,H,W,3] of some views."""
  return np.stack(
    [
      np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
      for data in scene.images[_SPIRAL_VIEWS]
    ]
  )


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
