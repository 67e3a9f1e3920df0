"""The command line: prepares data, trains, scores and draws.

  python launch.py --config=configs/cars64.py --workdir=DIR

Any field of the config can be set: --config.train.steps=1000. Without --mode
the modes of the config run one after another.
"""

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
  ["prepare", "train", "evaluate", "sample"],
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

# What a checkpoint's own config decides when it is used; the rest comes from
# --config.
_MODEL_SECTIONS = ("model", "frustum", "rendering", "diffusion")


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
  started = time.monotonic()
  config = _CONFIG.value
  modes = (_MODE.value,) if _MODE.value else tuple(config.modes)
  summary = []
  try:
    for mode in modes:
      summary += _RUN[mode](config, _WORKDIR.value, started)
  except (ValueError, OSError) as error:
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


def _prepare(config, workdir: str, started: float) -> list[str]:
  del started
  from genvs_jax import data  # noqa: PLC0415

  folder = data.prepare(config, workdir, _SKIP_BAD_SCENES.value)
  return [f"dataset      {folder}"]


def _train(config, workdir: str, started: float) -> list[str]:
  del started
  from genvs_jax import sharding  # noqa: PLC0415
  from genvs_jax import train  # noqa: PLC0415

  sharding.report_devices()
  train.train_and_evaluate(config, workdir)
  return [
    f"checkpoints  {workdir}/checkpoints",
    f"metrics      {workdir}/metrics.jsonl (tensorboard --logdir={workdir})",
    f"sheets       {workdir}/sheets",
    f"train on     python launch.py --mode=train --config={_config_file()}"
    f" --workdir={workdir} --config.train.steps={2 * config.train.steps}",
  ]


def _evaluate(config, workdir: str, started: float) -> list[str]:
  from genvs_jax import evaluate  # noqa: PLC0415

  config, model, variables, step = _load(config, workdir)
  results = evaluate.evaluate(config, model, variables, workdir)
  path = evaluate.write_results(workdir, results, step, started)
  print(
    f"\n{results['views']} views of {results['scenes']} scenes, step {step}"
  )
  print(evaluate.table(results))
  return [
    f"scores       {path}",
    f"scored views {workdir}/samples/{config.evaluate.split}_sheet.png",
  ]


def _sample(config, workdir: str, started: float) -> list[str]:
  del started
  from genvs_jax import synthesis  # noqa: PLC0415

  config, model, variables, _ = _load(config, workdir)
  files = synthesis.sample_turntable(config, model, variables, workdir)
  return [
    f"turntable    {files['mp4']}, {files['gif'].name}, {files['sheet'].name}",
    f"another one  python launch.py --mode=sample --config={_config_file()}"
    f" --workdir={workdir} --config.sample.scene=1",
  ]


def _load(config, workdir: str):
  """(config, model, variables, step) of the checkpoint to use."""
  import jax  # noqa: PLC0415

  from genvs_jax import checkpoints  # noqa: PLC0415
  from genvs_jax import pipeline  # noqa: PLC0415
  from genvs_jax import sharding  # noqa: PLC0415
  from genvs_jax import train_state  # noqa: PLC0415

  sharding.report_devices()
  path = _CHECKPOINT.value or workdir
  checkpointer, step = checkpoints.open_existing(path, _STEP.value)
  trained = checkpointer.read_config(step)
  model = pipeline.build_model(trained)
  abstract = checkpoints.abstract_like(
    jax.eval_shape(lambda: train_state.init_state(trained, model)),
    sharding.replicated(sharding.make_mesh()),
  )
  state = checkpointer.restore(step, abstract)
  checkpointer.close()
  logging.info("restored step %d from %s", step, path)
  config = config.copy_and_resolve_references()
  for section in _MODEL_SECTIONS:
    config[section] = trained[section]
  variables = train_state.sampling_variables(state, config.sampler.weights)
  return config, model, variables, step


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
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=_parse_flags)
