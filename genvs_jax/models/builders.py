"""From a config to a `pipeline.Model` and its first variables."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from genvs_jax.diffusion import augmentation
from genvs_jax.geometry import cameras
from genvs_jax.geometry import rendering
from genvs_jax.geometry import unit_cube
from genvs_jax.models import camera_channels
from genvs_jax.models import cross_views
from genvs_jax.models import ddpmpp
from genvs_jax.models import deeplabv3plus
from genvs_jax.models import denoising
from genvs_jax.models import image_v1
from genvs_jax.models import layers
from genvs_jax.models import pipeline
from genvs_jax.models import radiance_field
from genvs_jax.models import resnet
from genvs_jax.runtime import messages

# The parts that each objective needs; a state or a checkpoint has no others.
_PARTS_OF_OBJECTIVE = {
  "joint": pipeline.PARTS,
  "nerf": ("encoder", "field"),
  "diffusion": ("denoiser",),
}
# What is folded into the key of initialisation; a part keeps its number.
_INIT_NUMBERS = {"encoder": 0, "field": 1, "denoiser": 2}
DTYPES = ("float32", "bfloat16")
PRECISIONS = ("default", "high", "highest")
TARGETS = ("image", "residual")  # what a denoiser draws
NULL_NOISES = ("normal", "uniform")
UNITS = ("image", "sigma_data")  # of noise levels in a config


def build_model(config: ml_collections.ConfigDict) -> pipeline.Model:
  """The model that a config describes.

  Raises:
    ValueError: if sizes or names do not fit together.
  """
  null_noise = config.diffusion.null_noise
  messages.check_choice("diffusion.null_noise", null_noise, NULL_NOISES)
  diffusion = config.diffusion
  messages.check_choice("diffusion.target", diffusion.target, TARGETS)
  messages.check_choice("diffusion.units", diffusion.units, UNITS)
  for name in ("sigma_data", "feature_std"):
    if not diffusion[name] > 0:
      raise ValueError(
        f"diffusion.{name} is {diffusion[name]}, expected a number above 0"
        " (--mode=train measures it where sigma_data is 0)"
      )
  messages.check_choice("model.dtype", config.model.dtype, DTYPES)
  messages.check_choice("model.precision", config.model.precision, PRECISIONS)
  if len(config.model.image_range) != 2:
    raise ValueError(
      f"model.image_range is {config.model.image_range}, expected (low, high)"
    )
  # Five halvings on the way down, and five doublings back, meet the same sizes.
  size = config.model.image_size
  if size % 32:
    raise ValueError(
      f"model.image_size is {size}, expected a multiple of 32 (the encoder"
      " halves it five times)"
    )
  _check_samples(config)
  conditional = config.model.denoiser.conditional
  if diffusion.target == "residual" and not conditional:
    raise ValueError(
      "diffusion.target is 'residual', but model.denoiser.conditional is False:"
      " without a render there is nothing to add to"
    )
  geometry = tuple(config.model.denoiser.geometry)
  for name in geometry:
    messages.check_choice(
      "model.denoiser.geometry", name, camera_channels.CHANNELS
    )
  channels = config.model.feature_channels
  channels += camera_channels.count(geometry)
  return pipeline.Model(
    encoder=build_encoder(config),
    field=build_field(config),
    denoiser=build_denoiser(config),
    frustum=build_frustum(config),
    counts=rendering.SampleCounts(
      config.rendering.coarse_samples, config.rendering.fine_samples
    ),
    image_size=size,
    render_size=config.rendering.size,
    image_range=tuple(config.model.image_range),
    flip_input=config.frustum.flip_input,
    upsampling=config.rendering.upsampling,
    rays_per_chunk=config.rendering.rays_per_chunk,
    sigma_data=diffusion.sigma_data,
    target=diffusion.target,
    geometry=geometry,
    feature_channels=config.model.feature_channels,
    feature_mean=diffusion.feature_mean,
    feature_std=diffusion.feature_std,
    # Without features the denoiser draws any object.
    denoiser_features=channels if conditional else 0,
    null_noise=null_noise,
    precision=config.model.precision,
    noise_told=config.model.encoder.noise_told,
    image_skip=config.model.encoder.image_skip,
    view_encoder=build_view_encoder(config),
  )


def _check_samples(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError for rays that no samples could be placed on."""
  # The second pass draws from bins between the midpoints of the first's
  # samples, and has one bin from three of them on.
  messages.check_at_least(
    "rendering.coarse_samples", config.rendering.coarse_samples, 3
  )
  messages.check_at_least(
    "rendering.fine_samples", config.rendering.fine_samples, 1
  )
  frustum = config.frustum
  if frustum.kind == "near_far" and not 0 < frustum.near < frustum.far:
    raise ValueError(
      f"frustum.near is {frustum.near} and frustum.far {frustum.far}, expected"
      " 0 < near < far"
    )


def parts_of(objective: str) -> tuple[str, ...]:
  """The parts of the model that an objective trains or freezes."""
  messages.check_choice("objective.name", objective, _PARTS_OF_OBJECTIVE)
  return _PARTS_OF_OBJECTIVE[objective]


