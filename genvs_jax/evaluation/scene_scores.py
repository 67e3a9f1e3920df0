"""Draws and scores scenes group by group: renders, samples, baselines."""

import functools
from collections.abc import Sequence

import numpy as np

from genvs_jax.data import loading
from genvs_jax.evaluation import prediction
from genvs_jax.evaluation import protocol
from genvs_jax.evaluation import scorer as scorer_module
from genvs_jax.evaluation import store as store_module
from genvs_jax.evaluation import summary
from genvs_jax.models import pipeline

_MEAN_IMAGE_SCENES = 100  # training scenes that make the mean image
_SHOWN_VIEWS = 8  # of a scene on the sheet
# Rows whose pictures can be kept, and whose features FID compares.
_DRAWN_ROWS = ("render", "sample", "sample_mean")


class SceneScores:
  """Draws, scores and writes groups of scenes.

  Args:
    config: evaluate, model, sampler, data and seed are read from it.
    model: the model.
    variables: of the model, on this process's devices.
    workdir: where a dataset whose data_dir is WORKDIR lies.
    scorer: of the pictures.
    store: that receives the scores.
    batch: scenes in the largest group.
  """

  def __init__(
    self,
    config,
    model: pipeline.Model,
    variables: pipeline.Variables,
    workdir: str,
    scorer: scorer_module.Scorer,
    store: store_module.Store,
    batch: int,
  ):
    self._config, self._scorer, self._store = config, scorer, store
    self._draw = prediction.build_drawing(config, model, variables, batch)
    self._samples = config.evaluate.samples if "denoiser" in variables else 0
    self._mean_image = (
      _mean_image(
        loading.load_split(config, workdir, "train"),
        config.model.image_size,
        config.model.resize,
      )
      if config.evaluate.baselines
      else None
    )

  def __call__(
    self, group: Sequence[int], records: Sequence[loading.Record]
  ) -> None:
    """Scores some scenes of a split and writes them."""
    load = functools.partial(protocol.load_scene, self._config, records)
    scenes = [load(i) for i in group]
    drawn = self._draw(scenes, samples=self._samples)
    wrong = None
    if self._config.evaluate.baselines:
      others = [load((i - 1) % len(records)) for i in group]
      wrong = [d.render for d in self._draw(scenes, others)]
    for i, (scene, of_scene) in enumerate(zip(scenes, drawn, strict=True)):
      rows = self._rows(scene, of_scene, None if wrong is None else wrong[i])
      self._write(scene, of_scene, rows)

  def _rows(self, scene, drawn, wrong) -> dict[str, np.ndarray]:
    """Pictures u8 [T,H,W,3] by row of the table."""
    rows = {"render": drawn.render}
    if self._samples:
      rows["sample"] = drawn.samples[:, 0]
    if self._samples > 1:
      mean = np.mean(drawn.samples, 1, dtype=np.float32)
      rows["sample_mean"] = (mean + 0.5).astype(np.uint8)
    if self._config.evaluate.baselines:
      shape = scene.images.shape
      rows["mean_image"] = np.broadcast_to(self._mean_image, shape)
      rows["input_copy"] = _nearest_inputs(scene)
      rows["render_wrong_input"] = wrong
    return rows

  def _write(self, scene, drawn, rows) -> None:
    mask = None if scene.distances is None else scene.distances > 0
    scores = {
      row: self._scorer.score(images, scene.images, mask)
      for row, images in rows.items()
    }
    if self._samples > 1:
      rest = [
        self._scorer.score(images, scene.images, mask)
        for images in np.moveaxis(drawn.samples, 1, 0)[1:]
      ]
      scores["sample_best"] = scorer_module.best_of([scores["sample"], *rest])
    if scene.distances is not None:
      scores["render"] |= scorer_module.depth_scores(
        drawn.depth, drawn.opacity, scene.distances
      )
    features = {}
    if self._scorer.has_fid:
      features = {
        row: self._scorer.features(rows[row])
        for row in _DRAWN_ROWS
        if row in rows
      } | {"truth": self._scorer.features(scene.images)}
    if self._config.evaluate.pictures:
      for row in _DRAWN_ROWS:
        if row in rows:
          self._store.write_pictures(row, scene.name, scene.views, rows[row])
    if scene.scene < store_module.SHOWN_SCENES:
      shown = {
        row: rows[row][:_SHOWN_VIEWS]
        for row in ("render", "sample")
        if row in rows
      }
      self._store.write_shown(
        scene.scene,
        {
          "inputs": scene.inputs["images"],
          "truth": scene.images[:_SHOWN_VIEWS],
          **shown,
        },
      )
    lists = summary.to_lists(scores)
    line = {
      "scene": scene.scene,
      "name": scene.name,
      "views": scene.views.tolist(),
      "means": summary.mean_over_views(lists),
      "scores": lists,
    }
    self._store.write("scenes", scene.scene, line, features)


def _nearest_inputs(scene: protocol.SceneViews) -> np.ndarray:
  """For each target, the input picture nearest in angle."""

  def directions(poses):
    positions = poses[:, :3, 3]
    return positions / np.linalg.norm(positions, axis=-1, keepdims=True)

  cosines = directions(scene.poses) @ directions(scene.inputs["poses"]).T
  return scene.inputs["images"][np.argmax(cosines, -1)]


def _mean_image(
  records: Sequence[loading.Record], size: int, resize: str
) -> np.ndarray:
  """Mean over all views of the first training scenes, u8 [H,W,3]."""
  total, views = 0.0, 0
  for i in range(min(len(records), _MEAN_IMAGE_SCENES)):
    every = range(len(records[i]["poses"]))
    images = loading.decode_views(records[i], every, size, resize)["images"]
    total = total + images.sum(0, dtype=np.float64)
    views += len(images)
  return (total / views + 0.5).astype(np.uint8)
