"""Guidance by a worse denoiser (Karras et al. 2024, "Guiding a Diffusion Model
with a Bad Version of Itself").

An earlier checkpoint of the same run, or a smaller one of the same task, makes
the same mistakes more strongly: the sampler goes from its estimate past that of
the better one. Both see the same conditioning, which is why this needs no
conditioning dropout in training.
"""

import dataclasses

import ml_collections

from genvs_jax import config_fields
from genvs_jax.checkpointing import pretrained
from genvs_jax.models import pipeline

PART = "guide"  # of variables: the parameters of the worse denoiser
# What conditions both denoisers, and what both draw.
_SHARED = (
  "model.image_size",
  "model.image_range",
  "model.feature_channels",
  "model.denoiser.geometry",
  "model.denoiser.conditional",
  "diffusion.target",
)


def add_guide(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  variables: pipeline.Variables,
) -> tuple[pipeline.Model, pipeline.Variables]:
  """Model and variables that have the guide of `config.sampler.guide`, if any.

  Raises:
    CheckpointError: if it names no checkpoint.
    ValueError: for a checkpoint without a denoiser, or of another task.
  """
  path = config.sampler.guide
  if not path:
    return model, variables
  guide = pretrained.load(path, params=config.sampler.params)
  if "denoiser" not in guide.variables or "denoiser" not in variables:
    raise ValueError(
      f"sampler.guide is {path!r}, which guides one denoiser by another, but"
      " one of the two checkpoints has none: leave it out"
    )
  if guide.model.view_encoder is not None:
    raise ValueError(
      f"sampler.guide is {path!r}, whose denoiser attends to the input views"
      " (model.denoiser.cross_views), which a guide is not given: choose one"
      " that does not"
    )
  ours = config_fields.flatten(config)
  theirs = config_fields.flatten(guide.config)
  for name in _SHARED:
    if ours[name] != theirs[name]:
      raise ValueError(
        f"sampler.guide is {path!r}, whose {name} is {theirs[name]!r}, expected"
        f" {ours[name]!r}: a guide draws the same from the same"
      )
  model = dataclasses.replace(model, guide=guide.model)
  return model, {**variables, PART: guide.variables["denoiser"]}
