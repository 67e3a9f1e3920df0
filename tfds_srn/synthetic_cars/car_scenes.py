"""Synthetic scenes in SRN layout: procedural cars, cameras, depth.

ShapeNet may not be redistributed and real SRN scenes have no depth, so the
demo, the tests and every check against true geometry use these scenes. The
package shares no code with `genvs_jax`, so it can check that one's cameras and
rays. World and cameras are as in SRN: +z up, OpenCV camera-to-world matrices
(x right, y down, z forward) at distance 1.3.

    car = cars.sample_car(seed=0, split="train", index=3)
    image, depth = ray_caster.render_view(car, pose, size=128)
"""

import dataclasses
import pathlib

import numpy as np

from tfds_srn import camera_poses
from tfds_srn import pixel_rays
from tfds_srn import progress_of
from tfds_srn import srn_writer
from tfds_srn.synthetic_cars import cars
from tfds_srn.synthetic_cars import ray_caster

# Raised when the same seed gives other cars than before.
GENERATION = 3


def train_poses(seed: int, split: str, index: int, views: int) -> np.ndarray:
  """Camera-to-world poses f32 [views,4,4], uniform over the sphere."""
  rng = np.random.default_rng([seed, cars.SPLITS.index(split), index, 1])
  return camera_poses.random_poses(rng, views)


@dataclasses.dataclass(frozen=True)
class SceneSpec:
  """One scene folder to write; picklable, so that processes can share work."""

  folder: str
  seed: int
  split: str
  index: int
  size: int
  views: int  # 0: the 251-view test spiral
  packaging: str
  markings: bool = True


def scene_id(seed: int, split: str, index: int) -> str:
  """32 hexadecimal digits, like ShapeNet's ids."""
  return f"{seed:015x}{cars.SPLITS.index(split):01x}{index:016x}"


def write_scene(spec: SceneSpec) -> None:
  """Renders one scene into `spec.folder` in SRN layout, replacing it."""
  car = cars.sample_car(spec.seed, spec.split, spec.index, spec.markings)
  if spec.views:
    cameras = train_poses(spec.seed, spec.split, spec.index, spec.views)
  else:
    cameras = camera_poses.spiral_poses()
  srn_writer.write_scene(
    spec.folder,
    (ray_caster.render_view(car, pose, spec.size) for pose in cameras),
    cameras,
    size=spec.size,
    focal=pixel_rays.FOCAL_PER_WIDTH * spec.size,
    packaging=spec.packaging,
  )


def write_scenes(
  root: str | pathlib.Path,
  *,
  counts: dict[str, int],
  size: int = 128,
  views: int = 50,
  spiral_splits: tuple[str, ...] = ("test",),
  seed: int = 0,
  markings: bool = True,
  packaging: str = "pixelnerf",
  processes: int | None = None,
  progress: progress_of.Progress = progress_of.silent,
) -> pathlib.Path:
  """Writes those of `root/cars_{train,val,test}/<id>/...` that are not there.

  Args:
    root: folder to write; `root/synthetic.json` holds these arguments.
    counts: scenes by split, keys among `cars.SPLITS`.
    size: width and height in pixels.
    views: random views per scene in splits outside `spiral_splits`.
    spiral_splits: splits whose scenes have the 251-view test spiral.
    seed: same seed, same bytes.
    markings: see `cars.sample_car`.
    packaging: "pixelnerf" (one intrinsics.txt per scene) or "srn" (one 3x3
      matrix per view, for a 512-pixel render).
    processes: worker processes; None uses every core.
    progress: what scenes pass through as they are written.

  Returns:
    root.

  Raises:
    ValueError: if `root` holds scenes made with other arguments.
  """
  root = pathlib.Path(root)
  if packaging not in srn_writer.PACKAGINGS:
    raise ValueError(
      f"packaging is {packaging!r}, expected one of {srn_writer.PACKAGINGS}"
    )
  arguments = {
    "generation": GENERATION,
    "counts": _counts_of_splits(counts),
    "size": size,
    "views": views,
    "spiral_splits": list(spiral_splits),
    "seed": seed,
    "markings": markings,
    "packaging": packaging,
  }
  srn_writer.claim(root, "synthetic.json", arguments)
  specs = [
    SceneSpec(
      folder=str(root / f"cars_{split}" / scene_id(seed, split, index)),
      seed=seed,
      split=split,
      index=index,
      size=size,
      views=0 if split in spiral_splits else views,
      packaging=packaging,
      markings=markings,
    )
    for split in cars.SPLITS
    for index in range(counts.get(split, 0))
  ]
  missing = [s for s in specs if not pathlib.Path(s.folder).exists()]
  srn_writer.run_in_processes(
    write_scene, missing, "writing synthetic scenes", processes, progress
  )
  return root


def _counts_of_splits(counts: dict[str, int]) -> dict[str, int]:
  unknown = set(counts) - set(cars.SPLITS)
  if unknown:
    raise ValueError(
      f"counts has {', '.join(sorted(unknown))}, expected some of"
      f" {', '.join(cars.SPLITS)}"
    )
  return {split: counts.get(split, 0) for split in cars.SPLITS}
