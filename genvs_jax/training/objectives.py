"""What a train step minimises, chosen by `objective.name`.

An objective is a pure function (model, options, variables, batch, keys) ->
(loss, (metrics, buffers)); see `joint`. The losses of the denoiser are in
`edm`, those of encoder and field at the end of this file; all are float32
means over the batch.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from genvs_jax import perceptual
from genvs_jax.diffusion import augmentation
from genvs_jax.diffusion import edm
from genvs_jax.geometry import rendering
from genvs_jax.geometry import unit_cube
from genvs_jax.models import builders
from genvs_jax.models import cross_views
from genvs_jax.models import denoising
from genvs_jax.models import pipeline
from genvs_jax.runtime import messages
from genvs_jax.training import randomness
from genvs_jax.training import regularizers

WEIGHTINGS = ("learned", "edm")
Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Options:
  """Weights and probabilities; see `objective` in `configs/base.py`."""

  input_views: int
  denoising: float
  weighting: str
  perceptual: float
  rgb: float
  rgb_input: float
  render_input: bool
  opacity: float
  depth_prior: float
  depth_consistency: float
  opacity_consistency: float
  frozen: tuple[str, ...]
  first_view_world: bool
  augmentation: float
  augmentation_probability: float
  input_noise_probability: float
  input_noise_max: float
  conditioning_dropout: float
  feature_gradient: float
  gradient_reaches: str
  sigma_law: edm.SigmaLaw
  # (pictures [n,H,W,3] in [0,1], truth) -> [n]; None without such a loss.
  distance: Callable[[jax.Array, jax.Array], jax.Array] | None


class RenderingResult(NamedTuple):
  """What the losses of encoder and field leave for the denoiser.

  Attributes:
    loss: weighted sum of the rendering losses.
    metrics: each of them, unweighted.
    buffers: of all parts after the step.
    features: [B T,H,W,F+G], the conditioning images of the target views.
    targets: [B T,H,W,3] the target views.
    views: that the denoiser attends to, n = B T; None for none.
  """

  loss: jax.Array
  metrics: dict[str, jax.Array]
  buffers: dict
  features: jax.Array
  targets: jax.Array
  views: cross_views.Views | None


def joint(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  batch: Batch,
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
  result = rendering_losses(model, options, variables, batch, keys)
  # The denoiser's gradient flows through the features into field and encoder,
  # whole, damped or not at all.
  features = denoising.scale_gradient(
    model, result.features, options.feature_gradient, options.gradient_reaches
  )
  losses = denoising_losses(
    model, options, variables, result.targets, features, keys, result.views
  )
  loss = result.loss + options.denoising * losses["loss_denoising"]
  loss += options.perceptual * losses.get("loss_perceptual", 0.0)
  return loss, ({**result.metrics, **losses, "loss": loss}, result.buffers)


def nerf(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  batch: Batch,
  keys: randomness.StepKeys,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict]]:
  """Encoder and field alone, as `joint` without a denoiser."""
  # Noise on the inputs and random samples on the rays as in `joint`.
  result = rendering_losses(model, options, variables, batch, keys)
  metrics = {**result.metrics, "loss": result.loss}
  return result.loss, (metrics, result.buffers)


def diffusion(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  batch: Batch,
  keys: randomness.StepKeys,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict]]:
  """The denoiser alone, on every view of the batch, without features."""
  clean = _flatten(pipeline.from_uint8(batch["images"], model.image_range))
  # All conditioning is dropped: the denoiser learns to draw any object.
  options = dataclasses.replace(options, conditioning_dropout=1.0)
  features = jnp.zeros((*clean.shape[:3], model.denoiser_features))
  losses = denoising_losses(model, options, variables, clean, features, keys)
  loss = losses["loss_denoising"]
  loss += options.perceptual * losses.get("loss_perceptual", 0.0)
  _, buffers = pipeline.split_variables(variables)
  return loss, ({**losses, "loss": loss}, buffers)


def rendering_losses(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  batch: Batch,
  keys: randomness.StepKeys,
) -> RenderingResult:
  """Encodes the input views, renders the targets and compares."""
  views = options.input_views
  if options.first_view_world:
    poses = jax.vmap(unit_cube.relative_to_first)(batch["poses"])
    batch = {**batch, "poses": poses}
  images = pipeline.from_uint8(batch["images"], model.image_range)
  targets = images[:, views:]
  inputs, encoder_buffers = encode_inputs(
    model, options, variables, batch, images[:, :views], keys
  )

  # The target views are rendered and, where a loss asks for it, the first
  # input view in front of them.
  rendered_views = list(range(views, images.shape[1]))
  renders_input = options.render_input or options.rgb_input > 0
  if renders_input:
    rendered_views.insert(0, 0)
  poses = batch["poses"][:, jnp.array(rendered_views)]  # [B,Q,4,4]
  rays = len(rendered_views) * model.render_size**2
  # Where on its ray each sample lies is random, so that no plane of the volume
  # stays unseen.
  coarse, fine = (rays, model.counts.coarse), (rays, model.counts.fine)
  uniforms = rendering.Uniforms(
    randomness.each(jax.random.uniform, keys.coarse, coarse),
    randomness.each(jax.random.uniform, keys.fine, fine),
  )
  drawn_with = _of_views(batch["intrinsics"], jnp.array(rendered_views))
  inputs = inputs._replace(drawn_with=drawn_with)
  density_channels = 3 if options.gradient_reaches == "features" else None
  render = pipeline.render_features(
    model, variables, inputs, poses, uniforms, density_channels
  )
  features = denoising.conditioning_image(  # [B,Q,H,W,F+G]
    model, render, poses, drawn_with
  )
  target_features = features[:, 1:] if renders_input else features

  # Each loss with its weight.
  losses = {
    "loss_rgb": (options.rgb, rgb_error(target_features, targets)),
    "loss_opacity": (options.opacity, jnp.mean(render.opacity)),
  }
  if renders_input:
    error = rgb_error(features[:, :1], images[:, :1])
    losses["loss_rgb_input"] = (options.rgb_input, error)
  if options.depth_prior:
    losses |= regularizers.prior(options, render, poses)
  if options.depth_consistency or options.opacity_consistency:
    losses |= regularizers.agreement(
      model, options, variables, inputs, poses, uniforms, render
    )

  loss = sum(weight * value for weight, value in losses.values())
  _, buffers = pipeline.split_variables(variables)
  of_targets = jnp.arange(views, images.shape[1])
  drawn_with = _of_views(batch["intrinsics"], of_targets)
  return RenderingResult(
    loss=jnp.asarray(loss),
    metrics={name: value for name, (_, value) in losses.items()},
    buffers={**buffers, "encoder": encoder_buffers},
    features=_flatten(target_features),
    targets=_flatten(targets),
    views=cross_views.of_targets(
      inputs._replace(drawn_with=drawn_with),
      batch["poses"][:, views:],
      model.image_size,
    ),
  )


def encode_inputs(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  batch: Batch,
  images: jax.Array,
  keys: randomness.StepKeys,
) -> tuple[pipeline.InputViews, dict]:
  """Encodes noisy input views [B,V,H,W,3], of which each scene uses 1 to V."""
  views = images.shape[1]
  # All V views are encoded, so that shapes are static; a mask says which count.
  count = randomness.each(
    jax.random.randint, keys.view_count, (1,), minval=1, maxval=views + 1
  )
  # Noise on half of the images, of a strength of its own each (GeNVS, sec. 4):
  # at test time, drawn views with their flaws are inputs too.
  coin_keys, scale_keys, noise_keys = randomness.split(keys.input_noise, 3)
  per_view = (views, 1, 1, 1)
  is_noisy = randomness.each(
    jax.random.bernoulli,
    coin_keys,
    per_view,
    p=options.input_noise_probability,
  )
  deviation = randomness.each(jax.random.uniform, scale_keys, per_view)
  noise = randomness.each(jax.random.normal, noise_keys, images.shape[1:])
  deviation *= is_noisy * options.input_noise_max
  noise *= deviation
  # A frozen encoder does not update its running statistics either.
  volumes, buffers = pipeline.encode(
    model,
    variables,
    images,
    noise,
    deviation[..., 0, 0, 0],
    train="encoder" not in options.frozen,
  )
  intrinsics = _of_views(batch["intrinsics"], jnp.arange(views))
  inputs = pipeline.InputViews(
    volumes=volumes,
    poses=batch["poses"][:, :views],
    intrinsics=intrinsics,
    mask=jnp.arange(views) < count,
    keys=cross_views.encode(
      model,
      variables,
      pipeline.to_unit(images, model.image_range),
      batch["poses"][:, :views],
      intrinsics,
      noise,
    ),
  )
  return inputs, buffers


def _of_views(intrinsics: jax.Array, views: jax.Array) -> jax.Array:
  """Those of some views; [B,4] hold for all."""
  return intrinsics if intrinsics.ndim == 2 else intrinsics[:, views]


def denoising_losses(
  model: pipeline.Model,
  options: Options,
  variables: pipeline.Variables,
  clean: jax.Array,
  features: jax.Array,
  keys: randomness.StepKeys,
  views: cross_views.Views | None = None,
) -> dict[str, jax.Array]:
  """EDM's loss on images [B T,H,W,3] given conditioning images [B T,H,W,F+G],
  "loss_denoising", and the estimate's "loss_perceptual" where it is asked for.

  Conditioning dropout replaces the features of single examples by noise, as
  the paper does; augmentation warps both and tells the denoiser how.
  """
  # Keys are those of scenes [B]; every image of a scene gets its own.
  images_per_scene = len(clean) // len(keys.noise)
  noise_keys, sigma_keys, dropout_keys, warp_keys = (
    randomness.per_image(k, images_per_scene)
    for k in (keys.noise, keys.sigma, keys.conditioning, keys.augmentation)
  )
  augment_labels = None
  # EDM's augmentation warps a picture and its features alike.
  if options.augmentation:
    clean, features, augment_labels = augmentation.augment(
      clean,
      features,
      warp_keys,
      options.augmentation,
      options.augmentation_probability,
    )

  # What the render lacks of the picture is drawn, or all of the picture;
  # without features, too, the result is added to a render.
  picture, base = clean, denoising.base_image(model, features)
  if base is not None:
    clean = clean - base

  # Classifier-free guidance needs a denoiser that also knows no features.
  coin_keys, null_keys = randomness.split(dropout_keys, 2)
  is_null = randomness.each(
    jax.random.bernoulli, coin_keys, (1, 1, 1), p=options.conditioning_dropout
  )
  null = denoising.null_features(model, null_keys, features.shape)
  features = jnp.where(is_null, null, features)
  if views is not None:
    views = views._replace(mask=views.mask & ~is_null[:, 0, 0])

  # x = x0 + sigma n, one noise level per image.
  sigma = options.sigma_law.sample(sigma_keys, keys.step)
  noise = randomness.each(jax.random.normal, noise_keys, clean.shape[1:])
  noisy = clean + sigma[:, None, None, None] * noise
  conditioning = (features, augment_labels, keys.dropout, views)
  output, log_variance = denoising.predict(
    model, variables, noisy, sigma, *conditioning
  )
  target = edm.network_target(clean, noisy, sigma, model.sigma_data)
  if options.weighting == "edm":
    losses = {"loss_denoising": edm.edm_loss(output, target)}
  else:
    value = edm.learned_variance_loss(output, target, log_variance)
    losses = {"loss_denoising": value}

  # The estimate of least squared error is a blur of all that the noise leaves
  # possible; this asks that it look like a picture as well.
  if options.distance is not None:
    estimate = edm.denoised(noisy, output, sigma, model.sigma_data)
    if base is not None:
      estimate += base
    low, high = model.image_range
    pair = ((x - low) / (high - low) for x in (estimate, picture))
    losses["loss_perceptual"] = jnp.mean(options.distance(*pair))
  return losses


def rgb_error(features: jax.Array, images: jax.Array) -> jax.Array:
  """Squared error of the first three feature channels, [..,H,W,F] and [..,3].

  The reference broadcasts renders [B,3,H,W] against targets [B,1,3,H,W] and so
  pulls every render to the batch's mean; here each meets its own target.
  """
  if features.shape[:-1] != images.shape[:-1]:
    raise ValueError(
      f"features {features.shape} and images {images.shape} differ in size"
    )
  return jnp.mean((features[..., :3] - images) ** 2)


def _flatten(x: jax.Array) -> jax.Array:
  """[B,T,..] -> [B T,..]."""
  return x.reshape(-1, *x.shape[2:])


OBJECTIVES = {"joint": joint, "nerf": nerf, "diffusion": diffusion}


def build_options(config: ml_collections.ConfigDict) -> Options:
  """From `config.objective`, `config.model` and `config.diffusion`."""
  values = dict(config.objective)
  del values["name"]
  metric = values.pop("perceptual_metric")
  messages.check_choice("objective.weighting", values["weighting"], WEIGHTINGS)
  builders.check_objective(config)
  distance = None
  if values["perceptual"] and config.objective.name != "nerf":
    distance = perceptual.build_distance(
      config.evaluate.metric_weights, "objective.perceptual_metric", metric
    )
  return Options(
    **values,
    input_views=config.model.input_views,
    frozen=tuple(config.optimizer.frozen),
    distance=distance,
    sigma_law=edm.build_sigma_law(config),
  )
