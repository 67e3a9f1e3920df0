"""How the viewer keeps up with a camera: renders, and the first sample at rest.

  python -m benchmarks.viewer --checkpoint=MODEL

The page's worker is fed by a camera that goes around at 60 places a second and
then rests; the browser is left out. Medians of some rounds.
"""

import statistics
import time

import numpy as np
from absl import app
from absl import flags

from genvs_jax.checkpointing import pretrained
from genvs_jax.geometry import camera_paths
from genvs_jax.runtime import console
from genvs_jax.viewer import drawing
from genvs_jax.viewer import scenes
from genvs_jax.viewer import worker

_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", None, "Of a trained model.", required=True
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Of moving and resting.")
_SECONDS = flags.DEFINE_float("seconds", 4.0, "That a camera moves.")
_UPDATES = 60  # places a second


def main(argv):
  del argv
  console.set_up_log()
  started = time.perf_counter()
  genvs = pretrained.load(_CHECKPOINT.value)
  scene = drawing.build_drawing(genvs.config, genvs.model, genvs.variables)
  settings = drawing.settings_of(genvs.config)
  choice = scenes.build_scenes(genvs.config, genvs.model, "")
  scene.set_inputs(choice.load(0, choice.view))
  for is_small in (True, False):
    scene.render(choice.load(0, choice.view)["poses"][0], is_small)
  for _ in scene.sample(scene.render(np.eye(4)), settings):
    pass
  print(f"loaded and compiled in {time.perf_counter() - started:.0f} s")
  print(
    "render  renders/s  longest gap, s  rest to sample, s"
    f"  ({settings.steps} steps of {settings.sampler})"
  )
  for is_small in (True, False):
    _measure(scene, settings, is_small)


def _measure(scene, settings, is_small: bool) -> None:
  """Prints a row of the table."""
  times: list[float] = []  # of the renders of a round
  samples: list[float] = []

  def draw_moving(viewer, pose):
    del viewer
    scene.render(pose, is_small)
    times.append(time.perf_counter())

  def draw_at_rest(viewer, pose):
    del viewer
    render = scene.render(pose)
    yield
    for step, _ in scene.sample(render, settings):
      if step < settings.steps:
        yield
    samples.append(time.perf_counter())

  def fail(viewer, error):
    raise RuntimeError(f"browser {viewer}: {error}")

  thread = worker.Worker(draw_moving, draw_at_rest, fail)
  path = np.asarray(camera_paths.orbit(_UPDATES, 20.0, 1.3))
  thread.move(0, path[0])
  _wait_for(samples, 1)
  rates, waits, gaps = [], [], []
  for number in range(_ROUNDS.value):
    times.clear()
    begun = time.perf_counter()
    for i in range(round(_SECONDS.value * _UPDATES)):
      thread.move(0, path[i % _UPDATES])
      time.sleep(1 / _UPDATES)
    rested = time.perf_counter()
    rates.append(sum(t < rested for t in times) / (rested - begun))
    gaps.append(max(np.diff([begun, *times])))
    _wait_for(samples, number + 2)
    waits.append(samples[-1] - rested)
  thread.stop()
  print(
    f"{'small' if is_small else 'full':6s}  {statistics.median(rates):9.1f}"
    f"  {max(gaps):14.2f}  {statistics.median(waits):17.2f}"
  )


def _wait_for(samples: list[float], count: int) -> None:
  while len(samples) < count:
    time.sleep(0.005)


if __name__ == "__main__":
  app.run(main)
