"""Devices and processes: the only module that knows the mesh.

Device code is written for the global batch and compiled by `jax.jit` over a
mesh of R x S devices. The batch is split over all of them. The state has R
copies, each of which is spread over S devices (S = 1: whole on every device);
the train step gathers parameters before it uses them and scatters gradients
before it applies them, and XLA inserts the communication. (What used to be
`pmap` is today the same machinery.)
"""

import contextlib
import functools
import glob
import os
import sys
import traceback
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

_REPLICAS, _SHARDS = "replicas", "shards"
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


def make_mesh(
  devices: Sequence[jax.Device] | None = None,
  *,
  replicas: int = 0,
  shards: int = 1,
) -> Mesh:
  """A mesh of all devices (or the given ones).

  Args:
    devices: to use.
    replicas: copies of the state, 0 for as many as there is room for.
    shards: devices that share a copy.

  Raises:
    ValueError: unless replicas times shards is the number of devices.
  """
  devices = list(devices or jax.devices())
  replicas = replicas or max(len(devices) // max(shards, 1), 1)
  if replicas * shards != len(devices):
    raise ValueError(
      f"mesh.replicas is {replicas} and mesh.shards {shards}, expected their"
      f" product to be the number of devices, {len(devices)}"
    )
  return jax.make_mesh(
    (replicas, shards),
    (_REPLICAS, _SHARDS),
    axis_types=(AxisType.Auto, AxisType.Auto),
    devices=devices,
  )


def make_local_mesh(count: int) -> Mesh:
  """A mesh of as many of this process's devices as divide `count` evenly."""
  devices = jax.local_devices()
  most = max(n for n in range(1, len(devices) + 1) if count % n == 0)
  return make_mesh(devices[:most])


def replicated(mesh: Mesh) -> NamedSharding:
  """A copy on every device."""
  return NamedSharding(mesh, P())


def split_batch(mesh: Mesh) -> NamedSharding:
  """The leading axis spread over all devices."""
  return NamedSharding(mesh, P((_REPLICAS, _SHARDS)))


def split_state(mesh: Mesh, state: Any) -> Any:
  """The sharding of each leaf of a state, or of a part of one.

  A leaf is split along its longest axis that the shards divide; one that has
  no such axis stays whole.
  """

  def split(leaf) -> NamedSharding:
    count = mesh.shape[_SHARDS]
    axes = [i for i, n in enumerate(leaf.shape) if n and n % count == 0]
    if count == 1 or not axes:
      return replicated(mesh)
    longest = max(axes, key=lambda i: leaf.shape[i])
    return NamedSharding(mesh, P(*[None] * longest, _SHARDS))

  return jax.tree.map(split, state)


def whole_leaves(mesh: Mesh, state: Any) -> list[str]:
  """Names of the leaves that a mesh with shards cannot split."""
  if mesh.shape[_SHARDS] == 1:
    return []
  leaves = jax.tree.leaves_with_path(split_state(mesh, state))
  return [
    jax.tree_util.keystr(path)
    for path, sharding in leaves
    if sharding.is_fully_replicated
  ]


def build_gather(mesh: Mesh) -> Callable[[Any], Any]:
  """Inside `jit`: a tree whole on every device."""
  return lambda tree: jax.lax.with_sharding_constraint(tree, replicated(mesh))


def build_scatter(mesh: Mesh) -> Callable[[Any], Any]:
  """Inside `jit`: a tree split as `split_state` says."""
  return lambda tree: jax.lax.with_sharding_constraint(
    tree, split_state(mesh, tree)
  )


def local_copy(mesh: Mesh, tree: Any) -> Any:
  """A whole copy on one device of this process; all processes must call."""
  if mesh.shape[_SHARDS] > 1:
    tree = _gather_program(mesh)(tree)
  return jax.tree.map(lambda x: x.addressable_data(0), tree)


@functools.cache
def _gather_program(mesh: Mesh) -> Callable[[Any], Any]:
  return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
  """The examples of a global batch that this process feeds, ascending."""
  slices = split_batch(mesh).addressable_devices_indices_map((batch_size,))
  rows = {i for (s,) in slices.values() for i in range(*s.indices(batch_size))}
  return sorted(rows)


def to_devices(
  batch: dict[str, np.ndarray], mesh: Mesh, batch_size: int
) -> dict[str, jax.Array]:
  """Global arrays from the `local_rows` of a batch."""
  rows = local_rows(mesh, batch_size)
  sharding = split_batch(mesh)

  def place(local: np.ndarray) -> jax.Array:
    def part(index):
      start, stop, _ = index[0].indices(batch_size)
      first = rows.index(start)
      return local[first : first + stop - start]

    shape = (batch_size, *local.shape[1:])
    return jax.make_array_from_callback(shape, sharding, part)

  return {name: place(value) for name, value in batch.items()}


def check_batch_size(batch_size: int, accumulation: int, mesh: Mesh) -> None:
  """Refuses a batch that devices and pieces cannot share evenly."""
  if batch_size < 1 or batch_size % (mesh.size * accumulation):
    pieces = f" times train.accumulation = {accumulation}"
    raise ValueError(
      f"train.batch_size is {batch_size}, expected a multiple of the"
      f" {mesh.size} devices{pieces if accumulation > 1 else ''}"
    )


def wait_for_all(what: str) -> None:
  """Returns when every process has come to this point."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


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
    text = (str(error).strip().splitlines() or [repr(error)])[0]
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
