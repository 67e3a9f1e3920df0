"""Trilinear lookups in feature volumes, in the form that a platform reads fast.

`corners` reads the eight voxels around a point one by one, 16 channels each.
`blocks` reads rows as wide as a TPU's registers: several depth planes of a
column of the volume at once, of which the weights leave two. CPUs and GPUs,
which read short rows well, would read four times as much. `docs/tpu.md` has
what either form costs on a TPU.
"""

import functools
import itertools

import jax
import jax.numpy as jnp

FORMS = ("auto", "corners", "blocks")
_LANES = 128  # values side by side in a TPU's registers


def trilinear_lookup(
  volume: jax.Array, uvw: jax.Array, align_corners: bool, form: str = "auto"
) -> jax.Array:
  """Interpolates a volume at points, continuing its border outside.

  Args:
    volume: [H,W,D,C], two or more voxels along each axis.
    uvw: [P,3] in [-1,1], over columns, rows and depth planes.
    align_corners: whether -1 and 1 are voxel centres or outer faces.
    form: one of `FORMS`, whose values and gradients by the volume differ by
      rounding alone; "auto" takes that of the platform that the program is
      compiled for.

  Returns:
    [P,C] in the volume's dtype.
  """
  grid = volume.shape[:-1]
  if min(grid) < 2:
    raise ValueError(
      f"volume has shape {volume.shape}, expected two or more voxels along"
      " height, width and depth"
    )
  by_form = {
    "corners": functools.partial(_read_corners, align_corners=align_corners),
    "blocks": functools.partial(_read_blocks, align_corners=align_corners),
  }
  if form != "auto":
    return by_form[form](volume, uvw)
  # The one place that chooses by the platform.
  return jax.lax.platform_dependent(
    volume, uvw, tpu=by_form["blocks"], default=by_form["corners"]
  )


def _voxels(uvw: jax.Array, grid: tuple[int, ...], align_corners: bool):
  """Where points lie among voxels, along rows, columns and planes.

  Returns:
    for each of the three axes the fractional index f32 [P] of each point and
    the lower voxel i32 [P] of its cell.
  """
  # u runs over columns, the volume's second axis: (u, v, w) -> (v, u, w).
  places = (uvw[..., 1], uvw[..., 0], uvw[..., 2])
  voxels = []
  for place, size in zip(places, grid, strict=True):
    # PyTorch's grid_sample has the same two rules.
    if align_corners:
      index = (place + 1) / 2 * (size - 1)
    else:
      index = (place + 1) / 2 * size - 0.5
    index = jnp.clip(index, 0, size - 1)
    # A cell starts no later than one voxel before the border, so that its
    # upper corner exists.
    base = jnp.clip(jnp.floor(index), 0, size - 2).astype(jnp.int32)
    voxels.append((index, base))
  return voxels


def _hat(index: jax.Array, voxel: jax.Array) -> jax.Array:
  """Weight of a voxel: 1 at the point, 0 from one voxel away."""
  return jnp.maximum(1 - jnp.abs(index - voxel), 0)


def _read_corners(volume: jax.Array, uvw: jax.Array, align_corners: bool):
  voxels = _voxels(uvw, volume.shape[:-1], align_corners)
  # Summed in float32, values as well as gradients.
  table = volume.astype(jnp.promote_types(volume.dtype, jnp.float32))
  total = jnp.zeros(())
  sides = [(1 - (index - base), index - base) for index, base in voxels]
  # Eight corners, each with the product of its three sides as weight.
  for corner in itertools.product((0, 1), repeat=3):
    at = [base + step for (_, base), step in zip(voxels, corner, strict=True)]
    values = table.at[tuple(at)].get(mode="promise_in_bounds")
    row, column, plane = (
      side[step] for side, step in zip(sides, corner, strict=True)
    )
    total += values * (row * column * plane)[:, None]
  return total.astype(volume.dtype)


def _read_blocks(volume: jax.Array, uvw: jax.Array, align_corners: bool):
  height, width, depth, channels = volume.shape
  (row, first_row), (column, first_column), (plane, first_plane) = _voxels(
    uvw, volume.shape[:-1], align_corners
  )
  # A block is as many planes as fit into a row of registers. Neighbours share
  # one plane, so that any two that follow each other lie in one block.
  planes = min(depth, max(2, _LANES // channels))
  starts = [min(s, depth - planes) for s in range(0, depth - 1, planes - 1)]
  blocks = len(starts)
  # Summed in float32, values as well as gradients.
  dtype = jnp.promote_types(volume.dtype, jnp.float32)
  columns = volume.astype(dtype).reshape(height * width, depth * channels)
  table = jnp.stack(
    [columns[:, s * channels : (s + planes) * channels] for s in starts], 1
  ).reshape(height * width * blocks, planes * channels)
  block = first_plane // (planes - 1)
  start = jnp.minimum(block * (planes - 1), depth - planes)

  # The weights of the planes, channels side by side, and stacked unit matrices
  # for the sum over planes as a product.
  of_lane = jnp.arange(planes * channels) // channels
  plane_weight = _hat((plane - start)[:, None], of_lane)
  over_planes = jnp.tile(jnp.eye(channels, dtype=dtype), (planes, 1))

  # One after another, and read again for gradients: a program with one gather
  # and one scatter, and memory for the rows of one corner.
  @jax.checkpoint
  def add_corner(total, corner):
    at_row, at_column = first_row + corner[0], first_column + corner[1]
    weight = _hat(row, at_row) * _hat(column, at_column)
    values = table.at[(at_row * width + at_column) * blocks + block].get(
      mode="promise_in_bounds"
    )
    values = values * (weight[:, None] * plane_weight)
    highest = jax.lax.Precision.HIGHEST
    return total + jnp.dot(values, over_planes, precision=highest), None

  total, _ = jax.lax.scan(
    add_corner,
    jnp.zeros((len(uvw), channels), dtype),
    jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]]),
  )
  return total.astype(volume.dtype)
