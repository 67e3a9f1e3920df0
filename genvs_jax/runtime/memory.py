"""The memory that programs take, on the host and on devices."""

import ctypes
import resource
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


def peak() -> dict[str, float]:
  """The most memory taken so far, in GiB, under the name of its metric."""
  statistics = jax.local_devices()[0].memory_stats()
  if statistics and "peak_bytes_in_use" in statistics:
    used = statistics["peak_bytes_in_use"]
    return {"device_memory_peak_gib": used / 2**30}
  used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
  return {"process_memory_peak_gib": used * unit / 2**30}
