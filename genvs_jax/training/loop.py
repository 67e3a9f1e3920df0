"""The loop: build, restore, step, log, measure, draw, save."""

import collections
import contextlib
import time
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import jax
import ml_collections
from absl import logging
from etils import epath

from genvs_jax import config_fields
from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import pretrained
from genvs_jax.data import datasets
from genvs_jax.data import loading
from genvs_jax.images import encoding
from genvs_jax.models import builders
from genvs_jax.runtime import background
from genvs_jax.runtime import files
from genvs_jax.runtime import processes
from genvs_jax.runtime import run_folder
from genvs_jax.runtime import sharding
from genvs_jax.runtime import writers
from genvs_jax.training import guards
from genvs_jax.training import startup
from genvs_jax.training import timing
from genvs_jax.training import train_step
from genvs_jax.training import validation

# Steps that devices have been handed and the loop has not looked at yet.
_MAX_STEPS_IN_FLIGHT = 3


class _Run(NamedTuple):
  """What the steps of a run share.

  Attributes:
    config: see `configs/base.py`.
    workdir: of the run.
    mesh: of devices.
    step_fn: the compiled (state, batch) -> (state, metrics).
    checkpointer: of the run.
    validate: variables -> scores.
    image_grids: of fixed scenes.
    writer: of metrics and pictures.
    host_work: a thread that pictures are written in.
    progress: times and rates.
    skipped: ends a run whose gradients are not finite.
    profile: records some steps.
  """

  config: Any
  workdir: str
  mesh: jax.sharding.Mesh
  step_fn: Callable
  checkpointer: checkpoints.Checkpointer
  validate: validation.Validation
  image_grids: validation.ImageGrids
  writer: writers.Writer
  host_work: background.Background
  progress: timing.Progress
  skipped: guards.SkippedUpdates
  profile: timing.Profile


class _InFlight(NamedTuple):
  """A step that the devices have been handed."""

  step: int
  batch: dict
  metrics: dict


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: str,
  devices=None,
  stop: guards.Stop | None = None,
) -> train_step.TrainState:
  """Trains to `config.train.steps`, resuming from the newest checkpoint.

  Args:
    config: see `configs/base.py`.
    workdir: receives checkpoints/, image_grids/, metrics.jsonl, TensorBoard
      events, config.json, parameters.txt and versions.json.
    devices: to use, by default all.
    stop: what ends the run early; by default signals to this process.

  Returns:
    the state after the last step, or after the one at which a signal ended it.

  Raises:
    ValueError: if config, data, checkpoints or workdir do not fit.
    FloatingPointError: if gradients are not finite, many times in a row.
  """
  # Whatever can be wrong with config and data is found before anything is
  # written.
  pretrained.check_params(config, config.sampler.params)
  _check_counts(config)
  mesh = _build_mesh(config, devices)
  records = datasets.load_split(config, workdir, "train")
  datasets.check_cameras(config, records)
  model = builders.build_model(config)
  validate = validation.build_validation(config, model, workdir)
  image_grids = validation.build_image_grids(config, model, workdir)
  # The first process alone writes into the workdir (checkpoints apart).
  primary = jax.process_index() == 0
  stop = stop or guards.build_stop()
  # What is entered here ends in the reverse order, errors or not: the lock goes
  # last, after the saves that are under way.
  with contextlib.ExitStack() as stack:
    stack.enter_context(run_folder.lock(workdir, primary))
    stack.enter_context(stop.listening())
    checkpointer = build_checkpointer(config, workdir)
    stack.callback(checkpointer.close)
    stack.enter_context(processes.ending_at_once())
    state = startup.start(config, model, mesh, checkpointer, workdir)
    first_step = int(state.step)
    if primary:
      run_folder.describe(workdir, config_fields.to_dict(config), state.params)
    writer = writers.Writer(workdir, first_step, active=primary)
    stack.callback(writer.close)
    host_work = stack.enter_context(background.Background())
    # A finished run is started again to see that it is finished.
    if first_step >= config.train.steps:
      return state
    started = time.monotonic()  # compilation counts
    sharding.report_whole_leaves(mesh, state.params)
    step_fn, operations = train_step.compile_step(config, model, mesh, state)
    profile = timing.Profile(config.train.profile, f"{workdir}/profile")
    stack.callback(profile.close)
    run = _Run(
      config=config,
      workdir=workdir,
      mesh=mesh,
      step_fn=step_fn,
      checkpointer=checkpointer,
      validate=validate,
      image_grids=image_grids,
      writer=writer,
      host_work=host_work,
      progress=timing.build_progress(
        config, writer, started, first_step, operations
      ),
      skipped=guards.build_skipped_updates(config, workdir),
      profile=profile,
    )
    # Each process reads its rows of the global batch.
    rows = sharding.local_rows(mesh, config.train.batch_size)
    batches = loading.train_batches(
      config, records, start_step=first_step, rows=rows
    )
    return _take_steps(run, state, batches, stop)


