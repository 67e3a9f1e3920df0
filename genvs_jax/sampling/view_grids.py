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
  """The depth of a view [H,W] as a picture u8 [H,W,3]: `near` is black, `far`
  and empty space are white."""
  depth = rendering.expected_depth(view.weighted_depth, view.opacity)
  brightness = np.clip((np.asarray(depth) - near) / (far - near), 0, 1)
  shades = np.asarray(view.opacity * brightness)[..., None]
  return grids.picture(rendering.over_white(shades, view.opacity))


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
      grids.picture(view.rgb),
      shade_depth(view, near, far),
      grids.picture(view.opacity),
    ]
    if view.sample is not None:
      row.append(grids.picture(view.sample))
    rows.append((f"scene {int(scene)}", row))
  return grids.image_grid(rows)
