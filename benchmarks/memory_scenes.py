"""Synthetic cars in memory: batches without a dataset on disk.

Needs NumPy and Pillow, and gives what `genvs_jax.data` gives: images u8
[B,N,H,W,3], poses f32 [B,N,4,4], intrinsics f32 [B,4] and scene i32 [B].
"""

import concurrent.futures
import functools
import multiprocessing
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tfds_srn import pixel_rays
from tfds_srn.synthetic_cars import car_scenes
from tfds_srn.synthetic_cars import cars
from tfds_srn.synthetic_cars import ray_caster


class Scenes(NamedTuple):
  """Images u8 [n,views,H,W,3] and poses f32 [n,views,4,4]."""

  images: np.ndarray
  poses: np.ndarray


def draw(split: str, count: int, views: int, size: int) -> Scenes:
  """Draws scenes in as many processes as there are cores."""
  draw_one = functools.partial(_draw_one, split, views, size)
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(mp_context=context) as pool:
    drawn = list(pool.map(draw_one, range(count), chunksize=4))
  return Scenes(*(np.stack(arrays) for arrays in zip(*drawn, strict=True)))


def _draw_one(split: str, views: int, size: int, index: int):
  car = cars.sample_car(0, split, index)
  poses = car_scenes.train_poses(0, split, index, views)
  images = [ray_caster.render_view(car, pose, size)[0] for pose in poses]
  return (np.stack(images) * 255 + 0.5).astype(np.uint8), poses


def intrinsics(size: int) -> np.ndarray:
  """Of the synthetic cameras, f32 [4] in pixels."""
  focal = pixel_rays.FOCAL_PER_WIDTH * size
  return np.array([focal, focal, size / 2, size / 2], np.float32)


def batches(
  scenes: Scenes, batch_size: int, views: int, start_step: int
) -> Iterator[dict[str, np.ndarray]]:
  """Batch `start_step` and all that follow; no view comes twice in a scene."""
  count, available, size = scenes.images.shape[:3]
  step = start_step
  while True:
    rng = np.random.default_rng([step])
    scene = rng.choice(count, batch_size, replace=batch_size > count)
    order = rng.random((batch_size, available)).argsort(1)[:, :views]
    yield {
      "images": scenes.images[scene[:, None], order],
      "poses": scenes.poses[scene[:, None], order],
      "intrinsics": np.tile(intrinsics(size), (batch_size, views, 1)),
      "scene": scene.astype(np.int32),
    }
    step += 1
