"""Which views to keep, whether to draw views again, and with what noise.

  python -m benchmarks.rollout_policies --checkpoint=MODEL --workdir=DIR

Rolls scenes of the validation split out along an orbit by every policy, once
and with a second pass, and prints a table; then draws one orbit of 100 frames
by each and plots how it drifts (`pip install -e '.[plots]'`): PSNR of a frame
against the true picture, by its number. It goes on where it was stopped;
`--policies=input,nearest` does some. LPIPS is that of the frames against the
scenes' true pictures, which the generator draws for the path; it needs its
weights, see docs/evaluation.md.
"""

import json
import pathlib
import time

import jax
import numpy as np
from absl import app
from absl import flags

from benchmarks import checkpoint_scenes
from benchmarks import measuring
from genvs_jax.data import paths
from genvs_jax.evaluation import consistency
from genvs_jax.evaluation import image_scores
from genvs_jax.geometry import rendering
from genvs_jax.images import grids
from genvs_jax.images import metrics
from genvs_jax.sampling import rollouts
from tfds_srn.synthetic_cars import cars
from tfds_srn.synthetic_cars import ray_caster

_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", None, "Of a trained model.", required=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Results.", required=True)
_SCENES = flags.DEFINE_integer("scenes", 10, "Of the validation split.")
_FRAMES = flags.DEFINE_integer("frames", 20, "Of an orbit.")
_DRIFT_FRAMES = flags.DEFINE_integer("drift_frames", 100, "Of the long orbit.")
_FIT = flags.DEFINE_bool("field_fit", True, "The slower consistency score too.")
_POLICIES = flags.DEFINE_list("policies", [], "Some rows; by default all.")
_WEIGHTS = flags.DEFINE_string("metric_weights", "auto", "As in the config.")

# name -> fields of `rollout`
POLICIES = {
  "input": {"policy": "input", "noise": "surface"},
  "input with noise on the screen": {"policy": "input", "noise": "screen"},
  "input with noise of its own": {"policy": "input", "noise": "own"},
  "reference": {"policy": "reference"},
  "reference, twice": {"policy": "reference", "passes": 2},
  "nearest": {"policy": "nearest"},
  "nearest, twice": {"policy": "nearest", "passes": 2},
  "stochastic": {"policy": "stochastic"},
  "stochastic, twice": {"policy": "stochastic", "passes": 2},
  "anchors": {"policy": "anchors"},
  "anchors, twice": {"policy": "anchors", "passes": 2},
}
SCORES = ("lpips_vgg", "psnr", "sharpness", "reprojection", "field_fit")


def main(argv):
  del argv
  path = pathlib.Path(_WORKDIR.value) / "rollout_policies.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  results = json.loads(path.read_text()) if path.exists() else {}
  genvs, scenes = checkpoint_scenes.load(
    _CHECKPOINT.value, _WORKDIR.value, _SCENES.value
  )
  scorer = image_scores.Scorer(_WEIGHTS.value)
  for name in _POLICIES.value or POLICIES:
    fields = POLICIES[name]
    if name not in results:
      config = genvs.config.copy_and_resolve_references()
      config.rollout.update(fields)
      rollout = rollouts.build_rollout(config, genvs.model)
      results[name] = score(config, genvs, rollout, scenes, scorer)
      results[name]["drift"] = drift(config, genvs, rollout, scenes[0])
      path.write_text(json.dumps(results, indent=1))
    print(name, {k: results[name][k] for k in (*SCORES, "seconds")}, flush=True)
  print(table(results))
  plot(results, path.with_suffix(".png"))


def roll_out(config, genvs, rollout, scenes, frames: int):
  """(poses [B,frames,4,4], frames as the path has them, seconds of a frame)."""
  config = config.copy_and_resolve_references()
  config.sample.frames = frames
  inputs = {
    key: np.stack([s.inputs[key] for s in scenes]) for key in scenes[0].inputs
  }
  inputs["scene"] = np.array([s.scene for s in scenes])
  distances = np.linalg.norm(inputs["poses"][:, 0, :3, 3], axis=-1)
  poses = np.stack([paths.build_path(config, float(d)) for d in distances])
  begin = time.perf_counter()
  views = rollouts.in_path_order(
    rollout, genvs.variables, inputs, poses, config.seed
  )
  return poses, views, (time.perf_counter() - begin) / frames / len(scenes)


