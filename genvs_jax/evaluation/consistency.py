"""3D consistency of drawn frames, scored without the truth or outside tools.

Two scores in dB, both over pixels whose opacity is above 0.5 in both views:

  reprojection   each frame is predicted from the next one through its rendered
                 depth, and the two are compared
  field fit      a radiance volume is fitted to some of the frames and compared
                 with those held out (the 3D consistency score of 3DiM, Watson
                 et al. 2022, sec. 4, which fits a NeRF)

Frames that show one rigid object score high; so do frames that all show the
same wrong one. Neither score says how good the pictures look.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genvs_jax.geometry import cameras
from genvs_jax.geometry import rendering
from genvs_jax.geometry import volume_lookup
from genvs_jax.runtime import console

_MIN_COVERAGE = 0.2
# Two depths belong to one surface if they differ by less than this share.
_SAME_SURFACE = 0.02
# A voxel's raw value v has density 30 softplus(2 v) per world unit: 3.8 at the
# start, v = -1, faint over an object half a unit long, and 121 at v = 2, opaque
# within a voxel of the finest grid. The slope lets Adam's steps of 0.1 turn
# one into the other in tens of steps.
_DENSITY_SCALE, _DENSITY_SLOPE = 30.0, 2.0
_START = -1.0


class Frames(NamedTuple):
  """Frames along a path.

  Attributes:
    images: f32 [N,H,W,3] in [0,1].
    depth: f32 [N,H,W] expected distance along the ray, world units.
    opacity: f32 [N,H,W] in [0,1].
    poses: f32 [N,4,4] camera-to-world.
    intrinsics: f32 [4] in pixels.
  """

  images: np.ndarray
  depth: np.ndarray
  opacity: np.ndarray
  poses: np.ndarray
  intrinsics: np.ndarray


class Score(NamedTuple):
  """A score and the share of the object's pixels that it rests on.

  Attributes:
    psnr: in dB; None (not scored) if the coverage is under 20 %.
    coverage: in [0,1].
  """

  psnr: float | None
  coverage: float


def reprojection(frames: Frames) -> Score:
  """Compares each frame with the next one, seen from where it was taken.

  Raises:
    ValueError: for fewer than two frames.
  """
  if len(frames.images) < 2:
    raise ValueError(
      f"reprojection compares neighbours, expected 2 or more frames, found"
      f" {len(frames.images)}"
    )
  views = (frames.images, frames.depth, frames.opacity, frames.poses)
  here = jax.tree.map(lambda x: x[:-1], views)
  there = jax.tree.map(lambda x: x[1:], views)
  error, overlap, opaque = _compare_neighbours(here, there, frames.intrinsics)
  return _score(error, overlap, opaque)


@jax.jit
def _compare_neighbours(here, there, intrinsics):
  """Sums of squared error, of pixels seen in both, of opaque pixels."""
  height, width = here[1].shape[1:]
  pixels = cameras.pixel_centres(height, width)

  def compare(pair):
    (image, depth, opacity, pose), (image2, depth2, opacity2, pose2) = pair
    origins, directions = cameras.pixel_rays(pose, intrinsics, pixels)
    points = origins + depth.reshape(-1, 1) * directions
    xy, in_front = cameras.project(points, pose2, intrinsics)
    distance = jnp.linalg.norm(points - pose2[:3, 3], axis=-1)
    planes = jnp.concatenate(
      [image2, depth2[..., None], opacity2[..., None]], -1
    )
    values, inside = _bilinear(planes, xy)
    colours, depth_there, opacity_there = jnp.split(values, (3, 4), -1)
    # A pixel is seen in both views if both show one surface there: opaque in
    # both, and as far from the second camera as its own depth says.
    apart = jnp.abs(depth_there[:, 0] - distance)
    opaque = opacity.reshape(-1) > rendering.OPAQUE
    overlap = opaque & inside & (in_front > 0)
    overlap &= (apart < _SAME_SURFACE * distance) & (
      opacity_there[:, 0] > rendering.OPAQUE
    )
    error = jnp.mean((image.reshape(-1, 3) - colours) ** 2, -1)
    return jnp.sum(error * overlap), jnp.sum(overlap), jnp.sum(opaque)

  sums = jax.lax.map(compare, (here, there))
  return jax.tree.map(jnp.sum, sums)


def _bilinear(planes: jax.Array, xy: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Values [P,C] of [H,W,C] at pixels [P,2], and which lie inside."""
  height, width = planes.shape[:2]
  index = xy - 0.5
  limit = jnp.array([width - 1, height - 1])
  inside = jnp.all((index >= 0) & (index <= limit), -1)
  base = jnp.clip(jnp.floor(index), 0, limit - 1).astype(jnp.int32)
  u, v = jnp.split(jnp.clip(index - base, 0, 1), 2, -1)
  x, y = base[:, 0], base[:, 1]
  top = planes[y, x] * (1 - u) + planes[y, x + 1] * u
  bottom = planes[y + 1, x] * (1 - u) + planes[y + 1, x + 1] * u
  return top * (1 - v) + bottom * v, inside


@dataclasses.dataclass(frozen=True)
class FitOptions:
  """How the radiance volume is fitted.

  Attributes:
    half_extent: of the cube around the origin that it fills, world units.
    resolutions: voxels along each side, coarse to fine.
    steps: of gradient descent at each resolution.
    rays: in each step.
    samples: per ray.
    rate: Adam's learning rate.
    hold_out: every n-th frame is held out.
  """

  half_extent: float = 0.5
  resolutions: tuple[int, ...] = (16, 32, 64)
  steps: int = 300
  rays: int = 4096
  samples: int = 64
  rate: float = 0.1
  hold_out: int = 5


