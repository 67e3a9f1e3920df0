"""What ends a run before its last step: a signal, or gradients gone wrong."""

import contextlib
import json
import signal
import threading
from collections.abc import Callable
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging
from etils import epath

from genvs_jax.runtime import files


class Stop:
  """Whether the run was asked to end (SIGTERM, which preemption sends).

  Args:
    agreed: for a run of several processes, the function of a step that says
      whether all of them have agreed to end after it; None for one process.
  """

  def __init__(self, agreed: Callable[[int], bool] | None):
    self._agreed = agreed
    self._asked = False

  @contextlib.contextmanager
  def listening(self) -> Iterator[None]:
    """Answers SIGTERM while the context lasts; JAX does for several."""
    # Python delivers signals to the main thread alone; a loop in another one
    # (a notebook, a test) is not interrupted.
    main = threading.current_thread() is threading.main_thread()
    if self._agreed is not None or not main:
      yield
      return

    # Only noted here: the loop asks after each step, and saves first.
    def ask(number, frame):
      del number, frame
      self._asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
      yield
    finally:
      signal.signal(signal.SIGTERM, before)

  def __call__(self, step: int) -> bool:
    """To be asked after each step, by every process."""
    return self._asked if self._agreed is None else self._agreed(step)


class SkippedUpdates:
  """Ends a run whose gradients are not finite, many steps in a row.

  Args:
    most: updates in a row that may be left out.
    folder: receives the batch of the last one.
    seed: of the run, saved with the batch.
  """

  def __init__(self, most: int, folder: epath.Path, seed: int):
    self._most, self._folder, self._seed = most, folder, seed

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
    if count < self._most:
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


def build_skipped_updates(config, workdir: str) -> SkippedUpdates:
  """From `config.train.max_skipped` and `config.seed`."""
  return SkippedUpdates(
    config.train.max_skipped, epath.Path(workdir), config.seed
  )
