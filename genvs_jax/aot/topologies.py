"""TPU slices by name, for the compiler alone: no TPU is needed.

libtpu's compiler runs on any Linux machine; told the shape of a slice, it gives
devices to compile for, which hold nothing and run nothing.
"""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
from jax.experimental import topologies


class Chip(NamedTuple):
  """What Google publishes of a chip (cloud.google.com/tpu/docs).

  Attributes:
    accelerator: prefix of its accelerator types.
    memory: bytes of HBM that a device has.
    cores: that the number in an accelerator type counts, of each chip.
  """

  accelerator: str
  memory: int
  cores: int


CHIPS = {
  "v4": Chip("v4", 32 << 30, 2),
  "v5e": Chip("v5litepod", 16 << 30, 1),
  "v5p": Chip("v5p", 95 << 30, 2),
  "v6e": Chip("v6e", 32 << 30, 1),
}
_NAME = re.compile(r"(\w+):(\d+(?:x\d+){1,2})(?:\*(\d+))?")


class Topology(NamedTuple):
  """Devices to compile for.

  Attributes:
    name: as it was asked for.
    devices: of all slices.
    memory: bytes of HBM of each.
    slices: how many.
  """

  name: str
  devices: Sequence[Any]
  memory: int
  slices: int


def load(name: str) -> Topology:
  """A topology by its name.

  Args:
    name: CHIP:AxB or CHIP:AxBxC, the shape of a slice; *N behind it for N
      slices. For example v5e:2x4, v5p:2x2x1, v6e:2x4*2.

  Raises:
    ValueError: for another name, or without libtpu.
  """
  match = _NAME.fullmatch(name)
  if match is None or match[1] not in CHIPS:
    raise ValueError(
      f"--topology is {name!r}, expected a chip of {', '.join(CHIPS)} and the"
      " shape of a slice, such as v5e:2x4, v5p:2x2x1 or v6e:2x4*2 (two slices)"
    )
  if importlib.util.find_spec("libtpu") is None:
    raise ValueError(
      "--mode=compile needs the compiler of Cloud TPU, which runs without one:"
      " pip install 'jax[tpu]'"
    )
  chip, shape, slices = CHIPS[match[1]], match[2], int(match[3] or 1)
  chips = 1
  for side in shape.split("x"):
    chips *= int(side)
  options = {"num_slices": slices} if slices > 1 else {}
  with _environment(f"{chip.accelerator}-{chips * chip.cores}"):
    try:
      description = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{match[1]}:{shape}", **options
      )
    # What libtpu refuses it refuses in many ways.
    except Exception as error:
      raise ValueError(
        f"--topology={name}: {str(error).splitlines()[0]}"
      ) from error
  return Topology(name, description.devices, chip.memory, slices)


@contextlib.contextmanager
def _environment(accelerator: str) -> Iterator[None]:
  """Keeps libtpu from asking the network what machine this is."""
  values = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": accelerator,
  }
  missing = {k: v for k, v in values.items() if k not in os.environ}
  os.environ.update(missing)
  # Arrays of this process stay on its CPU.
  jax.config.update("jax_platforms", "cpu")
  try:
    yield
  finally:
    for key in missing:
      del os.environ[key]
