"""Times the frames of a rollout, and compares it over batches and devices.

  python -m benchmarks.rollout --config=configs/cars64.py --parts=steps,frames
  XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m \\
    benchmarks.rollout --config=configs/demo.py --checkpoint=DIR --parts=drift

Parts:
  steps   seconds per frame by the number of network evaluations (Euler)
  frames  whether a frame costs more when many came before it (one evaluation)
  drift   how far one scene's frames move when it is drawn in a batch of four,
          and on several devices

Without --checkpoint the weights are random, which costs the same time.
"""

import time

import jax
import numpy as np
from absl import app
from absl import flags
from ml_collections import config_flags

from genvs_jax import config_fields
from genvs_jax.checkpointing import pretrained
from genvs_jax.geometry import camera_paths
from genvs_jax.models import builders
from genvs_jax.runtime import memory
from genvs_jax.runtime import sharding
from genvs_jax.sampling import rollouts
from genvs_jax.training import startup
from tfds_srn import pixel_rays
from tfds_srn.synthetic_cars import car_scenes

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.")
_PARTS = flags.DEFINE_list("parts", ["steps", "frames"], "Which to run.")
_STEPS = flags.DEFINE_list("steps", ["1", "18", "50", "250"], "Evaluations.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Frames timed for each of them.")
_FRAMES = flags.DEFINE_integer("frames", 110, "Frames of part `frames`.")
_DRIFT_FRAMES = flags.DEFINE_integer("drift_frames", 40, "Of part `drift`.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Weights to draw with.")


def main(argv):
  del argv
  config = _CONFIG.value
  if _CHECKPOINT.value:
    loaded = pretrained.load(_CHECKPOINT.value)
    model, variables = loaded.model, loaded.variables
    config = config_fields.with_checkpoint(config, loaded.config, ())
  else:
    model = builders.build_model(config)
    state = startup.init_on_devices(config, model)
    variables = state.variables("raw")
  variables = jax.tree.map(lambda x: x.addressable_data(0), variables)
  print(f"device  {jax.devices()[0].device_kind}")
  parts = {"steps": time_steps, "frames": time_frames, "drift": show_drift}
  for name in _PARTS.value:
    parts[name](config.copy_and_resolve_references(), model, variables)
  (name, peak), *_ = memory.peak().items()
  print(f"{name}  {peak:.2f}")


def time_steps(config, model, variables) -> None:
  config.sampler.name = "euler"
  for count in map(int, _STEPS.value):
    config.sampler.steps = count
    times, _ = timed_rollout(config, model, variables, 1 + _REPEATS.value)
    times = times[1:]  # the first frame compiles
    print(
      f"{count:4d} evaluations  {np.median(times):8.3f} s per frame, median of"
      f" {len(times)} ({min(times):.3f} to {max(times):.3f})"
    )


def time_frames(config, model, variables) -> None:
  config.sampler.name, config.sampler.steps = "euler", 1
  count = _FRAMES.value
  times, rollout = timed_rollout(config, model, variables, count)
  early = np.median(times[5:16])
  late = np.median(times[count - 15 : count - 4])
  print(
    f"frames 5 to 15: {early:.3f} s, {count - 15} to {count - 5}: {late:.3f} s"
    f" (medians), ratio {late / early:.3f}; {rollout.draw.count}"
    f" compilation, {rollout.report.slots} views kept in"
    f" {rollout.report.bank_bytes / 2**30:.2f} GiB,"
    f" {rollout.report.encoded_again} encoded again"
  )


def show_drift(config, model, variables) -> None:
  """Largest differences of samples in [0,1] from those of the scene alone."""
  poses = np.asarray(camera_paths.orbit(_DRIFT_FRAMES.value, 30.0, 1.3))
  inputs = random_inputs(config, 4)

  def draw(scenes: int, devices: int) -> np.ndarray:
    mesh = sharding.make_mesh(jax.devices()[:devices])
    split = sharding.split_batch(mesh)
    rollout = rollouts.build_rollout(
      config, model, place=lambda tree: jax.device_put(tree, split)
    )
    placed = jax.device_put(variables, sharding.replicated(mesh))
    some = {k: v[:scenes] for k, v in inputs.items()}
    frames = rollout.run(placed, some, poses, config.seed)
    return np.stack([frame.sample[0, 0] for frame in frames])

  alone = draw(1, 1)
  text = [i for i in (0, 1, 2, 5, 10, 20, 39) if i < len(poses)]
  print(
    f"policy {config.rollout.policy}; frame{'':24s}",
    *(f"{i:8d}" for i in text),
  )
  for devices in (1, 2, 4):
    if devices > jax.device_count():
      break
    drift = np.abs(draw(4, devices) - alone).max((1, 2, 3))
    print(
      f"4 scenes on {devices} device(s), largest difference",
      *(f"{drift[i]:8.1e}" for i in text),
    )


def timed_rollout(config, model, variables, count: int):
  """Seconds of each frame of an orbit of one scene, and the rollout."""
  rollout = rollouts.build_rollout(config, model)
  poses = np.asarray(camera_paths.orbit(count, 30.0, 1.3))
  times, begin = [], time.perf_counter()
  for _ in rollout.run(variables, random_inputs(config, 1), poses, 0):
    times.append(time.perf_counter() - begin)
    begin = time.perf_counter()
  return times, rollout


def random_inputs(config, count: int) -> dict[str, np.ndarray]:
  """One view each of scenes of noise, as `rollouts` takes them."""
  rng = np.random.default_rng(0)
  size = config.model.image_size
  focal = pixel_rays.FOCAL_PER_WIDTH * size
  return {
    "images": rng.integers(0, 256, (count, 1, size, size, 3), dtype=np.uint8),
    "poses": np.stack(
      [car_scenes.train_poses(0, "train", i, 1) for i in range(count)]
    ),
    "intrinsics": np.tile(
      np.array([focal, focal, size / 2, size / 2], np.float32), (count, 1)
    ),
    "scene": np.arange(count),
  }


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main)
