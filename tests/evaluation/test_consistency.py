"""3D consistency of true, jittered and shuffled frames of a synthetic car."""

import itertools
import os
import pathlib
import re
import subprocess
import sys

import pytest

from benchmarks import consistency as benchmark
from genvs_jax.evaluation import consistency

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def frames():
  return benchmark.true_frames(128, 120)


def test_reprojection_tells_true_frames_from_others(frames):
  *moved, shuffled = map(
    consistency.reprojection, benchmark.versions(frames).values()
  )
  check([score.psnr for score in moved], shuffled.psnr, least=30)
  assert moved[0].coverage > 0.9


@pytest.mark.slow
def test_a_field_fits_true_frames_better_than_others():
  """In a process of its own, since the suite compiles without optimising."""
  done = subprocess.run(
    [sys.executable, "-m", "benchmarks.consistency", "--scores=fit"],
    cwd=ROOT,
    env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    capture_output=True,
    text=True,
    check=True,
  )
  print(done.stdout)
  *moved, shuffled = map(float, re.findall(r": ([\d.]+) dB", done.stdout))
  check(moved, shuffled, least=28)


def check(moved: list[float], shuffled: float, least: float) -> None:
  """`moved` are scores of frames moved by 0, 1, 2 and 4 pixels."""
  assert len(moved) == len(benchmark.JITTERS) and moved[0] >= least
  assert all(a > b for a, b in itertools.pairwise(moved))
  assert shuffled <= moved[0] - 10


def test_a_field_fit_needs_frames_to_hold_out(frames):
  few = consistency.Frames(*(x[:2] for x in frames[:4]), frames.intrinsics)
  with pytest.raises(ValueError, match="more frames than the 2 found"):
    consistency.field_fit(few)


def test_little_overlap_is_not_scored(frames):
  apart = consistency.Frames(*(x[::30] for x in frames[:4]), frames.intrinsics)
  score = consistency.reprojection(
    apart._replace(depth=apart.depth + 0.3)  # surfaces that do not meet
  )
  assert score.psnr is None and score.coverage < 0.2
  with pytest.raises(ValueError, match="expected 2 or more frames, found 1"):
    consistency.reprojection(
      consistency.Frames(*(x[:1] for x in frames[:4]), frames.intrinsics)
    )
