"""Kills, signals, full disks, damage: nothing is lost, and it is said."""

import dataclasses
import itertools
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from absl import logging

from genvs_jax import config_fields
from genvs_jax.checkpointing import checkpoints
from genvs_jax.data import datasets
from genvs_jax.data import decoding
from genvs_jax.data import loading
from genvs_jax.runtime import run_folder
from genvs_jax.runtime import writers
from genvs_jax.training import guards
from genvs_jax.training import loop
from genvs_jax.training import train_step

ROOT = pathlib.Path(__file__).parents[2]
ONE = jax.devices()[:1]


@pytest.fixture(autouse=True, scope="module")
def compiled_once():
  """The runs of this file differ in steps and checkpoints alone."""
  compile_step, compiled = train_step.compile_step, []

  def once(*args):
    if not compiled:
      compiled.append(compile_step(*args))
    return compiled[0]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train_step, "compile_step", once)
    yield


@pytest.fixture
def warnings(monkeypatch):
  """What is logged as a warning."""
  result = []
  monkeypatch.setattr(logging, "warning", lambda m, *a: result.append(m % a))
  return result


@pytest.fixture
def workdir(trained_workdir, tmp_path) -> pathlib.Path:
  """A copy of a run of 8 steps with checkpoints of steps 4 and 8."""
  shutil.copytree(trained_workdir, tmp_path / "run")
  return tmp_path / "run"


