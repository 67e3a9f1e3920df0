"""PyTorch weights -> an ordinary checkpoint at step 0.

  file = checkpoint.open_file("large-k-multi-latest.pt")
  config = ...  # of `file.identity.kind`, with `file.identity.fields`
  report = checkpoint.convert(file, config, "out")

`torch_file` reads the file, `recognize` tells what it is, `names` says which
tensor fills which leaf, `layouts` how, `tensors_to_variables` checks that
nothing is missing or left over. Here they meet, and the rest of the state is
made up.
"""

import contextlib
import dataclasses
from typing import Any
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
import optax
from etils import epath

from genvs_jax import config_fields
from genvs_jax.checkpointing import checkpoints
from genvs_jax.convert import recognize
from genvs_jax.convert import tensors_to_variables
from genvs_jax.convert import torch_file
from genvs_jax.models import builders
from genvs_jax.models import pipeline
from genvs_jax.training import startup
from genvs_jax.training import train_step

ConvertError = torch_file.ConvertError
# The reference sums the gradients of this many micro-batches where we take
# the mean of the whole batch: its gradients, and with them Adam's moments, are
# that many times as large.
SUMMED_MICRO_BATCHES = 16


@dataclasses.dataclass(frozen=True)
class File:
  """An opened PyTorch file.

  Attributes:
    path: of the file.
    tensors: by key.
    ema: averaged tensors by key, if the file has them (k-diffusion's do).
    optimizer: the optimizer's state_dict, if the file has one.
    identity: what the tensors are.
  """

  path: str
  tensors: torch_file.Tensors
  ema: torch_file.Tensors | None
  optimizer: dict[str, Any] | None
  identity: recognize.Identity


def open_file(path: str) -> File:
  """Reads and recognises a PyTorch file.

  Raises:
    ConvertError: if it is damaged, hostile, or of no known network.
  """
  return from_content(torch_file.read(path), path)


def from_content(content: Any, path: str) -> File:
  """Recognises what a file held, tensors as NumPy arrays.

  Args:
    content: a state_dict, or a dict that holds one as "model" (with "optim",
      "model_ema") or as "state_dict".
    path: of the file, for messages.
  """
  if not isinstance(content, dict):
    raise ConvertError(
      f"{path} holds a {type(content).__name__}, expected a state_dict"
    )
  wrapped = content.get("model", content.get("state_dict"))
  tensors = _tensors(wrapped if isinstance(wrapped, dict) else content, path)
  ema = content.get("model_ema")
  optimizer = content.get("optim")
  return File(
    path=path,
    tensors=tensors,
    ema=_tensors(ema, path) if isinstance(ema, dict) else None,
    optimizer=optimizer if isinstance(optimizer, dict) else None,
    identity=recognize.recognize(tensors, path),
  )


def convert(
  file: File,
  config: ml_collections.ConfigDict,
  output: str,
  keep_optimizer: bool = False,
) -> list[str]:
  """Writes a checkpoint that every mode of `launch.py` takes.

  Parts that the file does not hold are freshly initialised.

  Args:
    file: from `open_file`.
    config: describes the model that the file holds, and goes along.
    output: a workdir without checkpoints.
    keep_optimizer: also convert Adam's moments and step count.

  Returns:
    lines that say what became of every tensor.

  Raises:
    ConvertError: if anything is missing, misshapen or left over; nothing is
      written then.
  """
  folder = epath.Path(output) / checkpoints.FOLDER
  if folder.exists():
    raise ConvertError(
      f"{output} already holds checkpoints, expected an empty or new folder"
    )
  model = builders.build_model(config)
  parts = builders.parts_of(config.objective.name)
  filled, filled_ema = (
    tensors_to_variables.fill(model, parts, tensors, file.identity, file.path)
    for tensors in (file.tensors, file.ema or file.tensors)
  )
  moments = _moments(file, filled) if keep_optimizer else None
  state = _state(config, model, filled, filled_ema, moments)
  saver = checkpoints.Checkpointer(str(folder))
  with contextlib.closing(saver):
    saver.save(0, state, config_fields.to_dict(config))
  return _report(file, filled)


def _tensors(values: dict, path: str) -> torch_file.Tensors:
  """The tensors of a state_dict, without DistributedDataParallel's prefix."""
  tensors = {
    str(key).removeprefix("module."): value
    for key, value in values.items()
    if isinstance(value, np.ndarray)
  }
  other = [str(k) for k, v in values.items() if not isinstance(v, np.ndarray)]
  if other and tensors:
    raise ConvertError(
      f"{path} mixes tensors with other values ({', '.join(other[:5])}):"
      " expected a state_dict"
    )
  return tensors


class _Moments(NamedTuple):
  """Adam's state in this project's layouts and units, {part: tree}."""

  steps: int
  first: dict[str, Any]
  second: dict[str, Any]


