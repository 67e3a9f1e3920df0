"""What a train step minimises, chosen by `objective.name`.

An objective is a pure function (model, options, variables, batch, keys) ->
(loss, (metrics, buffers)); see `joint`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genvs_jax.diffusion import augmentation
from genvs_jax.diffusion import edm
from genvs_jax.geometry import cameras
from genvs_jax.geometry import rendering
from genvs_jax.models import pipeline
from genvs_jax.models import pixels as image_ops
from genvs_jax.training import losses
from genvs_jax.training import randomness


@dataclasses.dataclass(frozen=True)
class Options:
  """Weights and probabilities; see `configs/base.py`."""

  input_views: int
  denoising: float
  weights: str
  rgb: float
  rgb_input: float
  render_input: bool
  opacity: float
  depth: float
  depth_consistency: float
  opacity_consistency: float
  frozen: tuple[str, ...]
  first_view_world: bool
  augmentation: float
  augmentation_kinds: float
  input_noise_probability: float
  input_noise_max: float
  conditioning_dropout: float
  sigma_law: edm.SigmaLaw


class Rendered(NamedTuple):
  """What the losses of encoder and field leave for the denoiser.

  Attributes:
    loss: weighted sum of the rendering losses.
    metrics: each of them, unweighted.
    buffers: of all parts after the step.
    features: [B T,H,W,F] of the target views, enlarged.
    targets: [B T,H,W,3] the target views.
  """

  loss: jax.Array
  metrics: dict[str, jax.Array]
  buffers: dict
  features: jax.Array
  targets: jax.Array


def joint(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  batch: dict[str, jax.Array],
  keys: randomness.StepKeys,
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
  rendered = rendering_losses(model, options, variables, batch, keys)
  denoising = denoising_loss(
    model, options, variables, rendered.targets, rendered.features, keys
  )
  loss = rendered.loss + options.denoising * denoising
  metrics = {**rendered.metrics, "loss": loss, "loss_denoising": denoising}
  return loss, (metrics, rendered.buffers)


def nerf(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  batch: dict[str, jax.Array],
  keys: randomness.StepKeys,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict]]:
  """Encoder and field alone, as `joint` without a denoiser."""
  rendered = rendering_losses(model, options, variables, batch, keys)
  metrics = {**rendered.metrics, "loss": rendered.loss}
  return rendered.loss, (metrics, rendered.buffers)


def diffusion(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  batch: dict[str, jax.Array],
  keys: randomness.StepKeys,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict]]:
  """The denoiser alone, on every view of the batch, without features."""
  pictures = image_ops.from_uint8(batch["images"], model.image_range)
  clean = _flatten(pictures)
  features = jnp.zeros((*clean.shape[:3], model.denoiser_features))
  nothing = dataclasses.replace(options, conditioning_dropout=1.0)
  loss = denoising_loss(model, nothing, variables, clean, features, keys)
  _, buffers = pipeline.split_variables(variables)
  return loss, ({"loss": loss, "loss_denoising": loss}, buffers)


def rendering_losses(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  batch: dict[str, jax.Array],
  keys: randomness.StepKeys,
) -> Rendered:
  """Encodes the input views, renders the targets and compares."""
  views = options.input_views
  if options.first_view_world:
    poses = jax.vmap(cameras.relative_to_first)(batch["poses"])
    batch = {**batch, "poses": poses}
  pictures = image_ops.from_uint8(batch["images"], model.image_range)
  inputs, encoder_buffers = encode_inputs(
    model, options, variables, batch, pictures[:, :views], keys
  )
  # The losses may ask for the first input view beside the targets.
  with_input = options.render_input or options.rgb_input > 0
  shown = [0] * with_input + list(range(views, pictures.shape[1]))
  count, rays = len(pictures), len(shown) * model.render_size**2
  each = randomness.each
  uniforms = rendering.Uniforms(
    each(jax.random.uniform, keys.coarse, (rays, model.counts.coarse)),
    each(jax.random.uniform, keys.fine, (rays, model.counts.fine)),
  )
  poses = batch["poses"][:, jnp.array(shown)]
  render = pipeline.render_features(model, variables, inputs, poses, uniforms)
  features = pipeline.resize_features(model, render.features)
  targets = pictures[:, views:]
  distance = jnp.linalg.norm(poses[..., :3, 3], axis=-1)[..., None, None]
  parts = {
    "loss_rgb": losses.rgb(features[:, with_input:], targets),
    "opacity": losses.opacity(render.opacity),
    "depth_error": losses.depth_prior(render.depth, render.opacity, distance),
  }
  weights = {
    "loss_rgb": options.rgb,
    "opacity": options.opacity,
    "depth_error": options.depth,
  }
  if with_input:
    parts["loss_rgb_input"] = losses.rgb(features[:, :1], pictures[:, :1])
    weights["loss_rgb_input"] = options.rgb_input
  if options.depth_consistency or options.opacity_consistency:
    # The same views from the last input view alone, without gradient.
    alone = jnp.broadcast_to(jnp.arange(views) == views - 1, (count, views))
    last = inputs._replace(mask=alone)
    other = jax.lax.stop_gradient(
      pipeline.render_features(model, variables, last, poses, uniforms)
    )
    parts["depth_consistency"] = losses.consistency(render.depth, other.depth)
    parts["opacity_consistency"] = losses.consistency(
      render.opacity, other.opacity
    )
    weights["depth_consistency"] = options.depth_consistency
    weights["opacity_consistency"] = options.opacity_consistency
  _, buffers = pipeline.split_variables(variables)
  return Rendered(
    loss=sum(weights[name] * part for name, part in parts.items()),
    metrics=parts,
    buffers={**buffers, "encoder": encoder_buffers},
    features=_flatten(features[:, with_input:]),
    targets=_flatten(targets),
  )


def encode_inputs(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  batch: dict[str, jax.Array],
  images: jax.Array,
  keys: randomness.StepKeys,
) -> tuple[pipeline.InputViews, dict]:
  """Encodes noisy input views [B,V,H,W,3], of which each scene uses 1 to V."""
  views, each = images.shape[1], randomness.each
  used = each(jax.random.randint, keys.view_count, (1,), 1, views + 1)
  chance, scale, unit = randomness.split(keys.input_noise, 3)
  each_view = (views, 1, 1, 1)
  noisy = each(
    jax.random.bernoulli, chance, options.input_noise_probability, each_view
  )
  deviation = each(jax.random.uniform, scale, each_view)
  noise = each(jax.random.normal, unit, images.shape[1:])
  noise *= noisy * deviation * options.input_noise_max
  volumes, buffers = pipeline.encode(
    model, variables, images, noise, train="encoder" not in options.frozen
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
  keys: randomness.StepKeys,
) -> jax.Array:
  """EDM's loss on images [B,H,W,3] given features [B,H,W,F].

  Conditioning dropout replaces the features of single examples by noise, as
  the paper does; augmentation warps both and tells the denoiser how.
  """
  each, views = randomness.each, len(clean) // len(keys.noise)
  of_noise, of_sigma, of_conditioning, of_warp = (
    randomness.per_image(k, views)
    for k in (keys.noise, keys.sigma, keys.conditioning, keys.augmentation)
  )
  clean, features, told = augment(options, clean, features, of_warp)
  chance, unit = randomness.split(of_conditioning, 2)
  dropped = each(
    jax.random.bernoulli, chance, options.conditioning_dropout, (1, 1, 1)
  )
  nothing = pipeline.unconditional_features(model, unit, features.shape)
  features = jnp.where(dropped, nothing, features)
  sigma = options.sigma_law.sample(of_sigma, keys.step)
  noise = each(jax.random.normal, of_noise, clean.shape[1:])
  noisy = clean + sigma[:, None, None, None] * noise
  output, log_variance = pipeline.predict(
    model, variables, noisy, sigma, features, told, keys.dropout
  )
  target = edm.network_target(clean, noisy, sigma, model.sigma_data)
  if options.weights == "edm":
    return losses.denoising_edm(output, target)
  return losses.denoising(output, target, log_variance)


def augment(
  options: Options, clean: jax.Array, features: jax.Array, keys: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Warps images [B,H,W,3] and their features alike, example by example.

  Returns:
    both, and the augmentation vectors [B,9].
  """
  count = len(clean)
  if options.augmentation == 0:
    return clean, features, jnp.zeros((count, augmentation.VECTOR_SIZE))
  chance, draws = randomness.split(keys, 2)
  chosen = randomness.each(jax.random.bernoulli, chance, options.augmentation)
  warp = augmentation.warp_from_draws(
    randomness.each(augmentation.draw, draws), options.augmentation_kinds
  )
  warp = jax.tree.map(lambda x: jnp.where(chosen, x, 0.0), warp)
  maps = augmentation.matrices(warp, *clean.shape[1:3])
  return (
    augmentation.apply(clean, maps),
    augmentation.apply(features, maps),
    augmentation.vector(warp),
  )


