"""Times one train step of a config on random batches, on all devices.

  python -m benchmarks.train_step --config=configs/cars64.py --batch_size=1
  XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m \\
    benchmarks.train_step --config=configs/demo.py --config.mesh.shards=8

Prints the time to the first finished step (initialisation, tracing and
compilation included), the median of the steps after it, and memory: of the
state and of the compiled step (arguments + outputs - aliases + temporaries) on
each device, and the peak of the process.
"""

import time

import jax
import numpy as np
from absl import app
from absl import flags
from ml_collections import config_flags

from genvs_jax import pipeline
from genvs_jax import progress
from genvs_jax import sharding
from genvs_jax import train
from genvs_jax import train_state
from tfds_srn import ray_caster
from tfds_srn import synthetic

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.")
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", None, "Scenes per step, by default the config's."
)
_STEPS = flags.DEFINE_integer("steps", 20, "Steps to time after the first.")


def main(argv):
  del argv
  config = _CONFIG.value
  if _BATCH_SIZE.value:
    config.train.batch_size = _BATCH_SIZE.value
  count = config.train.batch_size
  mesh = sharding.make_mesh(
    replicas=config.mesh.replicas, shards=config.mesh.shards
  )
  sharding.check_batch_size(count, config.train.accumulation, mesh)
  batch = sharding.to_devices(random_batch(config), mesh, count)
  model = pipeline.build_model(config)
  abstract = jax.eval_shape(lambda: train_state.init_state(config, model))

  start = time.perf_counter()
  state = train_state.init_on_devices(
    config, model, sharding.split_state(mesh, abstract)
  )
  jax.block_until_ready(state)
  initialised = time.perf_counter()
  step, operations = train.compile_step(config, model, mesh, state)
  compiled_at = time.perf_counter()
  memory = step.memory_analysis()
  state, metrics = step(state, batch)
  jax.block_until_ready(metrics)
  first = time.perf_counter()
  times = []
  for _ in range(_STEPS.value):
    begin = time.perf_counter()
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    times.append(time.perf_counter() - begin)

  median = float(np.median(times))
  images = count * config.train.target_views
  held = sum(
    np.prod(x.sharding.shard_shape(x.shape), dtype=int) * x.dtype.itemsize
    for x in jax.tree.leaves(state)
  )
  (name, peak), *_ = progress.memory_peak().items()
  print(
    f"devices            {jax.device_count()} {jax.devices()[0].device_kind}"
  )
  print(f"batch size         {count}")
  print(f"initialisation     {initialised - start:.1f} s")
  print(f"compilation        {compiled_at - initialised:.1f} s")
  print(f"time to first step {first - start:.1f} s")
  print(
    f"step               {median:.3f} s median of {len(times)}"
    f" ({min(times):.3f} to {max(times):.3f}), {1 / median:.2f} steps/s,"
    f" {images / median:.2f} images/s"
  )
  print(
    f"operations         {operations / 1e12:.4g} TFLOP in a step,"
    f" {operations / 1e12 / median:.4g} TFLOP/s"
  )
  print(
    f"on each device     state {held / 2**30:.3f} GiB, compiled step"
    f" {progress.step_memory(memory) / 2**30:.3f} GiB"
  )
  print(f"{name}  {peak:.2f}")


def random_batch(config) -> dict[str, np.ndarray]:
  """A batch of noise pictures at cameras all over the sphere."""
  rng = np.random.default_rng(0)
  count, size = config.train.batch_size, config.model.image_size
  views = config.model.input_views + config.train.target_views
  focal = ray_caster.FOCAL_PER_WIDTH * size
  return {
    "images": rng.integers(
      0, 256, (count, views, size, size, 3), dtype=np.uint8
    ),
    "poses": np.stack(
      [synthetic.train_poses(0, "train", i, views) for i in range(count)]
    ),
    "intrinsics": np.tile(
      np.array([focal, focal, size / 2, size / 2], np.float32), (count, 1)
    ),
    "scene": np.arange(count, dtype=np.int32),
  }


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main)
