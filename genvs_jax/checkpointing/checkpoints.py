"""Orbax checkpoints: state, config and format version in each.

A checkpoint restores anywhere from its own folder, on any number of devices.
Saving is asynchronous; an unfinished one is never listed.
"""

import contextlib
import difflib
import logging as logging_module
import math
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers

from genvs_jax import config_history
from genvs_jax.checkpointing import hub
from genvs_jax.runtime import messages

FORMAT_VERSION = 2
# The oldest whose training can go on; of older ones, the weights can be used.
_OLDEST_TO_RESUME = 2
FOLDER = "checkpoints"
# Models that come with the package: workdirs by their names.
_PACKAGED = pathlib.Path(__file__).parents[1] / "trained"
# Words of TensorStore, XLA and the operating system for storage or memory that
# fails, which is no fault of a checkpoint's files.
_NOT_DAMAGE = (
  "RESOURCE_EXHAUSTED",
  "PERMISSION_DENIED",
  "UNAVAILABLE",
  "UNAUTHENTICATED",
  "DEADLINE_EXCEEDED",
  "ABORTED",
  "No space left on device",
  "Stale file handle",
  "Input/output error",
  "Permission denied",
  "Too many open files",
)


class CheckpointError(ValueError):
  """A checkpoint is missing or cannot be read."""


