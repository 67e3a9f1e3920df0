"""The whole table: how fast everything is on this machine.

  python -m benchmarks.run --output=run.json
  python -m benchmarks.run --output=run.json --compare=older.json
  python -m benchmarks.run --output=run.json --parts=table --configs=cars64 \
    --programs=step --fields=train.batch_size=2,model.dtype=bfloat16

  table        encoder, render, denoiser, a train step and a sampled frame of
               each config (see `benchmarks.programs`), beside the rates of a
               large matrix product and a large copy
  growth       how time and memory grow with batch, rays, samples, input views
               and image size
  data         the data pipeline alone, on pictures as each layout has them
  checkpoint   saving and restoring a state

Operations are those of convolutions and matrix products, counted in the traced
program; beside them are operations and bytes of XLA's cost analysis, which
counts the body of a loop once (the rays of a render come in chunks, the steps
of a sampler too), and the bytes that each kind of operation moves, loops and
padding counted (`genvs_jax/aot/traffic.py`). Each program runs in a process of
its own, whose peak memory is given beside what XLA says the compiled program
needs. Goes on where it was stopped; delete --output to measure anew.
"""

import ast
import itertools
import json
import pathlib
import statistics

from absl import app
from absl import flags

from benchmarks import measuring
from benchmarks import programs
from benchmarks import storage

PARTS = ("table", "growth", "data", "checkpoint")
CONFIGS = ("debug", "cars64", "reference64", "reference128", "paper128")
_PARTS = flags.DEFINE_list("parts", list(PARTS), "What to measure.")
_CONFIGS = flags.DEFINE_list("configs", list(CONFIGS), "Rows of the table.")
_PROGRAMS = flags.DEFINE_list("programs", list(programs.NAMES), "Rows.")
_FIELDS = flags.DEFINE_list(
  "fields",
  [],
  "Fields of the programs' configs: train.batch_size=2,model.dtype=bfloat16."
  " By default a scene for each device.",
)
_GROWTH_CONFIG = flags.DEFINE_string("growth_config", "cars64", "What grows.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON to write and go on from.")
_COMPARE = flags.DEFINE_string("compare", None, "JSON of an older run.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Runs of each, after one more.")
_SECONDS = flags.DEFINE_float("seconds", 60, "Fewer if they take longer.")
_PEAK_SIZE = flags.DEFINE_integer(
  "peak_size", None, "Of a large matrix; by default by the kind of device."
)
measuring.check_names("parts", PARTS)
measuring.check_names("programs", programs.NAMES)

SCENES = "train.batch_size"
# (name, program, {value: fields}); SCENES are those of one device.
GROWTH = (
  ("scenes on each device", "step", {n: {SCENES: n} for n in (1, 2, 4)}),
  (
    "rendered views, of all their rays",
    "render",
    {n: {"train.target_views": n} for n in (1, 2, 4, 8)},
  ),
  (
    "samples per ray",
    "render",
    {
      2 * n: {"rendering.coarse_samples": n, "rendering.fine_samples": n}
      for n in (16, 32, 64, 128)
    },
  ),
  (
    "input views, render",
    "render",
    {n: {"model.input_views": n} for n in (1, 2, 4, 8)},
  ),
  (
    "input views, encoder",
    "encoder",
    {n: {"model.input_views": n} for n in (1, 2, 4, 8)},
  ),
  ("pixels", "step", {n**2: {"model.image_size": n} for n in (32, 64, 128)}),
)


def main(argv):
  del argv
  fields = dict(parse_field(text) for text in _FIELDS.value)
  dtype = fields.get("model.dtype", measuring.DTYPES[0])
  if dtype not in measuring.DTYPES:
    raise app.UsageError(
      f"--fields has model.dtype={dtype}, expected one of"
      f" {', '.join(measuring.DTYPES)}"
    )
  results = measuring.open_results(_OUTPUT.value, _PEAK_SIZE.value)
  devices = results.values["machine"]["devices"]
  fields.setdefault(SCENES, devices)
  if "table" in _PARTS.value:
    print(f"\n{measure_table(results, fields)}\n", flush=True)
  if "growth" in _PARTS.value:
    print(f"\n{measure_growth(results, fields, devices)}\n", flush=True)
  if "data" in _PARTS.value:
    print(f"\n{measure_data(results)}\n", flush=True)
  if "checkpoint" in _PARTS.value:
    print(f"\n{measure_checkpoint(results)}\n", flush=True)
  if _COMPARE.value:
    old = json.loads(pathlib.Path(_COMPARE.value).read_text())
    print(measuring.comparison(old, results.values))


