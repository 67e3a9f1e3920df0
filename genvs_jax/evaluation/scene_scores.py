"""Draws and scores scenes group by group: renders, samples, baselines."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import ml_collections
import numpy as np

from genvs_jax.data import datasets
from genvs_jax.data import decoding
from genvs_jax.evaluation import colours
from genvs_jax.evaluation import image_scores
from genvs_jax.evaluation import prediction
from genvs_jax.evaluation import protocol
from genvs_jax.evaluation import score_files
from genvs_jax.evaluation import summary
from genvs_jax.geometry import camera_paths
from genvs_jax.models import pipeline

_MEAN_IMAGE_SCENES = 100  # training scenes that make the mean image
_EXAMPLE_VIEWS = 8  # of a scene on the grid
_STRIP_VIEWS = 6  # of a scene in its strip
_SHOWN_ROWS = ("render", "sample")
# Rows whose pictures can be stored, and whose features are compared.
_PREDICTED_ROWS = ("render", "sample", "sample_mean")
Rows = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Options:
  """What is scored; see `evaluate` in `configs/base.py`.

  Attributes:
    load_scene: number in the split -> inputs and targets.
    samples: K of each view, 0 without a denoiser.
    mean_image: u8 [H,W,3] over training views; None for no baselines.
    pictures: whether what is scored is stored as PNG files.
  """

  load_scene: Callable[[int], protocol.SceneViews]
  samples: int
  mean_image: np.ndarray | None
  pictures: bool


class SceneScores:
  """Draws, scores and writes groups of scenes.

  Args:
    options: see above.
    predict: draws a group.
    scorer: of the pictures.
    store: that receives the scores.
  """

  def __init__(
    self,
    options: Options,
    predict: prediction.Predictor,
    scorer: image_scores.Scorer,
    store: score_files.Store,
  ):
    self._options, self._predict = options, predict
    self._scorer, self._store = scorer, store

  def __call__(self, group: Sequence[int], split_size: int) -> None:
    """Scores some scenes of a split of `split_size` and writes them."""
    load = self._options.load_scene
    scenes = [load(i) for i in group]
    predictions = self._predict(scenes, samples=self._options.samples)
    wrong_inputs: Sequence[np.ndarray | None] = [None] * len(scenes)
    if self._options.mean_image is not None:
      others = [load((i - 1) % split_size) for i in group]
      wrong_inputs = [p.render for p in self._predict(scenes, others)]
    for scene, predicted, wrong in zip(
      scenes, predictions, wrong_inputs, strict=True
    ):
      rows = self._rows(scene, predicted, wrong)
      self._write(scene, predicted, rows)

  def _rows(
    self,
    scene: protocol.SceneViews,
    predicted: prediction.Predictions,
    wrong_input: np.ndarray | None,
  ) -> Rows:
    """Pictures u8 [T,H,W,3] by row of the table."""
    rows: Rows = {"render": predicted.render}
    if self._options.samples:
      rows["sample"] = predicted.samples[:, 0]
    if self._options.samples > 1:
      mean = np.mean(predicted.samples, 1, dtype=np.float32)
      rows["sample_mean"] = np.asarray(mean + 0.5).astype(np.uint8)
    mean_image = self._options.mean_image
    if wrong_input is not None and mean_image is not None:
      rows["mean_image"] = np.broadcast_to(mean_image, scene.images.shape)
      rows["input_copy"] = _nearest_inputs(scene)
      rows["render_wrong_input"] = wrong_input
    return rows

  def _write(
    self,
    scene: protocol.SceneViews,
    predicted: prediction.Predictions,
    rows: Rows,
  ) -> None:
    """Scores the rows; files of the scene, its line last."""
    scores = self._score(scene, predicted, rows)
    features = {}
    if self._scorer.frechet:
      pictures = {k: v for k, v in rows.items() if k in _PREDICTED_ROWS}
      pictures["truth"] = scene.images
      features = {k: self._scorer.features(v) for k, v in pictures.items()}
    if self._options.pictures:
      for row in _PREDICTED_ROWS:
        if row in rows:
          views = scene.views.tolist()
          self._store.write_pictures(row, scene.name, views, rows[row])
    pictures_of = [scene.images, *(rows[r] for r in _SHOWN_ROWS if r in rows)]
    some = [images[:_STRIP_VIEWS] for images in pictures_of]
    self._store.write_strip(scene.scene, scene.inputs["images"], some)
    if scene.scene < score_files.EXAMPLE_SCENES:
      examples = {"truth": scene.images} | {
        row: rows[row] for row in _SHOWN_ROWS if row in rows
      }
      examples = {k: v[:_EXAMPLE_VIEWS] for k, v in examples.items()}
      examples["inputs"] = scene.inputs["images"]
      self._store.write_examples(scene.scene, examples)
    lists = summary.to_lists(scores)
    line = {
      "scene": scene.scene,
      "name": scene.name,
      "category": scene.category,
      "views": scene.views.tolist(),
      "means": summary.mean_over_views(lists),
      "scores": lists,
    }
    self._store.write("scenes", scene.scene, line, features)

  def _score(
    self,
    scene: protocol.SceneViews,
    predicted: prediction.Predictions,
    rows: Rows,
  ) -> dict[str, dict[str, np.ndarray]]:
    """Scores [T] by row and metric."""
    mask = None if scene.distances is None else scene.distances > 0
    is_object = colours.object_mask(scene.images) if mask is None else mask

    others = list(np.moveaxis(predicted.samples, 1, 0)[1:])
    sets = [*rows.values(), *others]
    each = self._scorer.score_sets(sets, scene.images, mask)
    for result, images in zip(each, sets, strict=True):
      result["mean_colour"] = colours.mean_colour_error(
        images, scene.images, is_object
      )
    scores = dict(zip(rows, each[: len(rows)], strict=True))
    # The truth's colours against the render's are what a sample's should be.
    for row, images in (
      ("render", scene.images),
      ("sample", rows.get("sample")),
    ):
      if images is not None:
        scores[row] |= colours.chroma_products(
          images, rows["render"], is_object
        )
    if self._options.samples > 1:
      scores["sample_best"] = image_scores.best_of(
        [scores["sample"], *each[len(rows) :]]
      )
    if scene.distances is not None:
      scores["render"] |= image_scores.depth_scores(
        predicted.depth, predicted.opacity, scene.distances
      )
    return scores


def build_scene_scores(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  variables: pipeline.Variables,
  records: Sequence[datasets.Record],
  workdir: str,
  scorer: image_scores.Scorer,
  store: score_files.Store,
  batch: int,
) -> SceneScores:
  """From `config.evaluate`, the sampler and the data.

  Args:
    config: see above.
    model: the model.
    variables: of the model, on this process's devices.
    records: of the split that is scored.
    workdir: where a dataset whose data_dir is WORKDIR lies.
    scorer: of the pictures.
    store: that receives the scores.
    batch: scenes in the largest group.
  """
  options = config.evaluate
  mean_image = None
  if options.baselines:
    mean_image = _mean_image(
      datasets.load_split(config, workdir, "train"),
      config.model.image_size,
      config.model.resize,
    )
  return SceneScores(
    Options(
      load_scene=lambda i: protocol.load_scene(config, records, i),
      samples=options.samples if "denoiser" in variables else 0,
      mean_image=mean_image,
      pictures=options.pictures,
    ),
    prediction.build_predictor(config, model, variables, batch),
    scorer,
    store,
  )


def _nearest_inputs(scene: protocol.SceneViews) -> np.ndarray:
  """For each target, the input picture nearest in angle."""
  angles = camera_paths.view_angle(
    scene.poses[:, None], scene.inputs["poses"][None]
  )
  return scene.inputs["images"][np.argmin(angles, -1)]


def _mean_image(
  records: Sequence[datasets.Record], size: int, resize: str
) -> np.ndarray:
  """Mean over all views of the first training scenes, u8 [H,W,3]."""
  total, views = np.zeros((size, size, 3)), 0
  for i in range(min(len(records), _MEAN_IMAGE_SCENES)):
    every = range(len(records[i]["poses"]))
    images = decoding.decode_views(records[i], every, size, resize)["images"]
    total += images.sum(0, dtype=np.float64)
    views += len(images)
  return (total / views + 0.5).astype(np.uint8)
