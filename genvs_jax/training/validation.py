"""What is measured and drawn of fixed validation scenes while a run goes on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from genvs_jax.data import loading
from genvs_jax.images import metrics
from genvs_jax.images import pictures
from genvs_jax.models import pipeline
from genvs_jax.models import pixels as image_ops
from genvs_jax.sampling import view_synthesis
from genvs_jax.training import objectives

# What a checkpoint may be the best by: the part that it needs, and whether the
# highest is best.
_RANKINGS = {
  "psnr_render": ("encoder", True),
  "denoising_error": ("denoiser", False),
}


class Ranking(NamedTuple):
  """What makes a checkpoint the best: a score, "" for none, and its sense."""

  metric: str
  highest_is_best: bool


def build_ranking(config) -> Ranking:
  """From `config.checkpoint.best_metric`.

  Raises:
    ValueError: if it is no score, or one that the objective has not.
  """
  name = config.checkpoint.best_metric
  if name not in ("", "auto", *_RANKINGS):
    raise ValueError(
      f"checkpoint.best_metric is {name!r}, expected '', 'auto' or one of"
      f" {', '.join(_RANKINGS)}"
    )
  parts = objectives.PARTS[config.objective.name]
  measured = [k for k, (part, _) in _RANKINGS.items() if part in parts]
  if name == "auto":
    name = measured[0]
  if not name or config.validation.scenes == 0:
    return Ranking("", True)
  if name not in measured:
    raise ValueError(
      f"checkpoint.best_metric is {name!r}, which objective"
      f" {config.objective.name!r} does not measure: choose"
      f" {' or '.join(measured)}"
    )
  return Ranking(name, _RANKINGS[name][1])


class Scenes(NamedTuple):
  """Fixed scenes: V input views and one to draw.

  Attributes:
    inputs: images u8 [B,V,H,W,3], poses and intrinsics.
    target: u8 [B,H,W,3].
    target_pose: f32 [B,1,4,4].
    index: i32 [B] of the scenes in their split.
  """

  inputs: dict[str, np.ndarray]
  target: np.ndarray
  target_pose: np.ndarray
  index: np.ndarray


def load_scenes(config, workdir: str, count: int) -> Scenes | None:
  """The first scenes of the validation split, else of the training split."""
  if count == 0:
    return None
  try:
    records = loading.load_split(config, workdir, "validation")
  except loading.DatasetMissingError:
    records = loading.load_split(config, workdir, "train")
  views = config.model.input_views
  items = []
  for i in range(min(count, len(records))):
    chosen = [*range(views), len(records[i]["poses"]) // 2]
    items.append(
      loading.decode_views(
        records[i], chosen, config.model.image_size, config.model.resize
      )
    )
  batch = {key: np.stack([item[key] for item in items]) for key in items[0]}
  return Scenes(
    inputs={
      "images": batch["images"][:, :views],
      "poses": batch["poses"][:, :views],
      "intrinsics": batch["intrinsics"],
    },
    target=batch["images"][:, views],
    target_pose=batch["poses"][:, views:],
    index=np.arange(len(items), dtype=np.int32),
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

  def __init__(self, config, model: pipeline.Model, workdir: str):
    parts = objectives.PARTS[config.objective.name]
    self._scenes = load_scenes(config, workdir, config.validation.scenes)
    self._measure = jax.jit(
      build_measure(model, parts, tuple(config.validation.sigmas), config.seed)
    )

  def __call__(self, variables: pipeline.Variables) -> dict[str, float] | None:
    """The scores of variables on one device; None if there are no scenes."""
    if self._scenes is None:
      return None
    scores = jax.device_get(self._measure(variables, self._scenes))
    return {name: float(value) for name, value in scores.items()}


def named(scores: dict[str, float] | None) -> dict[str, float]:
  """Scores as they are written among the metrics of a step."""
  return {f"validation/{k}": v for k, v in (scores or {}).items()}


def build_measure(
  model: pipeline.Model,
  parts: tuple[str, ...],
  sigmas: tuple[float, ...],
  seed: int,
):
  """(variables, scenes) -> the scores of `Validation` as scalars."""

  def measure(variables, scenes: Scenes) -> dict[str, jax.Array]:
    clean = image_ops.from_uint8(scenes.target, model.image_range)
    scale = model.image_range[1] - model.image_range[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      jax.random.key(seed), scenes.index
    )
    scores = {}
    if "encoder" in parts:
      features, views = view_synthesis.render_views(
        model, variables, scenes.inputs, scenes.target_pose
      )
      features = features[:, 0]
      truth = scenes.target / 255.0
      scores["psnr_render"] = jnp.mean(metrics.psnr(views.rgb[:, 0], truth))
    else:
      shape = (*clean.shape[:3], model.denoiser_features)
      features = pipeline.unconditional_features(model, keys, shape)
    if "denoiser" in parts:
      unit = jax.vmap(
        lambda key: jax.random.normal(
          jax.random.fold_in(key, 1), clean.shape[1:]
        )
      )(keys)

      def error(sigma):
        levels = jnp.full((len(clean),), sigma)
        drawn = pipeline.denoise(
          model, variables, clean + sigma * unit, levels, features
        )
        return jnp.mean((drawn - clean) ** 2) / scale**2

      errors = jax.lax.map(error, jnp.array(sigmas))
      scores["denoising_error"] = jnp.mean(errors)
      for i, sigma in enumerate(sigmas):
        scores[f"denoising_error_sigma_{sigma:g}"] = errors[i]
    return scores

  return measure


class Sheets:
  """Pictures of fixed scenes, one sheet each time."""

  def __init__(self, config, model: pipeline.Model, workdir: str):
    self._folder = epath.Path(workdir) / "sheets"
    self._seed = config.seed
    self._frustum = config.frustum
    self._scenes = load_scenes(config, workdir, config.train.sheet_scenes)
    parts = objectives.PARTS[config.objective.name]
    self._unconditional = "encoder" not in parts
    self._draw = (
      view_synthesis.build_unconditional(config, model)
      if self._unconditional
      else view_synthesis.build_draw(config, model, parts)
    )

  def draw(
    self, variables: pipeline.Variables
  ) -> view_synthesis.Views | jax.Array | None:
    """Draws with variables that lie on one device; None without scenes."""
    scenes = self._scenes
    if scenes is None:
      return None
    if self._unconditional:
      keys = jax.random.split(jax.random.key(self._seed), 8)
      return self._draw(variables, keys)
    keys = view_synthesis.view_keys(self._seed, scenes.index, np.arange(1))
    return self._draw(variables, scenes.inputs, scenes.target_pose, keys)

  def save(
    self, step: int, drawn: view_synthesis.Views | jax.Array | None
  ) -> dict[str, np.ndarray]:
    """Writes the sheet of what was drawn, and returns it by name."""
    if drawn is None:
      return {}
    drawn = jax.device_get(drawn)
    if self._unconditional:
      sheet = view_synthesis.unconditional_sheet(drawn)
    else:
      sheet = self._sheet(drawn, self._scenes)
    pictures.save_png(self._folder / f"{step:08d}.png", sheet)
    return {"sheet": sheet}

  def _sheet(self, drawn: view_synthesis.Views, scenes: Scenes) -> np.ndarray:
    images = np.concatenate(
      [scenes.inputs["images"], scenes.target[:, None]], 1
    )
    return view_synthesis.training_sheet(
      {"images": images, "scene": scenes.index},
      drawn,
      self._frustum.near,
      self._frustum.far,
    )
