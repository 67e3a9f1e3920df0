"""3D consistency of rollouts, of renders and samples alike."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from genvs_jax.evaluation import consistency
from genvs_jax.models import pipeline
from genvs_jax.runtime import sharding
from genvs_jax.sampling import rollouts
from genvs_jax.sampling import view_synthesis

Scores = dict[str, dict[str, float | None]]


def build_rollout_scores(
  config, model: pipeline.Model, variables: pipeline.Variables, batch: int
) -> Callable[..., list[dict[str, Any]]]:
  """A function (inputs, scenes, poses) -> a line for `store` of each scene.

  `inputs` are those of `protocol.load_inputs`, `scenes` their numbers and
  `poses` [B,frames,4,4] their paths, at most `batch` of each. A line has the
  scores by row: reprojection and field_fit in dB (None: not scored) with the
  coverage of each.

  Args:
    config: rollout, sampler, evaluate, frustum and seed are read from it.
    model: the model.
    variables: of the model, on this process's devices.
    batch: scenes rolled out at a time; fewer take as long.
  """
  mesh = sharding.make_local_mesh(batch)
  split = sharding.split_batch(mesh)
  variables = jax.device_put(variables, sharding.replicated(mesh))
  rollout = rollouts.Rollout(
    config,
    model,
    "denoiser" in variables,
    lambda tree: jax.device_put(tree, split),
  )
  options = consistency.FitOptions(half_extent=model.frustum.half_extent)

  def score_rollouts(inputs, scenes, poses):
    rows = [min(i, len(scenes) - 1) for i in range(batch)]
    stacked = {
      key: np.stack([inputs[i][key] for i in rows]) for key in inputs[0]
    }
    stacked["scene"] = np.asarray(scenes)[rows]
    drawn = list(rollout.run(variables, stacked, poses[rows], config.seed))
    return [
      {
        "scene": scene,
        "frames": len(drawn),
        "views_encoded_again": rollout.report.encoded_again,
        "scores": _score(
          [jax.tree.map(lambda x, b=b: x[b, 0], frame) for frame in drawn],
          poses[b],
          inputs[b]["intrinsics"],
          options,
        ),
      }
      for b, scene in enumerate(scenes)
    ]

  return score_rollouts


def _score(
  drawn: Sequence[view_synthesis.Views],
  poses: np.ndarray,
  intrinsics: np.ndarray,
  options: consistency.FitOptions,
) -> Scores:
  """Scores of one scene's frames, which have neither B nor Q."""
  opacity = np.stack([f.opacity for f in drawn])
  depth = np.stack([f.depth for f in drawn]) / np.maximum(opacity, 1e-6)
  rows = {"render": [f.rgb for f in drawn]}
  if drawn[0].sample is not None:
    rows["sample"] = [f.sample for f in drawn]
  scores: Scores = {}
  for row, images in rows.items():
    frames = consistency.Frames(
      np.stack(images), depth, opacity, np.asarray(poses), intrinsics
    )
    reprojection = consistency.reprojection(frames)
    fit = consistency.field_fit(frames, options)
    scores[row] = {
      "reprojection": reprojection.psnr,
      "reprojection_coverage": reprojection.coverage,
      "field_fit": fit.psnr,
      "field_fit_coverage": fit.coverage,
    }
  return scores
