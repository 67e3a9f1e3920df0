"""`--mode=convert`: a PyTorch file to a checkpoint, or to metrics' weights."""

import importlib
import json
import os
import pathlib
from typing import Any

import ml_collections
from etils import epath

from genvs_jax import config_fields
from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import pretrained
from genvs_jax.convert import checkpoint
from genvs_jax.convert import metric_weights
from genvs_jax.convert import recognize
from genvs_jax.convert import torch_file

METRICS = "metrics"


def convert(
  config: ml_collections.ConfigDict | None,
  overrides: tuple[str, ...],
  source: str,
  output: str | None,
  keep_optimizer: bool,
) -> list[str]:
  """Converts a PyTorch file; returns the lines to print.

  Args:
    config: describes the model; None for the recipe that fits the file.
    overrides: names of its fields that were set one by one; they must not
      contradict what the file is.
    source: the PyTorch file; a workdir, for a small copy of its newest
      checkpoint to use and to share; or "metrics" for the weights of LPIPS and
      DISTS that packages of the Python registry bring.
    output: workdir that receives the checkpoint (metrics' weights: folder).
    keep_optimizer: Adam's moments too.

  Raises:
    ConvertError: if the file cannot be converted; nothing is written then.
  """
  if os.path.isdir(source):
    return _for_use(source, output)
  if source == METRICS:
    return metric_weights.convert_packages(output or "auto")
  content = torch_file.read(source)
  if metric_weights.recognize(content):
    return metric_weights.convert(content, source, output or "auto")
  if not output:
    raise ValueError("--output must be given")
  file = checkpoint.from_content(content, source)
  if config is None:
    name = recognize.recipe(file.identity, source)
    config = importlib.import_module(f"configs.{name}").get_config()
  config = _with_fields(config, file.identity.fields, overrides)
  lines = checkpoint.convert(file, config, output, keep_optimizer)
  return [
    *lines,
    f"checkpoint   {output}/checkpoints/0",
    f"sample       python launch.py --mode=sample --checkpoint={output}",
    "precision    on a GPU or TPU, --config.model.precision=highest gives the"
    " digits of PyTorch in float32",
  ]


def _for_use(workdir: str, output: str | None) -> list[str]:
  """A small copy of a workdir's newest checkpoint; the lines to print."""
  if not output:
    raise ValueError("--output must be given")
  if (epath.Path(output) / checkpoints.FOLDER).exists():
    raise ValueError(
      f"--output {output} holds checkpoints already, expected a folder without:"
      " choose another, or remove it"
    )
  has_average = pretrained.read_config(workdir, None).train.ema != "none"
  params = "ema" if has_average else "raw"
  pretrained.save(output, pretrained.load(workdir, params=params))
  files = pathlib.Path(output).rglob("*")
  size = sum(path.stat().st_size for path in files if path.is_file())
  return [
    f"checkpoint   {output} ({size / 2**20:.1f} MiB)",
    f"sample       python launch.py --mode=sample --checkpoint={output}",
  ]


def _with_fields(
  config: ml_collections.ConfigDict,
  fields: dict[str, Any],
  overrides: tuple[str, ...],
) -> ml_collections.ConfigDict:
  """A config with the fields that follow from what a file is."""
  ours = config_fields.flatten(config)
  for name, value in fields.items():
    theirs = json.loads(json.dumps(value))
    if name in overrides and ours[name] != theirs:
      raise ValueError(
        f"{name} is {ours[name]!r}, but the file's weights mean {theirs!r}:"
        " leave it out"
      )
  config.update_from_flattened_dict(fields)
  return config
