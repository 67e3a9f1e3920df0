"""A trained model in three lines, for those who only want to use it.

  from genvs_jax import pretrained
  genvs = pretrained.load("WORKDIR")
  genvs.turntable("car.png", elevation=20).save("car.mp4")

`genvs.variables` goes into `view_synthesis.build_synthesize(genvs.config,
genvs.model)`, `view_synthesis.encode_views`, `pipeline.encode`,
`pipeline.render_features` and `denoising.denoise` as it is.
"""

import contextlib
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from etils import epath

from genvs_jax import config_fields
from genvs_jax.checkpointing import checkpoints
from genvs_jax.models import builders
from genvs_jax.models import pipeline
from genvs_jax.runtime import messages
from genvs_jax.runtime import sharding
from genvs_jax.sampling import turntables

# Which parameters to use, and the field of a state that holds them.
PARAMS = {"ema": "ema", "raw": "params"}


class Pretrained(NamedTuple):
  """What a checkpoint holds for use.

  Attributes:
    config: that it was trained with, see `configs/base.py`.
    model: the networks and the geometry that joins them.
    variables: trained parameters and buffers of all parts, on all devices.
    step: of the checkpoint.
  """

  config: ml_collections.ConfigDict
  model: pipeline.Model
  variables: pipeline.Variables
  step: int

  def turntable(self, images: Any, **options) -> turntables.Turntable:
    """Draws views along a path; see `turntables.draw` for the options.

    Args:
      images: a file or a folder, or a picture u8 [H,W,3] or several.
      **options: elevation, distance, fov, path, frames, policy, seed ...
    """
    return turntables.draw(
      self.config, self.model, self.variables, images, **options
    )


def load(path: str, step: int | None = None, params: str = "ema") -> Pretrained:
  """Loads a checkpoint, without the optimizer's state.

  Args:
    path: a workdir, its checkpoints folder, or one checkpoint; local or gs://;
      the name of a model that comes with the package, cars64-small; or
      hf://USER/REPO[/SUBFOLDER][@REVISION] on the hub.
    step: which one, by default the newest.
    params: "ema" for the averaged parameters, or "raw".

  Raises:
    CheckpointError: if there is none.
    ValueError: if its config lacks a field that the model needs, or it has no
      such parameters.
  """
  checkpointer, step = checkpoints.open_existing(checkpoints.locate(path), step)
  with contextlib.closing(checkpointer):
    config = checkpointer.read_config(step)
    check_params(config, params)
    try:
      model = builders.build_model(config)
    except AttributeError as error:
      raise ValueError(
        f"{path}: the checkpoint's config lacks a field ({error}), so an older"
        " version of genvs_jax wrote it: use that version"
      ) from error
    # Shapes alone; the state's own names of its two fields.
    abstract_params, abstract_buffers = jax.eval_shape(
      lambda: pipeline.split_variables(
        builders.init_variables(
          model, jax.random.key(0), builders.parts_of(config.objective.name)
        )
      )
    )
    field = PARAMS[params]
    abstract: dict[str, Any] = {
      field: abstract_params,
      "buffers": abstract_buffers,
    }
    everywhere = sharding.replicated(sharding.make_mesh())
    arrays = checkpointer.restore_some(
      step, checkpoints.abstract_like(abstract, everywhere)
    )
  variables = pipeline.join_variables(arrays[field], arrays["buffers"])
  return Pretrained(config, model, variables, step)


def read_config(path: str, step: int | None) -> ml_collections.ConfigDict:
  """The config that a checkpoint was trained with; arguments as of `load`."""
  checkpointer, step = checkpoints.open_existing(checkpoints.locate(path), step)
  with contextlib.closing(checkpointer):
    return checkpointer.read_config(step)


def save(path: str, genvs: Pretrained) -> None:
  """Writes a small checkpoint for use: no optimizer's state, half precision.

  Parameters become float16, which has three more bits than bfloat16 for numbers
  of their size; buffers stay as they are. Of its config, what names folders of
  the machine that trained is left out.

  Args:
    path: of the workdir that receives it.
    genvs: what is written.

  Raises:
    ValueError: for parameters that float16 cannot hold.
  """
  params, buffers = pipeline.split_variables(genvs.variables)
  largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(params))
  if not largest < float(jnp.finfo(jnp.float16).max):
    raise ValueError(
      f"a parameter is {largest:g}, expected at most"
      f" {float(jnp.finfo(jnp.float16).max):g}, which float16 can hold"
    )
  config = genvs.config.copy_and_resolve_references()
  # There is one set of parameters, whichever it was.
  if config.train.ema == "none":
    config.train.ema = "half_life"
  config.sampler.params = config.init_from.params = "ema"
  for part in pipeline.PARTS:
    config.init_from[part] = ""
  made = config.data.dataset == "synthetic_cars"
  config.data.data_dir = "WORKDIR/data" if made else ""
  config.data.source = ""
  config.evaluate.metric_weights = "auto"
  half = jax.tree.map(lambda x: x.astype(jnp.float16), params)
  saver = checkpoints.Checkpointer(f"{path}/{checkpoints.FOLDER}")
  with contextlib.closing(saver):
    saver.save(
      genvs.step,
      {"ema": half, "buffers": buffers},
      config_fields.to_dict(config),
    )
  # Orbax's marks of a finished save name its folder; that they exist is all
  # that is asked of them.
  folder = epath.Path(path) / checkpoints.FOLDER / str(genvs.step)
  for part in (folder, *folder.iterdir()):
    mark = part / "commit_success.txt"
    if mark.exists():
      mark.write_text("Checkpoint commit was successful\n")


def check_params(config: ml_collections.ConfigDict, params: str) -> None:
  """Raises ValueError unless states of the config have such parameters.

  Args:
    config: of the run that makes or made the state.
    params: "ema" or "raw".
  """
  messages.check_choice("sampler.params", params, PARAMS)
  if params == "ema" and config.train.ema == "none":
    raise ValueError(
      "train.ema is 'none', so there are no averaged parameters: choose the raw"
      " ones, sampler.params='raw' (init_from.params for a warm start)"
    )
