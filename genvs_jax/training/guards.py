"""What ends a run before its last step: a signal, or gradients gone wrong."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from genvs_jax.runtime import files
from genvs_jax.runtime import processes


class Stop:
  """Whether the run was asked to end: by SIGTERM, which preemption sends, or
  by Ctrl-C; a second Ctrl-C ends it at once.

  Args:
    agreed: for a run of several processes, the function of a step that says
      whether all of them have agreed to end after it; None for one process.
  """

  def __init__(self, agreed: Callable[[int], bool] | None):
    self._agreed = agreed
    self.asked = False

  @contextlib.contextmanager
  def listening(self) -> Iterator[None]:
    """Answers signals while the context lasts; JAX does for several processes,
    to SIGTERM alone."""
    # Python delivers signals to the main thread alone; a loop in another one
    # (a notebook, a test) is not interrupted.
    main = threading.current_thread() is threading.main_thread()
    if self._agreed is not None or not main:
      yield
      return

    # Only noted here: the loop asks after each step, and saves first.
    def ask(number, frame):
      del frame
      self.asked = True
      os.write(2, b"\nstopping after this step, which is saved\n")
      signal.signal(number, before[number])

    before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)

  def __call__(self, step: int) -> bool:
    """To be asked after each step, by every process."""
    if self._agreed is not None and not self.asked:
      self.asked = self._agreed(step)
    return self.asked


def build_stop() -> Stop:
  """For one process, or for several that agree."""
  several = jax.process_count() > 1
  return Stop(processes.stop_requested if several else None)


class SkippedUpdates:
  """Ends a run whose gradients are not finite, many steps in a row.

  Args:
    max_skipped: updates in a row that may be left out.
    folder: receives the batch of the last one.
    seed: of the run, saved with the batch.
  """

  def __init__(self, max_skipped: int, folder: epath.Path, seed: int):
    self._max_skipped, self._folder, self._seed = max_skipped, folder, seed

  def check(self, step: int, batch: dict, metrics: dict) -> None:
    """Looks at a step, and waits until it is done.

    Args:
      step: its number.
      batch: that this process fed to it, NumPy arrays.
      metrics: of the step, on the devices.

    Raises:
      FloatingPointError: after too many in a row.
    """
    # Reading a metric waits for its step.
    count = int(metrics["skipped_in_a_row"])
    if count == 0:
      return
    logging.warning(
      "the gradient of step %d is not finite: its update is left out", step
    )
    if count < self._max_skipped:
      return
    # Enough to replay the step in a debugger.
    path = self._save(step, batch)
    raise FloatingPointError(
      f"the gradients of {count} steps in a row, up to {step}, are not finite:"
      f" the batch of the last one is in {path}; go back to an older"
      " checkpoint, lower the learning rates, or allow more with"
      " train.max_skipped"
    )

  def _save(self, step: int, batch: dict) -> epath.Path:
    # Each process has a part of the batch.
    suffix = f"_process{jax.process_index()}" if jax.process_count() > 1 else ""
    path = self._folder / f"not_finite_{step:08d}{suffix}.npz"
    # With seed and step the noise of the step can be drawn again.
    randomness = json.dumps({"seed": self._seed, "step": step - 1})
    arrays = {**batch, "randomness": np.array(randomness)}
    return files.write_arrays(path, arrays, compressed=True)


def build_skipped_updates(
  config: ml_collections.ConfigDict, workdir: str
) -> SkippedUpdates:
  """From `config.train.max_skipped` and `config.seed`."""
  return SkippedUpdates(
    config.train.max_skipped, epath.Path(workdir), config.seed
  )
