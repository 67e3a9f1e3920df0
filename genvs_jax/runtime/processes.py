"""Processes that work together, and the devices of this one.

With one process every question here has its obvious answer, and nobody waits.
"""

import contextlib
import glob
import os
import sys
import traceback
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from genvs_jax.runtime import messages

# A process that is silent for so long is taken for dead, and the others end.
_HEARTBEAT_SECONDS = 30


def connect(address: str | None, count: int | None, index: int | None) -> None:
  """Makes this process one of several that train together.

  Must come before anything else that uses JAX. Without arguments, JAX asks
  the cluster (Cloud TPU, Slurm, Open MPI, Kubernetes).

  Args:
    address: of process 0, "host:port".
    count: of processes.
    index: of this one.
  """
  jax.distributed.initialize(
    address,
    count,
    index,
    heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    shutdown_timeout_seconds=2 * _HEARTBEAT_SECONDS,
  )


def wait_for_all(what: str) -> None:
  """Returns when every process has come to this point."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def first_goes_ahead(what: str) -> Iterator[None]:
  """What one process must do alone, and the others then find done."""
  if jax.process_index():
    wait_for_all(what)
  yield
  if not jax.process_index():
    wait_for_all(what)


def all_agree(value: int) -> bool:
  """Whether every process has the same number, 32 bits; all must ask."""
  if jax.process_count() == 1:
    return True
  values = multihost_utils.process_allgather(np.uint32(value))
  return bool((values == values[0]).all())


def any_process(flag: bool) -> bool:
  """Whether the flag is set in any process; all must ask, and wait here."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array(flag)).any())


def of_first(values: np.ndarray) -> np.ndarray:
  """The values that the first process has; all must ask."""
  if jax.process_count() == 1:
    return values
  return np.asarray(multihost_utils.broadcast_one_to_all(values))


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
  """Ends this process on any error if it is one of several.

  What fails in one of them leaves the others waiting, and an orderly exit
  would wait for them in turn: for a save that all share, for their goodbye.
  An error out of a step itself means that another process died. Should a step
  hang instead, the heartbeat ends the process.
  """
  try:
    yield
  except Exception as error:
    if jax.process_count() == 1:
      raise
    text = messages.first_line(error)
    failed = isinstance(error, jax.errors.JaxRuntimeError)
    if failed and "RESOURCE_EXHAUSTED" not in text:
      text = (
        f"lost another process ({text[:200]}): start all of them again to go"
        " on from the newest checkpoint"
      )
    elif not isinstance(error, (ValueError, OSError, ArithmeticError)):
      traceback.print_exc()
    here = f"process {jax.process_index()} of {jax.process_count()}"
    print(f"error: {here}: {text}", file=sys.stderr, flush=True)
    os._exit(1)


def stop_requested(step: int) -> bool:
  """Whether several processes have agreed to stop after this step.

  SIGTERM to any of them makes all agree on a step. Every process must ask
  after every step; with one process, the answer is no.
  """
  return multihost_utils.reached_preemption_sync_point(step)


def report_devices() -> None:
  """Logs the devices in use, and warns of an accelerator left unused."""
  devices = jax.devices()
  kinds = sorted({d.device_kind for d in devices})
  logging.info(
    "%d %s device(s) in use (%s), %d process(es), jax %s",
    len(devices),
    devices[0].platform,
    ", ".join(kinds),
    jax.process_count(),
    jax.__version__,
  )
  if devices[0].platform == "cpu":
    accelerator = _accelerator_present()
    if accelerator:
      logging.warning(
        "%s is here but JAX runs on the CPU: install jax for it (README,"
        " section Install) or unset JAX_PLATFORMS",
        accelerator,
      )


def _accelerator_present() -> str:
  """Names an accelerator that the machine shows, or ""."""
  if glob.glob("/dev/nvidia[0-9]*"):
    return "an NVIDIA GPU"
  if glob.glob("/dev/kfd"):
    return "an AMD GPU"
  if glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"):
    return "a TPU"
  return ""