def _check_counts(config: ml_collections.ConfigDict) -> None:
  """Refuses numbers of steps that are none."""
  for section, name in (
    ("train", "steps"),
    ("train", "log_every"),
    ("train", "image_grid_every"),
    ("train", "accumulation"),
    ("train", "target_views"),
    ("checkpoint", "every"),
    ("checkpoint", "keep_latest"),
    ("checkpoint", "keep_every"),
  ):
    value = config[section][name]
    if value < 1:
      raise ValueError(
        f"{section}.{name} is {value}, expected 1 or more (a number above"
        " train.steps for never)"
      )


def _build_mesh(
  config: ml_collections.ConfigDict, devices
) -> jax.sharding.Mesh:
  """The mesh, over which the config's batches must divide."""
  mesh = sharding.make_mesh(
    devices, replicas=config.mesh.replicas, shards=config.mesh.shards
  )
  sharding.check_batch_size(
    config.train.batch_size, config.train.accumulation, mesh
  )
  return mesh


def _take_steps(
  run: _Run,
  state: train_step.TrainState,
  batches: Iterator[dict],
  stop: guards.Stop,
) -> train_step.TrainState:
  """The steps that are left; the state after the last, or when `stop` asks."""
  config, options = run.config, run.config.train
  first_step = int(state.step)
  in_flight: collections.deque[_InFlight] = collections.deque()
  for step in range(first_step + 1, options.steps + 1):
    # 1-3. A batch from the queue to the devices.
    with run.progress.span("data_wait"):
      batch = next(batches)
    with run.progress.span("placing"):
      device_batch = sharding.to_devices(batch, run.mesh, options.batch_size)
    # 4-9. Returns at once; the devices work while the next batch is placed.
    run.profile.before(step)
    state, metrics = run.step_fn(state, device_batch)
    run.profile.after(step, metrics)
    # The batch stays at hand until its gradient is known to be finite.
    in_flight.append(_InFlight(step, batch, metrics))

    last, stopping = step == options.steps, stop(step)
    saving = step % config.checkpoint.every == 0 or last
    drawing = step % options.image_grid_every == 0 or last
    waits = saving or drawing or stopping
    # Looking at a step waits for it, so steps are looked at some steps late.
    limit = 0 if waits else _MAX_STEPS_IN_FLIGHT
    try:
      while len(in_flight) > limit:
        done = in_flight.popleft()
        run.skipped.check(*done)
        logs = done.step % options.log_every == 0 or done.step == first_step + 1
        if logs and done.step != step:
          run.progress.report(done.step, jax.device_get(done.metrics))
    # A run that diverges leaves its state for a look at it.
    except FloatingPointError:
      _save(run, step, state)
      run.checkpointer.wait()
      raise
    # What failed beside the loop fails here, not at the end of the run.
    run.checkpointer.check()
    run.host_work.check()
    scores = None
    if (saving or drawing) and not stopping:
      scores = _measure_and_draw(run, step, state, saving, drawing)
    if waits:
      run.progress.report(
        step, jax.device_get(metrics) | validation.metrics_of(scores)
      )
    if saving or stopping:
      with run.progress.span("saving"):
        _save(run, step, state, scores)
    if stopping:
      logging.warning(
        "asked to end: step %d is saved; the same command resumes from it", step
      )
      break
  return state


def _measure_and_draw(
  run: _Run,
  step: int,
  state: train_step.TrainState,
  measures: bool,
  draws: bool,
) -> dict[str, float] | None:
  """Scores of the state, and a grid that is written beside the loop."""
  # All processes gather the variables; drawing is the first one's.
  with run.progress.span("paused"):
    variables = sharding.local_copy(
      run.mesh, state.variables(run.config.sampler.params)
    )
    scores = run.validate(variables) if measures else None
    if draws and jax.process_index() == 0:
      pictures = jax.block_until_ready(run.image_grids.draw(variables))
      run.host_work.run(_write_grid, run, step, pictures)
  return scores


def _write_grid(run: _Run, step: int, pictures) -> None:
  # Runs in a thread of its own: copying from the devices, PNG, TensorBoard.
  grid = run.image_grids.lay_out(pictures)
  if grid is not None:
    path = epath.Path(run.workdir) / "image_grids" / f"{step:08d}.png"
    files.write_whole(path, encoding.png(grid))
    run.writer.write_images(step, {"image_grid": grid})


def _save(run: _Run, step: int, state, scores=None) -> None:
  values = config_fields.to_dict(run.config)
  run.checkpointer.save(step, state, values, scores)


def build_checkpointer(
  config: ml_collections.ConfigDict, workdir: str
) -> checkpoints.Checkpointer:
  """From `config.checkpoint` and `config.validation`."""
  options = config.checkpoint
  # Orbax deletes by these rules while the run goes on.
  ranking = validation.build_ranking(config)
  return checkpoints.Checkpointer(
    f"{workdir}/{checkpoints.FOLDER}",
    keep_latest=options.keep_latest,
    keep_every=options.keep_every,
    best_metric=ranking.metric,
    highest_is_best=ranking.highest_is_best,
  )
