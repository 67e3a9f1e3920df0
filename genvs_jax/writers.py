"""Metrics as JSON lines and TensorBoard events, without TensorFlow.

`Writer` has the method names of clu's metric writers, whose own backends
import TensorFlow.
"""

import json
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorboardX

METRICS_FILE = "metrics.jsonl"


class Writer:
  """Writes into `workdir`; a resumed run continues its files.

  Args:
    workdir: folder for metrics.jsonl and the event files.
    start_step: lines of later steps, left by a run that was cut off after its
      newest checkpoint, are dropped.
    active: False on all processes but one; then nothing is written.
  """

  def __init__(self, workdir: str, start_step: int, active: bool = True):
    self._active = active
    if not active:
      return
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / METRICS_FILE
    kept = []
    if path.exists():
      for line in path.read_text().splitlines():
        try:
          if json.loads(line)["step"] <= start_step:
            kept.append(line + "\n")
        except (ValueError, KeyError):
          continue  # a line cut short by a kill
    path.write_text("".join(kept))
    self._lines = path.open("a")
    self._events = tensorboardX.SummaryWriter(
      str(folder), purge_step=start_step + 1 if start_step else None
    )

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """One JSON line and one event per scalar."""
    if not self._active:
      return
    values = {name: float(value) for name, value in scalars.items()}
    self._lines.write(json.dumps({"step": step, **values}) + "\n")
    for name, value in values.items():
      self._events.add_scalar(name, value, step)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """u8 [H,W,3] pictures as events."""
    if not self._active:
      return
    for name, image in images.items():
      self._events.add_image(name, image, step, dataformats="HWC")

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    """Markdown texts as events."""
    if not self._active:
      return
    for name, text in texts.items():
      self._events.add_text(name, text, step)

  def flush(self) -> None:
    if self._active:
      self._lines.flush()
      self._events.flush()

  def close(self) -> None:
    if self._active:
      self._lines.close()
      self._events.close()
