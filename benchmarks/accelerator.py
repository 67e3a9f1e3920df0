"""Everything there is to know from a short loan of an accelerator.

  python -m benchmarks.accelerator --output=/tmp/out --scratch=/tmp/scratch \
    --parts=table,sweep,profile,train

  table    `benchmarks.run`'s table in bfloat16 and float32
  sweep    images per second of train steps, by batch size
  profile  where the time of one step goes, and the largest waste
  train    a config on synthetic cars, for the time that is left

Each part takes at most --minutes and goes on where it was stopped when it is
started again: measurements are in OUTPUT/results.json, the state of training
in SCRATCH. OUTPUT receives results.json, report.md, train.jsonl, and the first
and the newest sheet of pictures; all of them are small.

Needs jax, flax, optax, orbax-checkpoint, ml-collections, numpy and pillow:
the scenes come from memory, not from a dataset.
"""

import importlib.util
import json
import pathlib
import statistics
import sys
import time

from absl import app
from absl import flags

from benchmarks import measuring

PARTS = ("table", "sweep", "profile", "train")
PACKAGES = ("jax", "flax", "optax", "orbax", "ml_collections", "numpy", "PIL")
_PARTS = flags.DEFINE_list("parts", list(PARTS), "What to do.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder of what is brought home.")
_SCRATCH = flags.DEFINE_string("scratch", None, "Folder of what stays.")
_MINUTES = flags.DEFINE_float("minutes", 7.5, "The most that a part takes.")
_CONFIGS = flags.DEFINE_list(
  "configs", ["cars64", "reference128", "reference64", "paper128"], "Rows."
)
_TABLE_BATCH = flags.DEFINE_integer("table_batch", 8, "Scenes, in the table.")
_SWEEP = flags.DEFINE_list(
  "sweep_configs", ["cars64", "reference128"], "Whose steps are swept."
)
_BATCHES = flags.DEFINE_list("batches", [8, 32, 64, 128, 256], "Of the sweep.")
_TRAIN = flags.DEFINE_string("train_config", "cars64", "Profiled and trained.")
_TRAIN_BATCH = flags.DEFINE_integer("train_batch", 64, "Its batch size.")
_SCENES = flags.DEFINE_integer("scenes", 1000, "Cars to train on.")
_PEAK_SIZE = flags.DEFINE_integer("peak_size", 8192, "Of a large matrix.")


def main(argv):
  del argv
  missing = [p for p in PACKAGES if importlib.util.find_spec(p) is None]
  if missing:
    sys.exit(f"error: these packages are missing: {', '.join(missing)}")
  output = pathlib.Path(_OUTPUT.value)
  output.mkdir(parents=True, exist_ok=True)
  results = measuring.Results(str(output / "results.json"))
  if results.values.get("peaks", {}).get("error"):
    del results.values["peaks"]
  peaks = results.get(
    "peaks",
    lambda: measuring.apart(measuring.measure_peaks, _PEAK_SIZE.value, 2**30),
  )
  if "error" in peaks:
    sys.exit(f"error: the device does not work: {peaks['error']}")
  doing = {
    "table": lambda until: measure_all(results, table_specs(), until),
    "sweep": lambda until: measure_all(results, sweep_specs(), until),
    "profile": lambda until: profile(results),
    "train": train,
  }
  for part in _PARTS.value:
    print(f"--- {part}", flush=True)
    doing[part](time.monotonic() + 60 * _MINUTES.value)
    (output / "report.md").write_text(report(results, output))
  print((output / "report.md").read_text())


def table_specs() -> list[measuring.Spec]:
  from benchmarks import programs  # noqa: PLC0415  (after the check above)

  return [
    measuring.Spec(
      config,
      program,
      {"train.batch_size": _TABLE_BATCH.value, "model.dtype": dtype},
    )
    for dtype in reversed(measuring.DTYPES)
    for config in _CONFIGS.value
    for program in programs.NAMES
  ]


def sweep_specs() -> list[measuring.Spec]:
  return [
    measuring.Spec(
      config, "step", {"train.batch_size": int(batch), "model.dtype": dtype}
    )
    for dtype in reversed(measuring.DTYPES)
    for config in _SWEEP.value
    for batch in _BATCHES.value
  ]


def measure_all(
  results: measuring.Results, specs: list[measuring.Spec], until: float
) -> None:
  """Measures what is missing, as far as the time allows."""
  longest = 60.0  # seconds that one may take
  for spec in specs:
    begin = time.monotonic()
    if spec.key not in results.values and begin + longest > until:
      print("stopped for time: start this part again to go on")
      return
    results.get(
      spec.key,
      lambda spec=spec: measuring.apart(measuring.measure, spec, 7, 20),
    )
    longest = max(longest, 1.2 * (time.monotonic() - begin))


