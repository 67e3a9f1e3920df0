"""Drawing views of scenes: what sampling, validation and evaluation compile.

`build_synthesize` gives one jitted function for everything that draws single
views; `rollouts` draws paths.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from genvs_jax.diffusion import edm
from genvs_jax.diffusion import samplers
from genvs_jax.models import camera_channels
from genvs_jax.models import cross_views
from genvs_jax.models import denoising
from genvs_jax.models import pipeline
from genvs_jax.runtime import messages
from genvs_jax.sampling import surface_noise

Array = jax.Array | np.ndarray
# What is folded into the key of a view for noise beside that of its steps,
# which have the numbers 0, 1, 2 ...: never reached by any of them.
_UNCONDITIONAL_NOISE = 2**31 - 1
_GUIDANCE_NOISE = 2**31 - 2


class Views(NamedTuple):
  """Drawn views; all in [0,1] but depth, which is in world units.

  Attributes:
    sample: [B,Q,H,W,3] the denoiser's picture; None from `build_render`.
    rgb: [B,Q,H,W,3] first three channels of the feature render, enlarged.
    weighted_depth: [B,Q,H,W] sum of weight times distance, enlarged; see
      `rendering.expected_depth`.
    opacity: [B,Q,H,W], enlarged.
    estimates: [B,Q,steps,H,W,3] of the picture at each step of the sampler;
      None unless asked for.
  """

  sample: Array | None
  rgb: Array
  weighted_depth: Array
  opacity: Array
  estimates: Array | None = None

  @property
  def picture(self) -> Array:
    """The sample, or the render if there is none."""
    return self.rgb if self.sample is None else self.sample


def build_synthesize(
  config: ml_collections.ConfigDict, model: pipeline.Model
) -> Callable[..., Views]:
  """The jitted (variables, batch, poses, keys) -> Views.

  `batch` holds the input views: images u8 [B,V,H,W,3], poses [B,V,4,4] and
  intrinsics [B,4] or [B,V,4], and may hold those of the views to draw,
  drawn_with [B,4] or [B,Q,4], by default the first input view's; `poses`
  [B,Q,4,4] are the views to draw, and `keys` [B,Q] their randomness, so that a
  view looks the same in any batch.

  Args:
    config: the sampler is read from it.
    model: the model.
  """
  draw = build_sampler(config, model)

  def synthesize(variables, batch, poses, keys) -> Views:
    features, attended, views = render_views(model, variables, batch, poses)
    flat = features.reshape(-1, *features.shape[2:])
    samples, _ = draw(variables, flat, keys.reshape(-1), attended)
    samples = samples.reshape(*poses.shape[:2], *samples.shape[1:])
    return views._replace(sample=samples)

  return jax.jit(synthesize)


def build_unconditional(
  config: ml_collections.ConfigDict, model: pipeline.Model
) -> Callable:
  """The jitted (variables, keys [n]) -> pictures [n,H,W,3] of any objects.

  Raises:
    ValueError: for a denoiser of residuals, which needs a render.
  """
  if model.target == "residual":
    raise ValueError(
      "sample.unconditional is set, but this denoiser draws what a render lacks"
      " (diffusion.target = 'residual') and needs an input view: leave it out"
    )
  draw = build_sampler(config, model)
  size = model.image_size

  def synthesize(variables, keys) -> jax.Array:
    shape = (len(keys), size, size, model.denoiser_features)
    null = denoising.null_features(
      model, _fold(keys, _UNCONDITIONAL_NOISE), shape
    )
    return draw(variables, null, keys)[0]

  return jax.jit(synthesize)


def build_sampler(
  config: ml_collections.ConfigDict, model: pipeline.Model
) -> Callable:
  """(variables, features, keys [n]) -> pictures [n,H,W,3] in [0,1], and the
  estimates [steps,n,H,W,3] of them on the way.

  Features are the conditioning images [n,H,W,F+G], or [steps,n,H,W,F+G] with
  one for each step. A denoiser of residuals starts at the render plus noise of
  sigma_max, and not at noise alone. With a `surface`, noise sticks to that.
  """
  build_solver = _build_solver(config, model)
  sigmas = samplers.build_sigmas(config)

  def draw(
    variables, features, keys, views=None, surface=None
  ) -> tuple[jax.Array, jax.Array]:
    solver, noise, to_picture = build_solver(
      variables, features, keys, views, surface
    )
    images, estimates = samplers.run(solver, noise, sigmas)
    return to_picture(images), to_picture(estimates)

  return draw


class Steps(NamedTuple):
  """A sampler whose steps are taken one at a time, to be watched.

  Attributes:
    number: of the steps.
    start: the jitted (variables, features, keys, views, surface) -> carry; see
      `build_sampler` for the arguments.
    step: the jitted (variables, features, keys, views, surface, carry, i) ->
      carry, the estimate [n,H,W,3] of the pictures and, after the last step,
      the pictures themselves.
  """

  number: int
  start: Callable
  step: Callable


def build_steps(
  config: ml_collections.ConfigDict, model: pipeline.Model
) -> Steps:
  """The sampler of `build_sampler`, step by step: the same pictures."""
  build_solver = _build_solver(config, model)
  sigmas = samplers.build_sigmas(config)

  @jax.jit
  def start(variables, features, keys, views, surface):
    solver, noise, _ = build_solver(variables, features, keys, views, surface)
    return solver.start(noise * sigmas[0])

  @jax.jit
  def step(variables, features, keys, views, surface, carry, i):
    solver, _, to_picture = build_solver(
      variables, features, keys, views, surface
    )
    carry, estimate = solver.step(carry, (i, sigmas[i], sigmas[i + 1]))
    return carry, to_picture(estimate), to_picture(solver.image(carry))

  return Steps(len(sigmas) - 1, start, step)


def _build_solver(
  config: ml_collections.ConfigDict, model: pipeline.Model
) -> Callable:
  """(variables, features, keys, views, surface) -> the solver of these
  pictures, unit noise like them, and a function from its images to pictures in
  [0,1]."""
  options = config.sampler
  messages.check_choice("sampler.name", options.name, samplers.SOLVERS)
  steps = config.sampler.steps
  churn = samplers.build_churn(config)
  guidance = options.guidance
  unit = edm.noise_unit(config)
  low, high = (level * unit for level in options.guidance_interval)
  size = model.image_size

  def build(variables, features, keys, views, surface=None):
    blank = jnp.zeros((len(keys), size, size, 3))
    null = denoising.null_features(
      model,
      _fold(keys, _GUIDANCE_NOISE),
      (*blank.shape[:3], model.denoiser_features),
    )

    def noise(number):
      of_number = _fold(keys, number)
      if surface is not None:
        return surface_noise.normal(of_number, surface)
      return samplers.normal_like(of_number, blank)

    by_step = features if features.ndim == 5 else None
    # Samplers go from noise to an image around 0; around `start` here.
    start = denoising.base_image(model, features)
    if start is not None and by_step is not None:
      start = jnp.mean(start, 0)

    def denoise_image(x, sigma, step):
      levels = jnp.full((len(x),), sigma)
      cond = features if by_step is None else by_step[step]
      base = denoising.base_image(model, cond)
      seen = (
        views if by_step is None else jax.tree.map(lambda v: v[step], views)
      )
      estimate = denoising.denoise(
        model, variables, x, levels, cond, base, seen
      )
      if guidance == 1.0:
        return estimate
      # Away from what a worse denoiser makes of the same features, or (Ho and
      # Salimans 2022) from what this one makes of none.
      if model.guide is not None:
        worse = {"denoiser": variables["guide"]}
        free = denoising.denoise(model.guide, worse, x, levels, cond, base)
      else:
        blind = seen and seen._replace(mask=jnp.zeros_like(seen.mask))
        free = denoising.denoise(model, variables, x, levels, null, base, blind)
      inside = (low <= sigma) & (sigma <= high)
      weight = jnp.where(inside, guidance, 1.0)
      return free + weight * (estimate - free)

    def denoise(x, sigma, step):
      if start is None:
        return denoise_image(x, sigma, step)
      return denoise_image(start + x, sigma, step) - start

    def to_picture(x):
      x = x if start is None else start + x
      return pipeline.to_unit(x, model.image_range)

    # Number 0 is the noise at the start, step i churns with number i + 1.
    solver = samplers.SOLVERS[options.name](
      denoise, steps, lambda step: noise(step + 1), churn
    )
    return solver, noise(0), to_picture

  return build


def build_render(model: pipeline.Model) -> Callable[..., Views]:
  """The jitted (variables, batch, poses) -> Views without samples."""
  return jax.jit(
    lambda variables, batch, poses: render_views(
      model, variables, batch, poses
    )[2]
  )


def build_draw(
  config: ml_collections.ConfigDict, model: pipeline.Model, parts
) -> Callable[..., Views]:
  """`build_synthesize`, or renders alone if `parts` has no denoiser."""
  if "denoiser" in parts:
    return build_synthesize(config, model)
  render = build_render(model)
  return lambda variables, batch, poses, keys: render(variables, batch, poses)


def encode_views(
  model: pipeline.Model, variables: pipeline.Variables, batch: dict
) -> pipeline.InputViews:
  """Encodes clean input views, all of them in use."""
  images = pipeline.from_uint8(batch["images"], model.image_range)
  volumes, _ = pipeline.encode(model, variables, images)
  return pipeline.InputViews(
    volumes=volumes,
    poses=batch["poses"],
    intrinsics=batch["intrinsics"],
    mask=jnp.ones(volumes.shape[:2], bool),
    keys=cross_views.encode(
      model,
      variables,
      pipeline.to_unit(images, model.image_range),
      batch["poses"],
      batch["intrinsics"],
    ),
    drawn_with=batch.get("drawn_with"),
  )


def view_keys(seed: int, scenes: np.ndarray, frames: np.ndarray) -> jax.Array:
  """Keys [B,Q]: fold_in(fold_in(root, scene), frame)."""
  root = jax.random.key(seed)

  def key(scene, frame):
    return jax.random.fold_in(jax.random.fold_in(root, scene), frame)

  per_scene = jax.vmap(key, (None, 0))
  return jax.vmap(per_scene, (0, None))(
    jnp.asarray(scenes, jnp.uint32), jnp.asarray(frames, jnp.uint32)
  )


def render_views(model, variables, batch, poses):
  """Conditioning images [B,Q,H,W,F+G], and views without samples, from
  pictures."""
  inputs = encode_views(model, variables, batch)
  return render_inputs(model, variables, inputs, poses)


def render_inputs(
  model: pipeline.Model,
  variables: pipeline.Variables,
  inputs: pipeline.InputViews,
  poses: jax.Array,
):
  """The same as `render_views` from encoded views."""
  render = pipeline.render_features(model, variables, inputs, poses)
  features = denoising.conditioning_image(
    model, render, poses, camera_channels.target_intrinsics(inputs)
  )
  weighted_depth, opacity = (
    denoising.resize_features(model, x[..., None])
    for x in (render.weighted_depth, render.opacity)
  )
  views = Views(
    sample=None,
    rgb=pipeline.to_unit(features[..., :3], model.image_range),
    weighted_depth=weighted_depth[..., 0],
    opacity=opacity[..., 0],
  )
  attended = cross_views.of_targets(inputs, poses, model.image_size)
  return features, attended, views


def _fold(keys: jax.Array, number) -> jax.Array:
  """fold_in of one number into keys [n]."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
