"""The stages of a run: encoder and field alone, if asked for, then the rest.

A denoiser that trains beside an unfinished renderer spoils it, and learns to
mend flaws that are gone later. With `train.render_steps` the renderer has a
stage of its own, in a folder of the workdir, and is frozen afterwards; what
the denoiser's stage needs to know of it is measured in between.
"""

import contextlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from genvs_jax import config_fields
from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import pretrained
from genvs_jax.data import dataset_builders
from genvs_jax.data import datasets
from genvs_jax.data import loading
from genvs_jax.models import builders
from genvs_jax.models import denoising
from genvs_jax.models import pipeline
from genvs_jax.runtime import processes
from genvs_jax.sampling import view_synthesis
from genvs_jax.training import guards
from genvs_jax.training import loop
from genvs_jax.training import objectives
from genvs_jax.training import randomness
from genvs_jax.training import train_step
from genvs_jax.training import validation

RENDER_STAGE = "render_stage"
ONE_VIEW_STAGE = "one_view_stage"  # before that one
# What is measured of a trained renderer.
MEASURED = (
  "diffusion.sigma_data",
  "diffusion.feature_mean",
  "diffusion.feature_std",
)
_MEASURED_SCENES = 256


def run(
  config: ml_collections.ConfigDict, workdir: str, devices=None
) -> tuple[train_step.TrainState, bool]:
  """Trains the stages that are left, each resuming where it was.

  Args:
    config: see `configs/base.py`.
    workdir: of the last stage; the first has a folder in it.
    devices: to use, by default all.

  Returns:
    the state at the end of the last stage that was begun, and whether a signal
    ended the run.

  Raises:
    ValueError: if config, data, checkpoints or workdir do not fit.
  """
  stop = guards.build_stop()
  recorded = _recorded_config(workdir)
  if config.train.render_steps:
    folder = f"{workdir}/{RENDER_STAGE}"
    last = denoiser_stage(config, folder)
    # A workdir with checkpoints of its own is past its first stages.
    if recorded is None:
      first_stages = renderer_stages(config, workdir)
      # What is wrong with the last stage is found before the first.
      _check(last)
      for first, first_folder in first_stages:
        logging.info("a stage of encoder and field, in %s", first_folder)
        state = loop.train_and_evaluate(first, first_folder, devices, stop)
        # Asked in its last step, a run ends there too.
        if int(state.step) < first.train.steps or stop.asked:
          return state, True
        del state  # before the next one takes its memory
    config = last
  if config.diffusion.sigma_data == 0:
    config = with_measured_values(config, workdir, recorded)
  state = loop.train_and_evaluate(config, workdir, devices, stop)
  return state, int(state.step) < config.train.steps or stop.asked


def renderer_stages(
  config: ml_collections.ConfigDict, workdir: str
) -> list[tuple[ml_collections.ConfigDict, str]]:
  """(config, folder) of the stages before the denoiser's, in their order.

  With `train.one_view_steps` the first of two learns from a single input view,
  at about half the time a step.

  Args:
    config: of the run.
    workdir: of its last stage.
  """
  render, folder = render_stage(config, workdir), f"{workdir}/{RENDER_STAGE}"
  if not config.train.one_view_steps:
    return [(render, folder)]
  one_folder = f"{workdir}/{ONE_VIEW_STAGE}"
  one = render.copy_and_resolve_references()
  one.train.steps = config.train.one_view_steps
  one.model.input_views = 1
  # Nothing to compare a single view with.
  one.objective.depth_consistency = one.objective.opacity_consistency = 0.0
  render.init_from.encoder = render.init_from.field = one_folder
  if config.train.ema == "none":
    render.init_from.params = "raw"
  return [(one, one_folder), (render, folder)]


def render_stage(
  config: ml_collections.ConfigDict, workdir: str
) -> ml_collections.ConfigDict:
  """The config of the first stage: `config`, without a denoiser.

  Raises:
    ValueError: for a run that has no denoiser, or asks nothing of the render.
  """
  config = config.copy_and_resolve_references()
  steps, objective = config.train.render_steps, config.objective
  if objective.name != "joint" or not (objective.rgb or objective.rgb_input):
    raise ValueError(
      f"train.render_steps is {steps}, a first stage on the RGB loss of a joint"
      f" run, found objective.name {objective.name!r} and objective.rgb"
      f" {objective.rgb:g}: set it to 0"
    )
  objective.name = "nerf"
  config.train.steps = steps
  config.train.render_steps = config.train.one_view_steps = 0
  config.init_from.denoiser = ""
  config.checkpoint.best_metric = "auto"
  # Nothing is drawn yet that a deviation would belong to.
  config.diffusion.target = "image"
  config.diffusion.sigma_data = config.diffusion.sigma_data or 0.5
  # The folder is another one, the data the same.
  config.data.data_dir = dataset_builders.expand(config.data.data_dir, workdir)
  config.data.source = dataset_builders.expand(config.data.source, workdir)
  return config


def denoiser_stage(
  config: ml_collections.ConfigDict, folder: str
) -> ml_collections.ConfigDict:
  """The config of the second stage, which finds the first in a folder."""
  config = config.copy_and_resolve_references()
  if "denoiser" in config.optimizer.frozen:
    raise ValueError(
      f"optimizer.frozen is {tuple(config.optimizer.frozen)}, but with"
      " train.render_steps the denoiser alone trains last: leave it out"
    )
  config.init_from.encoder = config.init_from.field = folder
  if config.train.ema == "none":
    config.init_from.params = "raw"
  config.optimizer.frozen = ("encoder", "field")
  config.train.render_steps = config.train.one_view_steps = 0
  return config


