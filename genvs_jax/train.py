"""The loop: build, restore, step, log, draw, save."""

import importlib.metadata
import json
import pathlib
import sys
import time

import jax
import numpy as np
from absl import logging
from clu import parameter_overview

from genvs_jax import checkpoints
from genvs_jax import data
from genvs_jax import objectives
from genvs_jax import pictures
from genvs_jax import pipeline
from genvs_jax import sharding
from genvs_jax import synthesis
from genvs_jax import train_state
from genvs_jax import warm_start
from genvs_jax import writers

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


def train_and_evaluate(
  config, workdir: str, devices=None
) -> train_state.TrainState:
  """Trains to `config.train.steps`, going on from the newest checkpoint.

  Args:
    config: see `configs/base.py`.
    workdir: receives checkpoints/, sheets/, metrics.jsonl, TensorBoard
      events, config.json, parameters.txt and versions.json.
    devices: to use, by default all.

  Returns:
    the state after the last step.
  """
  mesh = sharding.make_mesh(devices)
  sharding.check_batch_size(config.train.batch_size, mesh)
  records = data.load_split(config, workdir, "train")
  data.check_bounds(config, records)
  model = pipeline.build_model(config)
  checkpointer = checkpoints.Checkpointer(
    f"{workdir}/{checkpoints.FOLDER}",
    keep_latest=config.checkpoint.keep_latest,
    keep_every=config.checkpoint.keep_every,
  )
  state = _start(config, model, mesh, checkpointer)
  first_step = int(state.step)
  is_primary = jax.process_index() == 0
  if is_primary:
    _describe_run(config, state, workdir)
  writer = writers.Writer(workdir, first_step, active=is_primary)
  train_step = jax.jit(
    train_state.build_train_step(config, model),
    donate_argnums=0,
    in_shardings=(sharding.replicated(mesh), sharding.split_batch(mesh)),
    out_shardings=sharding.replicated(mesh),
  )
  batches = data.train_batches(
    config,
    records,
    start_step=first_step,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  draw_sheet = _SheetPainter(config, model, workdir, writer, is_primary)
  progress = _Progress(first_step, config.train.steps, writer)
  for step in range(first_step + 1, config.train.steps + 1):
    batch = sharding.to_devices(next(batches), mesh)
    state, metrics = train_step(state, batch)
    last = step == config.train.steps
    if step % config.train.log_every == 0 or last or step == first_step + 1:
      progress.report(step, jax.device_get(metrics))
    if step % config.checkpoint.every == 0 or last:
      checkpointer.save(step, state, checkpoints.config_to_dict(config))
    if step % config.train.sheet_every == 0 or last:
      progress.pause()
      draw_sheet(step, state)
      progress.resume()
  writer.close()
  checkpointer.close()
  return state


def _start(
  config, model, mesh, checkpointer: checkpoints.Checkpointer
) -> train_state.TrainState:
  """The newest checkpoint of the workdir, else a fresh or warm start."""
  everywhere = sharding.replicated(mesh)

  step = checkpointer.latest_step()
  if step is None:
    state = train_state.init_on_devices(config, model, everywhere)
    return warm_start.warm_start(config, model, state)
  state = jax.eval_shape(lambda: train_state.init_state(config, model))
  abstract = checkpoints.abstract_like(state, everywhere)
  state = checkpointer.restore(step, abstract)
  logging.info("going on from the checkpoint of step %d", step)
  return state


def _describe_run(config, state, workdir: str) -> None:
  """Writes what a reader of the workdir wants to know."""
  folder = pathlib.Path(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  values = checkpoints.config_to_dict(config)
  (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
  overview = parameter_overview.get_parameter_overview(state.params)
  (folder / "parameters.txt").write_text(overview + "\n")
  for part, params in state.params.items():
    count = sum(x.size for x in jax.tree.leaves(params))
    logging.info("%s: %s parameters", part, f"{count:,}")
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  versions["python"] = sys.version.split()[0]
  versions["devices"] = [d.device_kind for d in jax.devices()]
  (folder / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


class _Progress:
  """Logs a line with step, rate, loss and time left, and writes metrics."""

  def __init__(self, step: int, last_step: int, writer: writers.Writer):
    self._last_step = last_step
    self._writer = writer
    self._step = step
    self._since = time.monotonic()
    self._paused_at = 0.0
    self._first = True

  def report(self, step: int, metrics: dict[str, np.ndarray]) -> None:
    """Called when the metrics of `step` have arrived."""
    loss = float(metrics["loss"])
    if not np.isfinite(loss):
      raise FloatingPointError(
        f"the loss of step {step} is {loss}: lower the learning rates or go"
        " back to an older checkpoint"
      )
    elapsed = time.monotonic() - self._since
    rate = (step - self._step) / max(elapsed, 1e-9)
    scalars = {name: float(value) for name, value in metrics.items()}
    if self._first:
      logging.info(
        "step %d  loss %.4f  first step after %.1f s (compilation)",
        step,
        loss,
        elapsed,
      )
      self._first = False
    else:
      left = (self._last_step - step) / rate
      logging.info(
        "step %d/%d  %.2f steps/s  loss %.4f%s  %s left",
        step,
        self._last_step,
        rate,
        loss,
        _parts_of_loss(scalars),
        _duration(left),
      )
      scalars["steps_per_second"] = rate
    self._writer.write_scalars(step, scalars)
    self._writer.flush()
    self._step, self._since = step, time.monotonic()

  def pause(self) -> None:
    """Stops the clock for work that is no training."""
    self._paused_at = time.monotonic()

  def resume(self) -> None:
    self._since += time.monotonic() - self._paused_at


class _SheetPainter:
  """Draws fixed scenes of the validation split, or of the training split."""

  def __init__(self, config, model, workdir, writer, active: bool):
    self._config = config
    self._folder = pathlib.Path(workdir) / "sheets"
    self._writer = writer
    self._active = active and config.train.sheet_scenes > 0
    if not self._active:
      return
    try:
      records = data.load_split(config, workdir, "validation")
    except data.DatasetMissingError:
      records = data.load_split(config, workdir, "train")
    count = min(config.train.sheet_scenes, len(records))
    self._batch = _fixed_batch(config, records, count)
    parts = objectives.PARTS[config.objective.name]
    self._unconditional = "encoder" not in parts
    self._draw = (
      synthesis.build_unconditional(config, model)
      if self._unconditional
      else synthesis.build_draw(config, model, parts)
    )

  def __call__(self, step: int, state: train_state.TrainState) -> None:
    if not self._active:
      return
    variables = train_state.sampling_variables(
      state, self._config.sampler.weights
    )
    if self._unconditional:
      keys = jax.random.split(jax.random.key(self._config.seed), 8)
      sheet = synthesis.unconditional_sheet(self._draw(variables, keys))
    else:
      sheet = self._scenes(variables)
    self._folder.mkdir(parents=True, exist_ok=True)
    pictures.save_png(self._folder / f"{step:08d}.png", sheet)
    self._writer.write_images(step, {"sheet": sheet})

  def _scenes(self, variables) -> np.ndarray:
    batch, views = self._batch, self._config.model.input_views
    inputs = {
      "images": batch["images"][:, :views],
      "poses": batch["poses"][:, :views],
      "intrinsics": batch["intrinsics"],
    }
    keys = synthesis.view_keys(self._config.seed, batch["scene"], np.arange(1))
    drawn = self._draw(
      variables, inputs, batch["poses"][:, views : views + 1], keys
    )
    frustum = self._config.frustum
    return synthesis.training_sheet(batch, drawn, frustum.near, frustum.far)


def _fixed_batch(config, records, count: int) -> dict[str, np.ndarray]:
  """The first scenes, their first V views and one that is spread away."""
  views = config.model.input_views
  items = []
  for i in range(count):
    chosen = [*range(views), len(records[i]["poses"]) // 2]
    decoded = data.decode_views(
      records[i], chosen, config.model.image_size, config.model.resize
    )
    items.append({**decoded, "scene": np.int32(i)})
  return {key: np.stack([item[key] for item in items]) for key in items[0]}


def _parts_of_loss(scalars: dict[str, float]) -> str:
  return "".join(
    f"  {name.removeprefix('loss_')} {value:.4f}"
    for name, value in sorted(scalars.items())
    if name.startswith("loss_")
  )


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"