def parse_field(text: str) -> tuple[str, object]:
  """ "a.b=1" -> ("a.b", 1); what is no Python literal is a string."""
  name, _, value = text.partition("=")
  try:
    return name, ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return name, value


def measure(results: measuring.Results, spec: measuring.Spec) -> dict:
  return results.get(
    spec.key,
    lambda: measuring.apart(
      measuring.measure, spec, _REPEATS.value, _SECONDS.value
    ),
  )


def measure_table(results: measuring.Results, fields: dict) -> str:
  """Every program of every config."""
  rows = {
    f"{config}, {program}": measure(
      results, measuring.Spec(config, program, fields)
    )
    for config in _CONFIGS.value
    for program in _PROGRAMS.value
  }
  dtype = fields.get("model.dtype", measuring.DTYPES[0])
  return measuring.table(rows, results.values, dtype)


def measure_growth(
  results: measuring.Results, fields: dict, devices: int
) -> str:
  """Time and memory against what grows, and time per unit of it."""
  lines = [
    f"{_GROWTH_CONFIG.value}; the last column is the time for each unit, over"
    " that of the row above\n",
    "| | | seconds | compiled, GiB | per unit |",
    "|---|---|---|---|---|",
  ]
  for name, program, values in GROWTH:
    before = None
    for value, changed in values.items():
      together = {**fields, **changed}
      if SCENES in changed:
        together[SCENES] *= devices
      spec = measuring.Spec(_GROWTH_CONFIG.value, program, together)
      row = measure(results, spec)
      if "error" in row:
        lines.append(f"| {name} | {value} | {row['error']} | | |")
        continue
      each = statistics.median(row["seconds"]) / value
      ratio = f"{each / before:.2f}" if before else ""
      before = each
      lines.append(
        f"| {name} | {value} | {measuring.spread(row['seconds'])}"
        f" | {row['compiled_gib']:.2f} | {ratio} |"
      )
  return "\n".join(lines)


def measure_data(results: measuring.Results) -> str:
  """Scenes per second on one core and on all, and steps they could feed."""
  lines = [
    "| | pictures | scenes/s, one thread | all threads | batches/s |",
    "|---|---|---|---|---|",
  ]
  for name, layout in itertools.product(_CONFIGS.value, storage.LAYOUTS):
    size, mode = storage.LAYOUTS[layout]
    row = results.get(
      f"data/{name}/{layout}",
      lambda name=name, layout=layout: measuring.apart(
        storage.time_data, name, layout
      ),
    )
    if "error" in row:
      lines.append(f"| {name} | {row['error']} | | | |")
      continue
    batches = row["all"] / row["batch_size"]
    lines.append(
      f"| {name}, {layout} | {size}x{size} {mode} | {row['one']:.0f}"
      f" | {row['all']:.0f} | {batches:.3g} of {row['batch_size']} |"
    )
  return "\n".join(lines)


def measure_checkpoint(results: measuring.Results) -> str:
  """Seconds to save and to restore."""
  name = _GROWTH_CONFIG.value
  row = results.get(
    f"checkpoint/{name}",
    lambda: measuring.apart(storage.time_checkpoint, name, 3),
  )
  if "error" in row:
    return row["error"]
  lines = [
    f"{name}: state {row['state_bytes'] / 2**30:.2f} GiB, on disk"
    f" {row['disk_bytes'] / 2**30:.2f} GiB\n",
    "| | seconds |",
    "|---|---|",
  ]
  for label, times in (
    ("a save holds the run up", row["waits"]),
    ("until it is written", row["saves"]),
    ("to restore", row["restores"]),
  ):
    lines.append(f"| {label} | {measuring.spread(times)} |")
  return "\n".join(lines)


if __name__ == "__main__":
  flags.mark_flag_as_required("output")
  app.run(main)
