"""What each way to condition the denoiser is worth, at equal minutes.

  python -m benchmarks.ablations --workdir=DIR --minutes=3 --seeds=0,1,2

Trains every row of `ablation_rows` with every seed on the demo's scenes (of
seed 0, on which settings are chosen), scores unseen ones and prints the means
with their spread over the seeds; `DIR/ablations.png` has the same four views
for each row.
How long a step of each row takes is measured first, in turns; the number of
steps follows from it, so that what else the machine does later makes no
difference. It goes on where it was stopped; `--rows=before,demo` does some.
`DIR/runs.jsonl` has the figures of every run; what a copy of it holds is not
done again on another machine.

LPIPS and DISTS need their weights, see docs/evaluation.md.
"""

import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Collection
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app
from absl import flags
from PIL import Image

from benchmarks import held_out_cameras
from benchmarks import measuring
from benchmarks import programs
from benchmarks.ablation_rows import Row
from benchmarks.ablation_rows import ROWS
from configs import demo
from genvs_jax.images import grids

_WORKDIR = flags.DEFINE_string("workdir", None, "Of all runs.", required=True)
_MINUTES = flags.DEFINE_float("minutes", 3.0, "Of training, for each row.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Of the training runs.")
_ROWS = flags.DEFINE_list("rows", [], "Some rows; by default all.")
_WEIGHTS = flags.DEFINE_string("metric_weights", "auto", "As in the config.")

_STEP_RUNS = 9  # of each row's step, timed in turns
_TIMED_AT_ONCE = 5  # rows whose steps take turns, beside those of `before`
_RUNS = "runs.jsonl"  # a line for each run that was scored

# Columns of the table: (title, row of results.json, score).
COLUMNS = (
  ("PSNR", "sample", "psnr"),
  ("PSNR of 3", "sample_mean", "psnr"),
  ("SSIM", "sample", "ssim"),
  ("LPIPS", "sample", "lpips_vgg"),
  ("LPIPS of render", "render", "lpips_vgg"),
  ("DISTS", "sample", "dists"),
  ("sharpness", "sample", "sharpness"),
  ("mean colour", "sample", "mean_colour"),
  ("colour", "sample", "colour_correlation"),
  ("reprojection", "sample", "reprojection"),
  ("PSNR of render", "render", "psnr"),
)
_EVALUATION = {
  "evaluate.scenes": 12,
  "evaluate.rollouts": 3,
  "sample.frames": 20,
  "evaluate.baselines": False,
}
_HELD_OUT = "held_out_cameras"  # folder of their scenes
_QUIET = {"validation.scenes": 0, "train.image_grid_scenes": 0}


def main(argv):
  del argv
  workdir = pathlib.Path(_WORKDIR.value)
  names = list(_ROWS.value or ROWS)
  steps = measure_steps(workdir, names)
  launch("prepare", workdir, {})
  if any(ROWS[name].held_out for name in names):
    held_out_cameras.write_scenes(workdir / _HELD_OUT)
    launch("prepare", workdir, _held_out_fields(workdir))
  for seed in map(int, _SEEDS.value):
    for name in names:
      run_row(workdir, name, seed, steps)
      print(table(workdir), flush=True)
  picture(workdir)


def fields_of(row: Row, seed: int) -> dict[str, Any]:
  """What a row differs in from the demo, the scenes included."""
  data = {"data.synthetic.seed": 0, "seed": seed}
  return {**data, **row.fields}


def config_of(fields: dict[str, Any]):
  """The demo's config with some fields set."""
  config = demo.get_config()
  config.update_from_flattened_dict(fields)
  return config


def measure_steps(workdir: pathlib.Path, names: Sequence[str]) -> dict:
  """Seconds of a step: {row: [of the render's stage or 0, of the last]}."""
  results = measuring.Results(str(workdir / "steps.json"))
  for run in read_runs(workdir):
    if "seconds" in run and run["row"] not in results.values:
      results.put(run["row"], {"seconds": run["seconds"]})
  waiting = [
    name
    for name in names
    if name not in results.values and not ROWS[name].checkpoint_of
  ]
  for first in range(0, len(waiting), _TIMED_AT_ONCE):
    group = waiting[first : first + _TIMED_AT_ONCE]
    # A process that compiles all of them runs out of memory maps.
    timed = measuring.apart(
      time_steps, {"before", *group}, _WEIGHTS.value, limit=3_600
    )
    if "error" in timed:
      raise RuntimeError(f"steps of {group}: {timed['error']}")
    # What this machine does beside them slows all of a group alike.
    if "before" not in results.values:
      results.put("before", {"seconds": timed["before"]})
    slower = timed["before"][1] / results.values["before"]["seconds"][1]
    for name in group:
      results.put(name, {"seconds": [s / slower for s in timed[name]]})
  return {name: value["seconds"] for name, value in results.values.items()}


def time_steps(
  names: Collection[str], metric_weights: str
) -> dict[str, list[float]]:
  """Seconds of the steps of some rows, run in turns; see `measure_steps`."""
  runs: dict[tuple[str, int], Any] = {}
  for name in names:
    config = config_of(
      {**ROWS[name].fields, "evaluate.metric_weights": metric_weights}
    )
    config.diffusion.sigma_data = config.diffusion.sigma_data or 0.1
    if config.train.render_steps:
      config.optimizer.frozen = ("encoder", "field")
      render = config.copy_and_resolve_references()
      render.objective.name, render.optimizer.frozen = "nerf", ()
      render.diffusion.target = "image"
      runs[name, 0] = programs.build(render, "step").run
    runs[name, 1] = programs.build(config, "step").run
  times: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
  for _ in range(_STEP_RUNS):
    for key, run in runs.items():
      times[key] += measuring.time_runs(run, 1)
  return {
    name: [statistics.median(times.get((name, i), [0.0])) for i in (0, 1)]
    for name in names
  }


