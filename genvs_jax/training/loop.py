"""The loop: build, restore, step, log, measure, draw, save."""

import collections
import contextlib
import time

import jax
from absl import logging
from etils import epath

from genvs_jax.checkpointing import checkpoints
from genvs_jax.data import loading
from genvs_jax.models import pipeline
from genvs_jax.runtime import background
from genvs_jax.runtime import sharding
from genvs_jax.runtime import workdir as workdir_module
from genvs_jax.runtime import writers
from genvs_jax.training import compilation
from genvs_jax.training import guards
from genvs_jax.training import progress as progress_module
from genvs_jax.training import startup
from genvs_jax.training import train_state
from genvs_jax.training import validation

# Steps that devices have been given and the loop has not looked at yet.
_MOST_UNDER_WAY = 3


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
    the state after the last step, or after the one at which SIGTERM ended it.

  Raises:
    ValueError: if config, data, checkpoints or workdir do not fit.
    FloatingPointError: if gradients are not finite, many times in a row.
  """
  mesh = sharding.make_mesh(
    devices, replicas=config.mesh.replicas, shards=config.mesh.shards
  )
  options = config.train
  train_state.check_weights(config, config.sampler.weights)
  sharding.check_batch_size(options.batch_size, options.accumulation, mesh)
  records = loading.load_split(config, workdir, "train")
  loading.check_bounds(config, records)
  model = pipeline.build_model(config)
  validate = validation.Validation(config, model, workdir)
  sheets = validation.Sheets(config, model, workdir)
  primary = jax.process_index() == 0
  stop = guards.Stop(
    sharding.stop_requested if jax.process_count() > 1 else None
  )
  with contextlib.ExitStack() as stack:
    stack.enter_context(workdir_module.locked(workdir, primary))
    stack.enter_context(stop.listening())
    checkpointer = _build_checkpointer(config, workdir)
    stack.callback(checkpointer.close)
    stack.enter_context(sharding.ending_at_once())
    state = startup.start(config, model, mesh, checkpointer, workdir)
    first_step = int(state.step)
    if primary:
      values = checkpoints.config_to_dict(config)
      workdir_module.describe(workdir, values, state.params)
    writer = writers.Writer(workdir, first_step, active=primary)
    stack.callback(writer.close)
    host_work = stack.enter_context(background.Background())
    if first_step >= options.steps:
      return state

    started = time.monotonic()
    train_step, operations = compilation.compile_step(
      config, model, mesh, state
    )
    progress = progress_module.Progress(
      writer,
      started=started,
      step=first_step,
      last_step=options.steps,
      images_per_step=options.batch_size * options.target_views,
      flops_per_step=operations,
    )
    skipped = guards.SkippedUpdates(
      options.max_skipped, epath.Path(workdir), config.seed
    )
    profile = progress_module.Profile(options.profile, f"{workdir}/profile")
    stack.callback(profile.close)
    batches = loading.train_batches(
      config,
      records,
      start_step=first_step,
      rows=sharding.local_rows(mesh, options.batch_size),
    )
    under_way = collections.deque()
    for step in range(first_step + 1, options.steps + 1):
      with progress.span("data_wait"):
        batch = next(batches)
      with progress.span("placing"):
        placed = sharding.to_devices(batch, mesh, options.batch_size)
      profile.before(step)
      state, metrics = train_step(state, placed)
      profile.after(step, metrics)
      under_way.append((step, batch, metrics))
      last, stopping = step == options.steps, stop(step)
      saving = step % config.checkpoint.every == 0 or last
      drawing = step % options.sheet_every == 0 or last
      resting = saving or drawing or stopping
      try:
        while len(under_way) > (0 if resting else _MOST_UNDER_WAY):
          done, its_batch, its_metrics = under_way.popleft()
          skipped.check(done, its_batch, its_metrics)
          logged = done % options.log_every == 0 or done == first_step + 1
          if logged and done != step:
            progress.report(done, jax.device_get(its_metrics))
      except FloatingPointError:
        checkpointer.save(step, state, checkpoints.config_to_dict(config))
        checkpointer.wait()
        raise
      checkpointer.check()
      host_work.check()
      scores = None
      if (saving or drawing) and not stopping:
        with progress.span("paused"):
          variables = sharding.local_copy(
            mesh,
            train_state.sampling_variables(state, config.sampler.weights),
          )
          scores = validate(variables) if saving else None
          if drawing and primary:
            drawn = jax.block_until_ready(sheets.draw(variables))
            host_work.run(_save_sheet, sheets, writer, step, drawn)
          del variables
      if resting:
        progress.report(
          step, jax.device_get(metrics) | validation.named(scores)
        )
      if saving or stopping:
        with progress.span("saving"):
          checkpointer.save(
            step, state, checkpoints.config_to_dict(config), scores
          )
      if stopping:
        logging.warning(
          "SIGTERM: step %d is saved; the same command goes on from it", step
        )
        break
  return state


def _save_sheet(sheets, writer, step: int, drawn) -> None:
  writer.write_images(step, sheets.save(step, drawn))


def _build_checkpointer(config, workdir: str) -> checkpoints.Checkpointer:
  options = config.checkpoint
  ranking = validation.build_ranking(config)
  return checkpoints.Checkpointer(
    f"{workdir}/{checkpoints.FOLDER}",
    keep_latest=options.keep_latest,
    keep_every=options.keep_every,
    best_metric=ranking.metric,
    highest_is_best=ranking.highest_is_best,
  )
