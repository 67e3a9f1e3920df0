"""What every field of a config decides.

Whoever has to treat fields differently asks this table: a run that resumes, a
warm start, a conversion, an override beside a checkpoint, a digest that tells
results apart. Fields are named as on the command line, `section.field`; what
they mean and their defaults stand in `configs/base.py`.
"""

import json
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import ml_collections

# What the weights mean: a checkpoint's own value holds wherever it is used.
MEANING = "meaning"
# What a state holds: a run resumes only if these are what they were.
STATE = "state"
# How a run trains; nothing about a checkpoint that is there.
TRAINING = "training"
# What a view drawn with a checkpoint looks like.
PICTURE = "picture"
# What is drawn and scored of a checkpoint, view by view the same pictures.
SCORE = "score"
# Where files lie, and how much is done at a time: changes no result.
HANDLING = "handling"

_FIELDS_BY_ROLE = {
  MEANING: """
    model.image_size model.image_range model.input_views model.volume_channels
    model.depth_planes model.feature_channels
    model.encoder.name model.encoder.norm model.encoder.trunk_width
    model.encoder.stage_sizes model.encoder.decoder_width
    model.encoder.noise_told model.encoder.image_skip
    model.field.width model.field.depth model.field.activation
    model.field.density_activation model.field.feature_activation
    model.field.skip model.field.aggregate
    model.denoiser.name model.denoiser.channels model.denoiser.depths
    model.denoiser.attention model.denoiser.embedding
    model.denoiser.conditional model.denoiser.augmentation
    model.denoiser.geometry model.denoiser.cross_views
    frustum.kind frustum.near frustum.far frustum.bounds frustum.min_near
    frustum.flip_input
    diffusion.target diffusion.sigma_data diffusion.feature_mean
    diffusion.feature_std diffusion.units diffusion.null_noise
  """,
  STATE: "objective.name optimizer.frozen train.ema",
  TRAINING: """
    augment.mirror augment.roll augment.focal augment.scale augment.hue
    augment.gamma augment.background
    model.denoiser.dropout
    diffusion.log_mean diffusion.log_std diffusion.schedule
    objective.denoising objective.weighting objective.perceptual
    objective.perceptual_metric objective.rgb objective.rgb_input
    objective.render_input objective.opacity objective.depth_prior
    objective.depth_consistency objective.opacity_consistency
    objective.first_view_world objective.augmentation
    objective.augmentation_probability objective.input_noise_probability
    objective.input_noise_max objective.conditioning_dropout
    objective.feature_gradient objective.gradient_reaches
    init_from.encoder init_from.field init_from.denoiser init_from.params
    train.steps train.render_steps train.one_view_steps train.batch_size
    train.target_views train.accumulation train.max_skipped
    train.ema_half_life train.ema_ramp_up train.ema_power train.ema_max_decay
    optimizer.encoder_rate optimizer.field_rate optimizer.denoiser_rate
    optimizer.warmup optimizer.schedule optimizer.period optimizer.final_rate
    optimizer.b1 optimizer.b2 optimizer.eps optimizer.weight_decay
    optimizer.clip_norm
    checkpoint.every checkpoint.keep_latest checkpoint.keep_every
    checkpoint.best_metric validation.scenes validation.sigmas
  """,
  PICTURE: """
    seed model.resize model.dtype model.precision
    rendering.size rendering.coarse_samples rendering.fine_samples
    rendering.upsampling
    sampler.name sampler.steps sampler.sigma_min sampler.sigma_max
    sampler.churn sampler.noise_scale sampler.params sampler.guidance
    sampler.guidance_interval sampler.guide
  """,
  SCORE: """
    rollout.policy rollout.random_views rollout.nearest_views
    rollout.bank_dtype rollout.noise rollout.drawn_noise
    rollout.anchors rollout.passes
    sample.split sample.scene sample.scenes sample.input_views sample.path
    sample.frames sample.elevation sample.unconditional sample.trajectories
    sample.point_colours sample.mesh_resolution sample.mesh_level
    photos.fit photos.axes photos.poses photos.scale photos.elevation
    photos.distance photos.fov photos.background
    evaluate.split evaluate.input_views evaluate.view_list evaluate.targets
    evaluate.spread_views evaluate.min_angle evaluate.samples
    evaluate.baselines evaluate.pictures
  """,
  HANDLING: """
    modes compilation_cache compilation_cache_gib mesh.replicas mesh.shards
    data.dataset data.name data.data_dir data.source data.url data.near data.far
    data.stored_size data.workers data.threads data.prefetch
    data.synthetic.train_scenes data.synthetic.validation_scenes
    data.synthetic.test_scenes data.synthetic.views data.synthetic.image_size
    data.synthetic.seed data.synthetic.markings
    data.meshes.image_size data.meshes.views data.meshes.region
    data.meshes.distance data.meshes.up data.meshes.crease data.meshes.lights
    data.meshes.ambient data.meshes.occlusion_rays data.meshes.splits
    data.meshes.held_out data.meshes.seed
    model.encoder.remat model.denoiser.remat rendering.rays_per_chunk
    train.log_every train.image_grid_every train.image_grid_scenes
    train.profile
    rollout.bank_gib sample.film sample.fps
    evaluate.scenes evaluate.rollouts evaluate.field_fit evaluate.metric_weights
    evaluate.batch_size evaluate.batch_views
  """,
}
ROLES = {
  field: role
  for role, fields in _FIELDS_BY_ROLE.items()
  for field in fields.split()
}

