"""The table of docs/tpu.md: recipes compiled for slices of Cloud TPUs.

  pip install 'jax[tpu]'
  python -m benchmarks.tpu_slices --workdir=/tmp/slices [--largest_batch]

Each row is what `python launch.py --mode=compile` writes, with bfloat16
networks, in a folder of its own below --workdir. Rows that are there are not
compiled again, so that the table can be made in parts: it takes about six
minutes a row on two cores, and several times that with --largest_batch.
"""

import importlib
import json
import pathlib

import jax
from absl import app
from absl import flags

from genvs_jax.aot import report
from genvs_jax.runtime import flops

_WORKDIR = flags.DEFINE_string("workdir", None, "Of the rows.", required=True)
_CONFIGS = flags.DEFINE_list(
  "configs",
  ["cars64", "cars128", "reference128", "paper128"],
  "Modules of configs.",
)
# Slices as Google sells them: v5p-8 counts cores, two a chip.
_SLICES = flags.DEFINE_list(
  "slices", ["v5e:2x4", "v5p:2x2x1", "v6e:2x4"], "See docs/tpu.md."
)
_SHARDS = flags.DEFINE_integer("shards", 1, "Of mesh.shards.")
_LARGEST = flags.DEFINE_bool("largest_batch", False, "Find it too.")


def main(argv):
  del argv
  print(
    f"bfloat16, mesh.shards={_SHARDS.value}, jax {jax.__version__}\n\n"
    "| config | slice | batch | GiB on each device: state, temporaries, all"
    " | of | largest batch | sent by each device in a step, MB | TFLOP, GB"
    " moved | ms at published rates | step, frame compiled in, s |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
  )
  for name in _CONFIGS.value:
    for topology in _SLICES.value:
      row = f"{name}_{topology}_{_SHARDS.value}".replace(":", "_")
      folder = pathlib.Path(_WORKDIR.value) / row
      if not (folder / report.FILE).exists():
        config = importlib.import_module(f"configs.{name}").get_config()
        config.model.dtype = "bfloat16"
        config.mesh.shards = _SHARDS.value
        report.run(config, topology, str(folder), _LARGEST.value)
      result = json.loads((folder / report.FILE).read_text())
      print(f"| {name} | {_columns(result)} |", flush=True)


def _columns(result: dict) -> str:
  step, frame = result["step"], result["frame"]
  columns = [result["topology"], str(result["batch_size"])]
  memory = f"{result['memory_bytes'] / 2**30:.0f}"
  largest = str(result.get("largest_batch_size", ""))
  if "bytes_per_device" in step:
    size = step["bytes_per_device"]
    parts = [size[key] for key in ("arguments", "temporaries", "total")]
    sent = step["collectives_per_device"].values()
    operations = step["operations_per_device"]
    moved = sum(step["bytes_moved_per_device"].values())
    kind = result["device_kind"]
    columns += [
      ", ".join(f"{part / 2**30:.2f}" for part in parts),
      memory,
      largest,
      f"{sum(row['bytes'] for row in sent) / 1e6:.0f}",
      f"{operations / 1e12:.2f}, {moved / 1e9:.0f}",
      f"{1e3 * operations / flops.peak(kind):.0f},"
      f" {1e3 * moved / flops.bandwidth(kind):.0f}",
    ]
  else:
    columns += ["does not fit", memory, largest, "", "", ""]
  seconds = [program["compile_seconds"] for program in (step, frame)]
  return " | ".join([*columns, ", ".join(f"{s:.0f}" for s in seconds)])


if __name__ == "__main__":
  app.run(main)
