"""The command line: prepares data, trains, scores, draws and converts.

  python launch.py --config=configs/cars64.py --workdir=DIR
  python launch.py --mode=convert --source=FILE.pt --output=DIR
  python launch.py --distributed --mode=train --config=...  (on every host)

Any field of the config can be set: --config.train.steps=1000. Without --mode
the modes of the config run one after another.
"""

import importlib
import logging as logging_module
import re
import sys
import time

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Config file; see configs/base.py for the fields."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder that receives everything a run writes."
)
_MODE = flags.DEFINE_enum(
  "mode",
  None,
  ["prepare", "train", "evaluate", "sample", "convert"],
  "What to do; by default the modes of the config.",
)
_CHECKPOINT = flags.DEFINE_string(
  "checkpoint",
  None,
  "Checkpoint for evaluate and sample: a workdir, its checkpoints folder or"
  " one checkpoint. By default --workdir.",
)
_STEP = flags.DEFINE_integer(
  "step", None, "Step of the checkpoint, by default the newest."
)
_SKIP_BAD_SCENES = flags.DEFINE_bool(
  "skip_bad_scenes", False, "prepare: leave unreadable scenes out."
)
_IMAGES = flags.DEFINE_string(
  "images",
  "",
  "sample: folder of your own pictures, or one picture; see docs/photos.md.",
)
_LIMIT = flags.DEFINE_integer(
  "limit", 0, "evaluate: only so many scenes, for a quick look; 0 for all."
)
_EXPORT = flags.DEFINE_enum(
  "export",
  "",
  ["", "ply"],
  "sample: also write points from the depth and a mesh of the field.",
)
_SOURCE = flags.DEFINE_string(
  "source", None, "convert: the PyTorch file to read."
)
_OUTPUT = flags.DEFINE_string(
  "output",
  None,
  "convert: the workdir that receives the checkpoint (metrics' weights: the"
  " folder, by default where evaluation looks).",
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
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "Number of processes."
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is.")

# What a checkpoint's own config decides when it is used; the rest comes from
# --config.
_MODEL_SECTIONS = ("model", "frustum", "rendering", "diffusion")


class _StoppedError(Exception):
  """Training ended early, on request; its text says how to go on."""


class _OnlyOurs(logging_module.Filter):
  """Keeps warnings of all and notes of this project; libraries are chatty."""

  def filter(self, record) -> bool:
    if "site-packages" not in record.pathname:
      return True
    expected = "Using custom data configuration" in record.getMessage()
    return record.levelno >= logging_module.WARNING and not expected


def main(argv: list[str]) -> int:
  logging.get_absl_handler().addFilter(_OnlyOurs())
  if len(argv) > 1:
    raise app.UsageError(
      f"unexpected argument {argv[1]!r}: flags start with --"
    )
  from genvs_jax.runtime import compilation_cache  # noqa: PLC0415

  started = time.monotonic()
  summary = []
  try:
    if _MODE.value == "convert":
      summary = _convert(_CONFIG.value)
    else:
      config = _CONFIG.value
      modes = (_MODE.value,) if _MODE.value else tuple(config.modes)
      _connect(modes)
      compilation_cache.enable(
        config.compilation_cache, config.compilation_cache_gib
      )
      for mode in modes:
        summary += _RUN[mode](config, _WORKDIR.value, started)
  except _StoppedError as stopped:
    print(f"\n{stopped}")
    return 0
  except (ValueError, OSError, FloatingPointError) as error:
    logging.debug("traceback", exc_info=True)
    print(f"error: {error}", file=sys.stderr)
    print("(--verbosity=1 shows where it was raised)", file=sys.stderr)
    return 1
  print("\n" + "\n".join(summary))
  return 0


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; an unknown config field is one sentence, not a traceback."""
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError) as error:
    unknown, *nearest = re.findall(
      r"""['"]([\w.]+)['"]""", str(error).replace("\\", "")
    ) or ["?"]
    args = (a.split("=")[0] for a in argv if a.startswith("--config."))
    flag = next((a for a in args if unknown in a.split(".")), unknown)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    sys.exit(f"error: {flag}: the config has no field {unknown!r}{hint}")


def _connect(modes: tuple[str, ...]) -> None:
  """Joins the other processes of the run, if there are any."""
  if not _DISTRIBUTED.value:
    return
  if modes not in (("train",), ("evaluate",)):
    raise ValueError(
      "--distributed is for --mode=train and --mode=evaluate, found"
      f" {', '.join(modes)}: do the rest in one process"
    )
  from genvs_jax.runtime import sharding  # noqa: PLC0415

  sharding.connect(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)


def _prepare(config, workdir: str, started: float) -> list[str]:
  del started
  from genvs_jax.data import loading  # noqa: PLC0415

  folder = loading.prepare(config, workdir, _SKIP_BAD_SCENES.value)
  return [f"dataset      {folder}"]


def _train(config, workdir: str, started: float) -> list[str]:
  del started
  from genvs_jax.runtime import memory  # noqa: PLC0415
  from genvs_jax.runtime import sharding  # noqa: PLC0415
  from genvs_jax.training import loop  # noqa: PLC0415

  sharding.report_devices()
  memory.keep_freed()
  with sharding.ending_at_once():
    state = loop.train_and_evaluate(config, workdir)
  if int(state.step) < config.train.steps:
    raise _StoppedError(
      f"stopped after step {int(state.step)} of {config.train.steps}, which is"
      f" saved: start the same command again to go on"
    )
  return [
    f"checkpoints  {workdir}/checkpoints",
    f"metrics      {workdir}/metrics.jsonl (tensorboard --logdir={workdir})",
    f"sheets       {workdir}/sheets",
    f"train on     python launch.py --mode=train --config={_config_file()}"
    f" --workdir={workdir} --config.train.steps={2 * config.train.steps}",
  ]


def _evaluate(config, workdir: str, started: float) -> list[str]:
  import jax  # noqa: PLC0415

  from genvs_jax.evaluation import evaluate  # noqa: PLC0415
  from genvs_jax.runtime import sharding  # noqa: PLC0415

  loaded, config = _load(config, workdir)
  with sharding.ending_at_once():
    results = evaluate.evaluate(
      config, loaded.model, loaded.variables, workdir, _LIMIT.value
    )
  if jax.process_index():
    return []  # the first process writes and prints
  path = evaluate.write_results(workdir, results, loaded.step, started)
  print(f"\nstep {loaded.step}\n{evaluate.table(results)}")
  folder = results["folder"]
  return [
    f"scores       {path}, {folder}/scores.jsonl, {folder}/table.md",
    f"scored views {folder}/sheet.png",
  ]


def _sample(config, workdir: str, started: float) -> list[str]:
  del started
  from genvs_jax.sampling import sample_scenes  # noqa: PLC0415

  loaded, config = _load(config, workdir)
  written = sample_scenes.sample(
    config,
    loaded.model,
    loaded.variables,
    workdir,
    _IMAGES.value,
    _EXPORT.value,
  )
  label = "turntable   " if "mp4" in written else "pictures    "
  given = f" --checkpoint={_CHECKPOINT.value}" if _CHECKPOINT.value else ""
  return [
    f"{label} {', '.join(map(str, written.values()))}",
    f"another one  python launch.py --mode=sample --config={_config_file()}"
    f" --workdir={workdir}{given} --config.sample.scene=1",
  ]


# Configs of what `convert` recognises, by kind and image size.
_CONVERTED = {
  ("main", 64): "reference64",
  ("main", 128): "reference128",
  ("dlv3", 128): "reference128_dlv3",
  ("image_v1", 64): "reference64",
  ("image_v1", 128): "reference128",
  ("ddpmpp", 128): "paper128",
  ("resnet34", None): "reference128_dlv3",
}


def _convert(config) -> list[str]:
  from genvs_jax import convert  # noqa: PLC0415
  from genvs_jax.convert import metric_weights  # noqa: PLC0415
  from genvs_jax.convert import torch_file  # noqa: PLC0415

  content = torch_file.read(_SOURCE.value)
  if metric_weights.recognize(content):
    return metric_weights.convert(
      content, _SOURCE.value, _OUTPUT.value or "auto"
    )
  if not _OUTPUT.value:
    raise ValueError("--output must be given")
  file = convert.from_content(content, _SOURCE.value)
  fields = file.found.fields
  config_file = _config_file()
  if config is None:
    size = file.found.image_size
    name = _CONVERTED.get((file.found.kind, size))
    if name is None:
      raise ValueError(
        f"{_SOURCE.value} is a {file.found.kind} for {size} pixels, which no"
        " config here describes: name one with --config"
      )
    config = importlib.import_module(f"configs.{name}").get_config()
    config_file = f"configs/{name}.py"
  config.update_from_flattened_dict(fields)
  lines = convert.convert(file, config, _OUTPUT.value, _KEEP_OPTIMIZER.value)
  return [
    *lines,
    f"checkpoint   {_OUTPUT.value}/checkpoints/0",
    f"sample       python launch.py --mode=sample --config={config_file}"
    f" --checkpoint={_OUTPUT.value} --workdir=DIR",
  ]


def _check_required(values: dict) -> bool:
  """Which flags a mode cannot do without."""
  names = ["config", "workdir"]
  if values["mode"] == "convert":
    names = ["source"]
  missing = [f"--{name}" for name in names if not values[name]]
  if missing:
    raise flags.ValidationError(f"{' and '.join(missing)} must be given")
  return True


def _load(config, workdir: str):
  """The checkpoint to use, and --config with the sections that it decides."""
  from genvs_jax.checkpointing import pretrained  # noqa: PLC0415
  from genvs_jax.runtime import memory  # noqa: PLC0415
  from genvs_jax.runtime import sharding  # noqa: PLC0415

  sharding.report_devices()
  memory.keep_freed()
  path = _CHECKPOINT.value or workdir
  loaded = pretrained.load(path, _STEP.value, config.sampler.weights)
  logging.info("restored step %d from %s", loaded.step, path)
  config = config.copy_and_resolve_references()
  for section in _MODEL_SECTIONS:
    config[section] = loaded.config[section]
  return loaded, config


def _config_file() -> str:
  for arg in sys.argv:
    if arg.startswith("--config="):
      return arg[len("--config=") :]
  return "CONFIG"


_RUN = {
  "prepare": _prepare,
  "train": _train,
  "evaluate": _evaluate,
  "sample": _sample,
}

if __name__ == "__main__":
  flags.register_multi_flags_validator(
    ["mode", "config", "workdir", "source", "output"], _check_required
  )
  app.run(main, flags_parser=_parse_flags)
