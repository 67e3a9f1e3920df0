"""Drawn views laid out beside their inputs and the truth."""

from collections.abc import Sequence

import jax
import numpy as np

from genvs_jax.geometry import rendering
from genvs_jax.images import grids
from genvs_jax.sampling import view_synthesis


def shade_depth(
  view: view_synthesis.Views, near: float, far: float
) -> np.ndarray:
  """The depth of a view without B and Q as a picture u8 [H,W,3]."""
  depth = rendering.expected_depth(view.weighted_depth, view.opacity)
  return grids.shade_depth(
    np.asarray(depth), np.asarray(view.opacity), near, far
  )


def scene_grid(
  scenes: Sequence[int],
  images: np.ndarray,
  views: view_synthesis.Views,
  near: float,
  far: float,
) -> np.ndarray:
  """A row per scene: inputs, target, render, depth, opacity, sample.

  Args:
    scenes: numbers of the scenes [B].
    images: u8 [B,V+1,H,W,3], the target last.
    views: what was drawn for the targets, Q = 1.
    near: depth that is black.
    far: depth that is white.
  """
  rows = []
  for i, scene in enumerate(scenes):
    view = jax.tree.map(lambda x, i=i: np.asarray(x)[i, 0], views)
    row = [
      *images[i],
      grids.to_uint8(view.rgb),
      shade_depth(view, near, far),
      grids.to_uint8(view.opacity),
    ]
    if view.sample is not None:
      row.append(grids.to_uint8(view.sample))
    rows.append((f"scene {int(scene)}", row))
  return grids.image_grid(rows)