def consistency_frames(views, poses, intrinsics, b: int):
  """Samples of scene b, for the consistency scores."""
  of_scene = [jax.tree.map(lambda x: x[b, 0], view) for view in views]
  opacity = np.stack([view.opacity for view in of_scene])
  weighted = np.stack([view.weighted_depth for view in of_scene])
  return consistency.Frames(
    np.stack([view.picture for view in of_scene]),
    rendering.expected_depth(weighted, opacity),
    opacity,
    np.asarray(poses[b]),
    np.atleast_2d(intrinsics)[0],  # all views of a path have one lens
  )


def score(config, genvs, rollout, scenes, scorer) -> dict:
  """Means over the scenes, and seconds of a frame."""
  rows, times = [], []
  # A first rollout compiles.
  roll_out(config, genvs, rollout, scenes[:1], _FRAMES.value)
  for scene in scenes:
    poses, views, seconds = roll_out(
      config, genvs, rollout, [scene], _FRAMES.value
    )
    times.append(seconds)
    frames = consistency_frames(views, poses, scene.inputs["intrinsics"], 0)
    truth = true_pictures(config, scene.name, poses[0])
    scores = scorer.score(grids.to_uint8(frames.images), truth, None)
    row = {k: float(v.mean()) for k, v in scores.items()}
    row["reprojection"] = consistency.reprojection(frames).psnr
    if _FIT.value:
      options = consistency.FitOptions(
        half_extent=genvs.model.frustum.half_extent
      )
      row["field_fit"] = consistency.field_fit(frames, options).psnr
    rows.append(row)
  means = {
    name: _mean([row.get(name) for row in rows]) for name in {*rows[0], *SCORES}
  }
  return {**means, "seconds": float(np.median(times))}


def drift(config, genvs, rollout, scene) -> list[float | None]:
  """PSNR of each frame of a long orbit against the true picture."""
  poses, views, _ = roll_out(
    config, genvs, rollout, [scene], _DRIFT_FRAMES.value
  )
  truth = true_pictures(config, scene.name, poses[0]) / np.float32(255)
  pictures = np.stack([view.picture[0, 0] for view in views])
  return [float(x) for x in metrics.psnr(pictures, truth)]


def true_pictures(config, name: str, poses: np.ndarray) -> np.ndarray:
  """u8 [frames,H,W,3] of a generated car, whose name ends in its number."""
  index = int(name[-16:], 16)
  synthetic = config.data.synthetic
  solid = cars.sample_car(synthetic.seed, "val", index, synthetic.markings)
  size = config.model.image_size
  images = [ray_caster.render_view(solid, pose, size)[0] for pose in poses]
  return grids.to_uint8(np.stack(images))


def _mean(values: list[float | None]) -> float | None:
  """Of those that are there."""
  known = [v for v in values if v is not None]
  return float(np.mean(known)) if known else None


def table(results: dict) -> str:
  """Markdown, a row per policy."""
  lines = [
    "| policy | " + " | ".join(SCORES) + " | seconds a frame |",
    "|---" * (len(SCORES) + 2) + "|",
  ]
  for name, row in results.items():
    cells = [
      "-" if row.get(score) is None else f"{row[score]:.3f}" for score in SCORES
    ]
    lines.append(f"| {name} | {' | '.join(cells)} | {row['seconds']:.2f} |")
  return "\n".join(lines)


def plot(results: dict, path: pathlib.Path) -> None:
  """Drift of each policy along the long orbit."""
  from matplotlib import pyplot  # noqa: PLC0415  (wanted for this alone)

  figure, axis = pyplot.subplots(figsize=(8, 4), layout="constrained")
  for name, row in results.items():
    # A running mean: views differ in how hard they are.
    values = np.convolve(row["drift"], np.ones(9) / 9, "valid")
    axis.plot(np.arange(len(values)) + 4, values, label=name)
  axis.set_xlabel("frame of the orbit")
  axis.set_ylabel("PSNR against the true picture, dB")
  axis.legend(fontsize="small")
  figure.savefig(path, dpi=100)


if __name__ == "__main__":
  measuring.check_names("policies", tuple(POLICIES))
  app.run(main)
