"""The command line: prepares data, trains, scores, draws and converts.

  python launch.py --config=cars64 --workdir=DIR
  python launch.py --mode=convert --source=FILE.pt --output=DIR
  python launch.py --mode=sample --checkpoint=cars64-small
  python launch.py --distributed --mode=train --config=...  (on every host)

Any field of the config can be set: --config.train.steps=1000. Without --mode
the modes of the config run one after another.
"""

import os
import sys
import time

from absl import app
from absl import flags
from ml_collections import config_flags

from genvs_jax import modes
from genvs_jax.runtime import console

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A recipe of configs/ by name, or the path of another one."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder that receives everything a run writes."
)
_MODE = flags.DEFINE_enum(
  "mode",
  None,
  [*modes.MODES, "convert"],
  "What to do; by default the modes of the config.",
)
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint",
  None,
  "For evaluate, sample, view: a workdir, a checkpoint of it, cars64-small,"
  " or hf://USER/REPO. By default --workdir.",
)
_STEP = flags.DEFINE_integer(
  "step", None, "Step of the checkpoint, by default the newest."
)
_SKIP_BAD_SCENES = flags.DEFINE_bool(
  "skip_bad_scenes", False, "prepare: leave unreadable scenes out."
)
_REBUILD = flags.DEFINE_bool("rebuild", False, "prepare: build it anew.")
_IMAGES = flags.DEFINE_string(
  "images",
  "",
  "sample, view: folder of your pictures, or one picture; see docs/photos.md.",
)
_LIMIT = flags.DEFINE_integer(
  "limit", 0, "evaluate: most scenes, for a quick look; 0 for all."
)
_EXPORT = flags.DEFINE_enum(
  "export",
  "",
  ["", "ply", "glb"],
  "sample: also points from the depth and a mesh of the field.",
)
_HOST = flags.DEFINE_string("host", "localhost", "view: who can open the page.")
_PORT = flags.DEFINE_integer("port", 8080, "view: of the page.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "compile: such as v5e:2x4.")
_LARGEST = flags.DEFINE_bool(
  "largest_batch", False, "compile: also find the largest batch that fits."
)
_SOURCE = flags.DEFINE_string(
  "source", None, "convert: file, workdir, metrics."
)
_OUTPUT = flags.DEFINE_string(
  "output",
  None,
  "convert: the workdir that receives the checkpoint, or metrics' folder.",
)
_KEEP_OPTIMIZER = flags.DEFINE_bool(
  "keep_optimizer", False, "convert: Adam's moments too."
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "train and evaluate: this is one of several processes; the cluster (Cloud"
  " TPU, Slurm, ...) tells which, or the next three flags do.",
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator_address", None, "HOST:PORT of process 0."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is.")


def main(argv: list[str]) -> int:
  console.set_up_log()
  if len(argv) > 1:
    sys.exit(f"error: unexpected argument {argv[1]!r}: flags start with --")
  return console.report(_run)


def _run() -> list[str]:
  """Runs the modes; the lines to print at the end."""
  values = flags.FLAGS.flag_values_dict()
  names = modes.required_flags(_MODE.value, _CHECKPOINT.value)
  missing = [f"--{name}" for name in names if not values[name]]
  if missing:
    instead = modes.instead_of_flags(_MODE.value)
    raise ValueError(f"{' and '.join(missing)} must be given{instead}")
  fields = {k: v for k, v in values.items() if k in modes.Command._fields}
  command = modes.Command(
    **{
      **fields,
      "config_file": console.flag_value("config"),
      "overrides": _overrides(),
      "workdir": os.path.expanduser(_WORKDIR.value or ""),
      "started": time.monotonic(),
    }
  )
  names = (_MODE.value,) if _MODE.value else tuple(command.config.modes)
  modes.check_flags(names, [f for f in modes.FLAGS if flags.FLAGS[f].present])
  if names == ("convert",):
    from genvs_jax.convert import command as convert  # noqa: PLC0415

    return convert.convert(
      command.config,
      command.overrides,
      os.path.expanduser(_SOURCE.value or ""),
      os.path.expanduser(_OUTPUT.value or ""),
      _KEEP_OPTIMIZER.value,
    )
  if _DISTRIBUTED.value:
    modes.connect(
      names, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
  return modes.run(command, names)


def _overrides() -> tuple[str, ...]:
  """Names of the fields that were set one by one."""
  if _CONFIG.value is None:
    return ()
  return tuple(flags.FLAGS["config"].override_values)


def start() -> None:
  """The command `genvs` of an installed package."""
  app.run(main, flags_parser=lambda a: console.parse_flags(a, __doc__ or ""))


if __name__ == "__main__":
  start()
