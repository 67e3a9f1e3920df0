"""What the loop says of its own time, and that it works ahead."""

import json
import threading
import time

import jax
import pytest

from genvs_jax.runtime import background
from genvs_jax.runtime import console
from genvs_jax.training import loop
from genvs_jax.training import timing
from genvs_jax.training import train_step

ONE = jax.devices()[:1]


class Lines:
  """A writer that keeps what it is given."""

  def __init__(self):
    self.scalars = {}

  def write_scalars(self, step, scalars):
    self.scalars[step] = scalars

  def flush(self):
    pass


def test_rates_and_shares_by_a_made_up_clock(monkeypatch):
  now = 100.0
  said: list[str] = []
  monkeypatch.setattr(time, "monotonic", lambda: now)
  monkeypatch.setattr(
    timing.logging, "info", lambda line, *args: said.append(line % args)
  )
  lines = Lines()
  progress = timing.Progress(
    lines,
    started=now,
    step=0,
    last_step=100,
    images_per_step=4,
    flops_per_step=10**12,
  )

  def spend(name, seconds):
    nonlocal now
    with progress.span(name):
      now += seconds

  spend("data_wait", 30)  # compiling: counts for nothing
  progress.report(1, {"loss": 1})
  assert "steps_per_second" not in lines.scalars[1]
  now += 13
  spend("data_wait", 4)
  spend("saving", 2)
  spend("saving", 1)
  spend("paused", 50)
  progress.report(11, {"loss": 2})
  result = lines.scalars[11]
  assert result["loss"] == 2
  assert result["steps_per_second"] == pytest.approx(10 / 20)
  assert result["images_per_second"] == pytest.approx(2)
  each = 0.5 / jax.device_count()
  assert result["tflops_per_second"] == pytest.approx(each)
  assert result["data_wait_share"] == pytest.approx(0.2)
  assert result["saving_share"] == pytest.approx(0.15)
  assert result["logging_share"] == 0
  assert result["paused_seconds"] == 50
  # Time left counts what the run has paused so far: 70 s in 10 steps.
  assert "0.50 steps/s beside 50 s for scores and pictures" in said[-1]
  assert f"{console.duration(89 * 7)} left" in said[-1]
  now += 10
  progress.report(21, {"loss": 3})
  assert lines.scalars[21]["steps_per_second"] == pytest.approx(1)
  assert lines.scalars[21]["saving_share"] == 0


def test_steps_are_given_ahead_of_those_looked_at(
  debug_config, tmp_path, monkeypatch
):
  events = []

  class Noted(int):
    def __int__(self):
      events.append(("looked", int.__index__(self)))
      return 0

  def compile_step(config, model, mesh, state):
    def step(state, batch):
      count = 1 + sum(kind == "given" for kind, _ in events)
      events.append(("given", count))
      return state.replace(step=state.step + 1), {
        "loss": 0.0,
        "skipped_in_a_row": Noted(count),
      }

    return step, 1

  monkeypatch.setattr(train_step, "compile_step", compile_step)
  debug_config.train.steps = 8
  debug_config.train.image_grid_every = 100
  debug_config.checkpoint.every = 6
  debug_config.checkpoint.best_metric = ""
  debug_config.validation.scenes = debug_config.train.image_grid_scenes = 0
  loop.train_and_evaluate(debug_config, str(tmp_path), ONE)
  inputs, looked = (
    [i for i, (k, _) in enumerate(events) if k == kind]
    for kind in ("given", "looked")
  )
  # Three steps ahead; all are looked at before a checkpoint is written.
  assert [sum(g < at for g in inputs) for at in looked] == [
    4,
    5,
    *[6] * 4,
    8,
    8,
  ]
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))


def test_background_work_is_in_order_and_its_errors_are_raised():
  hold, done = threading.Event(), []
  with background.Background() as work:
    work.run(hold.wait)
    work.run(done.append, 1)
    work.run(done.append, 2)
    work.check()
    assert not done
    hold.set()
  assert done == [1, 2]
  with pytest.raises(ZeroDivisionError), background.Background() as work:
    work.run(lambda: 1 / 0)
  with pytest.raises(KeyError), background.Background() as work:
    work.run(lambda: 1 / 0)
    raise KeyError  # what came first is what is told
