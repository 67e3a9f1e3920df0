"""Devices: the only module that knows the mesh.

Device code is written for the global batch and compiled by `jax.jit`; the
batch is split over all devices, the state is on each of them, and XLA inserts
the reductions. (What used to be `pmap` is today the same machinery.)
"""

import glob
from collections.abc import Sequence

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

_BATCH_AXIS = "batch"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """All devices (or the given ones) in one row."""
  devices = list(devices or jax.devices())
  return jax.make_mesh(
    (len(devices),),
    (_BATCH_AXIS,),
    axis_types=(AxisType.Auto,),
    devices=devices,
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """A copy on every device."""
  return NamedSharding(mesh, P())


def split_batch(mesh: Mesh) -> NamedSharding:
  """The leading axis spread over the devices."""
  return NamedSharding(mesh, P(_BATCH_AXIS))


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict:
  """Global arrays from each process's share of a batch."""
  sharding = split_batch(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, value)
    for name, value in batch.items()
  }


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
  """Refuses a batch that the devices cannot share evenly."""
  if batch_size % mesh.size:
    raise ValueError(
      f"train.batch_size is {batch_size}, expected a multiple of the"
      f" {mesh.size} devices"
    )


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
    found = _accelerators_present()
    if found:
      logging.warning(
        "%s is here but JAX runs on the CPU: install jax for it (README,"
        " section Install) or unset JAX_PLATFORMS",
        found,
      )


def _accelerators_present() -> str:
  """Names an accelerator that the machine shows, or ""."""
  if glob.glob("/dev/nvidia[0-9]*"):
    return "an NVIDIA GPU"
  if glob.glob("/dev/kfd"):
    return "an AMD GPU"
  if glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"):
    return "a TPU"
  return ""