def run_row(workdir: pathlib.Path, name: str, seed: int, steps: dict) -> None:
  """Trains and scores a row with a seed, unless that is done."""
  row, folder = ROWS[name], workdir / f"{name}_{seed}"
  if any((r["row"], r["seed"]) == (name, seed) for r in read_runs(workdir)):
    return
  fields = fields_of(row, seed)
  line: dict[str, Any] = {"row": name, "seed": seed}
  if row.checkpoint_of:
    trained = workdir / f"{row.checkpoint_of}_{seed}"
    steps_saved = trained.glob("checkpoints/*")
    early = min(steps_saved, key=lambda path: int(path.name), default=None)
    if early is None:
      raise FileNotFoundError(
        f"{trained} has no checkpoint, which {name} draws with: take"
        f" {row.checkpoint_of}'s line out of {_RUNS} to train it again"
      )
    if "sampler.guide" in fields:
      fields["sampler.guide"] = str(early)
    flags_of_run = [f"--checkpoint={trained}"]
  else:
    # Both stages, where there are two, in the demo's proportion.
    train = demo.get_config().train
    ratio = train.render_steps / train.steps
    of_render, of_last = line["seconds"] = steps[name]
    count = int(60 * _MINUTES.value / (ratio * of_render + of_last))
    fields["train.steps"] = count
    if of_render:
      fields["train.render_steps"] = int(ratio * count)
    every = fields["train.steps"] // 4
    fields |= {"checkpoint.every": every, "checkpoint.keep_every": every}
    launch("train", folder, fields | _QUIET, workdir)
    flags_of_run = []
  known = {
    k: v
    for k, v in fields.items()
    if k.split(".")[0] in ("sampler", "rollout", "seed")
  }
  fields = known | _EVALUATION
  if row.held_out:
    fields |= _held_out_fields(workdir)
    fields |= {"evaluate.split": "test", "evaluate.targets": "others"}
  launch("evaluate", folder, fields, workdir, flags_of_run)
  (results,) = folder.glob("results*.json")
  scores = json.loads(results.read_text())["rows"]
  line["scores"] = {kind: scores[kind] for _, kind, _ in COLUMNS}
  with open(workdir / _RUNS, "a") as file:
    file.write(json.dumps(line) + "\n")


def read_runs(workdir: pathlib.Path) -> list[dict]:
  """The runs that were scored: row, seed, seconds of a step, scores."""
  path = workdir / _RUNS
  lines = path.read_text().splitlines() if path.exists() else []
  return [json.loads(line) for line in lines]


def _held_out_fields(workdir: pathlib.Path) -> dict[str, Any]:
  return {"data.dataset": "folder", "data.source": str(workdir / _HELD_OUT)}


def launch(
  mode: str,
  folder: pathlib.Path,
  fields: dict[str, Any],
  data: pathlib.Path | None = None,
  more: Sequence[str] = (),
) -> None:
  """Runs `launch.py` with the demo's config and some fields."""
  if "data.dataset" not in fields:
    fields = {"data.synthetic.seed": 0, **fields}
  fields["data.data_dir"] = str((data or folder) / "data")
  if mode != "prepare":
    fields["evaluate.metric_weights"] = _WEIGHTS.value
  command = [
    sys.executable,
    "launch.py",
    f"--mode={mode}",
    "--config=configs/demo.py",
    f"--workdir={folder}",
    *(f"--config.{name}={value}" for name, value in fields.items()),
    *more,
  ]
  print(" ".join(command), flush=True)
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def table(workdir: pathlib.Path) -> str:
  """Means over the seeds, with their standard deviations, as Markdown."""
  lines = [
    "| recipe | seeds | " + " | ".join(title for title, *_ in COLUMNS) + " |",
    "|---" * (len(COLUMNS) + 2) + "|",
  ]
  for name, row in ROWS.items():
    found = [r["scores"] for r in read_runs(workdir) if r["row"] == name]
    if not found:
      continue
    cells = []
    for _, kind, score in COLUMNS:
      values = [rows[kind].get(score) for rows in found]
      cells.append(_cell([v for v in values if v is not None]))
    lines.append(f"| {name}: {row.what} | {len(found)} | {' | '.join(cells)} |")
  return "\n".join(lines)


def _cell(values: list[float]) -> str:
  """Mean and standard deviation."""
  if not values:
    return "-"
  mean = statistics.mean(values)
  digits = 3 if abs(mean) < 2 else 2
  if len(values) == 1:
    return f"{mean:.{digits}f}"
  return f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def picture(workdir: pathlib.Path) -> None:
  """The first view of the first four scenes: truth, then each row's sample."""
  rows: list[tuple[str, list[np.ndarray]]] = []
  for name in ROWS:
    found = sorted(workdir.glob(f"{name}_[0-9]*/evaluation/*/grid"))
    if not found:
      continue
    scenes = [np.load(path) for path in sorted(found[0].glob("*.npz"))[:4]]
    if not rows:
      rows.append(("truth", [scene["truth"][0] for scene in scenes]))
    rows.append((name[:14], [scene["sample"][0] for scene in scenes]))
  if rows:
    path = workdir / "ablations.png"
    Image.fromarray(grids.image_grid(rows)).save(path)
    print(path)


if __name__ == "__main__":
  measuring.check_names("rows", tuple(ROWS))
  app.run(main)
