"""Metrics as JSON lines and TensorBoard events, without TensorFlow.

`Writer` has the method names of clu's metric writers, whose own backends
import TensorFlow.
"""

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator
from collections.abc import Mapping

import numpy as np
import tensorboardX
from etils import epath

from genvs_jax.runtime import files

METRICS_FILE = "metrics.jsonl"


class Writer:
  """Writes into `workdir`; a resumed run continues its files.

  Args:
    workdir: folder for metrics.jsonl and the event files; in a bucket, they
      are uploaded again at each flush.
    start_step: lines of later steps, left by a run that was cut off after its
      newest checkpoint, are dropped.
    active: False on all processes but one; then nothing is written.
  """

  def __init__(self, workdir: str, start_step: int, active: bool = True):
    self._active = active
    if not active:
      return
    self._folder = epath.Path(workdir)
    self._scratch = (
      tempfile.TemporaryDirectory() if files.is_remote(workdir) else None
    )
    local = epath.Path(self._scratch.name if self._scratch else workdir)
    local.mkdir(parents=True, exist_ok=True)
    before = self._folder / METRICS_FILE
    lines = before.read_text().splitlines() if before.exists() else []
    earlier = [f"{line}\n" for line in lines if _step(line) <= start_step]
    path = local / METRICS_FILE
    path.write_text("".join(earlier))
    self._lines = path.open("a")
    self._events = tensorboardX.SummaryWriter(
      str(local), purge_step=start_step + 1 if start_step else None
    )

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """One JSON line and one event per scalar."""
    if not self._active:
      return
    values = {name: float(value) for name, value in scalars.items()}
    with _explain_failure():
      self._lines.write(json.dumps({"step": step, **values}) + "\n")
    for name, value in values.items():
      self._events.add_scalar(name, value, step)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """u8 [H,W,3] pictures as events."""
    if not self._active:
      return
    for name, image in images.items():
      self._events.add_image(name, image, step, dataformats="HWC")

  def flush(self) -> None:
    if self._active:
      with _explain_failure():
        self._lines.flush()
      self._events.flush()
      self._upload()

  def close(self) -> None:
    if self._active:
      self._lines.close()
      self._events.close()
      self._upload()
      if self._scratch:
        self._scratch.cleanup()

  def _upload(self) -> None:
    """Copies the files of a remote workdir there; buckets know no appending."""
    if self._scratch:
      for path in epath.Path(self._scratch.name).iterdir():
        files.write_whole(self._folder / path.name, path.read_bytes())


def _step(line: str) -> float:
  """The step of a line; never reached if a kill has cut the line short."""
  try:
    return json.loads(line)["step"]
  except (ValueError, KeyError):
    return math.inf


@contextlib.contextmanager
def _explain_failure() -> Iterator[None]:
  """Says what could not be written when the disk is full."""
  try:
    yield
  except OSError as error:
    raise OSError(
      f"{METRICS_FILE} could not be written ({error.strerror}): make room for"
      " it and start the same command again"
    ) from error