def with_measured_values(
  config: ml_collections.ConfigDict,
  workdir: str,
  recorded: ml_collections.ConfigDict | None,
) -> ml_collections.ConfigDict:
  """A config whose fields `MEASURED` have values.

  Args:
    config: of the stage.
    workdir: where a dataset whose data_dir is WORKDIR lies.
    recorded: of the checkpoint that the stage goes on from; None for none.
  """
  config = config.copy_and_resolve_references()
  # Weights that are there were trained with values, which stay.
  source = config.init_from.denoiser
  if recorded is None and source:
    recorded = _recorded_config(checkpoints.locate(source))
  if recorded is not None and recorded.model.denoiser.conditional:
    fields = config_fields.flatten(recorded)
    values = {name: fields[name] for name in MEASURED}
  else:
    values = measure(config, workdir)
    # A denoiser without features has a deviation, but nothing to take.
    if recorded is not None:
      values["diffusion.sigma_data"] = recorded.diffusion.sigma_data
    logging.info(
      "measured: %s", ", ".join(f"{k} = {v:.4g}" for k, v in values.items())
    )
  config.update_from_flattened_dict(values)
  return config


def _recorded_config(path: str) -> ml_collections.ConfigDict | None:
  """The config of the newest checkpoint that can be read; None for none."""
  try:
    reader, _ = checkpoints.open_existing(path, None)
  except checkpoints.CheckpointError:
    return None
  with contextlib.closing(reader):
    for step in reversed(reader.steps()):
      try:
        return reader.read_config(step, to_resume=True)
      except Exception as error:  # of any kind; see `startup`
        if not checkpoints.is_damage(error):
          raise
  return None


def _check(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError for what the loop would refuse of a stage's config."""
  config = config.copy_and_resolve_references()
  config.diffusion.sigma_data = config.diffusion.sigma_data or 1.0
  model = builders.build_model(config)
  objectives.build_options(config)
  view_synthesis.build_sampler(config, model)
  validation.build_ranking(config)
  pretrained.check_params(config, config.sampler.params)


def measure(
  config: ml_collections.ConfigDict, workdir: str
) -> dict[str, float]:
  """Deviations over training scenes of what the denoiser takes and draws.

  Args:
    config: whose `init_from` names a trained encoder and field.
    workdir: where a dataset whose data_dir is WORKDIR lies.

  Returns:
    values of the fields `MEASURED`: standard deviation of the target that
    `diffusion.target` names, in image units, and mean and standard deviation
    of all feature channels together.

  Raises:
    ValueError: if no trained encoder and field are named.
  """
  if not (config.init_from.encoder and config.init_from.field):
    raise ValueError(
      "diffusion.sigma_data is 0, to be measured, but there is no trained"
      " encoder and field to measure: set train.render_steps, or"
      " init_from.encoder and init_from.field"
    )
  config = config.copy_and_resolve_references()
  config.diffusion.sigma_data = 1.0
  # Few scenes at a time: all of a large batch may not fit on one device.
  config.train.batch_size = min(config.train.batch_size, 8)
  model = builders.build_model(config)
  # Both parts are as a rule in one checkpoint, which is read once.
  checkpoint_of = {
    path: pretrained.load(path, params=config.init_from.params)
    for path in {config.init_from.encoder, config.init_from.field}
  }
  variables = {
    part: checkpoint_of[config.init_from[part]].variables[part]
    for part in ("encoder", "field")
  }
  variables = jax.tree.map(lambda x: x.addressable_data(0), variables)
  records = datasets.load_split(config, workdir, "train")
  moments = _build_moments(config, model)
  batches = loading.train_batches(config, records, start_step=0)
  rows = [
    jax.device_get(moments(variables, next(batches), step))
    for step in range(-(-_MEASURED_SCENES // config.train.batch_size))
  ]
  means, squares = np.moveaxis(np.mean(np.asarray(rows, np.float64), 0), 1, 0)
  (_, sigma_data), (feature_mean, feature_std) = zip(
    means, np.sqrt(squares - means**2), strict=True
  )
  values = np.array([sigma_data, feature_mean, feature_std])
  # One number for all processes, whose devices may differ in the last digit.
  values = processes.of_first(values)
  return dict(zip(MEASURED, map(float, values), strict=True))


def _build_moments(
  config: ml_collections.ConfigDict, model: pipeline.Model
) -> Callable:
  """(variables, batch, step) -> [2,2]: mean and mean square of the targets,
  and of the features, as the denoiser's stage will meet them."""
  options = objectives.build_options(config)

  @jax.jit
  def moments(variables, batch, step):
    keys = randomness.step_keys(config.seed, step, len(batch["images"]))
    result = objectives.rendering_losses(model, options, variables, batch, keys)
    base = denoising.base_image(model, result.features)
    target = result.targets if base is None else result.targets - base
    features = result.features[..., : model.feature_channels]
    return jnp.array(
      [[jnp.mean(x), jnp.mean(x**2)] for x in (target, features)]
    )

  return moments
