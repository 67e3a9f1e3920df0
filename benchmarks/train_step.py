"""Times one train step of a config on random batches.

  python -m benchmarks.train_step --config=configs/cars64.py --batch_size=1

Prints the time to the first finished step (initialisation, tracing and
compilation included), the median of the steps after it, and memory: that of
the compiled step (arguments + outputs - aliases + temporaries) and the peak of
the process.
"""

import resource
import time

import jax
import numpy as np
from absl import app
from absl import flags
from ml_collections import config_flags

from genvs_jax import pipeline
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
  batch = random_batch(config)
  model = pipeline.build_model(config)

  start = time.perf_counter()
  state = train_state.init_on_devices(config, model)
  jax.block_until_ready(state)
  initialised = time.perf_counter()
  step = jax.jit(train_state.build_train_step(config, model), donate_argnums=0)
  compiled = step.lower(state, batch).compile()
  compiled_at = time.perf_counter()
  state, metrics = compiled(state, batch)
  jax.block_until_ready(metrics)
  first = time.perf_counter()
  times = []
  for _ in range(_STEPS.value):
    begin = time.perf_counter()
    state, metrics = compiled(state, batch)
    jax.block_until_ready(metrics)
    times.append(time.perf_counter() - begin)

  m = compiled.memory_analysis()
  total = (
    m.argument_size_in_bytes
    + m.output_size_in_bytes
    - m.alias_size_in_bytes
    + m.temp_size_in_bytes
  )
  rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  median = float(np.median(times))
  print(f"devices            {jax.devices()}")
  print(f"batch size         {config.train.batch_size}")
  print(f"initialisation     {initialised - start:.1f} s")
  print(f"compilation        {compiled_at - initialised:.1f} s")
  print(f"time to first step {first - start:.1f} s")
  print(
    f"step               {median:.3f} s median of {len(times)}"
    f" ({min(times):.3f} to {max(times):.3f}), {1 / median:.2f} steps/s"
  )
  print(
    f"memory of the step {total / 1e9:.2f} GB, process peak {rss / 1e9:.2f} GB"
  )


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
