"""Golden arrays of the PyTorch reference, how closely they are met, a report.

`pytest tests/parity --golden=DIR` runs the same tests on another folder with
the same file names. A test may not be tighter than five times what the float32
rounding of the reference itself allows, and is not looser.
"""

import json
import pathlib

import numpy as np
import pytest

# Closeness of an independent replay, relative to the largest value.
CLOSENESS = {
  "network": 3e-6,
  "loss": 3e-7,
  "sampler": 6e-7,
  "pose": 1e-7,
  "augmentation": 5e-6,
  "ray": 1e-6,
  "coordinates": 3e-6,
  "lookup": 2e-5,
  "coarse density": 6e-5,
  "fine distances": 7e-5,
  "merged density": 2e-4,
  "merged features": 1e-3,
  "render": 4e-5,
  "render gradient": 1e-5,
  "rate": 1e-6,
  "parameter": 3e-7,
  "metric": 1e-6,
}
_FILES = {}
_running = []


class GoldenFile:
  """The arrays of one file; remembers which were read."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    with np.load(path) as arrays:
      self._arrays = {key: arrays[key] for key in arrays.files}
    self.unread = set(self._arrays)

  def __contains__(self, key: str) -> bool:
    return key in self._arrays

  def __getitem__(self, key: str) -> np.ndarray:
    self.unread.discard(key)
    return self._arrays[key]

  def starting(self, prefix: str) -> dict[str, np.ndarray]:
    """{rest of the key: array} of all keys that start with `prefix`."""
    return {
      key.removeprefix(prefix): self[key]
      for key in self._arrays
      if key.startswith(prefix)
    }

  def json(self, key: str) -> dict:
    return json.loads(bytes(self[key]))

  def check(
    self, key: str, actual, kind: str, where=None, scale: float | None = None
  ) -> None:
    """Compares with the array `key`.

    Args:
      key: of the golden array.
      actual: of the same shape.
      kind: a key of `CLOSENESS`.
      where: mask of the entries that count, broadcast against the array.
      scale: what the error is relative to, by default the largest value.
    """
    expected = self[key]
    actual = np.asarray(actual)
    assert actual.shape == expected.shape, (
      f"{self.path.name}: {key} has shape {actual.shape}, expected"
      f" {expected.shape}"
    )
    error = np.abs(actual.astype(np.float64) - expected)
    if where is not None:
      where = np.broadcast_to(where, error.shape)
      error, expected = error[where], expected[where]
    if scale is None:
      scale = np.abs(expected).max(initial=0)
    worst = error.max(initial=0) / scale if scale else error.max(initial=0)
    allowed = 5 * CLOSENESS[kind]
    line = (self.path.name, key, float(worst), allowed)
    _running[0].user_properties.append(("golden", line))
    assert worst <= allowed, (
      f"{self.path.name}: {key} is off by {worst:.2e}, expected at most"
      f" {allowed:.1e}"
    )


@pytest.fixture(scope="session")
def golden(request):
  """Opens a golden file by its stem."""
  folder = pathlib.Path(request.config.getoption("--golden"))

  def open_file(stem: str) -> GoldenFile:
    if stem not in _FILES:
      _FILES[stem] = GoldenFile(folder / f"{stem}.npz")
    return _FILES[stem]

  open_file.folder = folder
  return open_file


@pytest.fixture
def check_all_read(golden, request):
  """Fails if arrays of the given files were left out; for the last test.

  It means something after all tests of a module, so it is skipped when only
  some of them were asked for.
  """
  options = request.config
  if options.option.keyword or any("::" in arg for arg in options.args):
    pytest.skip("only a part of this module was selected")

  def check(files: tuple[str, ...]) -> None:
    unread = {stem: sorted(golden(stem).unread) for stem in files}
    assert not any(unread.values()), unread

  return check


@pytest.fixture(autouse=True)
def reported(request):
  """Errors go into the report of the test that found them."""
  _running[:] = [request.node]
