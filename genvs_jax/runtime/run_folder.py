"""The folder of a run: its lock, and what a reader wants to know of it."""

import contextlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from typing import Any

import filelock
import jax
from absl import logging
from clu import parameter_overview
from etils import epath

from genvs_jax.runtime import files

_LOCK_FILE = ".lock"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")


class WorkdirInUseError(ValueError):
  """Another run is writing into the workdir."""


@contextlib.contextmanager
def lock(workdir: str, active: bool = True) -> Iterator[None]:
  """Holds an OS file lock on the workdir, which ends with the process.

  Args:
    workdir: made if missing; a remote one cannot be locked and is warned of.
    active: False on all processes of a run but one.

  Raises:
    WorkdirInUseError: if another process on this machine (or, where the file
      system passes locks on, on another one) holds it.
  """
  if not active:
    yield
    return
  if files.is_remote(workdir):
    logging.warning(
      "%s cannot be locked: see to it that no other run writes there", workdir
    )
    yield
    return
  folder = epath.Path(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  file_lock = filelock.FileLock(folder / _LOCK_FILE)
  try:
    file_lock.acquire(blocking=False)
  except filelock.Timeout:
    raise WorkdirInUseError(
      f"another run is writing into {workdir}: wait until it ends, or choose"
      " another --workdir"
    ) from None
  try:
    yield
  finally:
    file_lock.release()


def describe(workdir: str, config: dict, params: dict) -> None:
  """Writes config.json, parameters.txt and versions.json.

  Args:
    workdir: made if missing.
    config: as plain JSON types.
    params: {part: tree}.
  """
  folder = epath.Path(workdir)

  def write(name: str, text: str) -> None:
    files.write_whole(folder / name, f"{text}\n".encode())

  write("config.json", json.dumps(config, indent=2))
  # Shapes alone: one process does not see the values of all.
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params
  )
  overview = parameter_overview.get_parameter_overview(
    shapes, include_stats=False
  )
  write("parameters.txt", overview)
  for part, tree in params.items():
    count = sum(x.size for x in jax.tree.leaves(tree))
    logging.info("%s: %s parameters", part, f"{count:,}")
  versions: dict[str, Any] = {
    name: importlib.metadata.version(name) for name in _PACKAGES
  }
  versions["python"] = sys.version.split()[0]
  versions["devices"] = [d.device_kind for d in jax.devices()]
  write("versions.json", json.dumps(versions, indent=2))