def start(
  workdir, debug_workdir, *flags, devices=1, mode="train"
) -> subprocess.Popen:
  """The command line as a process of its own."""
  xla_flags = os.environ["XLA_FLAGS"].replace("count=8", f"count={devices}")
  training = (
    "--config.train.batch_size=8",
    "--config.train.image_grid_scenes=0",
    "--config.validation.scenes=0",
  )
  return subprocess.Popen(
    [
      *(sys.executable, "launch.py", f"--mode={mode}"),
      *("--config=configs/debug.py", f"--workdir={workdir}"),
      f"--config.data.data_dir={debug_workdir}/data",
      *(training if mode == "train" else ()),
      *flags,
    ],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": xla_flags},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def wait_for(condition, process: subprocess.Popen) -> None:
  deadline = time.monotonic() + 120
  while not condition():
    assert process.poll() is None, process.stdout.read()[-3000:]
    assert time.monotonic() < deadline
    time.sleep(0.001)


def last_step(workdir) -> int:
  """Of the metrics written so far."""
  path = pathlib.Path(workdir) / "metrics.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  try:
    return json.loads(lines[-1])["step"]
  except (IndexError, ValueError):
    return 0


def saved(workdir) -> list[int]:
  folder = pathlib.Path(workdir) / "checkpoints"
  if not folder.exists():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def state_of(workdir, step: int) -> dict:
  folder = pathlib.Path(workdir) / "checkpoints" / str(step) / "state"
  with checkpoints.ocp.StandardCheckpointer() as reader:
    return reader.restore(folder.absolute())


def assert_same_state(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_killed_runs_end_as_undisturbed_ones(debug_workdir, tmp_path):
  """SIGTERM, kill -9 while training, kill -9 while a checkpoint is written."""
  slowly = ("--config.train.steps=100000", "--config.checkpoint.every=100000")
  run = start(tmp_path, debug_workdir, *slowly)
  wait_for(lambda: last_step(tmp_path) >= 1, run)
  run.send_signal(signal.SIGTERM)
  begin = time.monotonic()
  output, _ = run.communicate(timeout=30)
  print(f"saved and ended {time.monotonic() - begin:.1f} s after SIGTERM")
  assert run.returncode == 0 and "start the same command again" in output
  (stopped,) = saved(tmp_path)
  assert last_step(tmp_path) <= stopped

  end = stopped + 6
  last = (f"--config.train.steps={end}", "--config.checkpoint.every=3")
  run = start(tmp_path, debug_workdir, *last)
  wait_for(lambda: last_step(tmp_path) > stopped, run)
  run.kill()
  run.wait()

  run = start(tmp_path, debug_workdir, *last)
  under_way = "*.orbax-checkpoint-tmp*"
  wait_for(lambda: any((tmp_path / "checkpoints").glob(under_way)), run)
  run.kill()
  run.wait()

  run = start(tmp_path, debug_workdir, *last)
  output, _ = run.communicate(timeout=120)
  assert run.returncode == 0, output
  assert saved(tmp_path)[-1] == end
  assert not any((tmp_path / "checkpoints").glob(under_way))

  straight = tmp_path / "straight"
  run = start(straight, debug_workdir, *last)
  output, _ = run.communicate(timeout=120)
  assert run.returncode == 0, output
  assert_same_state(state_of(tmp_path, end), state_of(straight, end))


def largest_file(folder: pathlib.Path) -> pathlib.Path:
  files = [p for p in folder.rglob("*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def truncate(checkpoint):
  path = largest_file(checkpoint / "state")
  os.truncate(path, path.stat().st_size // 2)


def delete_half(checkpoint):
  for path in sorted((checkpoint / "state").rglob("*"))[::2]:
    if path.is_file():
      path.unlink()


def empty_config(checkpoint):
  largest_file(checkpoint / "config").write_text("")


@pytest.mark.parametrize("damage", [truncate, delete_half, empty_config])
def test_damaged_checkpoint_falls_back_to_the_one_before(
  damage, debug_config, workdir, trained_workdir, warnings
):
  damage(workdir / "checkpoints" / "8")
  state = loop.train_and_evaluate(debug_config, str(workdir), ONE)
  assert int(state.step) == 8
  (message,) = [w for w in warnings if "the one before it is taken" in w]
  assert "step 8 cannot be read" in message
  assert (workdir / "damaged_checkpoints" / "8").exists()
  assert_same_state(state_of(workdir, 8), state_of(trained_workdir, 8))


def test_only_damaged_checkpoints_stop_the_run(debug_config, workdir):
  for step in (4, 8):
    truncate(workdir / "checkpoints" / str(step))
  with pytest.raises(
    checkpoints.CheckpointError, match=r"none of the checkpoints \[4, 8\]"
  ):
    loop.train_and_evaluate(debug_config, str(workdir), ONE)
  # The last one left is never moved.
  assert (workdir / "damaged_checkpoints" / "8").exists()
  assert saved(workdir) == [4]


def test_full_disk_stops_the_run_and_keeps_the_older_checkpoint(
  debug_config, workdir
):
  """A limit on the size of files stands for the disk."""
  debug_config.train.steps = 12
  before = state_of(workdir, 8)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
  try:
    with pytest.raises(
      checkpoints.CheckpointError,
      match=r"could not be written to .*that of step 8 is whole",
    ):
      loop.train_and_evaluate(debug_config, str(workdir), ONE)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert saved(workdir) == [4, 8]
  assert_same_state(state_of(workdir, 8), before)
  state = loop.train_and_evaluate(debug_config, str(workdir), ONE)
  assert int(state.step) == 12


def with_bad_poses(monkeypatch, steps: tuple[int, ...]) -> None:
  """Batches whose cameras are nowhere, which makes gradients NaN."""
  batches = loading.train_batches

  def spoiled(*args, start_step: int, **kwargs):
    iterator = batches(*args, start_step=start_step, **kwargs)
    for step in itertools.count(start_step + 1):
      batch = next(iterator)
      if step in steps:
        batch = {**batch, "poses": np.full_like(batch["poses"], np.nan)}
      yield batch

  monkeypatch.setattr(loading, "train_batches", spoiled)


def test_update_without_finite_gradient_is_left_out(
  debug_config, tmp_path, monkeypatch, warnings
):
  with_bad_poses(monkeypatch, (3, 4))
  debug_config.train.steps = 4
  debug_config.checkpoint.every = 2
  debug_config.checkpoint.keep_latest = 3
  loop.train_and_evaluate(debug_config, str(tmp_path), ONE)
  before, after = state_of(tmp_path, 2), state_of(tmp_path, 4)
  for name in ("params", "ema", "buffers", "opt_state"):
    assert_same_state(before[name], after[name])
  assert after["step"] == 4 and after["skipped"].tolist() == [2, 2]
  assert sum("gradient of step" in w for w in warnings) == 2
  metrics = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert json.loads(metrics[-1])["skipped"] == 2
  # The next step is sound, and the count in a row starts again.
  debug_config.train.steps = 5
  state = loop.train_and_evaluate(debug_config, str(tmp_path), ONE)
  assert state.skipped.tolist() == [2, 0]


def test_too_many_in_a_row_stop_the_run_and_save_the_batch(
  debug_config, tmp_path, monkeypatch
):
  with_bad_poses(monkeypatch, range(3, 99))
  debug_config.train.max_skipped = 2
  with pytest.raises(FloatingPointError, match="2 steps in a row, up to 4"):
    loop.train_and_evaluate(debug_config, str(tmp_path), ONE)
  with np.load(tmp_path / "not_finite_00000004.npz") as backup:
    assert np.isnan(backup["poses"]).all()
    assert backup["images"].shape == (8, 3, 32, 32, 3)
    assert json.loads(str(backup["randomness"])) == {"seed": 0, "step": 3}
  assert saved(tmp_path)[-1] in range(4, 8)  # a few steps are under way


HOLD = """
import sys, time
from genvs_jax.runtime import run_folder
from genvs_jax.runtime import writers
with run_folder.lock(sys.argv[1]):
  print("held", flush=True)
  time.sleep(100)
"""


def test_second_run_in_a_workdir_is_refused(debug_config, tmp_path):
  holder = subprocess.Popen(
    [sys.executable, "-c", HOLD, str(tmp_path)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert holder.stdout.readline() == "held\n"
  with pytest.raises(
    run_folder.WorkdirInUseError, match="another run is writing into"
  ):
    loop.train_and_evaluate(debug_config, str(tmp_path), ONE)
  assert saved(tmp_path) == []
  holder.kill()
  holder.wait()
  with run_folder.lock(str(tmp_path)):
    pass  # a killed run leaves no lock behind


def test_remote_workdirs_are_warned_of(warnings):
  with run_folder.lock("gs://bucket/run"):
    assert "gs://bucket/run cannot be locked" in warnings[0]


def test_config_that_does_not_fit_is_named(debug_config, workdir):
  debug_config.model.field.width = 16
  debug_config.train.steps = 12
  with pytest.raises(
    ValueError, match=r"model.field.width = 8, here 16\. Use the same"
  ):
    loop.train_and_evaluate(debug_config, str(workdir), ONE)
  assert saved(workdir) == [4, 8]


def test_fields_that_may_change_are_told_apart(debug_config):
  other = debug_config.copy_and_resolve_references()
  other.train.steps = 99
  other.model.encoder.remat = True
  other.frustum.near = 0.5
  other.optimizer.frozen = ("field",)
  forbidden, allowed = config_fields.changed(other, debug_config)
  assert forbidden == [
    "frustum.near = 0.8, here 0.5",
    "optimizer.frozen = [], here ['field']",
  ]
  assert allowed == [
    "model.encoder.remat = False, here True",
    "train.steps = 8, here 99",
  ]


def test_damaged_records_name_their_scene(debug_config, tmp_path):
  shutil.copytree(debug_config.data.data_dir, tmp_path / "data")
  debug_config.data.data_dir = str(tmp_path / "data")
  (path,) = (tmp_path / "data").rglob("*-train.array_record-*")
  content = bytearray(path.read_bytes())
  content[10_000:10_100] = bytes(100)
  path.write_bytes(content)
  records = datasets.load_split(debug_config, "", "train")
  message = r"record 1 \(scene 0{14}10{16}1\) in split train of .* cannot be"
  with pytest.raises(ValueError, match=message):
    records[1]
  assert records[0]["scene_id"] == b"00000000000000100000000000000000"
  with pytest.raises(ValueError, match=message):
    loop.train_and_evaluate(debug_config, str(tmp_path / "run"), ONE)


def test_undecodable_views_name_their_scene(debug_config):
  record = dict(datasets.load_split(debug_config, "", "train")[0])
  record["images"] = [b"no picture"] * 8
  with pytest.raises(ValueError, match=r"scene 0+10+, view 3: cannot identify"):
    decoding.decode_views(record, [3], 32, "area")


def test_several_processes_agree_on_when_to_stop():
  stop = guards.Stop(lambda step: step == 7)
  with stop.listening():
    # Said in the last step of a stage, it holds for the next one.
    assert [step for step in range(9) if stop(step)] == [7, 8]


def test_another_config_sets_no_checkpoint_aside(debug_config, workdir):
  """Neither one that has no average nor one with another optimizer state."""
  debug_config.train.ema, debug_config.sampler.params = "none", "raw"
  with pytest.raises(ValueError, match=r"ema = 'half_life', here 'none'"):
    loop.train_and_evaluate(debug_config, str(workdir), ONE)
  assert saved(workdir) == [4, 8]
  assert not (workdir / "damaged_checkpoints").exists()


def test_another_state_is_no_damage(debug_config, workdir, monkeypatch):
  """Shapes are compared before the arrays are read."""
  differences = checkpoints.Checkpointer.differences

  def with_other_shapes(self, step, state):
    state = dataclasses.replace(state, skipped=jax.ShapeDtypeStruct((3,), "i4"))
    return differences(self, step, state)

  monkeypatch.setattr(
    checkpoints.Checkpointer, "differences", with_other_shapes
  )
  with pytest.raises(
    ValueError, match=r"another state .*skipped has shape \[2\], expected \[3\]"
  ):
    loop.train_and_evaluate(debug_config, str(workdir), ONE)
  assert saved(workdir) == [4, 8]


@pytest.mark.parametrize(
  "error",
  [
    OSError(116, "Stale file handle"),
    OSError(122, "Disk quota exceeded"),
    MemoryError(),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
  ],
)
def test_storage_or_memory_that_fails_is_no_damage(
  error, debug_config, workdir, monkeypatch
):
  def fail(*args):
    raise error

  monkeypatch.setattr(checkpoints.Checkpointer, "restore", fail)
  with pytest.raises(
    checkpoints.CheckpointError, match="no fault of the checkpoint"
  ):
    loop.train_and_evaluate(debug_config, str(workdir), ONE)
  assert saved(workdir) == [4, 8]


def test_missing_and_broken_files_are_damage():
  assert checkpoints.is_damage(FileNotFoundError("state/manifest.ocdbt"))
  assert checkpoints.is_damage(ValueError("DATA_LOSS: corrupt zstd frame"))
  wrapped = ValueError("could not read")
  wrapped.__cause__ = PermissionError(13, "Permission denied")
  assert not checkpoints.is_damage(wrapped)


def test_metrics_stay_whole_on_a_full_disk(tmp_path):
  """A start that drops lines writes them beside, and then moves them."""
  path = tmp_path / "metrics.jsonl"
  lines = [json.dumps({"step": i, "loss": 1.0}) for i in range(5000)]
  path.write_text("\n".join(lines) + "\n")
  before = path.read_bytes()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
  try:
    with pytest.raises(OSError, match="could not be written"):
      writers.Writer(str(tmp_path), 4000)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert path.read_bytes() == before
  writers.Writer(str(tmp_path), 4000).close()
  assert last_step(tmp_path) == 4000


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(debug_workdir, tmp_path):
  run = start(tmp_path, debug_workdir, "--config.train.steps=100000")
  wait_for(lambda: last_step(tmp_path) >= 2, run)
  run.send_signal(signal.SIGINT)
  output, _ = run.communicate(timeout=120)
  assert run.returncode == 0, output
  assert "start the same command again to resume" in output
  assert "Traceback" not in output
  assert saved(tmp_path)


@pytest.mark.parametrize(
  "section, name",
  [
    ("train", "steps"),
    ("train", "log_every"),
    ("train", "image_grid_every"),
    ("train", "accumulation"),
    ("train", "target_views"),
    ("checkpoint", "every"),
    ("checkpoint", "keep_latest"),
    ("checkpoint", "keep_every"),
  ],
)
def test_numbers_of_steps_are_not_zero(debug_config, tmp_path, section, name):
  debug_config[section][name] = 0
  with pytest.raises(ValueError, match=f"{section}.{name} is 0, expected 1 or"):
    loop.train_and_evaluate(debug_config, str(tmp_path), ONE)