# Sections that a checkpoint brings along when it is used; the others are
# those of --config.
CHECKPOINT_SECTIONS = ("model", "frustum", "rendering", "diffusion")

# Fields of what the weights mean that no array's shape shows, by the parts
# that a warm start must find agreed.
_BOTH = ("encoder", "field")
_AGREED = {
  "model.image_range": ("encoder", "field", "denoiser"),
  "diffusion.target": ("denoiser",),
  "diffusion.sigma_data": ("denoiser",),
  "diffusion.feature_mean": ("denoiser",),
  "diffusion.feature_std": ("denoiser",),
  "model.denoiser.geometry": ("denoiser",),
  "model.encoder.image_skip": ("encoder",),
  "frustum.kind": _BOTH,
  "frustum.flip_input": _BOTH,
  "frustum.near": _BOTH,
  "frustum.far": _BOTH,
  "frustum.bounds": _BOTH,
  "frustum.min_near": _BOTH,
  "model.field.skip": ("field",),
  "model.field.aggregate": ("field",),
  "model.field.activation": ("field",),
  "model.field.density_activation": ("field",),
  "model.field.feature_activation": ("field",),
}

_OF_CONDITIONING = (
  "model.denoiser.geometry",
  "diffusion.feature_mean",
  "diffusion.feature_std",
)

