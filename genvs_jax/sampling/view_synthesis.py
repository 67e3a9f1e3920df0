"""Drawing views of scenes: the compiled part of sampling and evaluation.

`build_synthesize` gives one jitted function for everything that draws: sheets
during training and the score table; `rollouts` draws paths.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genvs_jax.diffusion import samplers
from genvs_jax.images import pictures
from genvs_jax.models import pipeline
from genvs_jax.models import pixels as image_ops

# Sections of the config that decide, with the weights, what a view looks like.
CONFIG_SECTIONS = (
  "model",
  "frustum",
  "rendering",
  "diffusion",
  "sampler",
  "seed",
)


class Views(NamedTuple):
  """Drawn views; all in [0,1] but depth, which is in world units.

  Attributes:
    sample: [B,Q,H,W,3] the denoiser's picture; None from `build_render`.
    rgb: [B,Q,H,W,3] first three channels of the feature render, enlarged.
    depth: [B,Q,H,W] sum of weight times distance, enlarged.
    opacity: [B,Q,H,W], enlarged.
    estimates: [B,Q,steps,H,W,3] of the picture at each step of the sampler;
      None unless asked for.
  """

  sample: jax.Array | None
  rgb: jax.Array
  depth: jax.Array
  opacity: jax.Array
  estimates: jax.Array | None = None


def build_synthesize(config, model: pipeline.Model) -> Callable[..., Views]:
  """The jitted (variables, batch, poses, keys) -> Views.

  `batch` holds the input views: images u8 [B,V,H,W,3], poses [B,V,4,4] and
  intrinsics [B,4]; `poses` [B,Q,4,4] are the views to draw, and `keys` [B,Q]
  their randomness, so that a view looks the same in any batch.

  Args:
    config: the sampler is read from it.
    model: the model.
  """
  draw = build_sampler(config, model)

  def synthesize(variables, batch, poses, keys) -> Views:
    features, views = render_views(model, variables, batch, poses)
    flat = features.reshape(-1, *features.shape[2:])
    drawn, _ = draw(variables, flat, keys.reshape(-1))
    drawn = drawn.reshape(*poses.shape[:2], *drawn.shape[1:])
    return views._replace(sample=drawn)

  return jax.jit(synthesize)


def build_unconditional(config, model: pipeline.Model) -> Callable:
  """The jitted (variables, keys [n]) -> pictures [n,H,W,3] of any objects."""
  draw = build_sampler(config, model)
  shape = (model.image_size, model.image_size, model.denoiser_features)

  def synthesize(variables, keys) -> jax.Array:
    # Sampling folds 0, 1, .. into the keys; this number is never reached.
    apart = jax.vmap(jax.random.fold_in, (0, None))(keys, 2**31 - 1)
    nothing = pipeline.unconditional_features(model, apart, (len(keys), *shape))
    return draw(variables, nothing, keys)[0]

  return jax.jit(synthesize)


def build_sampler(config, model: pipeline.Model) -> Callable:
  """(variables, features, keys [n]) -> pictures [n,H,W,3] in [0,1], and the
  estimates [steps,n,H,W,3] of them on the way.

  Features are [n,H,W,F], or [steps,n,H,W,F] with an image for each step.
  """
  options = config.sampler
  if options.name not in samplers.SAMPLERS:
    raise ValueError(
      f"sampler.name is {options.name!r}, expected one of"
      f" {', '.join(sorted(samplers.SAMPLERS))}"
    )
  sampler = samplers.SAMPLERS[options.name]
  sigmas = samplers.build_sigmas(config)
  churn = samplers.build_churn(config)
  guidance = options.guidance
  low, high = options.guidance_interval
  size = model.image_size

  def draw(variables, features, keys) -> tuple[jax.Array, jax.Array]:
    blank = jnp.zeros((len(keys), size, size, 3))
    # Sampling folds 0, 1, .. into the keys; this number is never reached.
    apart = jax.vmap(jax.random.fold_in, (0, None))(keys, 2**31 - 2)
    nothing = pipeline.unconditional_features(
      model, apart, (*blank.shape[:3], model.denoiser_features)
    )

    def normal(count):
      drawn = jax.vmap(jax.random.fold_in, (0, None))(keys, count)
      return samplers.normal_like(drawn, blank)

    def denoise(x, sigma, step):
      levels = jnp.full((len(x),), sigma)
      given = features if features.ndim == 4 else features[step]
      estimate = pipeline.denoise(model, variables, x, levels, given)
      if guidance == 1.0:
        return estimate
      free = pipeline.denoise(model, variables, x, levels, nothing)
      inside = (low <= sigma) & (sigma <= high)
      weight = jnp.where(inside, guidance, 1.0)
      return free + weight * (estimate - free)

    drawn = sampler(
      denoise, normal(0), sigmas, lambda step: normal(step + 1), churn
    )
    return tuple(image_ops.to_unit(x, model.image_range) for x in drawn)

  return draw


def build_render(model: pipeline.Model) -> Callable[..., Views]:
  """The jitted (variables, batch, poses) -> Views without samples."""
  return jax.jit(
    lambda variables, batch, poses: render_views(
      model, variables, batch, poses
    )[1]
  )


def build_draw(config, model: pipeline.Model, parts) -> Callable[..., Views]:
  """`build_synthesize`, or renders alone if `parts` has no denoiser."""
  if "denoiser" in parts:
    return build_synthesize(config, model)
  render = build_render(model)
  return lambda variables, batch, poses, keys: render(variables, batch, poses)


def encode_views(
  model: pipeline.Model, variables: pipeline.Variables, batch: dict
) -> pipeline.InputViews:
  """Encodes clean input views, all of them in use."""
  pictures_in = image_ops.from_uint8(batch["images"], model.image_range)
  volumes, _ = pipeline.encode(model, variables, pictures_in)
  return pipeline.InputViews(
    volumes=volumes,
    poses=batch["poses"],
    intrinsics=batch["intrinsics"],
    mask=jnp.ones(volumes.shape[:2], bool),
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


def unconditional_sheet(drawn: np.ndarray) -> np.ndarray:
  """Rows of eight pictures [n,H,W,3] in [0,1]."""
  images = [pictures.to_uint8(image) for image in np.asarray(drawn)]
  rows = [images[i : i + 8] for i in range(0, len(images), 8)]
  return pictures.sheet([("unconditional", row) for row in rows])


def training_sheet(
  batch: dict[str, np.ndarray], views: Views, near: float, far: float
) -> np.ndarray:
  """A row per scene: inputs, target, render, depth, opacity, sample.

  Args:
    batch: images u8 [B,V+1,H,W,3], the target last.
    views: what was drawn for the target, Q = 1.
    near: depth shown black.
    far: depth shown white.
  """
  rows = []
  for i, images in enumerate(batch["images"]):
    view = jax.tree.map(lambda x, i=i: np.asarray(x)[i, 0], views)
    rows.append(
      (
        f"scene {int(batch['scene'][i])}",
        [
          *images,
          pictures.to_uint8(view.rgb),
          depth_picture(view, near, far),
          pictures.to_uint8(view.opacity),
          *([] if view.sample is None else [pictures.to_uint8(view.sample)]),
        ],
      )
    )
  return pictures.sheet(rows)


def render_views(model, variables, batch, poses) -> tuple[jax.Array, Views]:
  """Feature images [B,Q,H,W,F] at the image's size, and views without
  samples, from pictures."""
  inputs = encode_views(model, variables, batch)
  return render_inputs(model, variables, inputs, poses)


def render_inputs(
  model: pipeline.Model,
  variables: pipeline.Variables,
  inputs: pipeline.InputViews,
  poses: jax.Array,
) -> tuple[jax.Array, Views]:
  """The same as `render_views` from encoded views."""
  render = pipeline.render_features(model, variables, inputs, poses)
  features, depth, opacity = (
    pipeline.resize_features(model, x)
    for x in (
      render.features,
      render.depth[..., None],
      render.opacity[..., None],
    )
  )
  views = Views(
    sample=None,
    rgb=image_ops.to_unit(features[..., :3], model.image_range),
    depth=depth[..., 0],
    opacity=opacity[..., 0],
  )
  return features, views


def depth_picture(view: Views, near: float, far: float) -> np.ndarray:
  return pictures.to_uint8(
    pictures.depth_to_unit(view.depth, view.opacity, near, far)
  )
