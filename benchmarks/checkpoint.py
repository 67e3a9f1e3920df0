"""Times saving and restoring the state of a config.

  python -m benchmarks.checkpoint --config=configs/cars64.py --folder=/tmp/x

Saving is asynchronous: the run waits for the copy alone, the rest is written
while it trains on. Prints both, the time to restore, and the size on disk.
"""

import pathlib
import shutil
import time

import jax
import numpy as np
from absl import app
from absl import flags
from ml_collections import config_flags

from genvs_jax import checkpoints
from genvs_jax import pipeline
from genvs_jax import sharding
from genvs_jax import train_state

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.")
_FOLDER = flags.DEFINE_string("folder", None, "Emptied before and after.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Times to save and restore.")


def main(argv):
  del argv
  config, folder = _CONFIG.value, pathlib.Path(_FOLDER.value)
  model = pipeline.build_model(config)
  mesh = sharding.make_mesh(
    replicas=config.mesh.replicas, shards=config.mesh.shards
  )
  abstract = jax.eval_shape(lambda: train_state.init_state(config, model))
  shardings = sharding.split_state(mesh, abstract)
  state = train_state.init_on_devices(config, model, shardings)
  values = checkpoints.config_to_dict(config)
  waits, saves, restores = [], [], []
  for step in range(1, _REPEATS.value + 1):
    shutil.rmtree(folder, ignore_errors=True)
    checkpointer = checkpoints.Checkpointer(str(folder))
    begin = time.perf_counter()
    checkpointer.save(step, state, values)
    waits.append(time.perf_counter() - begin)
    checkpointer.wait()
    saves.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    restored = checkpointer.restore(
      step, checkpoints.abstract_like(abstract, shardings)
    )
    jax.block_until_ready(restored)
    restores.append(time.perf_counter() - begin)
    checkpointer.close()
    del restored
  size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
  held = sum(x.nbytes for x in jax.tree.leaves(state))
  shutil.rmtree(folder)
  print(f"state {held / 2**30:.2f} GiB, on disk {size / 2**30:.2f} GiB")
  for name, times in (
    ("the run waits", waits),
    ("saved", saves),
    ("restored", restores),
  ):
    print(
      f"{name:14s} {np.median(times):.2f} s median of {len(times)}"
      f" ({min(times):.2f} to {max(times):.2f})"
    )


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "folder"])
  app.run(main)
