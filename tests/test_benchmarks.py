"""The parts of the benchmarks that could lie."""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import ablation_rows
from benchmarks import loop
from benchmarks import measuring
from benchmarks import memory_scenes
from benchmarks import profiling
from benchmarks import run
from benchmarks import storage
from configs import debug
from configs import demo
from genvs_jax import config_fields
from genvs_jax.models import builders

ROOT = pathlib.Path(__file__).parent.parent


def fail():
  raise ValueError("first line\nsecond line")


def end():
  os._exit(3)


def test_measurements_are_kept_and_failures_are_told(tmp_path):
  path = tmp_path / "results.json"
  results = measuring.Results(str(path))
  assert results.get("a", lambda: {"seconds": [1.0]}) == {"seconds": [1.0]}
  assert results.get("b", lambda: measuring.apart(fail)) == {
    "error": "first line"
  }
  assert "code 3" in measuring.apart(end)["error"]
  with pytest.raises(TimeoutError, match=r"stopped after 0\.5 s"):
    measuring.apart(time.sleep, 600, limit=0.5)
  again = measuring.Results(str(path))
  assert again.get("a", fail) == {"seconds": [1.0]}  # not measured again
  assert json.loads(path.read_text()) == again.values
  # What failed for want of memory would do so again; the rest is tried again.
  assert again.get("b", lambda: {"seconds": [2.0]}) == {"seconds": [2.0]}
  short = {"error": "RESOURCE_EXHAUSTED: Out of memory"}
  assert again.get("c", lambda: short) == again.get("c", fail) == short


def test_files_of_other_machines_are_refused(tmp_path, monkeypatch):
  answers = {
    measuring.describe_machine: {"device": "gpu"},
    measuring.measure_peaks: {"float32_per_second": 1.0},
  }
  monkeypatch.setattr(measuring, "apart", lambda f, *_, limit: answers[f])
  path = str(tmp_path / "new" / "results.json")
  values = measuring.open_results(path, 16).values
  assert values["peaks"] == {"float32_per_second": 1.0}
  assert measuring.open_results(path, 16).values == values
  answers[measuring.describe_machine] = {"device": "cpu"}
  with pytest.raises(RuntimeError, match=r"results.json .*gpu.*, but .*cpu"):
    measuring.open_results(path, 16)
  with pytest.raises(RuntimeError, match="only a CPU"):
    measuring.open_results(path, 16, cpu=False)
  # Without rates there is no file of figures.
  other = str(tmp_path / "other.json")
  answers[measuring.measure_peaks] = {"error": "no kernel image"}
  with pytest.raises(RuntimeError, match="does not work: no kernel image"):
    measuring.open_results(other, 16)
  assert "peaks" not in measuring.Results(other).values


def test_what_does_not_fit_a_part_is_left_to_the_next(tmp_path, monkeypatch):
  specs = [measuring.Spec("debug", name, {}) for name in "abc"]
  results = measuring.Results(str(tmp_path / "results.json"))
  fails = {"b"}

  def apart(function, spec, *arguments, limit):
    if spec.program in fails:
      raise TimeoutError(f"stopped after {limit:.0f} s")
    return {"seconds": [1.0]}

  monkeypatch.setattr(measuring, "apart", apart)
  until = time.time() + 100
  with pytest.raises(TimeoutError):
    measuring.measure_all(results, specs, until)
  assert list(results.values) == ["debug/a/"]
  # What takes a whole part has failed; the others go on.
  measuring.measure_all(results, specs, until)
  assert results.values["debug/b/"] == {"error": "stopped after 120 s"}
  assert results.values["debug/c/"] == {"seconds": [1.0]}
  fails.add("d")
  specs += [measuring.Spec("debug", name, {}) for name in "ed"]
  with pytest.raises(TimeoutError, match="measured 1 of 2"):
    measuring.measure_all(results, specs, time.time() + 50)


def test_larger_batches_than_one_too_large_are_left_out(tmp_path, monkeypatch):
  asked = []

  def apart(function, spec, *arguments, limit):
    asked.append(spec.fields["train.batch_size"])
    if asked[-1] < 4:
      return {"seconds": [1.0]}
    return {"error": "RESOURCE_EXHAUSTED: Out of memory"}

  monkeypatch.setattr(measuring, "apart", apart)
  specs = [
    measuring.Spec("debug", "step", {"train.batch_size": n, "model.dtype": "d"})
    for n in (2, 4, 8, 16)
  ]
  results = measuring.Results(str(tmp_path / "results.json"))
  measuring.measure_all(results, specs, time.time() + 100)
  assert asked == [2, 4]
  assert results.values[specs[3].key] == {
    "error": "RESOURCE_EXHAUSTED at 4 scenes"
  }