def _flatten(x: jax.Array) -> jax.Array:
  """[B,T,..] -> [B T,..]."""
  return x.reshape(-1, *x.shape[2:])


OBJECTIVES = {"joint": joint, "nerf": nerf, "diffusion": diffusion}
# The parts of the model that each needs; a state holds no others.
PARTS = {
  "joint": pipeline.PARTS,
  "nerf": ("encoder", "field"),
  "diffusion": ("denoiser",),
}


def check_name(name: str) -> None:
  """Raises ValueError unless it is an objective's."""
  if name not in OBJECTIVES:
    raise ValueError(
      f"objective.name is {name!r}, expected one of"
      f" {', '.join(sorted(OBJECTIVES))}"
    )


def build_options(config) -> Options:
  """From `config.objective`, `config.model` and `config.diffusion`."""
  objective = config.objective
  if objective.weights not in ("learned", "edm"):
    raise ValueError(
      f"objective.weights is {objective.weights!r}, expected 'learned' or 'edm'"
    )
  consistent = objective.depth_consistency or objective.opacity_consistency
  if consistent and config.model.input_views < 2:
    raise ValueError(
      "objective.depth_consistency and opacity_consistency compare input views,"
      f" expected model.input_views of 2 or more, found"
      f" {config.model.input_views}"
    )
  return Options(
    input_views=config.model.input_views,
    denoising=objective.denoising,
    weights=objective.weights,
    rgb=objective.rgb,
    rgb_input=objective.rgb_input,
    render_input=objective.render_input,
    opacity=objective.opacity,
    depth=objective.depth,
    depth_consistency=objective.depth_consistency,
    opacity_consistency=objective.opacity_consistency,
    frozen=tuple(config.optimizer.frozen),
    first_view_world=objective.first_view_world,
    augmentation=objective.augmentation,
    augmentation_kinds=objective.augmentation_kinds,
    input_noise_probability=objective.input_noise_probability,
    input_noise_max=objective.input_noise_max,
    conditioning_dropout=objective.conditioning_dropout,
    sigma_law=edm.build_sigma_law(config),
  )
