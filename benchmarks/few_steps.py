"""Quality of one sample against the number of network evaluations.

  python -m benchmarks.few_steps --checkpoint=WORKDIR --output=few_steps.json
  python -m benchmarks.few_steps --output=few_steps.json --plot=few_steps.png

The first command draws the validation scenes of a trained model with every
sampler and prints a table; it goes on where it was stopped. The second draws a
plot of what the first has written (`pip install -e '.[plots]'`). A sampler that
cannot take just so many evaluations takes as many as it can: Heun's method
needs 2 steps - 1.

PSNR and SSIM are means over views of one sample each, denoised or rendered
alone. Sharpness is the mean gradient of the pictures over that of the true
views: 1 is as sharp as the truth.
"""

import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from absl import flags

from genvs_jax.checkpointing import pretrained
from genvs_jax.data import datasets
from genvs_jax.evaluation import protocol
from genvs_jax.images import metrics
from genvs_jax.models import pipeline
from genvs_jax.sampling import view_synthesis

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Trained workdir.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON of what was measured.")
_PLOT = flags.DEFINE_string("plot", None, "PNG to draw from --output.")
_COUNTS = flags.DEFINE_list(
  "evaluations", [1, 2, 4, 8, 18, 35, 50, 250], "Of the network, at most."
)
_SCENES = flags.DEFINE_integer("scenes", 24, "Of the validation split.")

# name -> (sampler, churn per step)
METHODS = {
  "Euler": ("euler", 0.0),
  "Euler, churn 0.4": ("euler", 0.4),
  "Heun": ("heun", 0.0),
  "Heun, churn 0.4": ("heun", 0.4),
  "DPM++ 2M": ("dpmpp_2m", 0.0),
}
SCORES = ("psnr", "psnr_masked", "ssim", "sharpness")


def main(argv):
  del argv
  path = pathlib.Path(_OUTPUT.value)
  results = json.loads(path.read_text()) if path.exists() else {"rows": {}}
  if _CHECKPOINT.value:
    measure(results, path)
  print(table(results))
  if _PLOT.value:
    plot(results, _PLOT.value)


def measure(results: dict, path: pathlib.Path) -> None:
  """Draws and scores every method at every count, and writes as it goes."""
  loaded = pretrained.load(_CHECKPOINT.value)
  source = f"{_CHECKPOINT.value} at step {loaded.step}"
  there = results.setdefault("source", source)
  if there != source:
    raise app.UsageError(
      f"{path} has scores of {there}, but --checkpoint is {source}: name"
      " another --output"
    )
  model, config = loaded.model, loaded.config
  records = datasets.load_split(config, _CHECKPOINT.value, "validation")
  count = min(_SCENES.value, len(records))
  scenes = [protocol.load_scene(config, records, i) for i in range(count)]
  variables = jax.tree.map(lambda x: x.addressable_data(0), loaded.variables)
  features, views = jax.jit(
    lambda v, inputs, poses: view_synthesis.render_views(
      model, v, inputs, poses
    )
  )(
    variables,
    {k: np.stack([s.inputs[k] for s in scenes]) for k in scenes[0].inputs},
    np.stack([s.poses for s in scenes]),
  )
  features = features.reshape(-1, *features.shape[2:])
  truth = np.concatenate([s.images for s in scenes]) / np.float32(255)
  mask = None
  if scenes[0].distances is not None:
    mask = np.concatenate([s.distances for s in scenes]) > 0
  keys = jnp.concatenate(
    [
      view_synthesis.view_keys(config.seed, [s.scene], s.views)[0]
      for s in scenes
    ]
  )
  score = jax.jit(build_score(truth, mask))
  results["views"], results["scenes"] = len(truth), count
  results["render"] = as_floats(score(views.rgb.reshape(truth.shape)))
  for name, (sampler, churn) in METHODS.items():
    for most in map(int, _COUNTS.value):
      steps, evaluations = steps_for(sampler, most)
      key = f"{name}/{most}"
      if key in results["rows"] or evaluations <= most // 2:
        continue  # done, or the same as the count before
      config.sampler.update(name=sampler, steps=steps, churn=churn)
      draw = jax.jit(view_synthesis.build_sampler(config, model))
      begin = time.perf_counter()
      pictures, _ = draw(variables, features, keys)
      scores = as_floats(score(pictures))
      scores |= {"evaluations": evaluations}
      scores |= {"seconds": time.perf_counter() - begin}
      results["rows"][key] = scores
      path.write_text(json.dumps(results, indent=1))
      print(key, scores, flush=True)


