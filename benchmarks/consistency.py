"""What the consistency scores give on frames that are true, moved or shuffled.

  python -m benchmarks.consistency

The frames are a synthetic car's, an orbit of 120, with the ray caster's own
depth: 128x128 for reprojection, 64x64 for the field fit.
"""

import numpy as np
from absl import app
from absl import flags

from genvs_jax.evaluation import consistency
from genvs_jax.geometry import camera_paths
from tfds_srn import pixel_rays
from tfds_srn.synthetic_cars import cars
from tfds_srn.synthetic_cars import ray_caster

_SCORES = flags.DEFINE_list("scores", ["reprojection", "fit"], "Which to run.")
JITTERS = (0, 1, 2, 4)  # pixels


def main(argv):
  del argv
  for name in _SCORES.value:
    score, size = {
      "reprojection": (consistency.reprojection, 128),
      "fit": (consistency.field_fit, 64),
    }[name]
    frames = true_frames(size, 120)
    for label, changed in versions(frames).items():
      result = score(changed)
      text = "not scored" if result.psnr is None else f"{result.psnr:.2f} dB"
      print(
        f"{name}, {label}: {text}, coverage {result.coverage:.3f}", flush=True
      )


def versions(frames: consistency.Frames) -> dict[str, consistency.Frames]:
  """The frames as they are, moved, and in another order."""
  moved = {f"moved by {n} pixels": jittered(frames, n) for n in JITTERS}
  return {**moved, "shuffled": shuffled(frames)}


def true_frames(size: int, count: int) -> consistency.Frames:
  """Frames of an orbit with the ray caster's depth."""
  solid = cars.sample_car(0, "train", 3)
  poses = np.asarray(camera_paths.orbit(count, 25.0, 1.3))
  drawn = [ray_caster.render_view(solid, pose, size) for pose in poses]
  axial = np.stack([depth for _, depth in drawn])
  focal = pixel_rays.FOCAL_PER_WIDTH * size
  y, x = np.mgrid[:size, :size] + 0.5 - size / 2
  along_ray = axial * np.sqrt((x**2 + y**2) / focal**2 + 1)
  return consistency.Frames(
    images=np.stack([image for image, _ in drawn]),
    depth=along_ray.astype(np.float32),
    opacity=(axial > 0).astype(np.float32),
    poses=poses,
    intrinsics=np.array([focal, focal, size / 2, size / 2], np.float32),
  )


def jittered(frames: consistency.Frames, pixels: int) -> consistency.Frames:
  """Each picture moved by so many pixels in a direction of its own."""
  rng = np.random.default_rng(0)
  moved = []
  for image in frames.images:
    angle = rng.uniform(0, 2 * np.pi)
    by = np.round(pixels * np.array([np.sin(angle), np.cos(angle)])).astype(int)
    moved.append(np.roll(image, by, (0, 1)))
  return frames._replace(images=np.stack(moved))


def shuffled(frames: consistency.Frames) -> consistency.Frames:
  """The pictures in another order, poses and depth as they were."""
  order = np.random.default_rng(0).permutation(len(frames.images))
  return frames._replace(images=frames.images[order])


if __name__ == "__main__":
  app.run(main)
