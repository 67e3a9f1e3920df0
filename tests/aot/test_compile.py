"""Programs compiled for TPU slices, where libtpu is installed."""

import importlib.util
import json
import sys

import jax
import pytest

from configs import cars64
from configs import debug
from configs import demo
from genvs_jax.aot import report
from genvs_jax.aot import topologies
from genvs_jax.models import builders

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


@pytest.mark.parametrize(
  "limit, expected", [(100, 32), (13, 4), (12, 0), (1000, 332)]
)
@pytest.mark.parametrize("curved", [False, True])
def test_the_largest_batch_is_found_in_few_compilations(
  monkeypatch, limit, expected, curved
):
  """A step that takes 3 bytes an example, with 1 for itself, on 4 devices.

  Curved, batches that fit take some bytes less than on the straight line.
  """
  tried = []

  def measured(compile_program, mesh, limit):
    batch = compile_program()
    tried.append(batch)
    total = 1 + 3 * batch
    # What does not fit is not told in bytes.
    if total > limit:
      return {"fits": False}
    total -= int(curved) * (limit - total) // 3
    size = {"total": total, "arguments": 1}
    return {"fits": True, "bytes_per_device": size}

  monkeypatch.setattr(report, "_measured", measured)
  monkeypatch.setattr(
    report, "_step", lambda config, mesh: config.train.batch_size
  )
  mesh = type("Mesh", (), {"size": 4})
  config = debug.get_config()
  config.train.batch_size = 16
  step = measured(lambda: config.train.batch_size, mesh, limit)
  assert report.largest_batch(config, mesh, limit, step) == expected
  assert all(batch % 4 == 0 for batch in tried)
  assert len(tried) == len(set(tried)) <= (12 if curved else 5)


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


def test_of_a_recipe_in_stages_the_last_is_compiled(monkeypatch):
  topology = topologies.Topology("v5e:1x1", tuple(jax.devices()[:1]), 2**34, 1)
  monkeypatch.setattr(report.topologies, "load", lambda name: topology)
  configs = []

  def measured(compile_program, mesh, limit):
    del mesh, limit
    configs.append(compile_program.args[0])
    return {"fits": False, "compile_seconds": 3.0}

  monkeypatch.setattr(report, "_measured", measured)
  config = demo.get_config()
  report.run(config, "v5e:1x1", "", False)
  assert config.diffusion.sigma_data == 0  # is measured, and has no value yet
  for compiled in configs:
    assert tuple(compiled.optimizer.frozen) == ("encoder", "field")
    assert builders.build_model(compiled).sigma_data > 0


def test_what_published_rates_make_of_a_program():
  said = report._at_published_rates(197 * 10**10, 819 * 10**7, "TPU v5 lite")
  assert said.startswith(": 10 and 10 ms at")
  assert report._at_published_rates(1, 1, "cpu") == ""


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


@pytest.mark.slow
@needs_libtpu
def test_the_step_of_cars64_compiles_for_eight_chips(tmp_path):
  """The flagship in shards: what each chip holds, and what crosses."""
  config = cars64.get_config()
  config.model.dtype, config.mesh.shards = "bfloat16", 8
  report.run(config, "v5e:2x4", str(tmp_path), False)
  result = json.loads((tmp_path / report.FILE).read_text())
  step = result["step"]
  parameters = 175.6e6  # 62.5M in the encoder, 113.1M in the denoiser
  size = step["bytes_per_device"]
  # Parameters, EMA and two moments, float32: an eighth of each, but two kernels
  # between 515 channels, which 8 does not divide, whole.
  whole = 2 * 3**2 * 515**2
  held = (parameters - whole) / 8 + whole
  assert size["arguments"] == pytest.approx(4 * 4 * held, rel=0.1)
  assert step["fits"] and size["total"] < 8 * 2**30
  kinds = step["collectives_per_device"]
  # Parameters and gradients cross, nothing of the size of what the renderer
  # reads and makes.
  assert {"all-gather", "all-reduce"} <= kinds.keys()
  sent = sum(row["bytes"] for row in kinds.values())
  assert parameters / 8 < sent < 4 * parameters
  assert result["frame"]["fits"]
