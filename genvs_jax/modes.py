"""What `launch.py` can do: a function for each mode.

A mode takes a `Command` and returns the lines that are printed at its end.
What it needs is imported when it runs: a wrong flag is answered at once.
"""

import importlib.util
import os
import re
from typing import Any
from typing import NamedTuple

from absl import logging

from genvs_jax import config_fields
from genvs_jax.runtime import console
from genvs_jax.runtime import messages


class Command(NamedTuple):
  """A command as it was typed.

  Attributes:
    config: of --config with its overrides; None for that of the checkpoint.
    config_file: its name or path; None if it was not named: only fields that
      were set are taken from `config` then, the others from the checkpoint.
    overrides: names of the fields that were set one by one.
    workdir: folder of the run.
    checkpoint: to use instead of the workdir's.
    step: of the checkpoint; None for the newest.
    skip_bad_scenes: prepare: leave unreadable scenes out.
    rebuild: prepare: build a dataset that is there anew.
    images: sample: the user's own pictures.
    limit: evaluate: most scenes, 0 for all.
    export: sample: "ply", "glb" or "".
    host: view: to listen on.
    port: view: to listen on.
    topology: compile: of the devices.
    largest_batch: compile: find the largest batch that fits, too.
    started: `time.monotonic()` at the start.
  """

  config: Any
  config_file: str | None
  overrides: tuple[str, ...]
  workdir: str
  checkpoint: str | None
  step: int | None
  skip_bad_scenes: bool
  rebuild: bool
  images: str
  limit: int
  export: str
  host: str
  port: int
  topology: str
  largest_batch: bool
  started: float


def run(command: Command, names: tuple[str, ...]) -> list[str]:
  """Runs modes one after another."""
  from genvs_jax.runtime import compilation  # noqa: PLC0415

  for name in names:
    messages.check_choice("modes", name, MODES)
    if command.checkpoint and name in ("prepare", "train", "compile"):
      raise ValueError(
        f"--checkpoint has no effect with --mode={name}: a run that starts from"
        " its weights sets --config.init_from.encoder, .field and .denoiser"
      )
  only_uses = not {"prepare", "train", "compile"} & set(names)
  if command.checkpoint and not command.workdir:
    name = _workdir_of(command.checkpoint).rpartition("/")[2]
    command = command._replace(workdir=f"outputs/{name}")
  if command.config_file is None and command.checkpoint:
    command, names = _of_checkpoint(command, names)
  config = command.config
  config_fields.check_overrides(config, command.overrides)
  if only_uses:
    config_fields.check_training_overrides(command.overrides)
  compilation.keep_programs(
    config.compilation_cache, config.compilation_cache_gib
  )
  return [line for name in names for line in MODES[name](command)]


def required_flags(mode: str | None, checkpoint: str | None) -> list[str]:
  """Flags that a mode cannot do without: a checkpoint brings its config."""
  if mode == "convert":
    return ["source"]
  if mode in ("prepare", "compile"):
    return ["config"] + ["topology"] * (mode == "compile")
  is_enough = mode in _READERS and checkpoint
  return ["checkpoint"] if is_enough else ["config", "workdir"]


def check_flags(names: tuple[str, ...], flags: list[str]) -> None:
  """Refuses flags, of `FLAGS`, that no mode of a command looks at."""
  for flag in flags:
    if not set(FLAGS[flag]) & set(names):
      raise ValueError(
        f"--{flag} has no effect with mode {', '.join(names)}: it is for mode"
        f" {' or '.join(FLAGS[flag])}; leave it out"
      )


def instead_of_flags(mode: str | None) -> str:
  """What would do in the place of --config and --workdir, for a message."""
  if mode not in _READERS:
    return ""
  return ", or --checkpoint alone (such as --checkpoint=cars64-small)"


