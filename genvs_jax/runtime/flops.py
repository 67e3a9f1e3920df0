"""Floating-point operations of a traced program, and what devices can do."""

import math
from collections.abc import Iterator

import jax.extend

# Dense bfloat16 operations and bytes of memory per second, from the makers'
# data sheets.
_RATES = {
  "NVIDIA A100": (312e12, 1.56e12),
  "NVIDIA H100 PCIe": (756e12, 2.0e12),
  "NVIDIA H100": (989e12, 3.35e12),
  "NVIDIA H200": (989e12, 4.8e12),
  "TPU v3": (61.5e12, 450e9),  # one device of JAX is half a chip
  "TPU v4": (275e12, 1.23e12),
  "TPU v5 lite": (197e12, 819e9),
  "TPU v5": (459e12, 2.77e12),
  "TPU v6 lite": (918e12, 1.64e12),
}


def peak(device_kind: str) -> float | None:
  """bfloat16 operations per second of a device, None if unknown."""
  rates = _rates(device_kind)
  return rates and rates[0]


def bandwidth(device_kind: str) -> float | None:
  """Bytes per second between a device and its memory, None if unknown."""
  rates = _rates(device_kind)
  return rates and rates[1]


def _rates(device_kind: str) -> tuple[float, float] | None:
  names = [name for name in _RATES if device_kind.startswith(name)]
  return _RATES[max(names, key=len)] if names else None


def count(jaxpr: jax.extend.core.ClosedJaxpr) -> int:
  """Operations in the convolutions and matrix products of a program.

  A multiplication and an addition count as two. What the backward pass
  computes again is counted again; a loop counts as often as it runs, except
  one whose length is not known before it runs, which counts once.
  """
  return _count(jaxpr.jaxpr)


def operations(jaxpr: jax.extend.core.ClosedJaxpr) -> int:
  """Length of a program: its operations, a loop's body once."""
  return _length(jaxpr.jaxpr)


def _length(jaxpr) -> int:
  return sum(sum(map(_length, _inner(eqn.params))) or 1 for eqn in jaxpr.eqns)


def _count(jaxpr) -> int:
  total = 0
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    if name == "dot_general":
      total += _of_product(eqn)
    elif name == "conv_general_dilated":
      total += _of_convolution(eqn)
    elif name == "cond":
      total += max(_count(branch.jaxpr) for branch in eqn.params["branches"])
    else:
      times = eqn.params["length"] if name == "scan" else 1
      total += times * sum(_count(inner) for inner in _inner(eqn.params))
  return total


def _inner(params: dict) -> Iterator:
  """The programs among the parameters of an operation."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if hasattr(item, "jaxpr"):
        item = item.jaxpr
      if hasattr(item, "eqns"):
        yield item


def _of_product(eqn) -> int:
  (contracted, _), _ = eqn.params["dimension_numbers"]
  left = eqn.invars[0].aval.shape
  inner = math.prod(left[axis] for axis in contracted)
  return 2 * eqn.outvars[0].aval.size * inner


def _of_convolution(eqn) -> int:
  kernel = eqn.invars[1].aval.shape
  out_axis = eqn.params["dimension_numbers"].rhs_spec[0]
  taps = math.prod(kernel) // kernel[out_axis]
  # Of the taps of a convolution over an image stretched by zeros, as in the
  # gradient of a strided one, only every n-th meets a pixel.
  stretch = math.prod(eqn.params["lhs_dilation"])
  batch_groups = eqn.params["batch_group_count"]
  return 2 * eqn.outvars[0].aval.size * taps // stretch // batch_groups
