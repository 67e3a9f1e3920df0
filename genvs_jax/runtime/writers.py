"""Metrics as JSON lines and TensorBoard events, without TensorFlow.

`Writer` has the method names of clu's metric writers, whose own backends
import TensorFlow.
"""

import contextlib
import json
import math
import tempfile
import time
from collections.abc import Iterator
from collections.abc import Mapping

import numpy as np
import tensorboardX
from etils import epath

from genvs_jax.runtime import files

METRICS_FILE = "metrics.jsonl"
# Of a workdir in a bucket: a file is uploaded again when it has grown by this
# share or has waited for this many seconds, and events go on in another file
# when theirs has become this large.
_GROWTH, _LONGEST_WAIT = 1 / 8, 600.0
_SEGMENT_BYTES = 1 << 22


class Writer:
  """Writes into `workdir`; a resumed run continues its files.

  Args:
    workdir: folder for metrics.jsonl and the event files; in a bucket, they
      are uploaded as they grow, and at the end.
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
    text = before.read_text() if before.exists() else ""
    lines = [line for line in text.splitlines() if _step(line) <= start_step]
    earlier = "".join(f"{line}\n" for line in lines)
    path = local / METRICS_FILE
    if earlier != text or self._scratch:
      # Whole or not at all: on a full disk the old file stays.
      with _explain_failure():
        files.write_whole(path, earlier.encode())
    self._lines = path.open("a")
    self._local = str(local)
    self._segment = 0
    self._uploaded: dict[str, tuple[int, float]] = {}
    self._events = self._open_events(start_step + 1 if start_step else None)

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
    if not self._active:
      return
    with _explain_failure():
      self._lines.flush()
    self._events.flush()
    if self._scratch:
      self._upload(everything=False)
      self._start_new_segment()

  def close(self) -> None:
    if not self._active:
      return
    self._lines.close()
    self._events.close()
    if self._scratch:
      self._upload(everything=True)
      self._scratch.cleanup()

  def _upload(self, everything: bool) -> None:
    """Copies the files of a remote workdir there; buckets know no appending.

    A file goes when it has grown by a good part, or has waited for long, so
    that all uploads together are a small multiple of the last one.
    """
    now = time.monotonic()
    for path in epath.Path(self._local).iterdir():
      size = path.stat().length
      before, since = self._uploaded.get(path.name, (0, -math.inf))
      due = size >= before * (1 + _GROWTH) or now - since > _LONGEST_WAIT
      if size > before and (everything or due):
        files.write_whole(self._folder / path.name, path.read_bytes())
        self._uploaded[path.name] = (size, now)

  def _start_new_segment(self) -> None:
    """Events go on in another file where the present one has become large: a
    file that does not change any more is not uploaded again."""
    name = f"*.{self._segment}"
    sizes = [p.stat().length for p in epath.Path(self._local).glob(name)]
    if sizes and max(sizes) > _SEGMENT_BYTES:
      self._events.close()
      self._segment += 1
      self._events = self._open_events(purge_step=None)

  def _open_events(self, purge_step: int | None) -> tensorboardX.SummaryWriter:
    return tensorboardX.SummaryWriter(
      self._local,
      purge_step=purge_step,
      filename_suffix=f".{self._segment}" if self._scratch else "",
    )


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
