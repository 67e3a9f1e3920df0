"""What the denoiser is conditioned on, and the image that it makes of noise.

Images are in the model's range.
"""

import jax
import jax.numpy as jnp

from genvs_jax.diffusion import augmentation
from genvs_jax.diffusion import edm
from genvs_jax.models import camera_channels
from genvs_jax.models import cross_views
from genvs_jax.models import layers
from genvs_jax.models import pipeline

# What of a render the denoiser's gradient reaches.
REACHES = ("render", "features")


def resize_features(model: pipeline.Model, features: jax.Array) -> jax.Array:
  """Feature images [..,h,w,c] at the size of the image, [..,H,W,c]."""
  size = (model.image_size, model.image_size)
  return layers.resize(features, size, model.upsampling)


def conditioning_image(
  model: pipeline.Model,
  render: pipeline.FeatureRender,
  poses: jax.Array,
  intrinsics: jax.Array,
) -> jax.Array:
  """What the denoiser is conditioned on for Q views, at the image's size.

  Args:
    model: the model.
    render: of the views.
    poses: [B,Q,4,4] camera-to-world.
    intrinsics: [B,4] or [B,Q,4] pixels of the image.

  Returns:
    [B,Q,H,W,F+G], features first and RGB first of them, then `model.geometry`.
  """
  if not model.geometry:
    return resize_features(model, render.features)
  rendered = camera_channels.of_render(
    model.geometry, render.weighted_depth, render.opacity, poses
  )
  image = jnp.concatenate([render.features, *rendered], -1)
  rays = camera_channels.of_camera(
    model.geometry, poses, intrinsics, model.image_size
  )
  return jnp.concatenate([resize_features(model, image), *rays], -1)


def base_image(
  model: pipeline.Model, conditioning: jax.Array
) -> jax.Array | None:
  """The picture that the denoiser adds to: the RGB render [..,H,W,3] of a
  conditioning image, without gradient; None if it draws all of the picture."""
  if model.target == "image":
    return None
  return jax.lax.stop_gradient(conditioning[..., :3])


def scale_gradient(
  model: pipeline.Model, conditioning: jax.Array, share: float, reaches: str
) -> jax.Array:
  """A conditioning image [..,F+G] that lets a share of its gradient pass.

  Args:
    model: the model.
    conditioning: features, RGB first of them, then `model.geometry`.
    share: 1 lets all of it pass, 0 none.
    reaches: of `REACHES`: all that was rendered, or only the features that are
      not RGB. The latter keeps the denoiser from writing into the colours what
      it would like to be told.
  """
  if share == 1.0 and reaches == "render":
    return conditioning
  channel = jnp.arange(conditioning.shape[-1])
  passes = (channel >= 3) & (channel < model.feature_channels)
  passes |= reaches == "render"
  constant = jax.lax.stop_gradient(conditioning)
  return constant + share * passes * (conditioning - constant)


def null_features(
  model: pipeline.Model, keys: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
  """Noise in place of [B,H,W,F+G] that the denoiser is conditioned on: it then
  draws any object.

  Unit Gaussian noise, as in the paper, or uniform in [0,1], which the
  reference was trained with; `keys` [B] has one for each image.
  """
  is_normal = model.null_noise == "normal"
  draw = jax.random.normal if is_normal else jax.random.uniform
  return jax.vmap(lambda key: draw(key, shape[1:]))(keys)


@jax.named_scope("denoiser")
def predict(
  model: pipeline.Model,
  variables: pipeline.Variables,
  noisy: jax.Array,
  sigma: jax.Array,
  features: jax.Array,
  augment_labels: jax.Array | None = None,
  dropout_key: jax.Array | None = None,
  views: cross_views.Views | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The denoiser network F behind EDM's input scaling.

  Args:
    model: the model.
    variables: of all parts.
    noisy: [B,H,W,3] images, or residuals, plus sigma times unit noise.
    sigma: [B] noise level in image units.
    features: [B,H,W,F+G] of `conditioning_image`, or `null_features`.
    augment_labels: [B,9], or None for an image that is not warped.
    dropout_key: trains with dropout if not None.
    views: encoded input views that it attends to, if the model does.

  Returns:
    F [B,H,W,3] and the log-variance [B].
  """
  if augment_labels is None:
    augment_labels = jnp.zeros((len(noisy), augmentation.LABEL_SIZE))
  # Features are no noisy image and have a scale of their own, geometry none.
  count = model.feature_channels
  scaled = (features[..., :count] - model.feature_mean) / model.feature_std
  features = jnp.concatenate([scaled, features[..., count:]], -1)
  c = edm.scalings(sigma[:, None, None, None], model.sigma_data)
  with layers.products(model.precision):
    return model.denoiser.apply(
      variables["denoiser"],
      noisy * c.inp,
      sigma,
      features,
      augment_labels,
      train=dropout_key is not None,
      **({} if views is None else {"views": views}),
      rngs=None if dropout_key is None else {"dropout": dropout_key},
    )


def denoise(
  model: pipeline.Model,
  variables: pipeline.Variables,
  noisy: jax.Array,
  sigma: jax.Array,
  features: jax.Array,
  base: jax.Array | None = None,
  views: cross_views.Views | None = None,
) -> jax.Array:
  """D(noisy; sigma, features): the estimate of the clean image, [B,H,W,3].

  Arguments are those of `predict`, but `noisy` is always the image's; `base` is
  the `base_image`, beside null features that of the features they replace.
  """
  # The same noise on the picture and on what the render lacks of it.
  assert (base is None) == (model.target == "image"), "see `base_image`"
  if base is not None:
    noisy = noisy - base
  output, _ = predict(model, variables, noisy, sigma, features, views=views)
  estimate = edm.denoised(noisy, output, sigma, model.sigma_data)
  return estimate if base is None else base + estimate
