"""Compiled programs: told of while they compile, kept from start to start."""

import os
import time
from typing import Any

import jax
from absl import logging
from etils import epath

from genvs_jax.runtime import console
from genvs_jax.runtime import files
from genvs_jax.runtime import flops

# Seconds that XLA takes for an operation of a traced program, of the order of.
_SECONDS_PER_OPERATION = {"cpu": 1.1e-3, "gpu": 3e-3, "tpu": 7e-3}
# Shorter compilations are not announced.
_WORTH_TELLING = 3.0


def keep_programs(folder: str, gib: float) -> None:
  """Turns JAX's cache on; must come before the first compilation.

  The variable JAX_COMPILATION_CACHE_DIR goes before it.

  Args:
    folder: for the programs; "auto" for the user's cache folder, "" for none.
    gib: the most that they may take; the least recently used are deleted.
  """
  if not folder or "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  path = epath.Path(folder).expanduser()
  folder = os.fspath(files.user_cache("compiled") if folder == "auto" else path)
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update(
    "jax_compilation_cache_max_size",
    int(gib * 2**30),
  )


def compile_traced(
  traced: jax.stages.Traced, platform: str, what: str
) -> jax.stages.Compiled:
  """Compiles a program, and says so if that takes its time.

  Args:
    traced: the program.
    platform: of the devices that it is for, which may not be here.
    what: the program does, such as "train step".
  """
  # That of devices that are here may have another name there (gpu and cuda).
  is_here = platform == jax.default_backend()
  seconds = _SECONDS_PER_OPERATION.get(platform, _SECONDS_PER_OPERATION["gpu"])
  # What else is at work slows it.
  load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
  busy = max(load / (os.cpu_count() or 1), 1.0)
  expected = flops.operations(traced.jaxpr) * seconds * busy
  started = time.monotonic()
  with console.waiting(
    f"compiling the {what}", expected, expected >= _WORTH_TELLING
  ):
    lowered = traced.lower(lowering_platforms=None if is_here else (platform,))
    compiled = lowered.compile()
  if expected >= _WORTH_TELLING:
    logging.info("compiled in %.1f s", time.monotonic() - started)
  return compiled


class Program:
  """A function that is compiled for the shapes it meets, as by `jax.jit`, and
  says so.

  Args:
    function: of arrays.
    what: it does, such as "drawing of a frame".
  """

  def __init__(self, function: Any, what: str):
    self._jitted = jax.jit(function)
    self._what = what
    self._compiled: dict[Any, jax.stages.Compiled] = {}

  @property
  def count(self) -> int:
    """How often it was compiled."""
    return len(self._compiled)

  def __call__(self, *args: Any) -> Any:
    leaves, tree = jax.tree.flatten(args)
    key = (tree, *((jax.typeof(x), _place(x)) for x in leaves))
    if key not in self._compiled:
      self._compiled[key] = compile_traced(
        self._jitted.trace(*args), jax.default_backend(), self._what
      )
    return self._compiled[key](*args)


def _place(array: Any) -> Any:
  """The devices on which an array stays; None if it may be moved."""
  is_fixed = isinstance(array, jax.Array) and array.committed
  return array.sharding if is_fixed else None