# A field has an effect only if another one, its selector, is one of some
# values.
_ACTS_IF = {
  **{
    field: ("data.dataset", (dataset,))
    for section, dataset in (
      ("data.synthetic.", "synthetic_cars"),
      ("data.meshes.", "meshes"),
    )
    for field in ROLES
    if field.startswith(section)
  },
  "data.near": ("data.dataset", ("folder", "nerf")),
  "data.far": ("data.dataset", ("folder", "nerf")),
  "data.url": (
    "data.dataset",
    ("cars", "chairs", "folder", "nerf", "nmr", "zero123"),
  ),
  "model.encoder.decoder_width": ("model.encoder.name", ("resnet34_unet",)),
  "model.denoiser.augmentation": ("model.denoiser.name", ("ddpmpp",)),
  "frustum.near": ("frustum.kind", ("near_far",)),
  "frustum.far": ("frustum.kind", ("near_far",)),
  "frustum.min_near": ("frustum.kind", ("unit_cube",)),
  "train.ema_half_life": ("train.ema", ("half_life",)),
  "train.ema_ramp_up": ("train.ema", ("half_life",)),
  "train.ema_power": ("train.ema", ("inverse_power",)),
  "train.ema_max_decay": ("train.ema", ("inverse_power",)),
  "optimizer.period": ("optimizer.schedule", ("cosine", "cosine_restarts")),
  "optimizer.final_rate": ("optimizer.schedule", ("cosine", "cosine_restarts")),
  "validation.sigmas": ("objective.name", ("joint", "diffusion")),
  "sampler.churn": ("sampler.name", ("euler", "heun")),
  "sampler.noise_scale": ("sampler.name", ("euler", "heun")),
  "rollout.random_views": ("rollout.policy", ("reference",)),
  "rollout.nearest_views": ("rollout.policy", ("nearest", "anchors")),
  "rollout.anchors": ("rollout.policy", ("anchors",)),
  "rollout.passes": (
    "rollout.policy",
    ("reference", "nearest", "stochastic", "anchors"),
  ),
  "sample.elevation": ("sample.path", ("orbit",)),
  "evaluate.spread_views": ("evaluate.targets", ("spread",)),
  "evaluate.min_angle": ("evaluate.targets", ("spread",)),
} | {
  f"objective.{name}": ("objective.name", objectives)
  for objectives, names in (
    (
      ("joint", "nerf"),
      "rgb rgb_input render_input opacity depth_prior depth_consistency"
      " opacity_consistency first_view_world input_noise_probability"
      " input_noise_max",
    ),
    (
      ("joint",),
      "denoising conditioning_dropout feature_gradient gradient_reaches",
    ),
    (
      ("joint", "diffusion"),
      "weighting perceptual augmentation augmentation_probability",
    ),
  )
  for name in names.split()
}

# Fields that have no effect while another one, a number, switches off what they
# belong to: by field, that number's name and the value that does.
_IDLE_AT = {
  "sampler.guidance_interval": ("sampler.guidance", 1.0),
  "sampler.guide": ("sampler.guidance", 1.0),
  "objective.augmentation_probability": ("objective.augmentation", 0.0),
  "objective.perceptual_metric": ("objective.perceptual", 0.0),
  "objective.gradient_reaches": ("objective.feature_gradient", 0.0),
  "train.one_view_steps": ("train.render_steps", 0),
  "objective.input_noise_max": ("objective.input_noise_probability", 0.0),
}


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
  """{"section.field": value} as plain JSON types; tuples become lists."""
  fields: dict[str, Any] = {}

  def visit(tree: Mapping[str, Any], prefix: str) -> None:
    for name, value in tree.items():
      if isinstance(value, Mapping):
        visit(value, f"{prefix}{name}.")
      else:
        fields[prefix + name] = value

  visit(to_dict(config), "")
  return fields


def to_dict(config: Any) -> dict[str, Any]:
  """A config as plain JSON types."""
  if isinstance(config, ml_collections.ConfigDict):
    return json.loads(config.to_json())
  return dict(config)


def of_roles(config: Any, *roles: str) -> dict[str, Any]:
  """{"section.field": value} of the fields that have one of some roles."""
  return {k: v for k, v in flatten(config).items() if ROLES[k] in roles}


def changed(config: Any, checkpoint_config: Any) -> tuple[list[str], list[str]]:
  """How a config differs from that of a checkpoint whose run is to go on.

  Returns:
    differences that forbid it, and the others, each as "name = value of the
    checkpoint, here value". Fields that one of the two lacks are left out.
  """
  ours, theirs = flatten(config), flatten(checkpoint_config)
  forbidden: list[str] = []
  allowed: list[str] = []
  for name in sorted(ours.keys() & theirs.keys()):
    if ours[name] == theirs[name]:
      continue
    fixed = ROLES[name] in (MEANING, STATE)
    if name == "train.ema":
      # Averages by different rules are interchangeable; having none is not.
      fixed = "none" in (ours[name], theirs[name])
    difference = f"{name} = {theirs[name]!r}, here {ours[name]!r}"
    (forbidden if fixed else allowed).append(difference)
  return forbidden, allowed