class Checkpointer:
  """The checkpoints of one run, of which newest, best and every n-th stay.

  Args:
    directory: of the checkpoints, made if missing.
    keep_latest: how many of the newest are kept.
    keep_every: multiples of this step are never deleted.
    best_metric: the best checkpoint by this one of its metrics is kept too;
      "" for none.
    highest_is_best: whether that metric should be high.
    read_only: leave the folder alone; a run may be writing there.
  """

  def __init__(
    self,
    directory: str,
    *,
    keep_latest: int = 1,
    keep_every: int = 1,
    best_metric: str = "",
    highest_is_best: bool = True,
    read_only: bool = False,
  ):
    self._best_metric = best_metric
    self._worst = -math.inf if highest_is_best else math.inf
    policies: list[checkpoint_managers.PreservationPolicy] = [
      checkpoint_managers.LatestN(keep_latest),
      checkpoint_managers.EveryNSteps(keep_every),
    ]
    if best_metric:
      policies.append(
        checkpoint_managers.BestN(
          get_metric_fn=self._value,
          reverse=not highest_is_best,
          n=1,
          keep_checkpoints_without_metrics=False,
        )
      )
    if read_only:
      options = ocp.CheckpointManagerOptions(
        read_only=True, create=False, save_interval_steps=0
      )
    else:
      options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        cleanup_tmp_directories=True,
        best_fn=self._value if best_metric else None,
      )
    with _quiet_about("Given directory is read only"):
      self._manager = ocp.CheckpointManager(
        epath.Path(directory).absolute(),
        options=options,
        item_names=("state", "config", "format"),
      )

  def _value(self, metrics: dict[str, float]) -> float:
    """What a checkpoint is ranked by; one that was not measured, or whose score
    is not finite, comes last."""
    value = metrics.get(self._best_metric, self._worst)
    return value if math.isfinite(value) else self._worst

  def steps(self) -> list[int]:
    """The steps of all finished checkpoints, ascending."""
    return sorted(self._manager.all_steps())

  def save(
    self,
    step: int,
    state: Any,
    config: dict,
    metrics: dict[str, float] | None = None,
  ) -> None:
    """Starts to save; returns when the state may be changed again.

    Args:
      step: of the state.
      state: to be saved; all processes must call.
      config: as plain JSON types.
      metrics: of the state, the best metric among them; None if not measured.

    Raises:
      CheckpointError: if this save or the one before failed, on a full disk
        for example.
    """
    with self._explain_failure():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          config=ocp.args.JsonSave(config),
          format=ocp.args.JsonSave({"version": FORMAT_VERSION}),
        ),
        metrics=metrics or {},
        force=True,
      )

  def check(self) -> None:
    """Raises CheckpointError if a save in the background has failed."""
    with self._explain_failure():
      self._manager.check_for_errors()

  @contextlib.contextmanager
  def _explain_failure(self) -> Iterator[None]:
    """Says in one sentence that a save failed, and what is left."""
    try:
      yield
    # Whatever storage raises (full, gone, forbidden), the run cannot go on.
    except Exception as error:
      steps = self.steps()
      left = f"that of step {steps[-1]} is whole" if steps else "there is none"
      raise CheckpointError(
        f"a checkpoint could not be written to {self._manager.directory}"
        f" ({messages.first_line(error)}): make room there and start the same"
        f" command again; of the older ones, {left}"
      ) from error

  def set_aside(self, step: int, folder: epath.Path) -> epath.Path:
    """Moves a damaged checkpoint to `folder`; returns where it is now."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / str(step)
    count = 1
    while target.exists():
      count += 1
      target = folder / f"{step}_{count}"
    (self._manager.directory / str(step)).rename(target)
    return target

  def reload(self) -> None:
    """Reads the list of checkpoints again."""
    self._manager.reload()

  def differences(self, step: int, abstract_state: Any) -> list[str]:
    """What keeps `restore` from filling a state, before any array is read.

    Names the leaves that the checkpoint lacks, has too many or has in another
    shape; none of that is damage.
    """
    folder = self._manager.directory / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      tree = reader.metadata(folder).item_metadata.tree
    ours, theirs = _shapes(abstract_state), _shapes(tree)
    lines = [f"{name} is not in it" for name in sorted(ours.keys() - theirs)]
    lines += [f"{name} has no place" for name in sorted(theirs.keys() - ours)]
    return lines + [
      f"{name} has shape {list(theirs[name])}, expected {list(ours[name])}"
      for name in sorted(ours.keys() & theirs)
      if ours[name] != theirs[name]
    ]

  def restore(self, step: int, abstract_state: Any) -> Any:
    """The state of `step`, placed as `abstract_state`'s shardings say."""
    return self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract_state),
      ),
    )["state"]

  def restore_some(self, step: int, abstract: dict[str, Any]) -> dict:
    """Parts of the state of `step`, by field, without reading the others.

    Raises:
      CheckpointError: if the checkpoint lacks some of their leaves.
    """
    folder = self._manager.directory / str(step) / "state"
    arguments = ocp.args.PyTreeRestore(
      item=abstract,
      restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
      partial_restore=True,
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      arrays = reader.restore(folder, args=arguments)
    # Orbax hands the abstract leaf back where it finds nothing.
    missing = [
      jax.tree_util.keystr(path)
      for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)
      if not isinstance(leaf, jax.Array)
    ]
    if missing:
      raise CheckpointError(
        f"checkpoint {folder.parent} lacks {len(missing)} leaves that its own"
        f" config describes, the first {missing[0]}: it is damaged, of another"
        " version, or has averaged parameters alone (sampler.params='ema')"
      )
    return arrays

  def read_config(
    self, step: int, to_resume: bool = False
  ) -> ml_collections.ConfigDict:
    """The config that the checkpoint was trained with.

    Raises:
      CheckpointError: if its format is too new, or too old to go on from.
    """
    content = self._manager.restore(
      step,
      args=ocp.args.Composite(
        config=ocp.args.JsonRestore(), format=ocp.args.JsonRestore()
      ),
    )
    version = content["format"]["version"]
    if version > FORMAT_VERSION:
      raise CheckpointError(
        f"checkpoint {self._manager.directory}/{step} has format version"
        f" {version}, expected {FORMAT_VERSION} or less: update genvs_jax"
      )
    if to_resume and version < _OLDEST_TO_RESUME:
      raise CheckpointError(
        f"checkpoint {self._manager.directory}/{step} has format version"
        f" {version}, whose training cannot go on: start a new --workdir from"
        " its weights with --config.init_from"
      )
    return config_history.from_dict(content["config"])

  def wait(self) -> None:
    """Waits for saves under way.

    Raises:
      CheckpointError: if one of them failed.
    """
    with self._explain_failure():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for saves under way, see `wait`, and ends."""
    self.wait()
    self._manager.close()


def is_damage(error: BaseException) -> bool:
  """Whether an error of a reader can mean that a checkpoint is damaged.

  Storage that is away for a while, forbidden or full, and memory that is
  exhausted, say nothing about the files; a file that is missing does.
  """
  chain: BaseException | None = error
  while chain is not None:
    if isinstance(chain, MemoryError) or any(
      sign in str(chain) for sign in _NOT_DAMAGE
    ):
      return False
    missing = isinstance(chain, FileNotFoundError | NotADirectoryError)
    if isinstance(chain, OSError) and not missing:
      return False
    chain = chain.__cause__ or chain.__context__
  return True


def packaged_names() -> list[str]:
  """Names of the models that come with the package."""
  return sorted(path.parent.name for path in _PACKAGED.glob(f"*/{FOLDER}"))


def locate(path: str) -> str:
  """The folder that a user's path means: a name of the package's models, unless
  a folder is called so, an address on the `hub`, or any other path as it is.

  Raises:
    ValueError: if the hub cannot be reached, or has no such repository.
  """
  if hub.is_address(path):
    return hub.fetch(path)
  is_name = path in packaged_names() and not epath.Path(path).exists()
  return str(_PACKAGED / path) if is_name else path


def open_existing(path: str, step: int | None) -> tuple[Checkpointer, int]:
  """Finds a checkpoint to read.

  Args:
    path: a workdir, its `checkpoints` folder, or one checkpoint in it.
    step: which one; None for the newest.

  Raises:
    CheckpointError: if there is none.
  """
  folder = epath.Path(path).expanduser()
  if re.fullmatch(r"\d+", folder.name) and (folder / "state").exists():
    if step not in (None, int(folder.name)):
      raise CheckpointError(
        f"{path} is the checkpoint of step {folder.name}, but --step is {step}:"
        " name the folder of all checkpoints, or leave --step out"
      )
    folder, step = folder.parent, int(folder.name)
  elif (folder / FOLDER).exists():
    folder = folder / FOLDER
  if not folder.exists():
    close = difflib.get_close_matches(path, packaged_names(), 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise CheckpointError(
      f"no checkpoint in {path}: {hint}expected a workdir, its {FOLDER} folder,"
      " one numbered folder in it, or"
      f" {' or '.join(packaged_names()) or 'a name'}"
    )
  reader = Checkpointer(str(folder), read_only=True)
  steps = reader.steps()
  if not steps or (step is not None and step not in steps):
    names = ", ".join(map(str, steps)) or "none"
    target = "a checkpoint" if step is None else f"step {step}"
    stages = sorted(str(p.parent) for p in folder.parent.glob(f"*/{FOLDER}"))
    names += f"; a stage has one, {stages[-1]}" if stages and not steps else ""
    raise CheckpointError(f"expected {target} in {folder}, found: {names}")
  return reader, steps[-1] if step is None else step


def abstract_like(state: Any, shardings: Any) -> Any:
  """Shapes and dtypes of `state` for `restore`.

  Args:
    state: arrays, or their shapes.
    shardings: one for all leaves, or a tree of them.
  """
  if isinstance(shardings, jax.sharding.Sharding):
    shardings = jax.tree.map(lambda _: shardings, state)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    shardings,
  )


@contextlib.contextmanager
def _quiet_about(text: str) -> Iterator[None]:
  """Keeps a warning of Orbax, which is no news here, out of the log."""

  def other(record: logging_module.LogRecord) -> bool:
    return text not in record.getMessage()

  logger = logging.get_absl_logger()
  logger.addFilter(other)
  try:
    yield
  finally:
    logger.removeFilter(other)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """{name: shape} of a state or of Orbax's metadata of one."""
  shapes = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    # Orbax has one name for an attribute, a key and an index.
    keys = (
      getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path
    )
    shapes["/".join(map(str, keys))] = tuple(leaf.shape)
  return shapes
