"""3D consistency of true, jittered and shuffled frames of a synthetic car."""

import itertools

import numpy as np
import pytest

from genvs_jax import camera_paths
from genvs_jax import consistency
from tfds_srn import cars
from tfds_srn import ray_caster


def true_frames(size: int, count: int, step: int = 1) -> consistency.Frames:
  """Frames of an orbit with the ray caster's depth."""
  solid = cars.sample_car(0, "train", 3)
  poses = np.asarray(camera_paths.orbit(count, 25.0, 1.3))[::step]
  drawn = [ray_caster.render_view(solid, pose, size) for pose in poses]
  axial = np.stack([depth for _, depth in drawn])
  focal = ray_caster.FOCAL_PER_WIDTH * size
  y, x = np.mgrid[:size, :size] + 0.5 - size / 2
  along_ray = axial * np.sqrt((x**2 + y**2) / focal**2 + 1)
  return consistency.Frames(
    images=np.stack([image for image, _ in drawn]),
    depth=along_ray.astype(np.float32),
    opacity=(axial > 0).astype(np.float32),
    poses=poses,
    intrinsics=np.array([focal, focal, size / 2, size / 2], np.float32),
  )


def jittered(frames, pixels: int):
  """Each picture moved by so many pixels in a direction of its own."""
  rng = np.random.default_rng(0)
  moved = []
  for image in frames.images:
    angle = rng.uniform(0, 2 * np.pi)
    by = np.round(pixels * np.array([np.sin(angle), np.cos(angle)])).astype(int)
    moved.append(np.roll(image, by, (0, 1)))
  return frames._replace(images=np.stack(moved))


def shuffled(frames):
  order = np.random.default_rng(0).permutation(len(frames.images))
  return frames._replace(images=frames.images[order])


@pytest.fixture(scope="module")
def frames():
  return true_frames(128, 120)


def test_reprojection_tells_true_frames_from_others(frames):
  scores = [consistency.reprojection(jittered(frames, n)) for n in (0, 1, 2, 4)]
  values = [score.psnr for score in scores]
  assert values[0] >= 30 and scores[0].coverage > 0.9
  assert all(a > b for a, b in itertools.pairwise(values))
  assert consistency.reprojection(shuffled(frames)).psnr <= values[0] - 10


@pytest.mark.slow
def test_a_field_fits_true_frames_better_than_others():
  frames = true_frames(64, 120)
  scores = [consistency.field_fit(jittered(frames, n)) for n in (0, 1, 2, 4)]
  values = [score.psnr for score in scores]
  shuffled_psnr = consistency.field_fit(shuffled(frames)).psnr
  print(f"jittered by 0, 1, 2, 4: {values}, shuffled: {shuffled_psnr}")
  assert values[0] >= 28 and scores[0].coverage > 0.95
  assert all(a > b for a, b in itertools.pairwise(values))
  assert shuffled_psnr <= values[0] - 10


def test_a_field_fit_needs_frames_to_hold_out(frames):
  few = consistency.Frames(*(x[:2] for x in frames[:4]), frames.intrinsics)
  with pytest.raises(ValueError, match="more frames than the 2 found"):
    consistency.field_fit(few)


def test_little_overlap_is_not_scored(frames):
  apart = consistency.Frames(*(x[::30] for x in frames[:4]), frames.intrinsics)
  score = consistency.reprojection(
    apart._replace(depth=apart.depth + 0.3)  # surfaces that do not meet
  )
  assert score.psnr is None and score.coverage < 0.2
  with pytest.raises(ValueError, match="expected 2 or more frames, found 1"):
    consistency.reprojection(
      consistency.Frames(*(x[:1] for x in frames[:4]), frames.intrinsics)
    )
