"""Arrays from the pickles of published weights, without running their code.

A pickle can call anything; these readers look every name up in a short list
and refuse the file at the first other one.
"""

import collections
import math
import pickle
import struct
from typing import Any
from typing import BinaryIO

import numpy as np

from genvs_jax.convert import torch_file

_MOST_VALUES = 2**28  # of a storage, 1 GiB
_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before PyTorch 1.6


class _Reader(pickle.Unpickler):
  """An unpickler that knows some names alone."""

  def __init__(self, file: BinaryIO, names: dict[tuple[str, str], Any]):
    super().__init__(file)
    self._names = names
    self.storages: dict[str, np.ndarray] = {}

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in self._names:
      raise torch_file.ConvertError(
        f"it holds {module}.{name}, expected arrays alone: nothing was run"
      )
    return self._names[module, name]

  def persistent_load(self, pid: Any) -> np.ndarray:
    """An array for a storage, which is filled when all are known."""
    _, dtype, key, _, count, _ = pid
    if dtype is not np.float32 or not 0 <= count < _MOST_VALUES:
      raise torch_file.ConvertError(f"it holds {count} values of {dtype}")
    return self.storages.setdefault(key, np.zeros(count, dtype))


def read_numpy(path: str) -> Any:
  """The content of a pickle of nested dicts of NumPy arrays.

  Raises:
    ConvertError: if it holds anything else.
  """
  # Where NumPy 1 and 2 keep the function that makes an empty array.
  names = {
    (module, "_reconstruct"): np.zeros(0).__reduce__()[0]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
  }
  names |= {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
  with open(path, "rb") as file:
    return _Reader(file, names).load()


def read_old_torch(path: str) -> dict[str, np.ndarray]:
  """The float32 tensors of a file that PyTorch before 1.6 wrote.

  Raises:
    ConvertError: if it is no such file, or holds anything else.
  """

  def tensor(storage, offset, shape, stride, *_):
    contiguous = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    if tuple(stride) != contiguous:
      raise torch_file.ConvertError("it holds a tensor that is not contiguous")
    return storage[offset : offset + math.prod(shape)].reshape(shape)

  names = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): tensor,
    ("torch", "FloatStorage"): np.float32,
  }
  with open(path, "rb") as file:
    # Magic number, protocol, machine, tensors, names of the storages; behind
    # them each storage's length and values.
    if _Reader(file, {}).load() != _MAGIC:
      raise torch_file.ConvertError(f"{path} is no file of PyTorch before 1.6")
    for _ in range(2):
      _Reader(file, {}).load()
    reader = _Reader(file, names)
    content = reader.load()
    for key in _Reader(file, {}).load():
      (count,) = struct.unpack("<q", file.read(8))
      reader.storages[key][:] = np.frombuffer(file.read(4 * count), "<f4")
  return content
