"""What a train step minimises, chosen by `objective.name`.

An objective is a pure function (model, options, variables, batch, keys) ->
(loss, (metrics, buffers)); see `joint`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genvs_jax import augmentation
from genvs_jax import cameras
from genvs_jax import edm
from genvs_jax import images as image_ops
from genvs_jax import losses
from genvs_jax import pipeline
from genvs_jax import rendering


@dataclasses.dataclass(frozen=True)
class Options:
  """Weights and probabilities; see `configs/base.py`."""

  input_views: int
  denoising: float
  weights: str
  rgb: float
  rgb_input: float
  opacity: float
  depth: float
  first_view_world: bool
  augmentation: float
  augmentation_kinds: float
  input_noise_probability: float
  input_noise_max: float
  conditioning_dropout: float
  sigma_law: edm.SigmaLaw


class StepKeys(NamedTuple):
  """A step's number, and one key per use of randomness in it."""

  step: jax.Array
  view_count: jax.Array
  input_noise: jax.Array
  coarse: jax.Array
  fine: jax.Array
  sigma: jax.Array
  noise: jax.Array
  conditioning: jax.Array
  augmentation: jax.Array
  dropout: jax.Array


def step_keys(seed: int, step: jax.Array) -> StepKeys:
  """The keys of a step: a function of (seed, step) and the field's name."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  uses = len(StepKeys._fields) - 1
  return StepKeys(step, *jax.random.split(key, uses))


def joint(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  batch: dict[str, jax.Array],
  keys: StepKeys,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict]]:
  """Encoder, field and denoiser together (Chan et al. 2023, GeNVS, sec. 3).

  Args:
    model: the model.
    options: weights and probabilities.
    variables: of all parts.
    batch: see `genvs_jax`; V input views first, then T targets.
    keys: of this step.

  Returns:
    the loss, and (metrics as scalars, the buffers after the step).
  """
  views = options.input_views
  if options.first_view_world:
    poses = jax.vmap(cameras.relative_to_first)(batch["poses"])
    batch = {**batch, "poses": poses}
  pictures = image_ops.from_uint8(batch["images"], model.image_range)
  inputs, encoder_buffers = encode_inputs(
    model, options, variables, batch, pictures[:, :views], keys
  )
  # The RGB loss may ask for the first input view beside the targets.
  with_input = options.rgb_input > 0
  rendered = [0] * with_input + list(range(views, pictures.shape[1]))
  count, rays = len(pictures), len(rendered) * model.render_size**2
  uniforms = rendering.Uniforms(
    jax.random.uniform(keys.coarse, (count, rays, model.counts.coarse)),
    jax.random.uniform(keys.fine, (count, rays, model.counts.fine)),
  )
  poses = batch["poses"][:, jnp.array(rendered)]
  render = pipeline.render_features(model, variables, inputs, poses, uniforms)
  features = pipeline.resize_features(model, render.features)
  target_features, targets = features[:, with_input:], pictures[:, views:]

  def flatten(x):
    return x.reshape(-1, *x.shape[2:])

  rgb = losses.rgb(target_features, targets)
  rgb_input = (
    losses.rgb(features[:, :1], pictures[:, :1]) if with_input else 0.0
  )
  opacity = losses.opacity(render.opacity)
  distance = jnp.linalg.norm(poses[..., :3, 3], axis=-1)[..., None, None]
  depth = losses.depth_prior(render.depth, render.opacity, distance)
  denoising = denoising_loss(
    model, options, variables, flatten(targets), flatten(target_features), keys
  )
  loss = (
    options.denoising * denoising
    + options.rgb * rgb
    + options.rgb_input * rgb_input
    + options.opacity * opacity
    + options.depth * depth
  )
  metrics = {
    "loss": loss,
    "loss_denoising": denoising,
    "loss_rgb": rgb,
    "opacity": opacity,
    "depth_error": depth,
  }
  if with_input:
    metrics["loss_rgb_input"] = rgb_input
  _, buffers = pipeline.split_variables(variables)
  return loss, (metrics, {**buffers, "encoder": encoder_buffers})


def encode_inputs(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  batch: dict[str, jax.Array],
  images: jax.Array,
  keys: StepKeys,
) -> tuple[pipeline.InputViews, dict]:
  """Encodes noisy input views [B,V,H,W,3], of which each scene uses 1 to V."""
  count, views = images.shape[:2]
  used = jax.random.randint(keys.view_count, (count, 1), 1, views + 1)
  chance, scale, unit = jax.random.split(keys.input_noise, 3)
  shape = (count, views, 1, 1, 1)
  noisy = jax.random.bernoulli(chance, options.input_noise_probability, shape)
  deviation = options.input_noise_max * jax.random.uniform(scale, shape)
  noise = noisy * deviation * jax.random.normal(unit, images.shape)
  volumes, buffers = pipeline.encode(
    model, variables, images, noise, train=True
  )
  inputs = pipeline.InputViews(
    volumes=volumes,
    poses=batch["poses"][:, :views],
    intrinsics=batch["intrinsics"],
    mask=jnp.arange(views) < used,
  )
  return inputs, buffers


def denoising_loss(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  clean: jax.Array,
  features: jax.Array,
  keys: StepKeys,
) -> jax.Array:
  """EDM's loss on images [B,H,W,3] given features [B,H,W,F].

  Conditioning dropout replaces the features of single examples by noise, as
  the paper does; augmentation warps both and tells the denoiser how.
  """
  clean, features, told = augment(options, clean, features, keys.augmentation)
  chance, unit = jax.random.split(keys.conditioning)
  dropped = jax.random.bernoulli(
    chance, options.conditioning_dropout, (len(clean), 1, 1, 1)
  )
  nothing = pipeline.unconditional_features(model, unit, features.shape)
  features = jnp.where(dropped, nothing, features)
  sigma = options.sigma_law.sample(keys.sigma, (len(clean),), keys.step)
  noise = jax.random.normal(keys.noise, clean.shape)
  noisy = clean + sigma[:, None, None, None] * noise
  output, log_variance = pipeline.predict(
    model, variables, noisy, sigma, features, told, keys.dropout
  )
  target = edm.network_target(clean, noisy, sigma, model.sigma_data)
  if options.weights == "edm":
    return losses.denoising_edm(output, target)
  return losses.denoising(output, target, log_variance)


def augment(
  options: Options, clean: jax.Array, features: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Warps images [B,H,W,3] and their features alike, example by example.

  Returns:
    both, and the augmentation vectors [B,9].
  """
  count = len(clean)
  if options.augmentation == 0:
    return clean, features, jnp.zeros((count, augmentation.VECTOR_SIZE))
  chance, draws = jax.random.split(key)
  chosen = jax.random.bernoulli(chance, options.augmentation, (count,))
  warp = augmentation.warp_from_draws(
    augmentation.draw(draws, count), options.augmentation_kinds
  )
  warp = jax.tree.map(lambda x: jnp.where(chosen, x, 0.0), warp)
  maps = augmentation.matrices(warp, *clean.shape[1:3])
  return (
    augmentation.apply(clean, maps),
    augmentation.apply(features, maps),
    augmentation.vector(warp),
  )


OBJECTIVES = {"joint": joint}


def build_options(config) -> Options:
  """From `config.objective`, `config.model` and `config.diffusion`."""
  objective = config.objective
  if objective.weights not in ("learned", "edm"):
    raise ValueError(
      f"objective.weights is {objective.weights!r}, expected 'learned' or 'edm'"
    )
  return Options(
    input_views=config.model.input_views,
    denoising=objective.denoising,
    weights=objective.weights,
    rgb=objective.rgb,
    rgb_input=objective.rgb_input,
    opacity=objective.opacity,
    depth=objective.depth,
    first_view_world=objective.first_view_world,
    augmentation=objective.augmentation,
    augmentation_kinds=objective.augmentation_kinds,
    input_noise_probability=objective.input_noise_probability,
    input_noise_max=objective.input_noise_max,
    conditioning_dropout=objective.conditioning_dropout,
    sigma_law=edm.build_sigma_law(config),
  )
