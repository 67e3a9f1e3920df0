"""encode -> render_features -> denoise: the one place the three networks meet.

`Model` bundles the Linen leaves with the geometry around them; the functions
are pure. `variables` is {part: {"params": .., other collections}} for the
parts encoder, field and denoiser; the collections beside "params" (running
statistics, fixed frequencies) are called buffers. The scopes of the three steps
are what profiles show.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genvs_jax.diffusion import augmentation
from genvs_jax.diffusion import edm
from genvs_jax.geometry import cameras
from genvs_jax.geometry import rendering
from genvs_jax.geometry import unit_cube
from genvs_jax.models import layers
from genvs_jax.runtime import cpu

Variables = dict[str, dict[str, Any]]
Frustum = cameras.NearFar | unit_cube.UnitCube
PARTS = ("encoder", "field", "denoiser")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Model:
  """Networks and the geometry that joins them; hashable, holds no arrays.

  The networks are Linen modules of the contracts below.

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
    sigma_data: EDM's.
    denoiser_features: channels of the feature image that the denoiser takes,
      0 for one that draws any object.
    null_noise: of which `null_features` are made, "normal" or "uniform".
    precision: of the networks' float32 products, see `configs/base.py`.
  """

  encoder: Any
  field: Any
  denoiser: Any
  frustum: Frustum
  counts: rendering.SampleCounts
  image_size: int
  render_size: int
  image_range: tuple[float, float]
  flip_input: bool
  upsampling: str
  rays_per_chunk: int
  sigma_data: float
  denoiser_features: int
  null_noise: str
  precision: str


class InputViews(NamedTuple):
  """What rendering needs of the input views.

  Attributes:
    volumes: [B,V,H,W,D,C].
    poses: [B,V,4,4] camera-to-world.
    intrinsics: [B,4] pixels of the image.
    mask: bool [B,V], the views in use.
  """

  volumes: jax.Array
  poses: jax.Array
  intrinsics: jax.Array
  mask: jax.Array


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


def from_uint8(
  images: jax.Array, image_range: tuple[float, float]
) -> jax.Array:
  """u8 0..255 to float32 in `image_range`."""
  return from_unit(images.astype(jnp.float32) / 255, image_range)


def from_unit(images: jax.Array, image_range: tuple[float, float]) -> jax.Array:
  """From [0,1] to `image_range`."""
  low, high = image_range
  return images * (high - low) + low


def to_unit(images: jax.Array, image_range: tuple[float, float]) -> jax.Array:
  """From `image_range` to [0,1], clipped."""
  low, high = image_range
  return jnp.clip((images - low) / (high - low), 0, 1)


def imagenet_normalize(unit: jax.Array) -> jax.Array:
  """[0,1] to the zero-mean, unit-deviation range of ImageNet networks."""
  return (unit - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)


@jax.named_scope("encoder")
def encode(
  model: Model,
  variables: Variables,
  images: jax.Array,
  noise: jax.Array | None = None,
  train: bool = False,
) -> tuple[jax.Array, dict]:
  """Lifts images into frustum volumes.

  Args:
    model: the model.
    variables: of all parts.
    images: [B,V,H,W,3] in the model's image range.
    noise: [B,V,H,W,3] added to the ImageNet-normalised images, or None.
    train: normalise by batch statistics.

  Returns:
    volumes [B,V,H,W,D,C], and the encoder's buffers, updated when training.
  """
  # Whatever range the model works in, the encoder sees ImageNet's.
  x = imagenet_normalize(to_unit(images, model.image_range))
  if noise is not None:
    x += noise
  # The reference feeds images upside down, so that rows of its volume ascend
  # with its y axis, which points up.
  if model.flip_input:
    x = jnp.flip(x, -3)
  # The encoder knows neither scenes nor views: [B,V,..] -> [B V,..].
  x = x.reshape(-1, *x.shape[2:])
  with _products(model):
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
  intrinsics = cameras.scale_intrinsics(
    inputs.intrinsics, size / model.image_size
  )
  origins, directions = cameras.pixel_rays(
    poses,
    jnp.broadcast_to(intrinsics[:, None], (batch, views, 4)),
    cameras.pixel_centres(size, size),
  )
  # The rays of all views of a scene in a row: [B,Q,h*w,3] -> [B,R,3].
  origins = origins.reshape(batch, -1, 3)
  directions = directions.reshape(batch, -1, 3)
  near, far = model.frustum.ray_bounds(origins, directions)
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

  render = _in_chunks(
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
    flat, inputs.poses, inputs.intrinsics[:, None]
  )

  def lookup(volume, at):
    return rendering.trilinear_lookup(volume, at, model.frustum.align_corners)

  x = jax.vmap(jax.vmap(lookup))(inputs.volumes, uvw)  # [B,V,P,C]
  # A view counts for a point if it is in use and its volume covers the point.
  visible = inside & inputs.mask[..., None]
  with _products(model):
    density, features = model.field.apply(variables["field"], x, visible)
  return (
    density.reshape(batch, rays, samples),
    features.reshape(batch, rays, samples, -1),
  )


def resize_features(model: Model, features: jax.Array) -> jax.Array:
  """Feature images [..,h,w,c] at the size of the image, [..,H,W,c]."""
  size = (model.image_size, model.image_size)
  return layers.resize(features, size, model.upsampling)


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
) -> tuple[jax.Array, jax.Array]:
  """The denoiser network F behind EDM's input scaling.

  Args:
    model: the model.
    variables: of all parts.
    noisy: [B,H,W,3] images plus sigma times unit noise.
    sigma: [B] noise level in image units.
    features: [B,H,W,F] conditioning.
    augment_labels: [B,9], or None for an image that is not warped.
    dropout_key: trains with dropout if not None.

  Returns:
    F [B,H,W,3] and the log-variance [B].
  """
  if augment_labels is None:
    augment_labels = jnp.zeros((len(noisy), augmentation.LABEL_SIZE))
  # The features are not scaled: they are no noisy image.
  c = edm.scalings(sigma[:, None, None, None], model.sigma_data)
  with _products(model):
    return model.denoiser.apply(
      variables["denoiser"],
      noisy * c.inp,
      sigma,
      features,
      augment_labels,
      train=dropout_key is not None,
      rngs=None if dropout_key is None else {"dropout": dropout_key},
    )


def denoise(
  model: Model,
  variables: Variables,
  noisy: jax.Array,
  sigma: jax.Array,
  features: jax.Array,
) -> jax.Array:
  """D(noisy; sigma, features): the estimate of the clean image, [B,H,W,3]."""
  output, _ = predict(model, variables, noisy, sigma, features)
  return edm.denoised(noisy, output, sigma, model.sigma_data)


@contextlib.contextmanager
def _products(model: Model) -> Iterator[None]:
  """How the networks that are traced in here multiply."""
  precision = jax.default_matmul_precision(model.precision)
  with cpu.convolutions_as_products(), precision:
    yield


def _in_chunks(fn: Callable, arrays: tuple, size: int) -> Any:
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
