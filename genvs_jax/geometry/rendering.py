"""Volume rendering of feature images (NeRF, Mildenhall et al. 2020, sec. 4-5).

Two passes along each ray: evenly spaced samples, then as many again where the
first pass met something. The radiance field is evaluated once per sample: both
sets are composited together instead of evaluating the first again. Everything
works on rays [..,R] with any leading axes, in float32.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# points [..,R,S,3] -> density [..,R,S] >= 0 and features [..,R,S,F]
FieldFn = Callable[[jax.Array], tuple[jax.Array, jax.Array]]

# A pixel shows the object where its opacity is above this.
OPAQUE = 0.5
# Added to each weight of the first pass, so that a ray through empty space has
# a cdf too (NeRF's published code); also the least step of a cdf that its
# inversion divides by.
_MIN_WEIGHT = 1e-5


@dataclasses.dataclass(frozen=True)
class SampleCounts:
  """Samples per ray in the first and in the second pass."""

  coarse: int
  fine: int


class Uniforms(NamedTuple):
  """Random numbers in [0,1) of one render; None gives the fixed placement."""

  coarse: jax.Array | None  # [..,R,coarse]
  fine: jax.Array | None  # [..,R,fine], ascending along the last axis


class Render(NamedTuple):
  """What a ray sees.

  Attributes:
    features: [..,R,F], composited over a background of ones.
    weighted_depth: [..,R] sum of weight * distance along the ray, world units;
      see `expected_depth`.
    opacity: [..,R] in [0,1].
  """

  features: jax.Array
  weighted_depth: jax.Array
  opacity: jax.Array


def expected_depth(weighted_depth, opacity):
  """Distance along the ray at which it is expected to end, world units.

  Args:
    weighted_depth: [..] of `Render`, JAX or NumPy.
    opacity: [..].
  """
  # The reference's guard: an empty ray, 0 / 1e-6, has depth 0.
  return weighted_depth / (opacity + 1e-6)


def over_white(colours, opacity):
  """Composites colours [..,F], weighted by opacity [..], over ones."""
  return colours + (1 - opacity)[..., None]


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
    # Their spacing is (far - near) / (count - 1): neighbours never cross.
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
    [..,count], ascending if `uniform` is, without gradient.
  """
  # NeRF too treats the placement of samples as given: only what is evaluated
  # there is learned from.
  distances, weights = jax.lax.stop_gradient((distances, weights))
  bins = (distances[..., 1:] + distances[..., :-1]) / 2  # [..,S-1]
  weights = weights[..., 1:-1] + _MIN_WEIGHT  # [..,S-2], one for each bin
  pdf = weights / jnp.sum(weights, -1, keepdims=True)
  cdf = jnp.cumsum(pdf, -1)
  cdf = jnp.concatenate([jnp.zeros_like(cdf[..., :1]), cdf], -1)  # [..,S-1]
  if uniform is None:
    # The middles of `count` equal shares of the probability.
    quantiles = jnp.linspace(0.5 / count, 1 - 0.5 / count, count)
    uniform = jnp.broadcast_to(quantiles, (*cdf.shape[:-1], count))
  # The bin that holds each quantile: the one behind the last limit that is
  # not above it, kept inside where rounding leaves the cdf short of 1.
  index = _count(jnp.greater_equal, uniform, cdf)
  below = jnp.maximum(index - 1, 0)
  above = jnp.minimum(index, cdf.shape[-1] - 1)
  low, high = _take(cdf, below), _take(cdf, above)
  width = jnp.where(high - low < _MIN_WEIGHT, 1.0, high - low)
  left, right = _take(bins, below), _take(bins, above)
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
    alpha times transmittance; a sample does not shadow itself (in the
    reference it does).
  """
  intervals = jnp.concatenate(
    [jnp.diff(distances, axis=-1), last_interval[..., None]], -1
  )
  optical = density * intervals
  before = jnp.cumsum(optical, -1) - optical
  # alpha = 1 - exp(-x), of which expm1 keeps the digits where x is small.
  return -jnp.expm1(-optical) * jnp.exp(-before)


def merged_compositing_weights(
  first_density: jax.Array,
  first: jax.Array,
  second_density: jax.Array,
  second: jax.Array,
  last_interval: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """`compositing_weights` of two sets of samples on the same rays.

  Nothing is sorted: what lies before a sample is a prefix of either set.

  Args:
    first_density: [..,S] of the first set.
    first: [..,S] its distances, ascending.
    second_density: [..,S'] of the second set.
    second: [..,S'] its distances, ascending.
    last_interval: [..] length that the last sample of all stands for.

  Returns:
    the weights of both sets, [..,S] and [..,S'].
  """
  # How many of the other set lie before each sample; of equal ones, the first
  # set's do.
  before_first = _count(jnp.greater, first, second)
  before_second = _count(jnp.greater_equal, second, first)
  end = jnp.full((*first.shape[:-1], 1), jnp.inf, first.dtype)
  start = jnp.zeros_like(end)

  def optical_depth(density, distances, others, before):
    # An interval ends at the next sample of either set, whichever is nearer.
    following = jnp.concatenate([distances[..., 1:], end], -1)
    other = _take(jnp.concatenate([others, end], -1), before)
    following = jnp.minimum(following, other)
    interval = jnp.where(
      following < jnp.inf, following - distances, last_interval[..., None]
    )
    return density * interval

  first_optical = optical_depth(first_density, first, second, before_first)
  second_optical = optical_depth(second_density, second, first, before_second)
  # sums[i] is the optical depth of the first i samples of a set, [..,S+1].
  first_sums, second_sums = (
    jnp.concatenate([start, jnp.cumsum(x, -1)], -1)
    for x in (first_optical, second_optical)
  )

  def weights(optical, sums, other_sums, before):
    passed = sums[..., :-1] + _take(other_sums, before)
    return -jnp.expm1(-optical) * jnp.exp(-passed)

  return (
    weights(first_optical, first_sums, second_sums, before_first),
    weights(second_optical, second_sums, first_sums, before_second),
  )


def render_rays(
  field: FieldFn,
  origins: jax.Array,
  directions: jax.Array,
  near: jax.Array,
  far: jax.Array,
  counts: SampleCounts,
  uniforms: Uniforms = Uniforms(None, None),
  density_channels: int | None = None,
) -> Render:
  """Renders rays in two passes.

  Args:
    field: evaluates points.
    origins: [..,R,3] world units.
    directions: [..,R,3] unit vectors.
    near: [..,R] distance at which sampling starts.
    far: [..,R] distance at which it ends; equal to `near` for a ray that
      meets nothing.
    counts: samples per pass.
    uniforms: the random numbers of training; by default none.
    density_channels: how many channels, the first ones, density learns from;
      None for all. Those behind them are composited with weights that take no
      gradient.

  Returns:
    the features, depth and opacity of each ray.
  """

  def evaluate(distances):
    # o + t d: [..,R,1,3] and [..,R,S,1] -> points [..,R,S,3].
    points = (
      origins[..., None, :] + distances[..., None] * directions[..., None, :]
    )
    return field(points)

  # Coarse pass: evenly spaced, each sample standing for its share of the ray.
  last_interval = (far - near) / counts.coarse
  coarse = coarse_distances(near, far, counts.coarse, uniforms.coarse)
  coarse_density, coarse_features = evaluate(coarse)
  coarse_weights = compositing_weights(coarse_density, coarse, last_interval)
  # Fine pass: more samples where the coarse weights are.
  fine = fine_distances(coarse, coarse_weights, counts.fine, uniforms.fine)
  fine_density, fine_features = evaluate(fine)

  # NeRF evaluates a second network at the union of both sets; ours is one
  # network, whose values at the coarse samples are used again.
  coarse_weights, fine_weights = merged_compositing_weights(
    coarse_density, coarse, fine_density, fine, last_interval
  )

  weights = coarse_weights, fine_weights
  features = coarse_features, fine_features
  opacity = jnp.sum(coarse_weights, -1) + jnp.sum(fine_weights, -1)
  weighted_depth = _composite(weights, (coarse[..., None], fine[..., None]))
  if density_channels is None:
    composited = over_white(_composite(weights, features), opacity)
  else:
    # Channels that only say what is there, not where anything is.
    first = [x[..., :density_channels] for x in features]
    rest = [x[..., density_channels:] for x in features]
    fixed, fixed_opacity = jax.lax.stop_gradient((weights, opacity))
    composited = jnp.concatenate(
      [
        over_white(_composite(weights, first), opacity),
        over_white(_composite(fixed, rest), fixed_opacity),
      ],
      -1,
    )
  return Render(composited, weighted_depth[..., 0], opacity)


def in_chunks(fn: Callable, arrays: tuple, size: int):
  """fn over chunks of axis 1 of `arrays` [B,R,..], recomputed for gradients.

  The chunks run over rays, not over scenes times rays: each then holds a part
  of every scene, and a batch that is spread over devices stays where it is.
  """
  rays = arrays[0].shape[1]
  # The backward pass renders a chunk again instead of keeping its samples.
  fn = jax.checkpoint(fn)
  if not 0 < size < rays:
    return fn(arrays)
  if rays % size:
    raise ValueError(
      f"rendering.rays_per_chunk is {size}, expected a divisor of the {rays}"
      " rays of a scene"
    )

  def split(x):  # [B,R,..] -> [chunks,B,size,..]
    x = x.reshape(x.shape[0], rays // size, size, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  def merge(x):
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], rays, *x.shape[3:])

  out = jax.lax.map(fn, jax.tree.map(split, arrays))
  return jax.tree.map(merge, out)


def _composite(weights, values) -> jax.Array:
  """Sum over the samples of both passes of weight [..,S] times [..,S,F]."""
  coarse_sum, fine_sum = (
    jnp.einsum("...s,...sf->...f", w, x, precision=jax.lax.Precision.HIGHEST)
    for w, x in zip(weights, values, strict=True)
  )
  return coarse_sum + fine_sum


def _count(compare, values: jax.Array, limits: jax.Array) -> jax.Array:
  """How many limits [..,L] compare so with each value [..,S], i32 [..,S]."""
  # Limit by limit XLA makes one loop of it; all at once, an array [..,S,L].
  total = jnp.zeros(values.shape, jnp.int32)
  for i in range(limits.shape[-1]):
    total += compare(values, limits[..., i, None]).astype(jnp.int32)
  return total


def _take(values: jax.Array, index: jax.Array) -> jax.Array:
  """values[index] along the last axis."""
  return jnp.take_along_axis(values, index, -1, mode="promise_in_bounds")
