"""How fast a run goes, what it waits for and how much memory it takes."""

import collections
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from genvs_jax.runtime import console
from genvs_jax.runtime import flops
from genvs_jax.runtime import memory
from genvs_jax.runtime import writers

# What the loop does beside handing steps to the devices; placing is the copying
# of a batch to them.
SPANS = ("data_wait", "placing", "logging", "saving")


class Progress:
  """Logs a line with rate, loss and time left, and writes metrics.

  Beside the metrics of the step it writes `steps_per_second`,
  `images_per_second` (target views), `tflops_per_second` and `share_of_peak`
  (per device, of the dense bfloat16 peak where it is known), the share of the
  time that each of `SPANS` held up the loop, and the memory peak of a device
  or, on CPU, of the process. Pauses, in which devices do something else than
  steps, count neither in rates nor in shares; they are `paused_seconds`.

  Args:
    writer: receives the metrics.
    started: `time.monotonic()` when the first step began to be made.
    step: the run starts after it.
    last_step: of the run.
    images_per_step: target views in a batch.
    flops_per_step: of all devices together.
  """

  def __init__(
    self,
    writer: writers.Writer,
    *,
    started: float,
    step: int,
    last_step: int,
    images_per_step: int,
    flops_per_step: int,
  ):
    self._writer = writer
    self._step = step
    self._last_step = last_step
    self._images = images_per_step
    self._flops = flops_per_step
    self._since = started
    self._begun = (step, started)  # then after the first step
    self._spent: dict[str, float] = collections.defaultdict(float)
    self._first = True

  @contextlib.contextmanager
  def span(self, name: str) -> Iterator[None]:
    """Time in here counts as `name`: one of `SPANS`, or "paused"."""
    # The same spans are named in profiles.
    begin = time.monotonic()
    with jax.profiler.TraceAnnotation(name):
      yield
    self._spent[name] += time.monotonic() - begin

  def report(self, step: int, metrics: dict[str, np.ndarray]) -> None:
    """Called when the metrics of `step` have arrived."""
    with self.span("logging"):
      self._report(step, metrics)

  def _report(self, step: int, metrics: dict[str, np.ndarray]) -> None:
    # Time since the last report, in which `step - self._step` steps were taken.
    now = time.monotonic()
    paused = self._spent.pop("paused", 0.0)
    elapsed = max(now - self._since - paused, 1e-9)
    scalars = {name: float(value) for name, value in metrics.items()}
    loss = scalars["loss"]
    # The first step includes compilation, and gives no rate.
    if self._first:
      logging.info(
        "step %d  loss %.4f  first step after %.1f s (compilation)",
        step,
        loss,
        elapsed,
      )
      self._first = False
      self._begun = (step, now)
    else:
      rate = (step - self._step) / elapsed
      scalars |= self._rates(rate)
      scalars |= {f"{k}_share": self._spent[k] / elapsed for k in SPANS}
      scalars["paused_seconds"] = paused
      logging.info(
        "step %d/%d  %.2f steps/s%s  loss %.4f%s  %s left",
        step,
        self._last_step,
        rate,
        f" beside {paused:.0f} s for scores and pictures" if paused > 1 else "",
        loss,
        _parts_of_loss(scalars),
        console.duration(self._left(step, now)),
      )
    self._writer.write_scalars(step, scalars | memory.peak())
    self._writer.flush()
    self._step, self._since = step, now
    self._spent.clear()

  def _left(self, step: int, now: float) -> float:
    """Seconds to the last step, if the pauses go on as they have so far."""
    first_step, begun = self._begun
    each = (now - begun) / (step - first_step)
    return (self._last_step - step) * each

  def _rates(self, rate: float) -> dict[str, float]:
    # Operations are counted for the global batch, rates given per device.
    each = self._flops * rate / jax.device_count()
    rates = {
      "steps_per_second": rate,
      "images_per_second": rate * self._images,
      "tflops_per_second": each / 1e12,
    }
    peak = flops.peak(jax.devices()[0].device_kind)
    return rates | ({"share_of_peak": each / peak} if peak else {})


def build_progress(
  config: ml_collections.ConfigDict,
  writer: writers.Writer,
  started: float,
  step: int,
  operations: int,
) -> Progress:
  """From `config.train`; the other arguments are those of `Progress`."""
  return Progress(
    writer,
    started=started,
    step=step,
    last_step=config.train.steps,
    images_per_step=config.train.batch_size * config.train.target_views,
    flops_per_step=operations,
  )


class Profile:
  """Records the steps `first` to `last` with `jax.profiler`.

  Args:
    steps: (first, last), or () for none.
    folder: receives the trace; `tensorboard --logdir` with the profile plugin
      and Perfetto read it.
  """

  def __init__(self, steps: tuple[int, ...], folder: str):
    if len(steps) not in (0, 2) or list(steps) != sorted(steps):
      raise ValueError(
        f"train.profile is {tuple(steps)}, expected () or (first, last)"
      )
    self._steps = tuple(steps)
    self._folder = folder
    self._running = False

  def before(self, step: int) -> None:
    # A run may resume in the middle of the steps to record.
    within = self._steps and self._steps[0] <= step <= self._steps[1]
    if within and not self._running:
      jax.profiler.start_trace(self._folder)
      self._running = True

  def after(self, step: int, result: Any) -> None:
    """`result` is what the step computes."""
    # The trace ends when the devices have done the last step.
    if self._running and step >= self._steps[1]:
      jax.block_until_ready(result)
      self.close()
      logging.info("profile of steps %d to %d: %s", *self._steps, self._folder)

  def close(self) -> None:
    """Ends a recording under way."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False


def _parts_of_loss(scalars: dict[str, float]) -> str:
  return "".join(
    f"  {name.removeprefix('loss_')} {value:.4f}"
    for name, value in sorted(scalars.items())
    if name.startswith("loss_")
  )
