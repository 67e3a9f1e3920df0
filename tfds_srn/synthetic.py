"""Synthetic scenes in SRN layout: procedural cars, cameras, depth.

ShapeNet may not be redistributed and real SRN scenes have no depth, so the
demo, the tests and every check against true geometry use these scenes. The
package shares no code with `genvs_jax`, so it can check that one's cameras and
rays. World and cameras are as in SRN: +z up, OpenCV camera-to-world matrices
(x right, y down, z forward) at distance 1.3.

    car = cars.sample_car(seed=0, split="train", index=3)
    image, depth = ray_caster.render_view(car, pose, size=128)
"""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import pathlib
import shutil

import numpy as np
from PIL import Image

from tfds_srn import cars
from tfds_srn import progress_of
from tfds_srn import ray_caster

CAMERA_DISTANCE = 1.3  # world units, as in SRN cars
SPIRAL_VIEWS = 251
DEPTH_UNITS = 10_000  # depth PNGs hold round(depth * DEPTH_UNITS), 0 = empty
PACKAGINGS = ("pixelnerf", "srn")


def train_poses(seed: int, split: str, index: int, views: int) -> np.ndarray:
  """Camera-to-world poses f32 [views,4,4], uniform over the sphere."""
  rng = np.random.default_rng([seed, cars.SPLITS.index(split), index, 1])
  height = rng.uniform(-1, 1, views)
  azimuth = rng.uniform(0, 2 * np.pi, views)
  ring = np.sqrt(1 - height**2)
  positions = np.stack(
    [ring * np.cos(azimuth), ring * np.sin(azimuth), height], -1
  )
  return np.stack([look_at_origin(CAMERA_DISTANCE * p) for p in positions])


def spiral_poses() -> np.ndarray:
  """The 251 poses f32 [251,4,4] of every SRN test scene, in closed form."""
  i = np.arange(SPIRAL_VIEWS)
  azimuth = 0.08 * (SPIRAL_VIEWS - 1 - i)
  elevation = (np.pi / 2) * i / (SPIRAL_VIEWS - 1)
  positions = CAMERA_DISTANCE * np.stack(
    [
      np.cos(elevation) * np.cos(azimuth),
      np.cos(elevation) * np.sin(azimuth),
      np.sin(elevation),
    ],
    -1,
  )
  return np.stack([look_at_origin(p) for p in positions])


def look_at_origin(position: np.ndarray) -> np.ndarray:
  """OpenCV camera-to-world f32 [4,4] at `position` [3], up +z.

  At the poles, where up is undefined, right is (-1,0,0) as in SRN's files.
  """
  position = np.asarray(position, np.float64)
  forward = -position / np.linalg.norm(position)
  right = np.cross(forward, [0.0, 0.0, 1.0])
  norm = np.linalg.norm(right)
  right = right / norm if norm > 1e-9 else np.array([-1.0, 0.0, 0.0])
  pose = np.eye(4)
  pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], -1)
  pose[:3, 3] = position
  return pose.astype(np.float32)


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
  depth: bool = True


def scene_id(seed: int, split: str, index: int) -> str:
  """32 hexadecimal digits, like ShapeNet's ids."""
  return f"{seed:015x}{cars.SPLITS.index(split):01x}{index:016x}"


def write_scene(spec: SceneSpec) -> None:
  """Renders one scene into `spec.folder` in SRN layout, replacing it."""
  folder = pathlib.Path(spec.folder)
  shutil.rmtree(folder, ignore_errors=True)
  for name in ("rgb", "pose") + (("depth",) if spec.depth else ()):
    (folder / name).mkdir(parents=True)
  car = cars.sample_car(spec.seed, spec.split, spec.index)
  if spec.views:
    poses = train_poses(spec.seed, spec.split, spec.index, spec.views)
  else:
    poses = spiral_poses()
  for i, pose in enumerate(poses):
    image, depth = ray_caster.render_view(car, pose, spec.size)
    Image.fromarray((image * 255 + 0.5).astype(np.uint8)).save(
      folder / "rgb" / f"{i:06d}.png"
    )
    (folder / "pose" / f"{i:06d}.txt").write_text(
      " ".join(repr(float(v)) for v in pose.ravel()) + "\n"
    )
    if spec.depth:
      Image.fromarray((depth * DEPTH_UNITS + 0.5).astype(np.uint16)).save(
        folder / "depth" / f"{i:06d}.png"
      )
  _write_intrinsics(folder, spec.size, len(poses), spec.packaging)


def write_scenes(
  root: str | pathlib.Path,
  *,
  counts: dict[str, int],
  size: int = 128,
  views: int = 50,
  spiral_splits: tuple[str, ...] = ("test",),
  seed: int = 0,
  packaging: str = "pixelnerf",
  processes: int | None = None,
  progress: progress_of.Progress = progress_of.silent,
) -> pathlib.Path:
  """Writes `root/cars_{train,val,test}/<id>/...`, reusing a finished folder.

  Args:
    root: folder to write; `root/synthetic.json` marks a finished one and
      holds these arguments.
    counts: scenes by split, keys among `cars.SPLITS`.
    size: width and height in pixels.
    views: random views per scene in splits outside `spiral_splits`.
    spiral_splits: splits whose scenes have the 251-view test spiral.
    seed: same seed, same bytes.
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
  if packaging not in PACKAGINGS:
    raise ValueError(
      f"packaging is {packaging!r}, expected one of {PACKAGINGS}"
    )
  arguments = {
    "counts": {s: counts.get(s, 0) for s in cars.SPLITS},
    "size": size,
    "views": views,
    "spiral_splits": list(spiral_splits),
    "seed": seed,
    "packaging": packaging,
  }
  marker = root / "synthetic.json"
  if marker.exists():
    earlier = json.loads(marker.read_text())
    if earlier != arguments:
      raise ValueError(
        f"{root} holds synthetic scenes made with {earlier}, expected"
        f" {arguments}: name another folder or remove this one"
      )
    return root
  specs = [
    SceneSpec(
      folder=str(root / f"cars_{split}" / scene_id(seed, split, index)),
      seed=seed,
      split=split,
      index=index,
      size=size,
      views=0 if split in spiral_splits else views,
      packaging=packaging,
    )
    for split in cars.SPLITS
    for index in range(counts.get(split, 0))
  ]
  _write_all(specs, processes, progress)
  root.mkdir(parents=True, exist_ok=True)
  marker.write_text(json.dumps(arguments))
  return root


def _write_all(
  specs: list[SceneSpec],
  processes: int | None,
  progress: progress_of.Progress,
) -> None:
  what = "writing synthetic scenes"
  if processes == 1:
    for spec in progress(specs, len(specs), what):
      write_scene(spec)
    return
  # Spawned, not forked: the caller may have threads, as JAX does.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
    done = pool.map(write_scene, specs, chunksize=4)
    for _ in progress(done, len(specs), what):
      pass


def _write_intrinsics(folder: pathlib.Path, size, views, packaging) -> None:
  if packaging == "pixelnerf":
    focal = ray_caster.FOCAL_PER_WIDTH * size
    (folder / "intrinsics.txt").write_text(
      f"{focal:.6f} {size / 2:.6f} {size / 2:.6f} 0.\n"
      f"0. 0. 0.\n1.\n{size} {size}\n"
    )
    return
  focal = ray_caster.FOCAL_PER_WIDTH * 512
  matrix = f"{focal!r} 0.0 256.0 0.0 {focal!r} 256.0 0.0 0.0 1.0\n"
  (folder / "intrinsics").mkdir()
  for i in range(views):
    (folder / "intrinsics" / f"{i:06d}.txt").write_text(matrix)
