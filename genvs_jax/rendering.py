"""Volume rendering of feature images (NeRF, Mildenhall et al. 2020, sec. 4-5).

Two passes along each ray: evenly spaced samples, then as many again where the
first pass found something. The radiance field is evaluated once per sample:
the second pass merges both sets by distance instead of evaluating the first
again. Everything works on rays [..,R] with any leading axes, in float32.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# points [..,R,S,3] -> density [..,R,S] >= 0 and features [..,R,S,F]
FieldFn = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class SampleCounts:
  """Samples per ray in the first and in the second pass."""

  coarse: int
  fine: int


class Uniforms(NamedTuple):
  """Random numbers in [0,1) of one render; None gives the fixed placement."""

  coarse: jax.Array | None  # [..,R,coarse]
  fine: jax.Array | None  # [..,R,fine]


class Render(NamedTuple):
  """What a ray sees.

  Attributes:
    features: [..,R,F], composited over a background of ones.
    depth: [..,R] sum of weight * distance along the ray, world units; divide
      by `opacity` for the expected distance.
    opacity: [..,R] in [0,1].
  """

  features: jax.Array
  depth: jax.Array
  opacity: jax.Array


def trilinear_lookup(
  volume: jax.Array, uvw: jax.Array, align_corners: bool
) -> jax.Array:
  """Interpolates a volume at points, continuing its border outside.

  Args:
    volume: [H,W,D,C], two or more voxels along each axis.
    uvw: [P,3] in [-1,1], over columns, rows and depth planes.
    align_corners: whether -1 and 1 are voxel centres or outer faces.

  Returns:
    [P,C] in the volume's dtype.
  """
  *grid, channels = volume.shape
  if min(grid) < 2:
    raise ValueError(
      f"volume has shape {volume.shape}, expected two or more voxels along"
      " height, width and depth"
    )
  size = jnp.array(grid, jnp.float32)
  rcd = uvw[..., jnp.array([1, 0, 2])]
  if align_corners:
    index = (rcd + 1) / 2 * (size - 1)
  else:
    index = (rcd + 1) / 2 * size - 0.5
  index = jnp.clip(index, 0, size - 1)
  base = jnp.clip(jnp.floor(index), 0, size - 2).astype(jnp.int32)
  fraction = (index - base).astype(volume.dtype)
  dimensions = jax.lax.GatherDimensionNumbers(
    offset_dims=(1, 2), collapsed_slice_dims=(0, 1), start_index_map=(0, 1, 2)
  )

  def depth_line(row: int, column: int) -> jax.Array:
    # Both depth planes of a corner are neighbours in memory: four reads of
    # [2,C] instead of eight of [C].
    pair = jax.lax.gather(
      volume,
      base + jnp.array([row, column, 0]),
      dimensions,
      (1, 1, 2, channels),
      mode=jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )
    w = fraction[:, 2:]
    return pair[:, 0] * (1 - w) + pair[:, 1] * w

  v, u = fraction[:, :1], fraction[:, 1:2]
  top = depth_line(0, 0) * (1 - u) + depth_line(0, 1) * u
  bottom = depth_line(1, 0) * (1 - u) + depth_line(1, 1) * u
  return top * (1 - v) + bottom * v


def coarse_distances(
  near: jax.Array, far: jax.Array, count: int, uniform: jax.Array | None
) -> jax.Array:
  """Evenly spaced distances [..,R,count] including both ends.

  With `uniform` [..,R,count] each moves by up to half of (far - near) / count,
  which keeps their order.
  """
  near, far = near[..., None], far[..., None]
  distances = near + (far - near) * jnp.linspace(0.0, 1.0, count)
  if uniform is not None:
    distances += (uniform - 0.5) * (far - near) / count
  return distances


def fine_distances(
  distances: jax.Array,
  weights: jax.Array,
  count: int,
  uniform: jax.Array | None,
) -> jax.Array:
  """Draws distances by inverting the cdf of the first pass's weights.

  Bins lie between the midpoints of `distances`, so the first and the last
  weight take no part (as in NeRF's published code and the reference).

  Args:
    distances: [..,S] ascending.
    weights: [..,S] compositing weights.
    count: distances to draw.
    uniform: [..,count] in [0,1), or None for evenly spaced quantiles.

  Returns:
    [..,count], without gradient.
  """
  distances, weights = jax.lax.stop_gradient((distances, weights))
  bins = (distances[..., 1:] + distances[..., :-1]) / 2
  weights = weights[..., 1:-1] + 1e-5
  pdf = weights / jnp.sum(weights, -1, keepdims=True)
  cdf = jnp.cumsum(pdf, -1)
  cdf = jnp.concatenate([jnp.zeros_like(cdf[..., :1]), cdf], -1)
  if uniform is None:
    quantiles = jnp.linspace(0.5 / count, 1 - 0.5 / count, count)
    uniform = jnp.broadcast_to(quantiles, (*cdf.shape[:-1], count))
  # searchsorted(cdf, u, "right") as a count: all comparisons at once suit
  # accelerators better than a binary search per sample.
  index = jnp.sum(uniform[..., :, None] >= cdf[..., None, :], -1)
  below = jnp.maximum(index - 1, 0)
  above = jnp.minimum(index, cdf.shape[-1] - 1)

  def take(values, where):
    return jnp.take_along_axis(values, where, -1)

  low, high = take(cdf, below), take(cdf, above)
  width = jnp.where(high - low < 1e-5, 1.0, high - low)
  left, right = take(bins, below), take(bins, above)
  return left + (uniform - low) / width * (right - left)


def compositing_weights(
  density: jax.Array, distances: jax.Array, last_interval: jax.Array
) -> jax.Array:
  """Weights [..,S] of samples along a ray (NeRF, eq. 3).

  Args:
    density: [..,S] per world unit, 0 or more.
    distances: [..,S] ascending.
    last_interval: [..] length that the last sample stands for.

  Returns:
    alpha times transmittance; a sample does not shadow itself.
  """
  intervals = jnp.concatenate(
    [jnp.diff(distances, axis=-1), last_interval[..., None]], -1
  )
  optical = density * intervals
  before = jnp.cumsum(optical, -1) - optical
  return -jnp.expm1(-optical) * jnp.exp(-before)


def render_rays(
  field: FieldFn,
  origins: jax.Array,
  directions: jax.Array,
  near: jax.Array,
  far: jax.Array,
  counts: SampleCounts,
  uniforms: Uniforms = Uniforms(None, None),
) -> Render:
  """Renders rays in two passes.

  Args:
    field: evaluates points.
    origins: [..,R,3] world units.
    directions: [..,R,3] unit vectors.
    near: [..,R] distance at which sampling starts; 1e9 with `far` the same
      marks a ray that meets nothing.
    far: [..,R] distance at which it ends.
    counts: samples per pass.
    uniforms: the random numbers of training; by default none.

  Returns:
    the features, depth and opacity of each ray.
  """

  def evaluate(distances):
    points = (
      origins[..., None, :] + distances[..., None] * directions[..., None, :]
    )
    return field(points)

  last_interval = (far - near) / counts.coarse
  coarse = coarse_distances(near, far, counts.coarse, uniforms.coarse)
  coarse_density, coarse_features = evaluate(coarse)
  coarse_weights = compositing_weights(coarse_density, coarse, last_interval)
  fine = fine_distances(coarse, coarse_weights, counts.fine, uniforms.fine)
  fine_density, fine_features = evaluate(fine)

  distances = jnp.concatenate([coarse, fine], -1)
  density = jnp.concatenate([coarse_density, fine_density], -1)
  order = jnp.argsort(distances, -1)
  inverse = jnp.argsort(order, -1)
  sorted_weights = compositing_weights(
    _permute(density, order, inverse),
    jnp.take_along_axis(distances, order, -1),
    last_interval,
  )
  # Only scalars are reordered: the features stay where they were evaluated.
  weights = _permute(sorted_weights, inverse, order)
  opacity = jnp.sum(weights, -1)
  features = jnp.einsum(
    "...s,...sf->...f", weights[..., : counts.coarse], coarse_features
  ) + jnp.einsum(
    "...s,...sf->...f", weights[..., counts.coarse :], fine_features
  )
  return Render(
    features=features + (1 - opacity)[..., None],
    depth=jnp.sum(weights * jnp.where(distances < 1e8, distances, 0.0), -1),
    opacity=opacity,
  )


@jax.custom_vjp
def _permute(values, order, inverse):
  """values[order] along the last axis, whose gradient is a gather too."""
  del inverse
  return jnp.take_along_axis(values, order, -1)


def _permute_forward(values, order, inverse):
  return jnp.take_along_axis(values, order, -1), inverse


def _permute_backward(inverse, gradient):
  return jnp.take_along_axis(gradient, inverse, -1), None, None


_permute.defvjp(_permute_forward, _permute_backward)
