"""encode -> render_features -> denoise: the one place the three networks meet.

`Model` bundles the Linen leaves with the geometry around them; the functions
are pure. `variables` is {part: {"params": .., other collections}} for the
parts encoder, field and denoiser; the collections beside "params" (running
statistics, fixed frequencies) are called buffers. The scopes of the three steps
are what profiles show.
"""

import dataclasses
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genvs_jax.diffusion import augmentation
from genvs_jax.diffusion import edm
from genvs_jax.geometry import cameras
from genvs_jax.geometry import rendering
from genvs_jax.geometry import unit_cube
from genvs_jax.models import camera_channels
from genvs_jax.models import cross_views
from genvs_jax.models import layers

Range = tuple[float, float]  # (low, high)
Variables = dict[str, dict[str, Any]]
Frustum = cameras.NearFar | unit_cube.UnitCube
PARTS = ("encoder", "field", "denoiser")


@dataclasses.dataclass(frozen=True)
class Model:
  """Networks and the geometry that joins them; hashable, holds no arrays.

  Attributes:
    encoder: images [n,H,W,3] -> volumes [n,H,W,D,C].
    field: volume features -> density and features.
    denoiser: the preconditioned network F.
    frustum: where points lie in a volume.
    counts: samples per ray.
    image_size: H = W in pixels.
    render_size: h = w in pixels.
    image_range: value range of images in the model.
    flip_input: whether the encoder sees images upside down.
    upsampling: method that enlarges feature images.
    rays_per_chunk: rays rendered at a time per scene, 0 for all.
    sigma_data: EDM's, of what the denoiser draws.
    target: what that is, "image", or "residual" for what the RGB render lacks.
    geometry: conditioning beside the features, see `camera_channels`.
    feature_channels: F, of the render.
    feature_mean: taken off the features on their way into the denoiser, ...
    feature_std: ... which are then divided by this.
    denoiser_features: F+G that the denoiser takes, 0 if it draws any object.
    null_noise: of which `null_features` are made, "normal" or "uniform".
    precision: of the networks' float32 products, see `configs/base.py`.
    noise_told: whether the encoder has a fourth channel, the noise's deviation.
    view_encoder: of the denoiser's attention to input views; None for none.
    guide: of the denoiser in variables' part "guide"; None for none.
  """

  encoder: Any
  field: Any
  denoiser: Any
  frustum: Frustum
  counts: rendering.SampleCounts
  image_size: int
  render_size: int
  image_range: Range
  flip_input: bool
  upsampling: str
  rays_per_chunk: int
  sigma_data: float
  target: str
  geometry: tuple[str, ...]
  feature_channels: int
  feature_mean: float
  feature_std: float
  denoiser_features: int
  null_noise: str
  precision: str
  noise_told: bool = False
  view_encoder: cross_views.ViewEncoder | None = None
  guide: Any = None


class InputViews(NamedTuple):
  """What rendering needs of the input views.

  Attributes:
    volumes: [B,V,H,W,D,C].
    poses: [B,V,4,4] camera-to-world.
    intrinsics: [B,V,4] pixels of the images, [B,4] if all have the same, or
      [B,V,6] with near and far.
    mask: bool [B,V], the views in use.
    keys: [B,V,N,K] of the denoiser's attention to them; None for none.
    drawn_with: intrinsics [B,Q,4] or [B,4] of the views to draw; None for those
      of the first input view.
  """

  volumes: jax.Array
  poses: jax.Array
  intrinsics: jax.Array
  mask: jax.Array
  keys: jax.Array | None = None
  drawn_with: jax.Array | None = None


class FeatureRender(NamedTuple):
  """Rendered views: features [B,Q,h,w,F], and [B,Q,h,w] of `rendering.Render`'s
  weighted depth and opacity."""

  features: jax.Array
  weighted_depth: jax.Array
  opacity: jax.Array


def split_variables(variables: Variables) -> tuple[dict, dict]:
  """(trained parameters, buffers), both by part."""
  params = {part: v["params"] for part, v in variables.items()}
  buffers = {
    part: {k: v for k, v in collections.items() if k != "params"}
    for part, collections in variables.items()
  }
  return params, buffers


def join_variables(params: dict, buffers: dict) -> Variables:
  """The inverse of `split_variables`."""
  return {part: {"params": params[part], **buffers[part]} for part in params}


def from_uint8(images: jax.Array, image_range: Range) -> jax.Array:
  """u8 0..255 to float32 in `image_range`."""
  return from_unit(images.astype(jnp.float32) / 255, image_range)


def from_unit(images: jax.Array, image_range: Range) -> jax.Array:
  """From [0,1] to `image_range`."""
  low, high = image_range
  return images * (high - low) + low


def to_unit(images: jax.Array, image_range: Range) -> jax.Array:
  """From `image_range` to [0,1], clipped."""
  low, high = image_range
  return jnp.clip((images - low) / (high - low), 0, 1)


