"""What holds up the training loop beside the devices' work.

  python -m benchmarks.loop --config=configs/cars64.py --workdir=/tmp/loop \
    --config.data.dataset=synthetic_cars --config.train.batch_size=2
  ... --stub=0.05

Trains for 50 steps with checkpoints at 20 and 40 and a grid of pictures at 30,
everything else as in the config, and prints how long the loop was held up by
waiting for data, by placing it on the devices, by writing metrics, by saving.
Validation and drawing pause training and count apart; the first step, which
compiles, and the last save do not count.

With `--stub` a step takes exactly that many seconds in place of its work, which
shows what batches the data pipeline can keep up with. The dataset is prepared
if it is missing.
"""

import itertools
import json
import pathlib
import time

from absl import app
from absl import flags
from ml_collections import config_flags

from genvs_jax.data import datasets
from genvs_jax.runtime import platforms
from genvs_jax.training import loop
from genvs_jax.training import timing
from genvs_jax.training import train_step

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "An empty folder.")
_STUB = flags.DEFINE_float("stub", None, "Seconds of a step that does nothing.")
STEPS, CHECKPOINT_EVERY, SHEET_EVERY = 50, 20, 30


def main(argv):
  del argv
  config = _CONFIG.value
  config.train.steps = STEPS
  config.train.image_grid_every = SHEET_EVERY
  config.checkpoint.every = CHECKPOINT_EVERY
  datasets.prepare(config, _WORKDIR.value)
  platforms.keep_freed_memory()
  if _STUB.value:
    train_step.compile_step = compile_stub
  loop.train_and_evaluate(config, _WORKDIR.value)
  text = (pathlib.Path(_WORKDIR.value) / "metrics.jsonl").read_text()
  print(table([json.loads(line) for line in text.splitlines()]))


def compile_stub(config, model, mesh, state):
  """In place of `train_step.compile_step`."""
  del config, model, mesh, state

  def step(state, batch):
    del batch
    time.sleep(_STUB.value)
    metrics = {"loss": 0.0, "skipped_in_a_row": 0}
    return state.replace(step=state.step + 1), metrics

  return step, 0


def table(lines: list[dict]) -> str:
  """Seconds and shares, from the metrics of a run."""
  total = paused = 0.0
  spent = dict.fromkeys(timing.SPANS, 0.0)
  for before, line in itertools.pairwise(lines):
    seconds = (line["step"] - before["step"]) / line["steps_per_second"]
    total += seconds
    paused += line["paused_seconds"]
    for name in spent:
      spent[name] += line[f"{name}_share"] * seconds
  steps = lines[-1]["step"] - lines[0]["step"]
  rows = [
    f"{steps} steps in {total:.1f} s, and {paused:.1f} s of validation and"
    " drawing\n",
    "| | seconds | share |",
    "|---|---|---|",
  ]
  for name, seconds in spent.items():
    rows.append(f"| {name} | {seconds:.3f} | {seconds / total:.2%} |")
  return "\n".join(rows)


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main)
