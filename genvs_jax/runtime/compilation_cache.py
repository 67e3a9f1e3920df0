"""Where compiled programs are kept from one start to the next."""

import os

import jax
from etils import epath

from genvs_jax.runtime import files


def enable(folder: str, gib: float) -> None:
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