@jax.named_scope("encoder")
def encode(
  model: Model,
  variables: Variables,
  images: jax.Array,
  noise: jax.Array | None = None,
  deviation: jax.Array | None = None,
  train: bool = False,
) -> tuple[jax.Array, dict]:
  """Lifts images into frustum volumes.

  Args:
    model: the model.
    variables: of all parts.
    images: [B,V,H,W,3] in the model's image range.
    noise: [B,V,H,W,3] added to the ImageNet-normalised images, or None.
    deviation: [B,V] of the noise, told if the encoder can be; None for 0.
    train: normalise by batch statistics.

  Returns:
    volumes [B,V,H,W,D,C], and the encoder's buffers, updated when training.
  """
  # Whatever range the model works in, the encoder sees ImageNet's.
  x = layers.imagenet_normalize(to_unit(images, model.image_range))
  if noise is not None:
    x += noise
  if model.noise_told:
    deviation = jnp.zeros(x.shape[:2]) if deviation is None else deviation
    level = jnp.broadcast_to(deviation[..., None, None, None], x.shape)
    x = jnp.concatenate([x, level[..., :1]], -1)
  # The reference feeds images upside down, so that rows of its volume ascend
  # with its y axis, which points up.
  if model.flip_input:
    x = jnp.flip(x, -3)
  # The encoder knows neither scenes nor views: [B,V,..] -> [B V,..].
  x = x.reshape(-1, *x.shape[2:])
  with layers.products(model.precision):
    volumes, updated = model.encoder.apply(
      variables["encoder"], x, train=train, mutable=["batch_stats"]
    )
  buffers = {k: v for k, v in variables["encoder"].items() if k != "params"}
  volumes = volumes.reshape(*images.shape[:2], *volumes.shape[1:])
  return volumes, {**buffers, **updated}


@jax.named_scope("render")
def render_features(
  model: Model,
  variables: Variables,
  inputs: InputViews,
  poses: jax.Array,
  uniforms: rendering.Uniforms = rendering.Uniforms(None, None),
) -> FeatureRender:
  """Renders feature images at target cameras.

  Args:
    model: the model.
    variables: of all parts.
    inputs: the encoded input views.
    poses: [B,Q,4,4] camera-to-world of the views to render.
    uniforms: random numbers [B,Q*h*w,samples] of training, in any order; by
      default none.
  """
  batch, views = poses.shape[:2]
  size = model.render_size
  # A render of h pixels instead of H: the same camera, its pixels larger.
  intrinsics = camera_channels.target_intrinsics(inputs)
  intrinsics = cameras.scale_intrinsics(intrinsics, size / model.image_size)
  shape = (batch, views, intrinsics.shape[-1])
  intrinsics = jnp.broadcast_to(intrinsics, shape)
  rays = cameras.pixel_rays(
    poses, intrinsics, cameras.pixel_centres(size, size)
  )
  bounds = model.frustum.ray_bounds(*rays, intrinsics)
  # The rays of all views of a scene in a row: [B,Q,h*w,3] -> [B,R,3].
  origins, directions, near, far = (
    x.reshape(batch, -1, *x.shape[3:]) for x in (*rays, *bounds)
  )
  if uniforms.fine is not None:
    # Inverting a cdf at ascending numbers gives ascending distances.
    uniforms = uniforms._replace(fine=jnp.sort(uniforms.fine, -1))

  def render_chunk(rays):
    origins, directions, near, far, coarse, fine = rays
    return rendering.render_rays(
      lambda points: evaluate_field(model, variables, inputs, points),
      origins,
      directions,
      near,
      far,
      model.counts,
      rendering.Uniforms(coarse, fine),
    )

  render = rendering.in_chunks(
    render_chunk,
    (origins, directions, near, far, *uniforms),
    model.rays_per_chunk,
  )
  return FeatureRender(
    *(x.reshape(batch, views, size, size, *x.shape[2:]) for x in render)
  )


def evaluate_field(
  model: Model, variables: Variables, inputs: InputViews, points: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Density [B,R,S] and features [B,R,S,F] at world points [B,R,S,3]."""
  batch, rays, samples = points.shape[:3]
  # Each point in each input view: [B,1,P,3] against poses [B,V,4,4].
  flat = points.reshape(batch, 1, rays * samples, 3)
  uvw, inside = model.frustum.coordinates(
    flat, inputs.poses, cameras.by_view(inputs.intrinsics)
  )

  def lookup(volume, at):
    return rendering.trilinear_lookup(volume, at, model.frustum.align_corners)

  x = jax.vmap(jax.vmap(lookup))(inputs.volumes, uvw)  # [B,V,P,C]
  # A view counts for a point if it is in use and its volume covers the point.
  visible = inside & inputs.mask[..., None]
  with layers.products(model.precision):
    density, features = model.field.apply(variables["field"], x, visible)
  return (
    density.reshape(batch, rays, samples),
    features.reshape(batch, rays, samples, -1),
  )


def resize_features(model: Model, features: jax.Array) -> jax.Array:
  """Feature images [..,h,w,c] at the size of the image, [..,H,W,c]."""
  size = (model.image_size, model.image_size)
  return layers.resize(features, size, model.upsampling)


def conditioning_image(
  model: Model,
  render: FeatureRender,
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


def base_image(model: Model, conditioning: jax.Array) -> jax.Array | None:
  """The picture that the denoiser adds to: the RGB render [..,H,W,3] of a
  conditioning image, without gradient; None if it draws all of the picture."""
  if model.target == "image":
    return None
  return jax.lax.stop_gradient(conditioning[..., :3])


def null_features(
  model: Model, keys: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
  """Noise in place of features [B,H,W,F]: the denoiser then draws any object.

  Unit Gaussian noise, as in the paper, or uniform in [0,1], which the
  reference was trained with; `keys` [B] has one for each image.
  """
  is_normal = model.null_noise == "normal"
  draw = jax.random.normal if is_normal else jax.random.uniform
  return jax.vmap(lambda key: draw(key, shape[1:]))(keys)


@jax.named_scope("denoiser")
def predict(
  model: Model,
  variables: Variables,
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
  model: Model,
  variables: Variables,
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
