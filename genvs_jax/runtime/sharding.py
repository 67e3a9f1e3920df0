"""Where arrays lie: the only module that knows the mesh.

Device code is written for the global batch and compiled by `jax.jit` over a
mesh of R x S devices. The batch is split over all of them. The state has R
copies, each of which is spread over S devices (S = 1: whole on every device);
the train step gathers parameters before it uses them and scatters gradients
before it applies them, and XLA inserts the communication. (What used to be
`pmap` is today the same machinery.)
"""

import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import mesh_utils
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

_REPLICAS, _SHARDS = "replicas", "shards"


def make_mesh(
  devices: Sequence[jax.Device] | None = None,
  *,
  replicas: int = 0,
  shards: int = 1,
) -> Mesh:
  """A mesh of all devices (or the given ones).

  Of several TPU slices each holds whole copies of the state: what its shards
  exchange, in every step, stays on the fast links inside of a slice.

  Args:
    devices: to use.
    replicas: copies of the state, 0 for as many as there is room for.
    shards: devices that share a copy.

  Raises:
    ValueError: unless replicas times shards is the number of devices, and
      every slice has room for a whole number of copies.
  """
  devices = list(devices or jax.devices())
  replicas = replicas or max(len(devices) // max(shards, 1), 1)
  if replicas * shards != len(devices):
    raise ValueError(
      f"mesh.replicas is {replicas} and mesh.shards {shards}, expected their"
      f" product to be the number of devices, {len(devices)}"
    )
  axes: dict[str, Any] = {
    "axis_names": (_REPLICAS, _SHARDS),
    "axis_types": (AxisType.Auto, AxisType.Auto),
  }
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if slices == 1:
    return jax.make_mesh((replicas, shards), devices=devices, **axes)
  if replicas % slices:
    raise ValueError(
      f"mesh.shards is {shards}, more than the {len(devices) // slices} devices"
      f" of each of {slices} slices: expected a divisor of their number"
    )
  grid = mesh_utils.create_hybrid_device_mesh(
    (replicas // slices, shards), (slices, 1), devices
  )
  return Mesh(grid, **axes)


def make_local_mesh(count: int) -> Mesh:
  """A mesh of as many of this process's devices as divide `count` evenly."""
  devices = jax.local_devices()
  size = max(n for n in range(1, len(devices) + 1) if count % n == 0)
  # Not `jax.make_mesh`, which refuses a part of a TPU slice.
  grid = np.array(devices[:size]).reshape(size, 1)
  return Mesh(
    grid, (_REPLICAS, _SHARDS), axis_types=(AxisType.Auto, AxisType.Auto)
  )


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


def report_whole_leaves(mesh: Mesh, params: Any) -> None:
  """Logs the parameters that a mesh with shards cannot split."""
  whole = whole_leaves(mesh, params)
  if whole:
    logging.info(
      "%d parameters have no axis that %d divides and stay whole: %s",
      len(whole),
      mesh.shape[_SHARDS],
      ", ".join(whole),
    )


def local_copy(mesh: Mesh, tree: Any) -> Any:
  """A whole copy on one device of this process; all processes must call."""
  if mesh.shape[_SHARDS] > 1:
    tree = _gather_program(mesh)(tree)
  return jax.tree.map(lambda x: x.addressable_data(0), tree)


@functools.cache
def _gather_program(mesh: Mesh) -> Callable[[Any], Any]:
  return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def pad_rows(count: int, size: int) -> list[int]:
  """Indices of `size` rows, of which there are `count`: the last is repeated.

  A batch of fewer than `size` items gets the shape that is compiled for.
  """
  return [min(i, count - 1) for i in range(size)]


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
  """The examples of a global batch that this process feeds, ascending."""
  slices = split_batch(mesh).addressable_devices_indices_map((batch_size,))
  rows: set[int] = set()
  for index in slices.values():
    assert index is not None  # every device of a mesh has a part
    rows |= set(range(*index[0].indices(batch_size)))
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
