"""The memory that programs take, on the host and on devices."""

import resource
import sys
from typing import Any

import jax


def peak() -> dict[str, float]:
  """The most memory taken so far, in GiB, under the name of its metric."""
  statistics = jax.local_devices()[0].memory_stats()
  if statistics and "peak_bytes_in_use" in statistics:
    size = statistics["peak_bytes_in_use"]
    return {"device_memory_peak_gib": size / 2**30}
  size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
  return {"process_memory_peak_gib": size * unit / 2**30}


def of_program(compiled: Any) -> int:
  """Bytes on each device that a compiled program needs while it runs."""
  analysis = compiled.memory_analysis()
  return (
    analysis.argument_size_in_bytes
    + analysis.output_size_in_bytes
    - analysis.alias_size_in_bytes
    + analysis.temp_size_in_bytes
  )
