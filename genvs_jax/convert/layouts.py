"""How one PyTorch tensor becomes one Flax leaf, and back.

PyTorch keeps convolution weights as [out,in,row,column] and linear ones as
[out,in]; Flax as [row,column,in,out] and [in,out].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
  """Two inverse functions of NumPy arrays."""

  to_flax: Callable[[np.ndarray], np.ndarray]
  to_torch: Callable[[np.ndarray], np.ndarray]


def _axes(*order: int) -> Layout:
  inverse = tuple(np.argsort(order))
  return Layout(
    lambda x: np.transpose(x, order), lambda y: np.transpose(y, inverse)
  )


SAME = _axes(0)
LINEAR = _axes(1, 0)
CONV = _axes(2, 3, 1, 0)
# [in,out,2,2] of a transposed convolution <-> [in,2,2,out].
UPSAMPLE = _axes(0, 2, 3, 1)
# [n,1] <-> [n].
COLUMN = Layout(lambda x: x[:, 0], lambda y: y[:, None])


def regrouped(layout: Layout, outer: int) -> Layout:
  """Output channels that are o * inner + i there and i * outer + o here."""

  def to_flax(x: np.ndarray) -> np.ndarray:
    return layout.to_flax(_swap(x, outer, x.shape[0] // outer))

  def to_torch(y: np.ndarray) -> np.ndarray:
    x = layout.to_torch(y)
    return _swap(x, x.shape[0] // outer, outer)

  return Layout(to_flax, to_torch)


def _swap(x: np.ndarray, outer: int, inner: int) -> np.ndarray:
  grouped = x.reshape(outer, inner, *x.shape[1:])
  return np.swapaxes(grouped, 0, 1).reshape(x.shape)
