"""Devices: what is reported, and how batches are spread."""

import types

import jax
import numpy as np
import pytest
from absl import logging

from genvs_jax.runtime import processes
from genvs_jax.runtime import sharding


@pytest.fixture
def notes(monkeypatch):
  """What is logged, as (level, text)."""
  result = []
  for level in ("info", "warning"):
    monkeypatch.setattr(
      logging, level, lambda m, *a, level=level: result.append((level, m % a))
    )
  return result


def test_devices_in_use_are_named(notes, monkeypatch):
  monkeypatch.setattr(processes.glob, "glob", lambda pattern: [])
  processes.report_devices()
  assert notes == [("info", notes[0][1])]
  assert "8 cpu device(s) in use" in notes[0][1]


@pytest.mark.parametrize(
  "path, name",
  [
    ("/dev/nvidia0", "an NVIDIA GPU"),
    ("/dev/kfd", "an AMD GPU"),
    ("/dev/accel0", "a TPU"),
  ],
)
def test_an_unused_accelerator_is_warned_of(notes, monkeypatch, path, name):
  def glob(pattern):
    return [path] if pattern[:8] == path[:8] else []

  monkeypatch.setattr(processes.glob, "glob", glob)
  processes.report_devices()
  assert notes[1][0] == "warning"
  assert f"{name} is here but JAX runs on the CPU" in notes[1][1]


def test_each_device_holds_its_part_of_the_batch():
  mesh = sharding.make_mesh(jax.devices()[:4])
  batch = {"x": np.arange(8.0).reshape(8, 1), "scene": np.arange(8)}
  arrays = sharding.to_devices(batch, mesh, 8)
  np.testing.assert_array_equal(arrays["x"], batch["x"])
  parts = [s.data.shape for s in arrays["x"].addressable_shards]
  assert parts == [(2, 1)] * 4


def test_uneven_batches_are_refused():
  mesh = sharding.make_mesh(jax.devices()[:4])
  sharding.check_batch_size(8, 1, mesh)
  with pytest.raises(ValueError, match="is 6, expected a multiple of the 4"):
    sharding.check_batch_size(6, 1, mesh)


@pytest.mark.parametrize("count, devices", [(3, 3), (5, 5), (7, 7), (6, 6)])
def test_local_meshes_take_a_part_of_the_devices(monkeypatch, count, devices):
  """`jax.make_mesh` refuses a part of a TPU slice, and is not asked."""
  monkeypatch.setattr(jax, "make_mesh", lambda *a, **k: pytest.fail("asked"))
  mesh = sharding.make_local_mesh(count)
  assert mesh.size == devices
  placed = jax.device_put(np.arange(count), sharding.split_batch(mesh))
  assert len(placed.addressable_shards) == devices


def test_shards_stay_inside_of_a_slice():
  devices = [types.SimpleNamespace(slice_index=i // 4) for i in range(8)]
  with pytest.raises(ValueError, match="more than the 4 devices of each of 2"):
    sharding.make_mesh(devices, shards=8)
