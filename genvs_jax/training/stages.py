"""The stages of a run: encoder and field alone, if asked for, then the rest.

A denoiser that trains beside an unfinished renderer spoils it, and learns to
mend flaws that are gone later. With `train.render_steps` the renderer has a
stage of its own, in a folder of the workdir, and is frozen afterwards; what
the denoiser's stage needs to know of it is measured in between.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import pretrained
from genvs_jax.data import datasets
from genvs_jax.data import loading
from genvs_jax.models import builders
from genvs_jax.models import pipeline
from genvs_jax.training import loop
from genvs_jax.training import objectives
from genvs_jax.training import randomness
from genvs_jax.training import train_step

RENDER_STAGE = "render_stage"
# What is measured of a trained renderer.
MEASURED = (
  "diffusion.sigma_data",
  "diffusion.feature_mean",
  "diffusion.feature_std",
)
_MEASURED_SCENES = 256


def run(
  config: ml_collections.ConfigDict, workdir: str, devices=None
) -> tuple[train_step.TrainState, int]:
  """Trains the stages that are left, each resuming where it was.

  Args:
    config: see `configs/base.py`.
    workdir: of the last stage; the first has a folder in it.
    devices: to use, by default all.

  Returns:
    the state at the end of the last stage that was begun, and the step at
    which that stage ends: later than the state's if a signal ended it.

  Raises:
    ValueError: if config, data, checkpoints or workdir do not fit.
  """
  if config.train.render_steps:
    first = render_stage(config, workdir)
    folder = f"{workdir}/{RENDER_STAGE}"
    logging.info("first stage: encoder and field, in %s", folder)
    state = loop.train_and_evaluate(first, folder, devices)
    if int(state.step) < first.train.steps:
      return state, first.train.steps
    del state  # before the next one takes its memory
    config = denoiser_stage(config, folder)
  if config.diffusion.sigma_data == 0:
    config = settle(config, workdir)
  state = loop.train_and_evaluate(config, workdir, devices)
  return state, config.train.steps


def render_stage(
  config: ml_collections.ConfigDict, workdir: str
) -> ml_collections.ConfigDict:
  """The config of the first stage: `config`, without a denoiser."""
  config = config.copy_and_resolve_references()
  if config.objective.name != "joint":
    raise ValueError(
      f"train.render_steps is {config.train.render_steps}, a first stage of a"
      f" run with objective.name 'joint', found {config.objective.name!r}: set"
      " it to 0"
    )
  config.objective.name = "nerf"
  config.train.steps = config.train.render_steps
  config.train.render_steps = 0
  # Nothing is drawn yet that a deviation would belong to.
  config.diffusion.target = "image"
  config.diffusion.sigma_data = config.diffusion.sigma_data or 0.5
  # The folder is another one, the data the same.
  config.data.data_dir = datasets.expand(config.data.data_dir, workdir)
  config.data.source = datasets.expand(config.data.source, workdir)
  return config


def denoiser_stage(
  config: ml_collections.ConfigDict, folder: str
) -> ml_collections.ConfigDict:
  """The config of the second stage, which finds the first in a folder."""
  config = config.copy_and_resolve_references()
  config.init_from.encoder = config.init_from.field = folder
  config.optimizer.frozen = ("encoder", "field")
  config.train.render_steps = 0
  return config


def settle(
  config: ml_collections.ConfigDict, workdir: str
) -> ml_collections.ConfigDict:
  """A config whose measured fields have values: those that the workdir's
  checkpoint was trained with, or new ones."""
  config = config.copy_and_resolve_references()
  try:
    reader, step = checkpoints.open_existing(workdir, None)
  except checkpoints.CheckpointError:
    values = measure(config, workdir)
    logging.info(
      "measured: %s", ", ".join(f"{k} = {v:.4g}" for k, v in values.items())
    )
  else:
    recorded = reader.read_config(step, to_resume=True)
    reader.close()
    section = recorded.diffusion
    values = {name: section[name.split(".")[1]] for name in MEASURED}
  config.update_from_flattened_dict(values)
  return config


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
  config.update_from_flattened_dict({"diffusion.sigma_data": 1.0})
  model = builders.build_model(config)
  variables = {
    part: pretrained.load(
      config.init_from[part], params=config.init_from.params
    ).variables[part]
    for part in ("encoder", "field")
  }
  records = datasets.load_split(config, workdir, "train")
  moments = _build_moments(config, model)
  batches = loading.train_batches(config, records, start_step=0)
  count = -(-_MEASURED_SCENES // config.train.batch_size)
  rows = [
    jax.device_get(moments(variables, next(batches), step))
    for step in range(count)
  ]
  values = []
  for mean, square in np.mean(np.asarray(rows, np.float64), 0):
    values.append((float(mean), float(np.sqrt(square - mean**2))))
  (_, sigma_data), (feature_mean, feature_std) = values
  return dict(
    zip(MEASURED, (sigma_data, feature_mean, feature_std), strict=True)
  )


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
    base = pipeline.base_image(model, result.features)
    target = result.targets if base is None else result.targets - base
    features = result.features[..., : model.feature_channels]
    return jnp.array(
      [[jnp.mean(x), jnp.mean(x**2)] for x in (target, features)]
    )

  return moments
