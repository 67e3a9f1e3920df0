"""Real processes on one machine, joined by jax.distributed."""

import json
import re
import signal
import socket
import subprocess
import time

import jax
import numpy as np
import pytest

from genvs_jax.training import loop
from tests.training.test_faults import last_step
from tests.training.test_faults import saved
from tests.training.test_faults import start
from tests.training.test_faults import wait_for
from tests.training.test_loop import read_metrics


def start_two(
  workdir, debug_workdir, *flags, mode="train"
) -> list[subprocess.Popen]:
  """One run as two processes with two devices each."""
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  return [
    start(
      workdir,
      debug_workdir,
      "--distributed",
      f"--coordinator_address=localhost:{port}",
      "--num_processes=2",
      f"--process_id={index}",
      *flags,
      devices=2,
      mode=mode,
    )
    for index in range(2)
  ]


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume_as_one(
  debug_config, debug_workdir, trained_workdir, tmp_path
):
  """State spread over both processes, one checkpoint, then one device."""
  runs = start_two(
    tmp_path, debug_workdir, "--config.train.steps=4", "--config.mesh.shards=4"
  )
  for run in runs:
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output[-3000:]
  assert saved(tmp_path) == [4]
  loop.train_and_evaluate(debug_config, str(tmp_path), jax.devices()[:1])
  for name in ("loss", "loss_denoising", "loss_rgb", "loss_opacity"):
    ours = read_metrics(str(tmp_path), name)
    straight = read_metrics(trained_workdir, name)
    assert ours.keys() == straight.keys()
    np.testing.assert_allclose(
      list(ours.values()), list(straight.values()), rtol=1e-5
    )


@pytest.mark.slow
def test_a_signal_to_one_stops_both_and_a_death_ends_both(
  debug_workdir, tmp_path
):
  slowly = ("--config.train.steps=100000", "--config.checkpoint.every=100000")
  runs = start_two(tmp_path, debug_workdir, *slowly)
  wait_for(lambda: last_step(tmp_path) >= 2, runs[0])
  runs[1].send_signal(signal.SIGTERM)
  outputs = [run.communicate(timeout=60)[0] for run in runs]
  assert [run.returncode for run in runs] == [0, 0], outputs
  (step,) = saved(tmp_path)
  assert all(f"stopped after step {step}" in text for text in outputs)

  # 0 is also the one that the others ask. One that only stands still, as if
  # its machine had, is found out by its missing heartbeat.
  for victim, number in (
    (1, signal.SIGKILL),
    (0, signal.SIGKILL),
    (1, signal.SIGSTOP),
  ):
    before = last_step(tmp_path)
    runs = start_two(tmp_path, debug_workdir, *slowly)
    wait_for(lambda n=before: last_step(tmp_path) > n, runs[0])
    begin = time.monotonic()
    runs[victim].send_signal(number)
    survivor = runs[1 - victim]
    output, _ = survivor.communicate(timeout=60)
    took = time.monotonic() - begin
    print(f"ended {took:.1f} s after {number.name} to process {victim}")
    assert survivor.returncode != 0
    outputs = "lost another process|coordination service|distributed service"
    assert re.search(outputs, output), output
    runs[victim].kill()
    runs[victim].wait()
  assert saved(tmp_path) == [step]


@pytest.mark.slow
def test_two_processes_share_an_evaluation(
  debug_workdir, trained_workdir, tmp_path
):
  """Each scores scenes of its own; one writes what one alone would have."""
  scored = []
  flags = (f"--checkpoint={trained_workdir}", "--config.evaluate.batch_size=1")
  for name in ("two", "one"):
    if name == "two":
      runs = start_two(tmp_path / name, debug_workdir, *flags, mode="evaluate")
    else:
      runs = [start(tmp_path / name, debug_workdir, *flags, mode="evaluate")]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert all(run.returncode == 0 for run in runs), outputs
    assert sum("one sample" in text for text in outputs) == 1
    if name == "two":
      # Three scenes: the first process has the first and the last.
      assert "scoring scenes: 2 of 2" in outputs[0]
      assert "scoring scenes: 1 of 1" in outputs[1]
    results = json.loads((tmp_path / name / "results.json").read_text())
    scored.append(results["rows"])
  for row, scores in scored[0].items():
    for metric, value in scores.items():
      assert value == pytest.approx(scored[1][row][metric], abs=1e-3), row
