"""Trains on synthetic cars in memory, for a given time."""

import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measuring
from benchmarks import memory_scenes
from genvs_jax import checkpoints
from genvs_jax import compilation
from genvs_jax import metrics as metrics_ops
from genvs_jax import pictures
from genvs_jax import pipeline
from genvs_jax import sharding
from genvs_jax import synthesis
from genvs_jax import train_state

_VIEWS = 24  # of a scene
_HELD_OUT = 8  # scenes that are scored and drawn
_TO_FINISH = 30  # seconds for scoring and saving at the end


def train(
  spec: measuring.Spec, count: int, output: str, scratch: str, seconds: float
) -> dict:
  """Goes on from SCRATCH's checkpoint, and saves one when the time is over.

  Args:
    spec: config and fields.
    count: scenes to train on.
    output: receives train.jsonl, sheet_first.png and sheet_last.png.
    scratch: receives scenes, checkpoints and compiled programs.
    seconds: in all.

  Returns:
    {"step": the last one}.
  """
  begin = time.monotonic()
  config = measuring.load_config(spec)
  jax.config.update("jax_compilation_cache_dir", f"{scratch}/compiled")
  mesh = sharding.make_mesh()
  model = pipeline.build_model(config)
  checkpointer = checkpoints.Checkpointer(f"{scratch}/checkpoints")
  abstract = jax.eval_shape(lambda: train_state.init_state(config, model))
  shardings = sharding.split_state(mesh, abstract)
  if checkpointer.steps():
    state = checkpointer.restore(
      checkpointer.steps()[-1], checkpoints.abstract_like(abstract, shardings)
    )
  else:
    state = train_state.init_on_devices(config, model, shardings)
  first_step = step = int(state.step)
  scenes = _scenes(pathlib.Path(scratch), "train", count, model.image_size)
  held_out = _scenes(pathlib.Path(scratch), "val", _HELD_OUT, model.image_size)
  score = _Score(config, model, held_out, pathlib.Path(output))
  train_step, _ = compilation.compile_step(config, model, mesh, state)
  batches = memory_scenes.batches(
    scenes,
    config.train.batch_size,
    config.model.input_views + config.train.target_views,
    first_step,
  )
  if step == 0:
    score(step, state, {"seconds": 0.0})
  started = scored = time.monotonic()
  while time.monotonic() - begin < seconds - _TO_FINISH:
    batch = sharding.to_devices(next(batches), mesh, config.train.batch_size)
    state, metrics = train_step(state, batch)
    step += 1
    if step % 20 == 0:
      jax.block_until_ready(metrics)
    if time.monotonic() - scored > 30:
      _log(score, step, state, metrics, started)
      scored = time.monotonic()
  if step > first_step:
    _log(score, step, state, metrics, started)
    checkpointer.save(step, state, checkpoints.config_to_dict(config))
  checkpointer.close()
  return {"step": step}


def _log(score, step: int, state, metrics, started: float) -> None:
  loss = float(metrics["loss"])  # waits for the step
  score(step, state, {"seconds": time.monotonic() - started, "loss": loss})


def _scenes(folder: pathlib.Path, split: str, count: int, size: int):
  """Drawn scenes, kept in a file."""
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f"{split}_{count}x{_VIEWS}_{size}px.npz"
  if not path.exists():
    drawn = memory_scenes.draw(split, count, _VIEWS, size)
    part = path.with_suffix(".part.npz")
    np.savez(part, **drawn._asdict())
    part.replace(path)
  with np.load(path) as arrays:
    return memory_scenes.Scenes(arrays["images"], arrays["poses"])


class _Score:
  """Writes a line of scores and a sheet of scenes never trained on."""

  def __init__(self, config, model, scenes, output: pathlib.Path):
    views = config.model.input_views
    self._output, self._frustum = output, config.frustum
    self._weights = config.sampler.weights
    self._images = scenes.images[:, : views + 1]
    self._inputs = {
      "images": scenes.images[:, :views],
      "poses": scenes.poses[:, :views],
      "intrinsics": np.tile(
        memory_scenes.intrinsics(model.image_size), (len(scenes.images), 1)
      ),
    }
    self._poses = scenes.poses[:, views : views + 1]
    self._index = np.arange(len(scenes.images))
    self._keys = synthesis.view_keys(config.seed, self._index, np.arange(1))
    self._draw = synthesis.build_synthesize(config, model)

  def __call__(self, step: int, state, values: dict[str, float]) -> None:
    variables = train_state.sampling_variables(state, self._weights)
    drawn = self._draw(variables, self._inputs, self._poses, self._keys)
    truth = self._images[:, -1] / np.float32(255)
    line = {"step": step, **values}
    for name, pictures_of in (
      ("psnr_render", drawn.rgb),
      ("psnr_sample", drawn.sample),
    ):
      scores = metrics_ops.psnr(pictures_of[:, 0], truth)
      line[name] = float(jnp.mean(scores))
    with (self._output / "train.jsonl").open("a") as file:
      file.write(json.dumps(line) + "\n")
    sheet = synthesis.training_sheet(
      {"images": self._images, "scene": self._index},
      drawn,
      self._frustum.near,
      self._frustum.far,
    )
    name = "sheet_last.png" if step else "sheet_first.png"
    pictures.save_png(self._output / name, sheet)
    print(json.dumps(line), flush=True)