def _moments(file: File, filled: tensors_to_variables.Filled) -> _Moments:
  """Adam's state, whose entries are numbered in the order of the parameters.

  Raises:
    ConvertError: if the file has none, or one of another model.
  """
  state = (file.optimizer or {}).get("state")
  if not isinstance(state, dict) or not state:
    raise ConvertError(
      f"{file.path} holds no optimizer state, expected one under 'optim'"
      " (--keep_optimizer asks for it)"
    )
  adam = {"step", "exp_avg", "exp_avg_sq"}
  if filled.fresh or not all(adam <= set(entry) for entry in state.values()):
    raise ConvertError(
      f"{file.path} holds optimizer state that is not Adam's for a whole model:"
      " convert without --keep_optimizer"
    )
  # Frozen norms and frequencies are buffers there too, and take no number.
  trainable = {
    key: filled.uses[key]
    for prefix in file.identity.prefixes.values()
    for key in file.tensors
    if key.startswith(prefix)
    and key in filled.uses
    and filled.uses[key].path[0] == "params"
  }
  if len(state) != len(trainable):
    raise ConvertError(
      f"{file.path} has optimizer state for {len(state)} parameters, expected"
      f" {len(trainable)}"
    )
  first: dict[str, Any] = {}
  second: dict[str, Any] = {}
  for number, (key, use) in zip(sorted(state), trainable.items(), strict=True):
    for tree, name, unit in (
      (first, "exp_avg", SUMMED_MICRO_BATCHES),
      (second, "exp_avg_sq", SUMMED_MICRO_BATCHES**2),
    ):
      value = state[number][name]
      if value.shape != file.tensors[key].shape:
        raise ConvertError(
          f"{file.path} has {name} of shape {list(value.shape)} for {key},"
          f" expected {list(file.tensors[key].shape)}"
        )
      value = np.ascontiguousarray(use.layout.to_flax(value)) / unit
      tensors_to_variables.put(tree, (use.part, *use.path[1:]), value)
  return _Moments(int(state[min(state)]["step"]), first, second)


def _state(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  filled: tensors_to_variables.Filled,
  filled_ema: tensors_to_variables.Filled,
  moments: _Moments | None,
) -> train_step.TrainState:
  """A state at step 0 with what the file holds, the rest freshly made."""
  variables, ema_variables = filled.variables, filled_ema.variables
  if filled.fresh:
    state = jax.device_get(startup.init_on_devices(config, model))
    initial = pipeline.join_variables(state.params, state.buffers)
    variables = _merge(initial, variables)
    ema_variables = _merge(initial, ema_variables)
  params, buffers = pipeline.split_variables(variables)
  ema: dict[str, Any] = {}
  if config.train.ema != "none":
    ema, _ = pipeline.split_variables(ema_variables)
  abstract = jax.eval_shape(lambda: startup.init_state(config, model))
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
  if moments is not None:
    state = state.replace(opt_state=_with_moments(state.opt_state, moments))
  return state.replace(params=params, ema=ema, buffers=buffers)


def _with_moments(opt_state, moments: _Moments):
  kinds = (optax.ScaleByAdamState, optax.ScaleByScheduleState)
  count = np.int32(moments.steps)

  def parts(tree: dict, values: dict) -> dict:
    # Each part has an optimizer of its own, in which the others are masked.
    return {
      part: old if isinstance(old, optax.MaskedNode) else values[part]
      for part, old in tree.items()
    }

  def replace(state):
    if isinstance(state, optax.ScaleByAdamState):
      return optax.ScaleByAdamState(
        count, parts(state.mu, moments.first), parts(state.nu, moments.second)
      )
    if isinstance(state, optax.ScaleByScheduleState):
      return optax.ScaleByScheduleState(count)
    return state

  return jax.tree.map(
    replace, opt_state, is_leaf=lambda x: isinstance(x, kinds)
  )


def _merge(base: dict, over: dict) -> dict:
  """`base` with the leaves of `over`, which may hold a part of its tree."""
  return {
    key: _merge(value, over.get(key, {}))
    if isinstance(value, dict)
    else over.get(key, value)
    for key, value in base.items()
  }


def _report(file: File, filled: tensors_to_variables.Filled) -> list[str]:
  lines = [
    f"{file.path}: {file.identity.kind}, {len(file.tensors)} tensors,"
    f" {len(filled.uses)} used"
  ]
  for part in file.identity.prefixes:
    uses = [use for use in filled.uses.values() if use.part == part]
    count = sum(use.size for use in uses if use.path[0] == "params")
    lines.append(f"  {part}: {count:,} parameters")
  lines += [f"  not read: {n} ({why})" for why, n in filled.explained.items()]
  lines += [
    f"  {key}: widened by zeros for the feature image" for key in filled.widened
  ]
  if filled.fresh:
    lines.append(f"  freshly initialised: {', '.join(filled.fresh)}")
  return lines
