"""The command line as a user meets it."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest
from PIL import Image

from genvs_jax import modes

ROOT = pathlib.Path(__file__).parents[1]


def launch(*args, check=True) -> subprocess.CompletedProcess:
  flags = os.environ["XLA_FLAGS"].replace("count=8", "count=1")
  env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "launch.py", *map(str, args)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=env,
    check=False,
  )
  if check:
    assert done.returncode == 0, done.stderr[-3000:]
  return done


def refused(*args) -> str:
  done = launch(*args, check=False)
  assert done.returncode != 0
  assert "Traceback" not in done.stderr, done.stderr[-2000:]
  return done.stderr


def test_unknown_fields_are_refused_with_the_nearest_name(tmp_path):
  message = refused(
    "--config=configs/debug.py",
    f"--workdir={tmp_path}",
    "--config.train.batchsize=4",
  )
  assert "train.batchsize" in message and "batch_size" in message


def test_ill_typed_fields_are_refused(tmp_path):
  message = refused(
    "--config=configs/debug.py",
    f"--workdir={tmp_path}",
    "--config.train.batch_size=many",
  )
  assert "batch_size" in message and "many" in message


def test_fields_without_effect_are_refused(tmp_path):
  message = refused(
    "--config=configs/debug.py",
    f"--workdir={tmp_path}",
    "--config.sampler.name=dpmpp_2m",
    "--config.sampler.churn=0.2",
  )
  assert "sampler.churn has no effect with sampler.name = 'dpmpp_2m'" in message
  assert "'euler' or 'heun'" in message


def test_each_mode_says_which_flags_it_needs():
  assert "--source must be given" in refused("--mode=convert")
  message = refused("--mode=view", "--config=debug")
  assert "--workdir must be given" in message
  message = refused("--mode=view", "--checkpoint=/no/such/place")
  assert "/no/such/place" in message
  message = refused("--config=debug")
  assert "--workdir must be given" in message
  # One sentence, and not the config of 200 lines.
  assert len(message.splitlines()) < 4
  assert "--workdir is not given" in refused("--config=debug", "--mode=prepare")


@pytest.mark.parametrize(
  "args,message",
  [
    (["--mode=sampel", "--config=debug"], "did you mean 'sample'?"),
    (["sample"], "unexpected argument 'sample': flags start with --"),
    (["--wrokdir=/tmp"], "there is no flag --wrokdir; did you mean --workdir?"),
    (["--port=abc"], "port"),
    (
      ["--mode=convert", "--source=weights.pt", "--rebuild"],
      "--rebuild has no effect with mode convert: it is for mode prepare",
    ),
    (["--mode=sample"], "must be given, or --checkpoint alone (such as"),
    (
      ["--mode=sample", "--checkpoint=cars64_small"],
      "did you mean 'cars64-small'?",
    ),
    (
      ["--mode=sample", "--checkpoint=cars64-small", "--config.train.steps=3"],
      "train.steps has no effect on a trained checkpoint",
    ),
    (
      ["--mode=sample", "--checkpoint=cars64-small", "--images=launch.py"],
      "launch.py is not a picture, expected one of .png",
    ),
    (
      [
        "--mode=sample",
        "--checkpoint=cars64-small",
        "--images=launch.py",
        "--config.sample.scene=3",
      ],
      "sample.scene has no effect with --images",
    ),
  ],
)
def test_what_is_mistyped_is_one_line(args, message):
  answer = refused(*args)
  (line,) = [x for x in answer.splitlines() if "error: " in x]
  assert message in line and "FATAL" not in answer
  assert len(answer.splitlines()) < 5


@pytest.mark.parametrize(
  ("names", "flag", "readers"),
  [
    (("train",), "rebuild", "prepare"),
    (("sample",), "limit", "evaluate"),
    (("prepare", "train"), "images", "sample or view"),
    (("convert",), "step", "evaluate or sample or view"),
  ],
)
def test_flags_of_other_modes_are_refused(names, flag, readers):
  message = rf"--{flag} has no effect .* it is for mode {readers};"
  with pytest.raises(ValueError, match=message):
    modes.check_flags(names, [flag])
  modes.check_flags((*names, readers.split()[0]), [flag])


@pytest.mark.parametrize("mode", ["prepare", "train", "compile"])
def test_a_checkpoint_is_no_start_of_a_run(mode):
  command = types.SimpleNamespace(checkpoint="cars64-small", config_file=None)
  with pytest.raises(ValueError, match=f"no effect with --mode={mode}: a run"):
    modes.run(command, (mode,))


def test_configs_are_found_by_name(tmp_path):
  message = refused("--config=cars63", f"--workdir={tmp_path}")
  assert "did you mean 'cars64'?" in message and "reference128" in message
  assert len(message.splitlines()) < 4


def test_missing_dataset_is_one_sentence(tmp_path):
  message = refused(
    "--config=configs/cars64.py",
    f"--workdir={tmp_path}",
    f"--config.data.data_dir={tmp_path}",
  )
  assert message.count("error: ") == 1
  assert "--mode=prepare" in message and "synthetic_cars" in message


def test_prepare_without_a_source_says_where_the_data_are(tmp_path):
  message = refused(
    "--config=configs/cars64.py",
    "--mode=prepare",
    f"--workdir={tmp_path}",
    f"--config.data.data_dir={tmp_path}",
  )
  assert "drive.google.com" in message and "non-commercial" in message


def test_all_modes_from_an_empty_folder(tmp_path):
  """configs/debug.py: prepare, train, evaluate, sample; then once more."""
  args = ["--config=configs/debug.py", f"--workdir={tmp_path}/run"]
  done = launch(*args)
  run = tmp_path / "run"
  for line in ("dataset ", "checkpoints ", "scores ", "turntable ", "train on"):
    assert f"\n{line}" in done.stdout
  results = json.loads((run / "results.json").read_text())
  rows = ("render", "sample", "mean_image", "input_copy", "render_wrong_input")
  for row in rows:
    assert 0 < results["rows"][row]["psnr"] < 60
    assert 0 < results["rows"][row]["psnr_masked"] < 60
  assert results["steps"] == 8
  assert (results["scenes"], results["views"]) == (3, 6)
  samples = run / "samples" / "validation_0000"
  assert (samples / "turntable.mp4").read_bytes()[4:8] == b"ftyp"
  with Image.open(samples / "turntable.gif") as film:
    assert film.n_frames == 3
  with Image.open(samples / "grid.png") as sheet:
    assert sheet.size[1] == 5 * 98  # input, samples, render, depth, opacity
  assert len(list((run / "image_grids").iterdir())) == 1

  # A copied checkpoint alone, with another sampler, into another workdir.
  shutil.copytree(run / "checkpoints" / "8", tmp_path / "copy" / "8")
  other = tmp_path / "other"
  launch(
    "--config=configs/debug.py",
    "--mode=sample",
    f"--workdir={other}",
    f"--checkpoint={tmp_path}/copy/8",
    f"--config.data.data_dir={run}/data",
    "--config.model.dtype=bfloat16",  # how it is used may change
    "--config.rendering.coarse_samples=6",
    "--config.sampler.name=euler",
    "--config.sampler.churn=0.4",
    "--config.sample.scene=1",
    "--config.sample.frames=2",
  )
  assert (other / "samples" / "validation_0001" / "turntable.mp4").exists()
  settings = json.loads(
    (other / "samples" / "validation_0001" / "rollout.json").read_text()
  )
  assert settings["model.dtype"] == "bfloat16"
  assert settings["rendering.coarse_samples"] == 6
  assert settings["model.image_size"] == 32
  # What its weights mean may not.
  message = refused(
    "--config=configs/debug.py",
    "--mode=sample",
    f"--workdir={run}",
    "--config.model.image_size=64",
  )
  assert "model.image_size is 64, but the checkpoint's weights" in message
  message = refused(
    "--config=configs/debug.py",
    "--mode=sample",
    f"--workdir={run}",
    "--config.sample.scene=99",
  )
  assert (
    "sample.scene is 99 and sample.scenes 1, expected scenes from 0 to"
    in (message)
  )


@pytest.mark.slow
def test_a_home_folder_is_understood_and_ctrl_c_is_one_line(
  trained_workdir, debug_workdir, tmp_path
):
  """In the middle of a rollout, which then goes on from its last frame."""
  shutil.copytree(trained_workdir, tmp_path / "runs" / "debug")
  flags = os.environ["XLA_FLAGS"].replace("count=8", "count=1")
  process = subprocess.Popen(
    [
      *(sys.executable, "launch.py", "--config=configs/debug.py"),
      *("--mode=sample", "--workdir=~/runs/debug"),
      f"--config.data.data_dir={debug_workdir}/data",
      "--config.sample.frames=100000",
    ],
    cwd=ROOT,
    env={**os.environ, "XLA_FLAGS": flags, "HOME": str(tmp_path)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  frames = tmp_path / "runs" / "debug" / "samples" / "validation_0000/frames"
  deadline = time.monotonic() + 120
  while not (frames / "0001.npz").exists():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 130, output
  assert "stopped by Ctrl-C: what is finished stays" in output
  assert "Traceback" not in output and "Fatal" not in output


@pytest.mark.slow
def test_demo_learns(tmp_path):
  """The README's first command meets its promises (about a quarter hour)."""
  launch("--config=configs/demo.py", f"--workdir={tmp_path}")
  r = json.loads((tmp_path / "results.json").read_text())
  assert r["scenes"] >= 20 and r["views"] >= 8 * r["scenes"]
  psnr = {row: scores["psnr"] for row, scores in r["rows"].items()}
  baseline = max(psnr["mean_image"], psnr["input_copy"])
  assert psnr["render"] >= baseline + 4
  assert psnr["render"] >= psnr["render_wrong_input"] + 1.5
  assert psnr["sample"] >= baseline + 3
  # The samples have the cars' colours, and frames agree.
  assert r["mean_colour_sample"] <= 1.2 * r["mean_colour_render"]
  assert r["colour_correlation_sample"] >= r["colour_correlation_truth"]
  assert r["reprojection_sample"] >= 21.5
  assert 0.8 <= r["sharpness_sample"] <= 1.1
