"""What is measured and drawn of fixed validation scenes while a run goes on."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from genvs_jax.data import datasets
from genvs_jax.data import decoding
from genvs_jax.images import grids
from genvs_jax.images import metrics
from genvs_jax.models import builders
from genvs_jax.models import denoising
from genvs_jax.models import pipeline
from genvs_jax.runtime import compilation
from genvs_jax.runtime import messages
from genvs_jax.sampling import view_grids
from genvs_jax.sampling import view_synthesis

# What a checkpoint may be the best by: the part that it needs, the loss that
# trains it, and whether the highest is best.
_RANKINGS = {
  "psnr_render": ("encoder", "rgb", True),
  "denoising_error": ("denoiser", "denoising", False),
}


class Ranking(NamedTuple):
  """What makes a checkpoint the best: a score, "" for none, and its sense."""

  metric: str
  highest_is_best: bool


def build_ranking(config: ml_collections.ConfigDict) -> Ranking:
  """From `config.checkpoint.best_metric`.

  Raises:
    ValueError: if it is no score, or one that the objective has not.
  """
  name = config.checkpoint.best_metric
  messages.check_choice(
    "checkpoint.best_metric", name, ("", "auto", *_RANKINGS)
  )
  parts = builders.parts_of(config.objective.name)
  measured = [k for k, (part, *_) in _RANKINGS.items() if part in parts]
  # The first that the objective trains; renders come first, since they are what
  # a joint run learns first, unless nothing is asked of their colours.
  if name == "auto":
    # A part that is frozen keeps its score for good.
    frozen = config.optimizer.frozen
    trained = [k for k in measured if _RANKINGS[k][0] not in frozen]
    weights = {k: config.objective[_RANKINGS[k][1]] for k in measured}
    name = next((k for k in trained if weights[k] > 0), measured[-1])
  if not name or config.validation.scenes == 0:
    return Ranking("", True)
  if name not in measured:
    raise ValueError(
      f"checkpoint.best_metric is {name!r}, which objective"
      f" {config.objective.name!r} does not measure: choose"
      f" {' or '.join(measured)}"
    )
  return Ranking(name, _RANKINGS[name][2])


class Scenes(NamedTuple):
  """Fixed scenes: V input views and one to draw.

  Attributes:
    inputs: images u8 [B,V,H,W,3], poses and intrinsics.
    target: u8 [B,H,W,3].
    target_pose: f32 [B,1,4,4].
    numbers: i32 [B] of the scenes in their split.
  """

  inputs: dict[str, np.ndarray]
  target: np.ndarray
  target_pose: np.ndarray
  numbers: np.ndarray


def load_scenes(
  config: ml_collections.ConfigDict, workdir: str, count: int
) -> Scenes | None:
  """The first scenes of the validation split, else of the training split."""
  if count == 0:
    return None
  # A dataset of training scenes alone is measured on those.
  try:
    records = datasets.load_split(config, workdir, "validation")
  except datasets.DatasetMissingError:
    records = datasets.load_split(config, workdir, "train")
  # The first views of a scene are its inputs, in training order.
  views = config.model.input_views
  items, numbers = [], []
  for i in range(min(count, len(records))):
    # The input views, and a target from the middle of the others.
    total = len(records[i]["poses"])
    if total <= views:
      logging.warning(
        "validation scene %d has %d views and is left out: expected %d input"
        " views and one to draw",
        i,
        total,
        views,
      )
      continue
    indices = [*range(views), max(total // 2, views)]
    numbers.append(i)
    items.append(decoding.decode_for(config, records[i], indices))
  if not items:
    raise ValueError(
      f"no validation scene has {views + 1} views or more, model.input_views"
      " and one to draw: set validation.scenes and train.image_grid_scenes to 0"
    )
  batch = {key: np.stack([item[key] for item in items]) for key in items[0]}
  return Scenes(
    inputs={
      "images": batch["images"][:, :views],
      "poses": batch["poses"][:, :views],
      "intrinsics": batch["intrinsics"][:, :views],
      "drawn_with": batch["intrinsics"][:, views:],
    },
    target=batch["images"][:, views],
    target_pose=batch["poses"][:, views:],
    numbers=np.array(numbers, np.int32),
  )


class Validation:
  """Scores that cost little, for curves and for the best checkpoint.

    psnr_render                the RGB render against the true view, in dB
    denoising_error_sigma_<s>  mean squared error, in image units, of one
                               denoising of the true view plus noise of level s
    denoising_error            the mean of these over the levels

  Noise levels and noise are fixed, so that two steps differ by the weights
  alone. An objective without a part has no score of it.
  """

  def __init__(self, scenes: Scenes | None, measure: Callable):
    """`measure` is that of `build_measure`; see `build_validation`."""
    self._scenes = scenes
    self._measure = compilation.Program(measure, "validation")

  def __call__(self, variables: pipeline.Variables) -> dict[str, float] | None:
    """The scores of variables on one device; None if there are no scenes."""
    if self._scenes is None:
      return None
    scores = jax.device_get(self._measure(variables, self._scenes))
    return {name: float(value) for name, value in scores.items()}


def build_validation(
  config: ml_collections.ConfigDict, model: pipeline.Model, workdir: str
) -> Validation:
  """From `config.validation`.

  Raises:
    ValueError: if a denoiser is to be scored at no noise level.
  """
  parts = builders.parts_of(config.objective.name)
  sigmas = tuple(config.validation.sigmas)
  if config.validation.scenes and "denoiser" in parts and not sigmas:
    raise ValueError(
      "validation.sigmas is (), expected noise levels at which the denoiser is"
      " scored (or --config.validation.scenes=0)"
    )
  measure = build_measure(model, parts, sigmas, config.seed)
  scenes = load_scenes(config, workdir, config.validation.scenes)
  return Validation(scenes, measure)


def metrics_of(scores: dict[str, float] | None) -> dict[str, float]:
  """Scores as they are written among the metrics of a step."""
  return {f"validation/{k}": v for k, v in (scores or {}).items()}


def build_measure(
  model: pipeline.Model,
  parts: tuple[str, ...],
  sigmas: tuple[float, ...],
  seed: int,
) -> Callable[[pipeline.Variables, Scenes], dict[str, jax.Array]]:
  """(variables, scenes) -> the scores of `Validation` as scalars."""

  def measure(variables, scenes: Scenes) -> dict[str, jax.Array]:
    # In the model's range; errors are brought back to [0,1] units.
    clean = pipeline.from_uint8(jnp.asarray(scenes.target), model.image_range)
    scale = model.image_range[1] - model.image_range[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      jax.random.key(seed), scenes.numbers
    )
    scores = {}  # all of them means over the scenes
    # Conditioning: the rendered features, or noise for a denoiser alone.
    if "encoder" in parts:
      features, attended, views = view_synthesis.render_views(
        model, variables, scenes.inputs, scenes.target_pose
      )
      # [n,1,H,W,F+G]: one target of each scene.
      features = features[:, 0]
      base = denoising.base_image(model, features)
      truth = jnp.asarray(scenes.target) / 255.0
      scores["psnr_render"] = jnp.mean(metrics.psnr(views.rgb[:, 0], truth))
    else:
      shape = (*clean.shape[:3], model.denoiser_features)
      features, base = denoising.null_features(model, keys, shape), None
      attended = None
    if "denoiser" in parts:
      # The same noise at every level, and at every step of the run.
      unit = jax.vmap(
        lambda key: jax.random.normal(
          jax.random.fold_in(key, 1), clean.shape[1:]
        )
      )(keys)

      def error(sigma):
        levels = jnp.full((len(clean),), sigma)
        estimate = denoising.denoise(
          model,
          variables,
          clean + sigma * unit,
          levels,
          features,
          base,
          attended,
        )
        return jnp.mean((estimate - clean) ** 2) / scale**2

      # Level by level: memory of one.
      errors = jax.lax.map(error, jnp.array(sigmas))
      scores["denoising_error"] = jnp.mean(errors)
      for i, sigma in enumerate(sigmas):
        scores[f"denoising_error_sigma_{sigma:g}"] = errors[i]
    return scores

  return measure


class ImageGrids:
  """Pictures of fixed scenes, one grid each time.

  Args:
    scenes: to draw; None for no grids.
    draw: variables -> `Views`, or pictures of any objects [n,H,W,3].
    near: depth shown black, world units.
    far: depth shown white.
  """

  def __init__(
    self,
    scenes: Scenes | None,
    draw: Callable[[pipeline.Variables], Any],
    near: float,
    far: float,
  ):
    self._scenes = scenes
    self._draw = draw
    self._near, self._far = near, far

  def draw(
    self, variables: pipeline.Variables
  ) -> view_synthesis.Views | jax.Array | None:
    """Draws with variables that lie on one device; None without scenes."""
    return None if self._scenes is None else self._draw(variables)

  def lay_out(
    self, pictures: view_synthesis.Views | jax.Array | None
  ) -> np.ndarray | None:
    """The grid u8 [..,..,3] of what was drawn."""
    if self._scenes is None or pictures is None:
      return None
    # A denoiser alone gives pictures of any objects, [n,H,W,3].
    pictures = jax.device_get(pictures)
    if not isinstance(pictures, view_synthesis.Views):
      return grids.wrapped_grid("unconditional", np.asarray(pictures))
    # A row per scene: inputs, target, render, depth and sample.
    scenes = self._scenes
    images = np.concatenate(
      [scenes.inputs["images"], scenes.target[:, None]], 1
    )
    return view_grids.scene_grid(
      scenes.numbers.tolist(), images, pictures, self._near, self._far
    )


def build_image_grids(
  config: ml_collections.ConfigDict, model: pipeline.Model, workdir: str
) -> ImageGrids:
  """From `config.train`, the sampler and the seed."""
  parts = builders.parts_of(config.objective.name)
  scenes = load_scenes(config, workdir, config.train.image_grid_scenes)
  draw: Callable[[pipeline.Variables], Any]
  if scenes is None:
    draw = lambda variables: None  # noqa: E731
  elif "encoder" not in parts:
    unconditional = view_synthesis.build_unconditional(config, model)
    keys = jax.random.split(jax.random.key(config.seed), 8)
    draw = lambda variables: unconditional(variables, keys)  # noqa: E731
  else:
    draw = _build_scene_draw(config, model, parts, scenes)
  return ImageGrids(scenes, draw, config.frustum.near, config.frustum.far)


def _build_scene_draw(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  parts: tuple[str, ...],
  scenes: Scenes,
) -> Callable[[pipeline.Variables], view_synthesis.Views]:
  """variables -> the targets of the scenes, drawn with the same noise."""
  # The same noise each time: grids of two steps differ by the weights alone.
  synthesize = view_synthesis.build_draw(config, model, parts)
  keys = view_synthesis.view_keys(config.seed, scenes.numbers, np.arange(1))
  return lambda variables: synthesize(
    variables, scenes.inputs, scenes.target_pose, keys
  )
