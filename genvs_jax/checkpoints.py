"""Orbax checkpoints: state, config and format version in each.

A checkpoint restores anywhere from its own folder, on any number of devices.
Saving is asynchronous; an unfinished one is never listed.
"""

import json
import re
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

FORMAT_VERSION = 1
FOLDER = "checkpoints"


class CheckpointError(ValueError):
  """A checkpoint is missing or cannot be read."""


class Checkpointer:
  """The checkpoints of one run, newest and every n-th kept.

  Args:
    directory: of the checkpoints, made if missing.
    keep_latest: how many of the newest are kept.
    keep_every: multiples of this step are never deleted.
    read_only: leave the folder alone; a run may be writing there.
  """

  def __init__(
    self,
    directory: str,
    *,
    keep_latest: int = 1,
    keep_every: int = 1,
    read_only: bool = False,
  ):
    preserved = checkpoint_managers.AnyPreservationPolicy(
      [
        checkpoint_managers.LatestN(keep_latest),
        checkpoint_managers.EveryNSteps(keep_every),
      ]
    )
    if read_only:
      options = ocp.CheckpointManagerOptions(
        read_only=True, create=False, save_interval_steps=0
      )
    else:
      options = ocp.CheckpointManagerOptions(
        preservation_policy=preserved, cleanup_tmp_directories=True
      )
    self._manager = ocp.CheckpointManager(
      epath.Path(directory).absolute(),
      options=options,
      item_names=("state", "config", "format"),
    )

  def latest_step(self) -> int | None:
    """The step of the newest finished checkpoint."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, config: dict) -> None:
    """Starts to save; returns when the state may be changed again."""
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        config=ocp.args.JsonSave(config),
        format=ocp.args.JsonSave({"version": FORMAT_VERSION}),
      ),
      force=True,
    )

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
      restored = reader.restore(folder, args=arguments)
    # Orbax hands the abstract leaf back where it finds nothing.
    missing = [
      jax.tree_util.keystr(path)
      for path, leaf in jax.tree_util.tree_leaves_with_path(restored)
      if not isinstance(leaf, jax.Array)
    ]
    if missing:
      raise CheckpointError(
        f"checkpoint {folder.parent} lacks {len(missing)} leaves that its own"
        f" config describes, the first {missing[0]}: it is damaged or was"
        " written by another version"
      )
    return restored

  def read_config(self, step: int) -> ml_collections.ConfigDict:
    """The config that the checkpoint was trained with."""
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        config=ocp.args.JsonRestore(), format=ocp.args.JsonRestore()
      ),
    )
    version = restored["format"]["version"]
    if version > FORMAT_VERSION:
      raise CheckpointError(
        f"checkpoint {self._manager.directory}/{step} has format version"
        f" {version}, expected {FORMAT_VERSION} or less: update genvs_jax"
      )
    return config_from_dict(restored["config"])

  def close(self) -> None:
    """Waits for saves under way."""
    self._manager.wait_until_finished()
    self._manager.close()


def open_existing(path: str, step: int | None) -> tuple[Checkpointer, int]:
  """Finds a checkpoint to read.

  Args:
    path: a workdir, its `checkpoints` folder, or one checkpoint in it.
    step: which one; None for the newest.

  Raises:
    CheckpointError: if there is none.
  """
  folder = epath.Path(path)
  if re.fullmatch(r"\d+", folder.name) and (folder / "state").exists():
    folder, step = folder.parent, int(folder.name)
  elif (folder / FOLDER).exists():
    folder = folder / FOLDER
  if not folder.exists():
    raise CheckpointError(
      f"no checkpoint in {path}: expected a workdir, its {FOLDER} folder or"
      " one numbered folder in it"
    )
  steps = sorted(
    int(p.name) for p in folder.iterdir() if re.fullmatch(r"\d+", p.name)
  )
  if not steps or (step is not None and step not in steps):
    found = ", ".join(map(str, steps)) or "none"
    wanted = "a checkpoint" if step is None else f"step {step}"
    raise CheckpointError(f"expected {wanted} in {folder}, found: {found}")
  reader = Checkpointer(str(folder), read_only=True)
  return reader, steps[-1] if step is None else step


def config_to_dict(config: ml_collections.ConfigDict) -> dict:
  """Plain JSON types."""
  return json.loads(config.to_json())


def config_from_dict(values: dict) -> ml_collections.ConfigDict:
  """The inverse of `config_to_dict`; lists become tuples again."""

  def tuples(value):
    if isinstance(value, dict):
      return {k: tuples(v) for k, v in value.items()}
    return tuple(tuples(v) for v in value) if isinstance(value, list) else value

  return ml_collections.ConfigDict(tuples(values))


def abstract_like(state: Any, sharding: jax.sharding.Sharding) -> Any:
  """Shapes and dtypes of `state` with a sharding, for `restore`."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
  )