def _of_checkpoint(
  command: Command, names: tuple[str, ...]
) -> tuple[Command, tuple[str, ...]]:
  """The command with the config of its checkpoint and, where its scenes are
  not there but can be made, the mode that makes them."""
  from genvs_jax.checkpointing import pretrained  # noqa: PLC0415
  from genvs_jax.data import dataset_builders  # noqa: PLC0415

  path = command.checkpoint or ""
  config = pretrained.read_config(path, command.step)
  if command.config is not None:
    values = config_fields.flatten(command.config)
    config.update_from_flattened_dict({k: values[k] for k in command.overrides})
  trained_in = os.path.expanduser(_workdir_of(path))
  if dataset_builders.lies_in(config, trained_in):
    config.data.data_dir = dataset_builders.expand(
      config.data.data_dir, trained_in
    )
  elif (
    dataset_builders.are_made(config)
    and names != ("view",)
    and not command.images
  ):
    is_scored = names == ("evaluate",)
    section = "evaluate" if is_scored else "sample"
    sample = config.sample
    number = command.limit if is_scored else sample.scene + sample.scenes
    config = dataset_builders.with_one_split(
      config, section, number, command.overrides
    )
    names = ("prepare", *names)
  return command._replace(config=config), names


def _workdir_of(checkpoint: str) -> str:
  """.../NAME of .../NAME/checkpoints/500."""
  return re.sub(r"(/checkpoints)?(/\d+)?/*$", "", checkpoint)


def connect(
  names: tuple[str, ...],
  address: str | None,
  count: int | None,
  index: int | None,
) -> None:
  """Joins the other processes of a run; see `processes.connect`."""
  if names not in (("train",), ("evaluate",)):
    raise ValueError(
      "--distributed is for --mode=train and --mode=evaluate, found"
      f" {', '.join(names)}: do the rest in one process"
    )
  from genvs_jax.runtime import processes  # noqa: PLC0415

  processes.connect(address, count, index)


def prepare(command: Command) -> list[str]:
  """Builds the dataset."""
  from genvs_jax.data import datasets  # noqa: PLC0415
  from genvs_jax.runtime import processes  # noqa: PLC0415

  config, workdir = command.config, command.workdir
  with processes.ending_at_once(), processes.first_goes_ahead("prepared"):
    folder = datasets.prepare(
      config, workdir, command.skip_bad_scenes, command.rebuild
    )
  lines = [f"dataset      {folder}", *datasets.describe(config, workdir)]
  if console.flag_value("mode") == "prepare":
    folder = workdir or "WORKDIR"
    command_line = console.command_line(mode="train", workdir=folder)
    lines.append(f"train on it  {command_line}")
  return lines


def train(command: Command) -> list[str]:
  """Trains, or resumes training.

  Raises:
    StoppedError: if SIGTERM or Ctrl-C ended it.
  """
  from genvs_jax.runtime import platforms  # noqa: PLC0415
  from genvs_jax.runtime import processes  # noqa: PLC0415
  from genvs_jax.training import stages  # noqa: PLC0415

  config, workdir = command.config, command.workdir
  processes.report_devices()
  platforms.keep_freed_memory()
  with processes.ending_at_once():
    state, stopped = stages.run(config, workdir)
  if stopped:
    raise console.StoppedError(
      f"stopped after step {int(state.step)}, which is saved: start the same"
      " command again to resume"
    )
  viewer = ""
  if importlib.util.find_spec("tensorboard"):
    viewer = f" (tensorboard --logdir={workdir})"
  longer = console.command_line(
    mode="train", config__train__steps=2 * config.train.steps
  )
  return [
    f"checkpoints  {workdir}/checkpoints",
    f"metrics      {workdir}/metrics.jsonl{viewer}",
    f"image grids  {workdir}/image_grids",
    f"train on     {longer}",
  ]


def evaluate(command: Command) -> list[str]:
  """Scores a checkpoint."""
  import jax  # noqa: PLC0415

  from genvs_jax.evaluation import evaluate as evaluation  # noqa: PLC0415
  from genvs_jax.evaluation import report  # noqa: PLC0415
  from genvs_jax.runtime import processes  # noqa: PLC0415

  checkpoint, config = _load(command)
  with processes.ending_at_once():
    results = evaluation.evaluate(
      config,
      checkpoint.model,
      checkpoint.variables,
      command.workdir,
      command.limit,
    )
  if jax.process_index():
    return []  # the first process writes and prints
  path = evaluation.write_results(
    command.workdir, results, checkpoint.step, command.started
  )
  print(f"\nstep {checkpoint.step}\n{report.table(results)}")
  folder, suffix = results["folder"], results["suffix"]
  return [
    f"scores       {path}, {folder}/scores{suffix}.jsonl,"
    f" {folder}/table{suffix}.md",
    f"report       {command.workdir}/report{suffix}.html",
    f"scored views {folder}/grid{suffix}.png",
  ]


