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

from genvs_jax.geometry import cameras
from genvs_jax.geometry import rendering
from genvs_jax.geometry import unit_cube
from genvs_jax.geometry import volume_lookup
from genvs_jax.models import camera_channels
from genvs_jax.models import cross_views
from genvs_jax.models import layers
from genvs_jax.models import radiance_field

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
    image_skip: whether images are added to the volumes' first three channels.
    view_encoder: of the denoiser's attention to input views; None for none.
    guide: of the denoiser in variables' part "guide"; None for none.
    lookup: one of `volume_lookup.FORMS`.
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
  image_skip: bool = False
  view_encoder: cross_views.ViewEncoder | None = None
  guide: Any = None
  lookup: str = "auto"


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
    noise: [B,V,H,W,3] added to the ImageNet-normalised images that the network
      sees, or None.
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
  if model.image_skip:
    volumes += skip_volumes(model, images, volumes)
  return volumes, {**buffers, **updated}


def skip_volumes(
  model: Model, images: jax.Array, volumes: jax.Array
) -> jax.Array:
  """What images add to their volumes [B,V,H,W,D,C], beside the encoder: each
  pixel's colour all along its ray, in the channels that the field passes on as
  RGB.

  Returns:
    [B,V,H,W,1,C] with zeros in the other channels.
  """
  if model.flip_input:
    images = jnp.flip(images, -3)
  # The field's activation follows.
  colours = radiance_field.INVERSES[model.field.feature_activation](images)
  others = [(0, 0)] * 4 + [(0, volumes.shape[-1] - 3)]
  return jnp.pad(colours, others)[..., None, :].astype(volumes.dtype)


@jax.named_scope("render")
def render_features(
  model: Model,
  variables: Variables,
  inputs: InputViews,
  poses: jax.Array,
  uniforms: rendering.Uniforms = rendering.Uniforms(None, None),
  density_channels: int | None = None,
) -> FeatureRender:
  """Renders feature images at target cameras.

  Args:
    model: the model.
    variables: of all parts.
    inputs: the encoded input views.
    poses: [B,Q,4,4] camera-to-world of the views to render.
    uniforms: random numbers [B,Q*h*w,samples] of training, in any order; by
      default none.
    density_channels: as for `rendering.render_rays`.
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
      density_channels,
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
    return volume_lookup.trilinear_lookup(
      volume, at, model.frustum.align_corners, model.lookup
    )

  x = jax.vmap(jax.vmap(lookup))(inputs.volumes, uvw)  # [B,V,P,C]
  # A view counts for a point if it is in use and its volume covers the point.
  visible = inside & inputs.mask[..., None]
  with layers.products(model.precision):
    density, features = model.field.apply(variables["field"], x, visible)
  return (
    density.reshape(batch, rays, samples),
    features.reshape(batch, rays, samples, -1),
  )
