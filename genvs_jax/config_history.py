"""Configs that older versions wrote, under today's names.

A checkpoint carries its config; what it was called and what was not there yet
is put right here, once, when it is read.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

# Names of fields in configs that older versions wrote, and what they are now.
RENAMED = {
  "diffusion.moves": "diffusion.schedule",
  "diffusion.unconditional": "diffusion.null_noise",
  "objective.weights": "objective.weighting",
  "objective.depth": "objective.depth_prior",
  "objective.augmentation_kinds": "objective.augmentation_probability",
  "init_from.weights": "init_from.params",
  "train.sheet_every": "train.image_grid_every",
  "train.sheet_scenes": "train.image_grid_scenes",
  "sampler.weights": "sampler.params",
  "rollout.same_noise": "rollout.noise",
  "sample.progress": "sample.trajectories",
  "evaluate.weights": "evaluate.metric_weights",
  "evaluate.spread": "evaluate.spread_views",
}
# Fields that older versions did not have, and what their runs did.
ADDED = {
  "data.name": "",
  "data.synthetic.markings": True,
  "data.stored_size": 0,
  "model.precision": "default",
  "model.denoiser.geometry": (),
  "model.denoiser.cross_views": False,
  "diffusion.target": "image",
  "diffusion.feature_mean": 0.0,
  "diffusion.feature_std": 1.0,
  "diffusion.units": "image",
  "objective.feature_gradient": 1.0,
  "objective.gradient_reaches": "render",
  "objective.perceptual": 0.0,
  "objective.perceptual_metric": "lpips_alex",
  "train.render_steps": 0,
  "train.one_view_steps": 0,
  "model.encoder.noise_told": False,
  "model.encoder.image_skip": False,
  "rollout.drawn_noise": 0.0,
  "rollout.anchors": 6,
  "rollout.passes": 1,
  "sampler.guide": "",
  "rollout.noise": "own",
  "photos.background": "alpha",
  "sample.film": "side_by_side",
  "sample.point_colours": "samples",
  "evaluate.field_fit": True,
  "evaluate.view_list": "",
  "frustum.bounds": "config",
  "augment.mirror": 0.0,
  "augment.roll": 0.0,
  "augment.focal": 0.0,
  "augment.scale": 0.0,
  "augment.hue": 0.0,
  "augment.gamma": 0.0,
  "augment.background": 0.0,
  "data.meshes.image_size": 128,
  "data.meshes.views": 50,
  "data.meshes.region": "sphere",
  "data.meshes.distance": 1.3,
  "data.meshes.up": "auto",
  "data.meshes.crease": 35.0,
  "data.meshes.lights": ((0.35, 0.25, 0.90, 0.38),),
  "data.meshes.ambient": 0.62,
  "data.meshes.occlusion_rays": 0,
  "data.meshes.splits": "",
  "data.meshes.held_out": 0.1,
  "data.meshes.seed": 0,
}
# Values that were renamed with them.
_RENAMED_VALUES: dict[str, dict[Any, Any]] = {
  "init_from.params": {"params": "raw"},
  "sampler.params": {"params": "raw"},
  "rollout.noise": {True: "screen", False: "own"},
}


def from_dict(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """The inverse of `config_fields.to_dict`; old names become today's."""

  def tuples(value):
    if isinstance(value, dict):
      return {k: tuples(v) for k, v in value.items()}
    return tuple(tuples(v) for v in value) if isinstance(value, list) else value

  config = ml_collections.ConfigDict(tuples(values))
  for old, new in RENAMED.items():
    section, _, field = old.rpartition(".")
    parent = config.get(section)
    if parent is not None and field in parent:
      value = parent[field]
      del parent[field]
      new_values = _RENAMED_VALUES.get(new, {})
      parent[new.rpartition(".")[2]] = new_values.get(value, value)
  for name, value in ADDED.items():
    first, *path, field = name.split(".")
    if first not in config and "train" in config:  # a whole config
      config[first] = ml_collections.ConfigDict()
    parent = config.get(first)
    if parent is None:
      continue
    for section in path:
      if section not in parent:
        parent[section] = ml_collections.ConfigDict()
      parent = parent[section]
    if field not in parent:
      parent[field] = value
  return config