def test_share_of_the_product_is_by_device():
  row = {"seconds": [1.0, 2.0, 9.0], "operations": 1e12, "devices": 4}
  peaks = {"bfloat16_per_second": 5e11}
  share = measuring.share_of_product(row, peaks, "bfloat16")
  assert share == pytest.approx(0.25)


def test_two_files_are_compared_by_medians():
  old = {"x": {"seconds": [1.0, 2.0, 9.0], "compiled_gib": 4.0}, "y": {}}
  new = {"x": {"seconds": [3.0, 1.0, 0.5], "compiled_gib": 2.0}, "y": {}}
  *_, row = measuring.comparison(old, new).splitlines()
  cells = [cell.strip() for cell in row.strip("|").split("|")]
  assert cells == ["x", "2", "1", "0.50", "4", "2", "0.50"]


@pytest.mark.parametrize("name", ablation_rows.ROWS)
def test_fields_of_ablations_are_there_and_act(name):
  """What `launch.py` would refuse hours later."""
  row = ablation_rows.ROWS[name]
  config = demo.get_config()
  assert row.fields.keys() <= config_fields.flatten(config).keys()
  config.update_from_flattened_dict(row.fields)
  config_fields.check_overrides(config, row.fields)
  assert not row.checkpoint_of or row.checkpoint_of in ablation_rows.ROWS


def test_fields_of_the_command_line():
  fields = ["a.b=1", "c=bfloat16", "d=(1, 2)", "e=1e-3"]
  assert dict(map(run.parse_field, fields)) == {
    "a.b": 1,
    "c": "bfloat16",
    "d": (1, 2),
    "e": 1e-3,
  }


def test_shares_are_of_the_training_alone():
  lines = [
    {"step": 1},
    {
      "step": 11,
      "steps_per_second": 2.0,
      "paused_seconds": 7.0,
      "data_wait_share": 0.1,
      "placing_share": 0.0,
      "logging_share": 0.0,
      "saving_share": 0.4,
    },
  ]
  lines.append({**lines[1], "step": 16, "steps_per_second": 1.0})
  text = loop.table(lines)
  assert "15 steps in 10.0 s, and 14.0 s" in text
  assert "| data_wait | 1.000 | 10.00% |" in text
  assert "| saving | 4.000 | 40.00% |" in text


def op(name, start, duration, pid=7):
  return {
    "ph": "X",
    "pid": pid,
    "ts": start * 1e6,
    "dur": duration * 1e6,
    "args": {"hlo_op": name},
  }


def test_profiles_group_operations_and_find_the_waste():
  events = [
    {"name": "process_name", "pid": 7, "args": {"name": "/device:GPU:0"}},
    {"name": "process_name", "pid": 8, "args": {"name": "/host:CPU"}},
    {"ph": "X", "pid": 7, "ts": 0, "dur": 9e6, "args": {}},  # no operation
    op("while.1", 0, 9),  # holds the others
    op("conv.1", 0, 3),
    op("scatter.2", 2, 3),  # overlaps the one before
    op("convert.3", 7, 0.5),
    op("copy.4", 7.5, 0.5),
    op("conv.1", 0, 100, pid=8),  # on the host
  ]
  program = """
  %conv.1 = f32[2] custom-call(), metadata={op_name="jit(step)/jvp(encoder)/conv"}
  scatter.2 = f32[2] scatter(), metadata={op_name="jit(step)/transpose(jvp(render))/scatter-add"}
  ROOT %convert.3 = bf16[2] convert(f32[2] %x)
  %copy.4 = f32[2] copy(f32[2] %x), metadata={op_name="jit(step)/jvp(render)/transpose"}
  """  # noqa: E501
  ops = profiling.read_ops(events, on_host=False)
  result = profiling.summarise(ops, profiling.read_scopes(program), 8.0)
  assert result.wall == pytest.approx(8) and result.busy == pytest.approx(6)
  assert result.groups == pytest.approx(
    {
      "encoder, forward, products": 3,
      "render, backward, other": 3,
      "render, forward, other": 0.5,
      "unknown, forward, other": 0.5,
    }
  )
  # 3 of 7 seconds of operations, in 6 of 8 seconds; idle is a quarter.
  assert result.waste() == "render, backward, other (32% of the time)"
  with pytest.raises(ValueError, match="no operations"):
    profiling.summarise([], {}, 1.0)
  # Gaps that the profiler alone makes are no waste.
  assert profiling.summarise(ops, {}, 6.0).waste().startswith("unknown")
  few = profiling.summarise(profiling.read_ops(events[:5], False), {}, 3.0)
  assert few.waste() == "idle (0% of the time)"
  (on_host,) = profiling.read_ops(events, on_host=True)
  assert on_host.duration == 100