def check_objective(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError for an objective that the model cannot serve."""
  values = config.objective
  messages.check_choice(
    "objective.gradient_reaches", values["gradient_reaches"], denoising.REACHES
  )
  # A warped image is told to the denoiser, which otherwise draws warped ones.
  denoiser = config.model.denoiser
  if values["augmentation"] and not (
    denoiser.name == "image_v1" or denoiser.augmentation
  ):
    raise ValueError(
      f"objective.augmentation is {values['augmentation']}, but"
      " model.denoiser.augmentation is False: the denoiser would draw warped"
      " images; set one of them"
    )
  rays = {"directions", "pluecker"} & set(config.model.denoiser.geometry)
  if values["first_view_world"] and rays:
    raise ValueError(
      f"model.denoiser.geometry has {', '.join(sorted(rays))}, but"
      " objective.first_view_world trains in another world than views are drawn"
      " in: leave one of them out"
    )
  # A joint run hands its denoiser what it renders.
  if values["name"] == "joint" and not denoiser.conditional:
    raise ValueError(
      "objective.name is 'joint', but model.denoiser.conditional is False: a"
      " denoiser that takes no features is trained by 'diffusion'"
    )
  # Renders are composited over white, as the targets are.
  if values["rgb_input"] and config.augment.background:
    raise ValueError(
      f"augment.background is {config.augment.background}, which colours the"
      f" input views, but objective.rgb_input is {values['rgb_input']} and"
      " compares them with a render on white: set one of them to 0"
    )
  if config.diffusion.target == "residual" and config.objective.name != "joint":
    raise ValueError(
      "diffusion.target is 'residual', which needs a render to add to: expected"
      f" objective.name 'joint', found {config.objective.name!r}"
    )
  # One input view has nothing to agree with.
  compares_views = values["depth_consistency"] or values["opacity_consistency"]
  if compares_views and config.model.input_views < 2:
    raise ValueError(
      "objective.depth_consistency and opacity_consistency compare input views,"
      f" expected model.input_views of 2 or more, found"
      f" {config.model.input_views}"
    )


def init_variables(
  model: pipeline.Model, key: jax.Array, parts: tuple[str, ...] = pipeline.PARTS
) -> pipeline.Variables:
  """Freshly initialised variables of some parts."""
  size, channels = model.image_size, model.encoder.channels
  image = jnp.zeros((1, size, size, 3))

  # Shapes alone matter here: one image, one point in one view.
  def init(part: str):
    part_key = jax.random.fold_in(key, _INIT_NUMBERS[part])
    if part == "encoder":
      channels_in = 3 + model.noise_told
      pictures = jnp.zeros((1, size, size, channels_in))
      return model.encoder.init(part_key, pictures, train=False)
    if part == "field":
      point, visible = jnp.zeros((1, 1, 1, channels)), jnp.ones((1, 1, 1), bool)
      return model.field.init(part_key, point, visible)
    views, extra = None, {}
    if model.view_encoder is not None:
      tokens, width = cross_views.key_shape(model.view_encoder, size)
      directions = jnp.zeros((1, tokens, 3))
      views_key = jax.random.fold_in(part_key, 1)
      extra = model.view_encoder.init(views_key, image, directions)["params"]
      views = cross_views.Views(
        jnp.zeros((1, 1, tokens, width)),
        jnp.ones((1, 1), bool),
        jnp.eye(4)[None],
        jnp.ones((1, 4)),
      )
    variables = model.denoiser.init(
      part_key,
      image,
      jnp.ones((1,)),
      jnp.zeros((1, size, size, model.denoiser_features)),
      jnp.zeros((1, augmentation.LABEL_SIZE)),
      train=False,
      **({} if views is None else {"views": views}),
    )
    if extra:
      variables = {
        **variables,
        "params": {**variables["params"], "views": extra},
      }
    return variables

  return {part: init(part) for part in parts}


def intrinsics_width(config: ml_collections.ConfigDict) -> int:
  """Numbers of a view's intrinsics: 6 with near and far of its scene.

  Raises:
    ValueError: for another `frustum.bounds`, or a frustum without bounds.
  """
  frustum = config.frustum
  messages.check_choice("frustum.bounds", frustum.bounds, BOUNDS)
  if frustum.bounds == "scene" and frustum.kind != "near_far":
    raise ValueError(
      f"frustum.bounds is 'scene', but frustum.kind {frustum.kind!r} has no"
      " near and far: set it to near_far"
    )
  return 6 if frustum.bounds == "scene" else 4


def batch_spec(
  config: ml_collections.ConfigDict,
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and dtypes of the global batches of training."""
  count, size = config.train.batch_size, config.model.image_size
  views = config.model.input_views + config.train.target_views
  shapes = {
    "images": ((count, views, size, size, 3), np.uint8),
    "poses": ((count, views, 4, 4), np.float32),
    "intrinsics": ((count, views, intrinsics_width(config)), np.float32),
    "scene": ((count,), np.int32),
  }
  return {k: jax.ShapeDtypeStruct(*spec) for k, spec in shapes.items()}


def build_encoder(config: ml_collections.ConfigDict) -> nn.Module:
  """The encoder of `config.model`: [n,H,W,3] -> [n,H,W,D,C]."""
  # The U-Net and DeepLab have most options in common; the rest are in ENCODERS.
  encoder = config.model.encoder
  messages.check_choice("model.encoder.name", encoder.name, ENCODERS)
  messages.check_choice("model.encoder.norm", encoder.norm, layers.NORMS)
  return ENCODERS[encoder.name](encoder)(
    channels=config.model.volume_channels,
    depth_planes=config.model.depth_planes,
    trunk_width=encoder.trunk_width,
    stage_sizes=tuple(encoder.stage_sizes),
    norm=encoder.norm,
    remat=encoder.remat,
    dtype=jnp.dtype(config.model.dtype),
  )


def build_field(
  config: ml_collections.ConfigDict,
) -> radiance_field.RadianceField:
  """The radiance field of `config.model`."""
  field = config.model.field
  messages.check_choice(
    "model.field.aggregate", field.aggregate, radiance_field.AGGREGATES
  )
  for name in ("activation", "density_activation", "feature_activation"):
    messages.check_choice(
      f"model.field.{name}", field[name], radiance_field.ACTIVATIONS
    )
  if config.model.encoder.image_skip:
    messages.check_choice(
      "model.field.feature_activation, with model.encoder.image_skip",
      field.feature_activation,
      radiance_field.INVERSES,
    )
    if not field.skip:
      raise ValueError(
        "model.encoder.image_skip is True, but model.field.skip is False: the"
        " field would not pass on the colours; set it to True"
      )
  return radiance_field.RadianceField(
    features=config.model.feature_channels,
    width=field.width,
    depth=field.depth,
    activation=field.activation,
    density_activation=field.density_activation,
    feature_activation=field.feature_activation,
    aggregate=field.aggregate,
    skip=field.skip,
    dtype=jnp.dtype(config.model.dtype),
  )


def build_denoiser(config: ml_collections.ConfigDict) -> nn.Module:
  """The denoiser of `config.model`."""
  denoiser = config.model.denoiser
  messages.check_choice("model.denoiser.name", denoiser.name, DENOISERS)
  levels = denoiser.channels, denoiser.depths, denoiser.attention
  if len({len(values) for values in levels}) != 1:
    counts = ", ".join(str(len(values)) for values in levels)
    raise ValueError(
      f"model.denoiser.channels, depths and attention have {counts} levels,"
      " expected the same number"
    )
  return DENOISERS[denoiser.name](denoiser)(
    channels=tuple(denoiser.channels),
    depths=tuple(denoiser.depths),
    attention=tuple(denoiser.attention),
    embedding=denoiser.embedding,
    dropout=denoiser.dropout,
    remat=denoiser.remat,
    dtype=jnp.dtype(config.model.dtype),
  )


def build_view_encoder(
  config: ml_collections.ConfigDict,
) -> cross_views.ViewEncoder | None:
  """Of `config.model.denoiser.cross_views`; None without it.

  Raises:
    ValueError: for a denoiser that has nowhere to attend.
  """
  denoiser = config.model.denoiser
  if not denoiser.cross_views:
    return None
  levels = zip(denoiser.depths, denoiser.attention, strict=True)
  count = sum(2 * depth for depth, attends in levels if attends)
  if denoiser.name != "image_v1" or not denoiser.conditional or not count:
    raise ValueError(
      "model.denoiser.cross_views is True, expected a conditional image_v1 with"
      f" attention at some level, found name {denoiser.name!r}, conditional"
      f" {denoiser.conditional} and attention {tuple(denoiser.attention)}"
    )
  return cross_views.ViewEncoder(count, jnp.dtype(config.model.dtype))


def build_frustum(config: ml_collections.ConfigDict) -> pipeline.Frustum:
  """From `config.frustum` and `config.model.image_size`."""
  # The cube's bounds are fixed, [-1,1]^3; near and far belong to the pyramid.
  frustum = config.frustum
  messages.check_choice("frustum.kind", frustum.kind, FRUSTA)
  if frustum.kind == "unit_cube":
    return unit_cube.UnitCube(frustum.min_near)
  size = config.model.image_size
  return cameras.NearFar(frustum.near, frustum.far, (size, size))


# By name: options of the config -> a constructor that lacks the common ones.
# Greppable registries instead of class names in the config.
BOUNDS = ("config", "scene")  # where near and far come from
ENCODERS: dict[str, Callable[..., Callable]] = {
  "resnet34_unet": lambda options: functools.partial(
    resnet.ResNetUNet, decoder_width=options.decoder_width
  ),
  "deeplabv3plus": lambda options: deeplabv3plus.DeepLabV3Plus,
}
DENOISERS: dict[str, Callable[..., Callable]] = {
  "image_v1": lambda options: image_v1.ImageV1,
  "ddpmpp": lambda options: functools.partial(
    ddpmpp.DDPMpp, augmentation=options.augmentation
  ),
}
FRUSTA = ("near_far", "unit_cube")