def sample(command: Command) -> list[str]:
  """Draws scenes along a path."""
  from genvs_jax.sampling import exports  # noqa: PLC0415
  from genvs_jax.sampling import sample_scenes  # noqa: PLC0415

  exports.check(command.export)
  idle = {"sample.scene", "sample.scenes", "sample.split"}
  if command.images and (idle := idle & set(command.overrides)):
    raise ValueError(
      f"{min(idle)} has no effect with --images, which are the scenes: leave it"
      " out"
    )
  checkpoint, config = _load(command)
  scenes = sample_scenes.sample(
    config,
    checkpoint.model,
    checkpoint.variables,
    command.workdir,
    command.images,
    command.export,
  )
  lines = [
    f"{'turntable' if kind == 'mp4' else kind:12s} {path}"
    for paths in scenes
    for kind, path in paths.items()
  ]
  if not command.images and "mp4" in scenes[0]:
    following = config.sample.scene + config.sample.scenes
    another = console.command_line(
      mode="sample", config__sample__scene=following
    )
    lines.append(f"another one  {another}")
  return lines


def view(command: Command) -> list[str]:
  """Shows scenes in the browser until Ctrl-C."""
  from genvs_jax.viewer import serve  # noqa: PLC0415

  serve.check()
  checkpoint, config = _load(command)
  page, server = serve.open_page(
    config,
    checkpoint.model,
    checkpoint.variables,
    command.workdir,
    command.images,
    command.host,
    command.port,
  )
  serve.run(page, server, command.host)
  return ["the viewer is closed"]


def compile_programs(command: Command) -> list[str]:
  """Compiles for devices that are not here."""
  from genvs_jax.aot import report  # noqa: PLC0415

  return report.run(
    command.config, command.topology, command.workdir, command.largest_batch
  )


def _load(command: Command):
  """The checkpoint to use, and the config that it is used with."""
  from genvs_jax.checkpointing import autoguidance  # noqa: PLC0415
  from genvs_jax.checkpointing import pretrained  # noqa: PLC0415
  from genvs_jax.models import builders  # noqa: PLC0415
  from genvs_jax.runtime import platforms  # noqa: PLC0415
  from genvs_jax.runtime import processes  # noqa: PLC0415

  processes.report_devices()
  platforms.keep_freed_memory()
  path = command.checkpoint or command.workdir
  checkpoint = pretrained.load(
    path, command.step, command.config.sampler.params
  )
  logging.info("restored step %d from %s", checkpoint.step, path)
  config = config_fields.with_checkpoint(
    command.config, checkpoint.config, command.overrides
  )
  # Overrides of how a checkpoint is used may change the model around weights.
  model, variables = autoguidance.add_guide(
    config, builders.build_model(config), checkpoint.variables
  )
  checkpoint = checkpoint._replace(
    config=config, model=model, variables=variables
  )
  return checkpoint, config


# Modes that read a checkpoint.
_READERS = ("evaluate", "sample", "view")
# Flags that not every mode looks at, with those that do.
FLAGS = {
  "skip_bad_scenes": ("prepare",),
  "rebuild": ("prepare",),
  "step": _READERS,
  "images": ("sample", "view"),
  "limit": ("evaluate",),
  "export": ("sample",),
  "host": ("view",),
  "port": ("view",),
  "topology": ("compile",),
  "largest_batch": ("compile",),
  "source": ("convert",),
  "output": ("convert",),
  "keep_optimizer": ("convert",),
}
MODES = {
  "prepare": prepare,
  "train": train,
  "evaluate": evaluate,
  "sample": sample,
  "view": view,
  "compile": compile_programs,
}
