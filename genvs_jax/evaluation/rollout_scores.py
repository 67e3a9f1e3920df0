"""3D consistency of rollouts, of renders and samples alike."""

from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from genvs_jax.evaluation import consistency
from genvs_jax.geometry import rendering
from genvs_jax.models import pipeline
from genvs_jax.runtime import sharding
from genvs_jax.sampling import rollout_files
from genvs_jax.sampling import rollouts

RowScores = dict[str, dict[str, float | None]]


class RolloutScores:
  """Rolls groups of scenes out and scores them.

  Args:
    rollout: draws paths for `batch` scenes on `mesh`.
    variables: of the model, on the devices of the mesh.
    options: of the field fits; None for none, which take minutes each.
    seed: of the rollouts.
    batch: scenes rolled out at a time; fewer take as long.
  """

  def __init__(
    self,
    rollout: rollouts.Rollout,
    variables: pipeline.Variables,
    options: consistency.FitOptions | None,
    seed: int,
    batch: int,
  ):
    self._rollout = rollout
    self._variables = variables
    self._options = options
    self._seed, self._batch = seed, batch

  def __call__(
    self,
    inputs: Sequence[dict[str, np.ndarray]],
    scenes: Sequence[int],
    poses: np.ndarray,
  ) -> list[tuple[dict[str, Any], list[np.ndarray]]]:
    """A line for `score_files` of each scene, at most `batch` of them, and its
    film.

    Args:
      inputs: of `protocol.decode_inputs`.
      scenes: their numbers.
      poses: f32 [B,frames,4,4] their paths.

    Returns:
      lines with the scores by row: reprojection and field_fit in dB (None:
      not scored) with the coverage of each; films u8 [H,W,3] by frame, of
      input, sample and render.
    """
    rows = sharding.pad_rows(len(scenes), self._batch)
    stacked = {
      key: np.stack([inputs[i][key] for i in rows]) for key in inputs[0]
    }
    stacked["scene"] = np.asarray(scenes)[rows]
    frames = rollouts.in_path_order(
      self._rollout, self._variables, stacked, poses[rows], self._seed
    )
    results = []
    for b, scene in enumerate(scenes):
      drawn_scene = rollout_files.DrawnScene(
        frames=[jax.tree.map(lambda x, b=b: x[b, 0], f) for f in frames],
        poses=poses[b],
        # The frames have the camera of the first input view.
        intrinsics=np.atleast_2d(inputs[b]["intrinsics"])[0],
        inputs=list(inputs[b]["images"]),
      )
      line = {
        "scene": scene,
        "frames": len(frames),
        "views_encoded_again": self._rollout.report.encoded_again,
        "scores": _score(drawn_scene, self._options),
      }
      results.append((line, drawn_scene.film("side_by_side")))
    return results


def build_rollout_scores(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  variables: pipeline.Variables,
  batch: int,
) -> RolloutScores:
  """From `config.rollout`, `config.evaluate`, `config.sampler` and
  `config.seed`; variables lie on this process's devices."""
  mesh = sharding.make_local_mesh(batch)
  split = sharding.split_batch(mesh)
  rollout = rollouts.build_rollout(
    config,
    model,
    "denoiser" in variables,
    lambda tree: jax.device_put(tree, split),
  )
  options = None
  if config.evaluate.field_fit:
    options = consistency.FitOptions(half_extent=model.frustum.half_extent)
  variables = jax.device_put(variables, sharding.replicated(mesh))
  return RolloutScores(rollout, variables, options, config.seed, batch)


def _score(
  scene: rollout_files.DrawnScene, options: consistency.FitOptions | None
) -> RowScores:
  """Scores of one scene's frames."""
  views = scene.frames
  opacity = np.stack([f.opacity for f in views])
  weighted = np.stack([f.weighted_depth for f in views])
  depth = rendering.expected_depth(weighted, opacity)
  rows = {"render": [f.rgb for f in views]}
  if views[0].sample is not None:
    rows["sample"] = [f.picture for f in views]
  scores: RowScores = {}
  for row, images in rows.items():
    frames = consistency.Frames(
      np.stack(images), depth, opacity, scene.poses, scene.intrinsics
    )
    reprojection = consistency.reprojection(frames)
    scores[row] = {
      "reprojection": reprojection.psnr,
      "reprojection_coverage": reprojection.coverage,
    }
    if options is not None:
      fit = consistency.field_fit(frames, options)
      scores[row]["field_fit"] = fit.psnr
      scores[row]["field_fit_coverage"] = fit.coverage
  return scores