def steps_for(sampler: str, evaluations: int) -> tuple[int, int]:
  """Steps that take at most so many evaluations, and how many they take."""
  if sampler == "heun":
    steps = (evaluations + 1) // 2
    return steps, 2 * steps - 1
  return evaluations, evaluations


def build_score(truth: np.ndarray, mask: np.ndarray | None):
  """pictures [n,H,W,3] in [0,1] -> means of `SCORES`."""

  def score(pictures):
    # As a viewer sees them: rounded to 8 bits.
    drawn = pipeline.to_unit(jnp.round(pictures * 255) / 255, (0.0, 1.0))
    scores = {
      "psnr": jnp.mean(metrics.psnr(drawn, truth)),
      "ssim": jnp.mean(metrics.ssim(drawn, truth)),
      "sharpness": jnp.mean(metrics.sharpness(drawn, truth)),
    }
    if mask is not None:
      scores["psnr_masked"] = jnp.nanmean(metrics.psnr(drawn, truth, mask))
    return scores

  return score


def as_floats(scores: dict) -> dict[str, float]:
  return {name: float(value) for name, value in scores.items()}


def table(results: dict) -> str:
  """Markdown: a table per score, a row per method, a column per count."""
  counts = [int(n) for n in _COUNTS.value]
  lines = []
  for score in SCORES:
    if score not in results["render"]:
      continue
    lines += [
      f"{score} (render {results['render'][score]:.3f}),"
      f" {results['views']} views of {results['scenes']} scenes",
      "",
      "| at most | " + " | ".join(map(str, counts)) + " |",
      "|---" * (len(counts) + 1) + "|",
    ]
    for name in METHODS:
      cells = []
      for count in counts:
        row = results["rows"].get(f"{name}/{count}")
        cells.append(f"{row[score]:.3f}" if row else "")
      lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("")
  return "\n".join(lines)


def plot(results: dict, path: str) -> None:
  """Two panels: PSNR and sharpness against evaluations.

  What lies far beside the render's is cut off.
  """
  from matplotlib import pyplot  # noqa: PLC0415  (wanted for this alone)

  figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
  # Of a panel: its label, and its range around the render's score.
  panels = {
    "psnr": ("PSNR of one sample, dB", (-4, 1)),
    "sharpness": ("sharpness (1: true)", (-0.1, 0.6)),
  }
  for axis, (score, (label, around)) in zip(axes, panels.items(), strict=True):
    for name in METHODS:
      rows = [
        row
        for key, row in results["rows"].items()
        if key.rpartition("/")[0] == name
      ]
      rows.sort(key=lambda row: row["evaluations"])
      axis.plot(
        [row["evaluations"] for row in rows],
        [row[score] for row in rows],
        marker="o",
        label=name,
      )
    rendered = results["render"][score]
    axis.axhline(rendered, color="grey", dashes=(4, 3))
    axis.annotate(
      "render, not denoised", (20, rendered), color="grey", va="bottom"
    )
    axis.set_xscale("log")
    axis.set_xlabel("network evaluations")
    axis.set_ylabel(label)
    axis.set_ylim(*(rendered + x for x in around))
  axes[0].legend(loc="lower left")
  figure.savefig(path, dpi=100)


if __name__ == "__main__":
  flags.mark_flag_as_required("output")
  app.run(main)