def train_spec() -> measuring.Spec:
  fields = {"train.batch_size": _TRAIN_BATCH.value, "model.dtype": "bfloat16"}
  return measuring.Spec(_TRAIN.value, "step", fields)


def profile(results: measuring.Results) -> None:
  """Profiles a step; a profile of before stays unless it is deleted."""
  spec = train_spec()
  results.get(
    f"profile/{spec.key}",
    lambda: measuring.apart(profile_step, spec, f"{_SCRATCH.value}/profile"),
  )


def profile_step(spec: measuring.Spec, folder: str) -> dict:
  """Profiles one step, in a process of its own."""
  import shutil  # noqa: PLC0415

  from benchmarks import profiling  # noqa: PLC0415
  from benchmarks import programs  # noqa: PLC0415

  program = programs.build(measuring.load_config(spec), spec.program)
  program.run()
  shutil.rmtree(folder, ignore_errors=True)
  found = profiling.record(program.run, program.compiled.as_text(), folder)
  return {"table": found.table(), "waste": found.waste()}


def train(until: float) -> None:
  """Trains until then; a later call goes on."""
  from benchmarks import memory_training  # noqa: PLC0415

  found = measuring.apart(
    memory_training.train,
    train_spec(),
    _SCENES.value,
    _OUTPUT.value,
    _SCRATCH.value,
    until - time.monotonic(),
  )
  print(found.get("error") or f"trained to step {found['step']}")


def report(results: measuring.Results, output: pathlib.Path) -> str:
  """All that there is so far, in Markdown."""
  values = results.values
  parts = []
  for dtype in reversed(measuring.DTYPES):
    rows = {
      f"{spec.config}, {spec.program}": values[spec.key]
      for spec in table_specs()
      if spec.key in values and spec.fields["model.dtype"] == dtype
    }
    if rows:
      parts.append(
        f"## {dtype}, {_TABLE_BATCH.value} scenes\n\n"
        + measuring.table(rows, values["peaks"], dtype)
      )
  swept = [spec for spec in sweep_specs() if spec.key in values]
  if swept:
    parts.append(
      "## Train steps by batch size\n\n" + sweep_table(swept, values)
    )
  for key, row in values.items():
    if key.startswith("profile/"):
      parts.append(f"## Profile of {key}\n\n{row.get('table', row)}")
  curve = output / "train.jsonl"
  if curve.exists():
    lines = [json.loads(line) for line in curve.read_text().splitlines()]
    parts.append(
      f"## Training {train_spec().key}\n\n{lines[-1]['step']} steps\n\n"
      + curve_table(lines)
    )
  return "\n\n".join(parts) + "\n"


def sweep_table(specs: list[measuring.Spec], values: dict) -> str:
  lines = [
    "| config | dtype | batch | seconds | images/s | of the product's rate"
    " | compiled, GiB | peak, GiB |",
    "|---|---|---|---|---|---|---|---|",
  ]
  for spec in specs:
    row = values[spec.key]
    batch, dtype = spec.fields["train.batch_size"], spec.fields["model.dtype"]
    label = f"| {spec.config} | {dtype} | {batch} "
    if "error" in row:
      lines.append(f"{label}| {row['error']} | | | | |")
      continue
    median = statistics.median(row["seconds"])
    images = batch * measuring.load_config(spec).train.target_views
    peaks = values["peaks"]
    rate = row["operations"] / median / peaks["devices"]
    share = rate / peaks[f"{dtype}_per_second"]
    lines.append(
      f"{label}| {measuring.spread(row['seconds'])} | {images / median:.1f}"
      f" | {share:.0%} | {row['compiled_gib']:.2f} | {row['peak_gib']:.2f} |"
    )
  return "\n".join(lines)


def curve_table(lines: list[dict]) -> str:
  """Some of the lines of train.jsonl."""
  names = [name for name in lines[-1] if name != "step"]
  shown = lines[:: max(1, len(lines) // 12)]
  return "\n".join(
    [
      "| step | " + " | ".join(names) + " |",
      "|---" * (len(names) + 1) + "|",
      *(
        f"| {line['step']} | "
        + " | ".join(f"{line[k]:.4g}" if k in line else "" for k in names)
        + " |"
        for line in shown
      ),
    ]
  )


if __name__ == "__main__":
  flags.mark_flags_as_required(["output", "scratch"])
  app.run(main)