def field_fit(
  frames: Frames, options: FitOptions = FitOptions(), seed: int = 0
) -> Score:
  """Fits a radiance volume to frames and scores it on those held out.

  Args:
    frames: along a path; the middle one of every `hold_out` is held out.
    options: see `FitOptions`.
    seed: of the choice of rays.

  Raises:
    ValueError: if no frame would be held out.
  """
  count = len(frames.images)
  held_out = np.arange(count) % options.hold_out == options.hold_out // 2
  if not held_out.any() or held_out.all():
    raise ValueError(
      f"a field fit holds out every {options.hold_out}th frame, expected more"
      f" frames than the {count} found"
    )
  origins, directions, colours = _rays(frames, ~held_out)
  key = jax.random.key(seed)
  volume = None
  levels = console.progress(
    enumerate(options.resolutions), len(options.resolutions), "fitting a field"
  )
  for level, resolution in levels:
    shape = (*[resolution] * 3, 4)
    volume = (
      jnp.zeros(shape).at[..., 0].set(_START)
      if volume is None
      else jax.image.resize(volume, shape, "linear")
    )
    volume = _fit(
      volume,
      jax.random.fold_in(key, level),
      (origins, directions, colours),
      options,
    )
  error = overlap = opaque = 0.0
  for i in np.flatnonzero(held_out):
    one = np.arange(count) == i
    origins, directions, colours = _rays(frames, one)
    render = _render_volume(volume, origins, directions, None, options)
    shows_object = frames.opacity[i].reshape(-1) > rendering.OPAQUE
    both = shows_object & (np.asarray(render.opacity) > rendering.OPAQUE)
    squared = np.mean((np.asarray(render.features) - colours) ** 2, -1)
    error += float(np.sum(squared * both))
    overlap += float(both.sum())
    opaque += float(shows_object.sum())
  return _score(error, overlap, opaque)


def _rays(frames: Frames, indices: np.ndarray):
  """Origins, directions and colours [P,3] of all pixels of some frames."""
  height, width = frames.images.shape[1:3]
  poses = jnp.asarray(frames.poses[indices])
  intrinsics = jnp.broadcast_to(
    cameras.pinhole(frames.intrinsics), (len(poses), 4)
  )
  origins, directions = cameras.pixel_rays(
    poses, intrinsics, cameras.pixel_centres(height, width)
  )
  return (
    origins.reshape(-1, 3),
    directions.reshape(-1, 3),
    frames.images[indices].reshape(-1, 3),
  )


@functools.partial(jax.jit, static_argnames="options")
def _fit(volume, key, rays, options: FitOptions):
  """The volume after `options.steps` of Adam on random rays, cosine rate."""
  optimizer = optax.adam(
    optax.cosine_decay_schedule(options.rate, options.steps)
  )

  def loss(volume, batch, uniform):
    origins, directions, colours = batch
    render = _render_volume(volume, origins, directions, uniform, options)
    return jnp.mean((render.features - colours) ** 2)

  def step(carry, key):
    volume, state = carry
    which, where = jax.random.split(key)
    index = jax.random.randint(which, (options.rays,), 0, len(rays[0]))
    uniform = jax.random.uniform(where, (options.rays, options.samples))
    batch = tuple(jnp.asarray(x)[index] for x in rays)
    gradient = jax.grad(loss)(volume, batch, uniform)
    updates, state = optimizer.update(gradient, state)
    return (optax.apply_updates(volume, updates), state), None

  keys = jax.random.split(key, options.steps)
  (volume, _), _ = jax.lax.scan(step, (volume, optimizer.init(volume)), keys)
  return volume


@functools.partial(jax.jit, static_argnames="options")
def _render_volume(
  volume, origins, directions, uniform, options: FitOptions
) -> rendering.Render:
  """Rays through the cube, composited over white."""
  centre = -jnp.sum(origins * directions, -1)
  reach = options.half_extent * 3**0.5
  near, far = jnp.maximum(centre - reach, 0.0), centre + reach
  distances = rendering.coarse_distances(near, far, options.samples, uniform)
  points = origins[:, None] + distances[..., None] * directions[:, None]
  uvw = points / options.half_extent
  inside = jnp.all(jnp.abs(uvw) <= 1, -1)
  # The volume's axes are y, x, z, those of (u, v, w) x, y, z.
  values = volume_lookup.trilinear_lookup(volume, uvw.reshape(-1, 3), True)
  values = values.reshape(*distances.shape, 4)
  density = _DENSITY_SCALE * jax.nn.softplus(_DENSITY_SLOPE * values[..., 0])
  density = jnp.where(inside, density, 0.0)
  weights = rendering.compositing_weights(
    density, distances, (far - near) / options.samples
  )
  opacity = jnp.sum(weights, -1)
  colours = jnp.sum(weights[..., None] * jax.nn.sigmoid(values[..., 1:]), -2)
  return rendering.Render(
    features=rendering.over_white(colours, opacity),
    weighted_depth=jnp.sum(weights * distances, -1),
    opacity=opacity,
  )


def _score(error, overlap, opaque) -> Score:
  coverage = float(overlap) / max(float(opaque), 1.0)
  if coverage < _MIN_COVERAGE:
    return Score(None, coverage)
  mean = max(float(error) / float(overlap), 1e-10)
  return Score(float(-10 * np.log10(mean)), coverage)
