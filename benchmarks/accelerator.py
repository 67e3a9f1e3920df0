"""Everything there is to know from a short loan of an accelerator.

  python -m benchmarks.accelerator --output=/tmp/out --scratch=/tmp/scratch \
    --parts=table,sweep,profile,train

  table    `benchmarks.run`'s table in bfloat16 and float32
  sweep    images per second of train steps, by batch size
  profile  where the time of one step goes, and the largest waste
  train    a config on synthetic cars, for the time that is left

Each part takes at most --minutes, and 20 seconds for what is under way, and
goes on where it was stopped when it is started again: measurements are in
OUTPUT/results.json, the state of training in SCRATCH. OUTPUT receives
results.json, report.md, train.jsonl, and the first and the newest grid of
pictures; all of them are small.

Needs jax, flax, optax, orbax-checkpoint, ml-collections, numpy and pillow, and
etils and absl-py, which come with them: the scenes come from memory, not from
a dataset. "float32" is what JAX makes of it by default: on GPUs that have
TensorFloat-32, products and convolutions take it, on TPUs bfloat16.
"""

import importlib.util
import json
import os
import pathlib
import statistics
import sys
import time

from absl import app
from absl import flags

from benchmarks import measuring
from genvs_jax.runtime import platforms

PARTS = ("table", "sweep", "profile", "train")
PACKAGES = (
  "absl",
  "etils",
  "flax",
  "jax",
  "ml_collections",
  "numpy",
  "optax",
  "orbax",
  "PIL",
)
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
_PEAK_SIZE = flags.DEFINE_integer("peak_size", 16384, "Of a large matrix.")
_ALLOW_CPU = flags.DEFINE_bool("allow_cpu", False, "To try the script out.")
measuring.check_names("parts", PARTS)


def main(argv):
  del argv
  begin = time.time()  # of the first part, which measures the peaks too
  missing = [p for p in PACKAGES if importlib.util.find_spec(p) is None]
  if missing:
    sys.exit(f"error: these packages are missing: {', '.join(missing)}")
  output = pathlib.Path(_OUTPUT.value)
  output.mkdir(parents=True, exist_ok=True)
  # By default a quarter of a GPU's memory is left to others.
  if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # the older name
    os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.95")
  results = measuring.open_results(
    str(output / "results.json"), _PEAK_SIZE.value, cpu=_ALLOW_CPU.value
  )
  doing = {
    "table": lambda until: measuring.measure_all(results, table_specs(), until),
    "sweep": lambda until: measuring.measure_all(results, sweep_specs(), until),
    "profile": lambda until: profile(results, until),
    "train": train,
  }
  for part in _PARTS.value:
    print(f"--- {part}", flush=True)
    try:
      doing[part](begin + 60 * _MINUTES.value)
    except TimeoutError as error:
      print(f"{error}: start this part again to go on")
    begin = time.time()
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


def train_spec() -> measuring.Spec:
  fields = {"train.batch_size": _TRAIN_BATCH.value, "model.dtype": "bfloat16"}
  return measuring.Spec(_TRAIN.value, "step", fields)


def profile(results: measuring.Results, until: float) -> None:
  """Profiles a step anew."""
  spec = train_spec()
  results.put(
    f"profile/{spec.key}",
    measuring.apart(
      profile_step,
      spec,
      f"{_SCRATCH.value}/profile",
      limit=until + measuring.GRACE - time.time(),
    ),
  )


def profile_step(spec: measuring.Spec, folder: str) -> dict:
  """Profiles one step, in a process of its own."""
  import shutil  # noqa: PLC0415

  from benchmarks import profiling  # noqa: PLC0415
  from benchmarks import programs  # noqa: PLC0415

  platforms.keep_freed_memory()
  program = programs.build(measuring.load_config(spec), spec.program)
  shutil.rmtree(folder, ignore_errors=True)
  result = profiling.record(program.run, program.compiled.as_text(), folder)
  return {"table": result.table(), "waste": result.waste()}


def train(until: float) -> None:
  """Trains until then; a later call goes on."""
  from benchmarks import memory_training  # noqa: PLC0415

  result = measuring.apart(
    memory_training.train,
    train_spec(),
    _SCENES.value,
    _OUTPUT.value,
    _SCRATCH.value,
    until,
    limit=until + measuring.GRACE - time.time(),
  )
  print(result.get("error") or f"trained to step {result['step']}")


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
        + measuring.table(rows, values, dtype)
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
  written = curve.read_text().splitlines() if curve.exists() else []
  if written:
    lines = [json.loads(line) for line in written]
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
    share = measuring.share_of_product(row, values["peaks"], dtype)
    lines.append(
      f"{label}| {measuring.spread(row['seconds'])} | {images / median:.1f}"
      f" | {share:.0%} | {row['compiled_gib']:.2f} | {row['peak_gib']:.2f} |"
    )
  return "\n".join(lines)


def curve_table(lines: list[dict]) -> str:
  """Some of the lines of train.jsonl."""
  names = [name for name in lines[-1] if name != "step"]
  text = [*lines[: -1 : max(1, len(lines) // 12)], lines[-1]]
  return "\n".join(
    [
      "| step | " + " | ".join(names) + " |",
      "|---" * (len(names) + 1) + "|",
      *(
        f"| {line['step']} | "
        + " | ".join(f"{line[k]:.4g}" if k in line else "" for k in names)
        + " |"
        for line in text
      ),
    ]
  )


if __name__ == "__main__":
  flags.mark_flags_as_required(["output", "scratch"])
  app.run(main)
