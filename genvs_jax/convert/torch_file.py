"""Reads tensors from a PyTorch file, and nothing else.

PyTorch is an optional extra, needed here alone. Files are opened with
`weights_only=True`, which builds tensors and plain containers and refuses
anything that would run code.
"""

import os
import pickle
from typing import Any

import numpy as np

from genvs_jax.runtime import messages

# Older ones could be made to run code even with weights_only=True.
_OLDEST_TORCH = (2, 6)

Tensors = dict[str, np.ndarray]


class ConvertError(ValueError):
  """A file that cannot be converted."""


def read(path: str) -> Any:
  """The contents of a `torch.save` file, tensors as NumPy arrays.

  Arrays of files in PyTorch's current format are read from disk as they are
  used, so that a large file does not fill the memory.

  Raises:
    ConvertError: if PyTorch is missing, or the file is damaged or holds
      anything but tensors and plain containers.
  """
  path = os.path.expanduser(path)
  if not os.path.isfile(path):
    raise ConvertError(f"{path} is no file: expected a PyTorch checkpoint")
  try:
    import torch  # noqa: PLC0415
  except ModuleNotFoundError as error:
    raise ConvertError(
      f"reading {path} needs PyTorch, which is not installed: pip install"
      " 'torch>=2.6' --index-url https://download.pytorch.org/whl/cpu"
    ) from error
  version = tuple(int(v) for v in torch.__version__.split(".")[:2])
  if version < _OLDEST_TORCH:
    raise ConvertError(
      f"PyTorch is {torch.__version__}, expected 2.6 or newer: older ones can"
      " be made to run code by a file; pip install 'torch>=2.6'"
    )
  options = {"map_location": "cpu", "weights_only": True}
  try:
    try:
      content = torch.load(path, mmap=True, **options)
    except RuntimeError as error:
      if "mmap can only be used" not in str(error):
        raise
      content = torch.load(path, **options)  # the format before PyTorch 1.6
    return _to_numpy(content, torch, path)
  except ConvertError:
    raise
  except pickle.UnpicklingError as error:
    raise ConvertError(
      f"{path} holds more than tensors and plain containers, or is damaged:"
      " nothing in it was run; expected a state_dict written by torch.save"
      f" ({messages.first_line(error, 120)})"
    ) from error
  except Exception as error:  # of any kind: the unpickler trusts its input
    raise ConvertError(
      f"{path} ({os.path.getsize(path)} bytes) is damaged or no PyTorch file:"
      f" expected an undamaged file written by torch.save"
      f" ({messages.first_line(error, 120)})"
    ) from error


def _to_numpy(value: Any, torch, path: str) -> Any:
  if isinstance(value, torch.Tensor):
    if value.layout is not torch.strided or value.is_quantized:
      raise ConvertError(
        f"{path} holds a sparse or quantized tensor, expected dense ones"
      )
    value = value.detach()
    if value.dtype in (torch.bfloat16, torch.float16, torch.float64):
      value = value.float()
    return value.numpy()
  if isinstance(value, dict):
    return {key: _to_numpy(v, torch, path) for key, v in value.items()}
  if isinstance(value, list | tuple):
    return [_to_numpy(v, torch, path) for v in value]
  return value
