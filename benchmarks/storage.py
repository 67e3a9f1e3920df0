"""Times reading training data, and saving and restoring a state."""

import dataclasses
import pathlib
import shutil
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from benchmarks import measuring
from genvs_jax import config_fields
from genvs_jax.checkpointing import checkpoints
from genvs_jax.data import datasets
from genvs_jax.data import loading
from genvs_jax.models import builders
from genvs_jax.runtime import sharding
from genvs_jax.training import startup
from tfds_srn.synthetic_cars import car_scenes

# What the pictures of a layout are: pixels a side, and mode.
LAYOUTS = {
  "NMR": (64, "RGB"),
  "SRN, models, synthetic cars": (128, "RGB"),
  "Zero-1-to-3": (256, "RGBA"),
  "NeRF's synthetic scenes": (800, "RGBA"),
}


def time_data(name: str, layout: str) -> dict:
  """Scenes per second that reach the batches of a config.

  Args:
    name: of the config.
    layout: of `LAYOUTS`, as which pictures of synthetic cars are stored.
  """
  config = measuring.load_config(measuring.Spec(name, "", {}))
  config.data.dataset = "folder"
  with tempfile.TemporaryDirectory() as folder:
    source = car_scenes.write_scenes(
      f"{folder}/scenes",
      counts={"train": 24, "val": 1},
      views=12,
      size=128,
    )
    for path in source.rglob("rgb/*.png"):
      _store_as(path, *LAYOUTS[layout])
    for path in source.rglob("depth"):
      shutil.rmtree(path)
    config.data.source, config.data.data_dir = str(source), f"{folder}/data"
    datasets.prepare(config, "")
    records = datasets.load_split(config, "", "train")
    records = dataclasses.replace(records, source=Repeated(records.source, 99))
    rates = {}
    for label, threads in (("one", 1), ("all", config.data.threads)):
      config.data.threads = threads
      batches = loading.train_batches(config, records, start_step=0)
      for _ in range(config.data.prefetch + 1):
        next(batches)
      scenes, begin = 0, time.perf_counter()
      while time.perf_counter() - begin < 10:
        scenes += len(next(batches)["scene"])
      rates[label] = scenes / (time.perf_counter() - begin)
  return rates | {"batch_size": config.train.batch_size}


def _store_as(path: pathlib.Path, size: int, mode: str) -> None:
  """A picture on white at another size, transparent where it is white."""
  image = Image.open(path).convert("RGB").resize((size, size))
  if mode == "RGBA":
    pixels = np.asarray(image)
    alpha = np.where((pixels < 255).any(-1), 255, 0).astype(np.uint8)
    image = Image.fromarray(np.dstack([pixels, alpha]))
  image.save(path)


class Repeated(Sequence):
  """Records several times over: shuffling very few of them takes longer."""

  def __init__(self, records: Sequence, times: int):
    self._records, self._times = records, times

  def __len__(self) -> int:
    return len(self._records) * self._times

  def __getitem__(self, index: int):
    if index >= len(self):
      raise IndexError(index)
    return self._records[index % len(self._records)]


def time_checkpoint(name: str, repeats: int) -> dict:
  """Saves and restores a state of a config.

  Saving is asynchronous: the run waits for the copy alone ("waits"), the rest
  is written while it trains on ("saves"). What is restored was just written,
  so that the system may still have it in memory.
  """
  config = measuring.load_config(measuring.Spec(name, "", {}))
  with tempfile.TemporaryDirectory() as folder:
    return _save_and_restore(config, f"{folder}/checkpoints", repeats)


def _save_and_restore(config, folder: str, repeats: int) -> dict:
  model = builders.build_model(config)
  mesh = sharding.make_mesh(
    replicas=config.mesh.replicas, shards=config.mesh.shards
  )
  abstract = jax.eval_shape(lambda: startup.init_state(config, model))
  shardings = sharding.split_state(mesh, abstract)
  state = startup.init_on_devices(config, model, shardings)
  jax.block_until_ready(state)
  values = config_fields.to_dict(config)
  waits, saves, restores = [], [], []
  for step in range(1, repeats + 1):
    shutil.rmtree(folder, ignore_errors=True)
    checkpointer = checkpoints.Checkpointer(folder)
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
  files = pathlib.Path(folder).rglob("*")
  size = sum(p.stat().st_size for p in files if p.is_file())
  return {
    "waits": waits,
    "saves": saves,
    "restores": restores,
    "state_bytes": sum(x.nbytes for x in jax.tree.leaves(state)),
    "disk_bytes": size,
  }
