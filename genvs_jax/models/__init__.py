"""The three parameterised networks, as Flax Linen leaves, chosen by name."""

import jax.numpy as jnp

from genvs_jax.models import image_v1
from genvs_jax.models import radiance_field
from genvs_jax.models import resnet_unet

ENCODERS = {"resnet34_unet": resnet_unet.ResNetUNet}
DENOISERS = {"image_v1": image_v1.ImageV1}


def _choose(registry: dict, name: str, field: str):
  if name not in registry:
    raise ValueError(
      f"{field} is {name!r}, expected one of {', '.join(sorted(registry))}"
    )
  return registry[name]


def build_encoder(config):
  """The encoder of `config.model`: [n,H,W,3] -> [n,H,W,D,C]."""
  encoder = config.model.encoder
  return _choose(ENCODERS, encoder.name, "model.encoder.name")(
    channels=config.model.volume_channels,
    depth_planes=config.model.depth_planes,
    trunk_width=encoder.trunk_width,
    stage_sizes=tuple(encoder.stage_sizes),
    decoder_width=encoder.decoder_width,
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
  return _choose(DENOISERS, denoiser.name, "model.denoiser.name")(
    channels=tuple(denoiser.channels),
    depths=tuple(denoiser.depths),
    attention=tuple(denoiser.attention),
    embedding=denoiser.embedding,
    dropout=denoiser.dropout,
    dtype=jnp.dtype(config.model.dtype),
  )
