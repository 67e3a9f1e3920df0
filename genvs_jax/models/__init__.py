"""The three parameterised networks, as Flax Linen leaves, chosen by name."""

import functools

import jax.numpy as jnp

from genvs_jax.models import ddpmpp
from genvs_jax.models import deeplabv3plus
from genvs_jax.models import image_v1
from genvs_jax.models import radiance_field
from genvs_jax.models import resnet_unet


def build_encoder(config):
  """The encoder of `config.model`: [n,H,W,3] -> [n,H,W,D,C]."""
  encoder = config.model.encoder
  build = _choose(ENCODERS, encoder.name, "model.encoder.name")(encoder)
  return build(
    channels=config.model.volume_channels,
    depth_planes=config.model.depth_planes,
    trunk_width=encoder.trunk_width,
    stage_sizes=tuple(encoder.stage_sizes),
    norm=encoder.norm,
    remat=encoder.remat,
    dtype=jnp.dtype(config.model.dtype),
  )


def build_field(config) -> radiance_field.RadianceField:
  """The radiance field of `config.model`."""
  field = config.model.field
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


def build_denoiser(config):
  """The denoiser of `config.model`."""
  denoiser = config.model.denoiser
  build = _choose(DENOISERS, denoiser.name, "model.denoiser.name")(denoiser)
  return build(
    channels=tuple(denoiser.channels),
    depths=tuple(denoiser.depths),
    attention=tuple(denoiser.attention),
    embedding=denoiser.embedding,
    dropout=denoiser.dropout,
    remat=denoiser.remat,
    dtype=jnp.dtype(config.model.dtype),
  )


def _choose(registry: dict, name: str, field: str):
  if name not in registry:
    raise ValueError(
      f"{field} is {name!r}, expected one of {', '.join(sorted(registry))}"
    )
  return registry[name]


# By name: options of the config -> a constructor that lacks the common ones.
ENCODERS = {
  "resnet34_unet": lambda options: functools.partial(
    resnet_unet.ResNetUNet, decoder_width=options.decoder_width
  ),
  "deeplabv3plus": lambda options: deeplabv3plus.DeepLabV3Plus,
}
DENOISERS = {
  "image_v1": lambda options: image_v1.ImageV1,
  "ddpmpp": lambda options: functools.partial(
    ddpmpp.DDPMpp, augmentation=options.augmentation
  ),
}