def test_batches_from_memory_are_those_of_training():
  config = debug.get_config()
  size = config.model.image_size
  views = config.model.input_views + config.train.target_views
  rng = np.random.default_rng(0)
  scenes = memory_scenes.Scenes(
    rng.integers(0, 256, (6, 5, size, size, 3), dtype=np.uint8),
    rng.random((6, 5, 4, 4), dtype=np.float32),
  )

  def batch(step):
    return next(
      memory_scenes.batches(scenes, config.train.batch_size, views, step)
    )

  first = batch(0)
  for name, spec in builders.batch_spec(config).items():
    assert first[name].shape == spec.shape and first[name].dtype == spec.dtype
  for row, scene in enumerate(first["scene"]):
    of_scene = scenes.poses[scene]
    chosen = [
      int((of_scene == pose).all((1, 2)).nonzero()[0][0])
      for pose in first["poses"][row]
    ]
    assert len(set(chosen)) == views
    np.testing.assert_array_equal(
      scenes.images[scene][chosen], first["images"][row]
    )
  np.testing.assert_array_equal(first["poses"], batch(0)["poses"])
  assert (first["poses"] != batch(1)["poses"]).any()


def test_repeated_records():
  records = storage.Repeated(["a", "b"], 3)
  assert list(records) == ["a", "b"] * 3


MISSING = (
  "clu",
  "filelock",
  "grain",
  "imageio_ffmpeg",
  "skimage",
  "tensorboardX",
  "tensorflow_datasets",
)
BLOCK = f"""
import sys
for name in {MISSING}:
  sys.modules[name] = None
"""


def without_packages(tmp_path, *arguments):
  """Runs Python where some packages are missing, also in child processes."""
  (tmp_path / "sitecustomize.py").write_text(BLOCK)
  path = f"{tmp_path}{os.pathsep}{ROOT}"
  environment = {**os.environ, "PYTHONPATH": path}
  environment.pop("XLA_FLAGS", None)  # which the tests set, for 8 devices
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )


def test_accelerators_need_few_packages(tmp_path):
  code = """
from benchmarks import accelerator, measuring, memory_training, profiling
print(measuring.measure(measuring.Spec("debug", "encoder", {}), 1, 1))
"""
  done = without_packages(tmp_path, "-c", code)
  assert done.returncode == 0 and "seconds" in done.stdout, done.stderr
  done = without_packages(tmp_path, "-c", "from genvs_jax.data import loading")
  assert "ModuleNotFoundError" in done.stderr  # the block works


@pytest.mark.slow
def test_accelerator_at_debug_size(tmp_path):
  command = [
    "-m",
    "benchmarks.accelerator",
    f"--output={tmp_path}/out",
    f"--scratch={tmp_path}/scratch",
    "--configs=debug",
    "--sweep_configs=debug",
    "--table_batch=2",
    "--batches=2,4",
    "--train_config=debug",
    "--train_batch=4",
    "--scenes=8",
    "--peak_size=512",
    "--allow_cpu",
  ]
  # Training takes all of its time, the other parts as much as they need.
  measuring_parts = ("--parts=table,sweep,profile", "--minutes=7")
  training = ("--parts=sweep,train", "--minutes=1.5")
  for part in (measuring_parts, training):
    done = without_packages(tmp_path, *command, *part)
    assert done.returncode == 0, done.stderr
  out = tmp_path / "out"
  files = sorted(path.name for path in out.iterdir())
  assert files == [
    "grid_first.png",
    "grid_last.png",
    "report.md",
    "results.json",
    "train.jsonl",
  ]
  assert sum(path.stat().st_size for path in out.iterdir()) < 1e6
  values = json.loads((out / "results.json").read_text())
  assert not any("error" in value for value in values.values())
  report = (out / "report.md").read_text()
  for text in ("debug, frame", "images/s", "the largest waste", "psnr_render"):
    assert text in report
  # Training goes on; what was measured is not measured again.
  before = (out / "train.jsonl").read_text().splitlines()
  done = without_packages(tmp_path, *command, *training)
  assert done.returncode == 0 and "measuring" not in done.stdout
  lines = (out / "train.jsonl").read_text().splitlines()
  assert lines[: len(before)] == before
  for name in ("step", "seconds"):
    values = [json.loads(line)[name] for line in lines]
    assert values == sorted(set(values)) and len(values) > len(before)
