"""How the C library hands out memory: it matters where the CPU computes."""

import ctypes
import sys

import jax

# Of glibc's mallopt.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed() -> None:
  """Keeps memory that a program on CPU frees, for when it runs again.

  XLA allocates the temporaries of a program each time that it runs, gigabytes
  for a train step. By default glibc returns them to the kernel, which then
  clears every page anew. Does nothing on other devices and C libraries.
  """
  if jax.default_backend() != "cpu" or not sys.platform.startswith("linux"):
    return
  library = ctypes.CDLL(None)
  if hasattr(library, "mallopt"):
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, -1)
