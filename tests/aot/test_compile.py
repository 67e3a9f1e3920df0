"""Programs compiled for TPU slices, where libtpu is installed."""

import importlib.util
import json
import sys

import jax
import pytest

from configs import debug
from genvs_jax.aot import report
from genvs_jax.aot import topologies

has_libtpu = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(
  not has_libtpu, reason="libtpu is not installed: pip install 'jax[tpu]'"
)


@pytest.mark.parametrize("name", ["v5e", "v9:2x4", "v5e:2", "v5e:2x4*"])
def test_unknown_topologies_are_one_sentence(name):
  with pytest.raises(ValueError, match="expected a chip of v4, v5e") as caught:
    topologies.load(name)
  assert name in str(caught.value)


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "libtpu", None)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match=r"pip install 'jax\[tpu\]'"):
    topologies.load("v5e:2x4")


def test_the_largest_batch_is_found_by_bisection(monkeypatch):
  """A step that takes 3 bytes an example, with 1 for itself, on 4 devices."""
  tried = []

  def measured(compile_program, limit):
    batch = compile_program()
    tried.append(batch)
    return {"fits": 1 + 3 * batch <= limit}

  monkeypatch.setattr(report, "_measured", measured)
  monkeypatch.setattr(
    report, "_step", lambda config, mesh: config.train.batch_size
  )
  mesh = type("Mesh", (), {"size": 4})
  config = debug.get_config()
  for limit, expected in ((100, 32), (13, 4), (12, 0), (1000, 332)):
    tried.clear()
    assert report.largest_batch(config, mesh, limit) == expected
    assert len(tried) < 20 and all(batch % 4 == 0 for batch in tried)


def test_both_programs_are_reported_on_devices_that_are_here(
  monkeypatch, tmp_path
):
  """What is measured and what is printed of it have the same names."""
  devices = jax.devices()[:2]
  topology = topologies.Topology("v5e:1x2", tuple(devices), 2**34, 1)
  monkeypatch.setattr(report.topologies, "load", lambda name: topology)
  measured = {"fits": False, "compile_seconds": 3.0}
  monkeypatch.setattr(report, "_measured", lambda *args: dict(measured))
  config = debug.get_config()
  lines = report.run(config, "v5e:1x2", str(tmp_path), False)
  for name in ("step", "frame"):
    assert any(line.startswith(f"{name} ") for line in lines)
  result = json.loads((tmp_path / report.FILE).read_text())
  assert result["step"] == result["frame"] == measured


@pytest.mark.slow
@needs_libtpu
def test_the_programs_of_debug_compile_for_two_slices(tmp_path):
  config = debug.get_config()
  config.train.batch_size, config.mesh.shards = 8, 4
  lines = report.run(config, "v5e:2x2*2", str(tmp_path), False)
  assert any("8 devices of 16 GiB" in line for line in lines)
  result = json.loads((tmp_path / report.FILE).read_text())
  step = result["step"]
  assert step["fits"] and step["bytes_per_device"]["total"] < 2**30
  assert step["bytes_per_device"]["aliased"] > 0  # the state is in place
  kinds = step["collectives_per_device"]
  # Parameters are gathered and gradients summed.
  assert kinds["all-gather"]["bytes"] > 0 and kinds["all-reduce"]["bytes"] > 0
  assert len(step["largest_buffers"]) == 10
  assert result["frame"]["fits"]