def disagreements(
  config: Any, checkpoint_config: Any, part: str
) -> dict[str, tuple[Any, Any]]:
  """{field: (value here, value there)} that keep a part from being taken over.

  Args:
    config: of the run that starts.
    checkpoint_config: of the checkpoint that the part comes from.
    part: encoder, field or denoiser.
  """
  ours, theirs = flatten(config), flatten(checkpoint_config)
  # A denoiser without conditioning has none of its options either.
  free = theirs["model.denoiser.conditional"] is False
  ignored = _OF_CONDITIONING if part == "denoiser" and free else ()
  return {
    name: (ours[name], theirs[name])
    for name, parts in _AGREED.items()
    if part in parts
    and name not in ignored
    and acts(config, name)
    and ours[name] != theirs[name]
  }


def acts(config: Any, field: str) -> bool:
  """Whether a field has an effect, or its selector makes it idle."""
  if field not in _ACTS_IF:
    return True
  selector, values = _ACTS_IF[field]
  return flatten(config)[selector] in values


def check_overrides(config: Any, overrides: Iterable[str]) -> None:
  """Refuses fields that were set and have no effect.

  Args:
    config: with the overrides in it.
    overrides: names of the fields that were set.

  Raises:
    ValueError: names the first such field and what would give it an effect.
  """
  if flatten(config)["data.source"] and "data.url" in overrides:
    raise ValueError(
      "data.url has no effect beside data.source, which is a local path: leave"
      " one of them out"
    )
  for field in overrides:
    if not acts(config, field):
      selector, values = _ACTS_IF[field]
      names = " or ".join(repr(v) for v in values)
      raise ValueError(
        f"{field} has no effect with {selector} ="
        f" {flatten(config)[selector]!r}: leave it out, or set {selector} to"
        f" {names}"
      )
    number, idle = _IDLE_AT.get(field, ("", 0.0))
    # What is switched off together with its number contradicts nothing.
    is_off = not flatten(config)[field]
    if number and flatten(config)[number] == idle and not is_off:
      raise ValueError(
        f"{field} has no effect with {number} = {idle:g}: leave it out, or set"
        f" {number} to another number"
      )


def check_training_overrides(overrides: Iterable[str]) -> None:
  """Refuses fields that only training reads, where a checkpoint is used.

  Raises:
    ValueError: names the first such field.
  """
  for field in overrides:
    if ROLES[field] in (STATE, TRAINING):
      raise ValueError(
        f"{field} has no effect on a trained checkpoint: leave it out, or set"
        " it with --mode=train"
      )


def with_checkpoint(
  config: ml_collections.ConfigDict,
  checkpoint_config: ml_collections.ConfigDict,
  overrides: Iterable[str],
) -> ml_collections.ConfigDict:
  """The config with which a checkpoint is used.

  What the weights mean is the checkpoint's; how they are rendered and in which
  precision too, unless it is overridden; everything else is `config`'s.

  Args:
    config: of the command.
    checkpoint_config: of the checkpoint.
    overrides: names of the fields of `config` that were set by hand.

  Raises:
    ValueError: for an override that contradicts what the weights mean.
  """
  result = config.copy_and_resolve_references()
  for section in CHECKPOINT_SECTIONS:
    result[section] = checkpoint_config[section]
  result = result.copy_and_resolve_references()
  ours, theirs = flatten(config), flatten(checkpoint_config)
  for field in overrides:
    if field.split(".")[0] not in CHECKPOINT_SECTIONS:
      continue
    if ROLES[field] == MEANING and ours[field] != theirs[field]:
      raise ValueError(
        f"{field} is {ours[field]!r}, but the checkpoint's weights were trained"
        f" with {theirs[field]!r}: leave it out"
      )
    *path, name = field.split(".")
    target, source = result, config
    for step in path:
      target, source = target[step], source[step]
    target[name] = source[name]
  return result
