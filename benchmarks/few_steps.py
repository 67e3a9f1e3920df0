"""Quality of one sample against the number of network evaluations.

  python -m benchmarks.few_steps --checkpoint=MODEL --workdir=DIR
  python -m benchmarks.few_steps --workdir=DIR --plot=few_steps.png

The first command draws validation scenes of a trained model with every sampler
and prints a table; it goes on where it was stopped. The second draws a plot of
what the first has written (`pip install -e '.[plots]'`). A sampler that cannot
take exactly that many evaluations takes as many as it can: Heun's method needs
2 steps - 1.

Scores are means over views of one sample each. Sharpness is the mean gradient
of the pictures over that of the true views: 1 is as sharp as the truth. LPIPS
needs its weights, see docs/evaluation.md.
"""

import json
import pathlib
import time

import numpy as np
from absl import app
from absl import flags

from benchmarks import checkpoint_scenes
from benchmarks import measuring
from genvs_jax.checkpointing import pretrained
from genvs_jax.evaluation import image_scores
from genvs_jax.evaluation import prediction

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Of a trained model.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Of scenes and results.")
_PLOT = flags.DEFINE_string("plot", None, "PNG to draw from the results.")
_COUNTS = flags.DEFINE_list(
  "evaluations", [1, 2, 3, 4, 6, 10, 18, 35, 50], "Of the network, at most."
)
_SCENES = flags.DEFINE_integer("scenes", 24, "Of the validation split.")
_METHODS = flags.DEFINE_list("methods", [], "Some rows; by default all.")
_WEIGHTS = flags.DEFINE_string("metric_weights", "auto", "As in the config.")

# name -> (sampler, churn per step)
METHODS = {
  "Euler": ("euler", 0.0),
  "Euler with churn 0.4": ("euler", 0.4),
  "Heun": ("heun", 0.0),
  "Heun with churn 0.4": ("heun", 0.4),
  "DPM++ 2M": ("dpmpp_2m", 0.0),
  "Renoise": ("renoise", 0.0),
}
# score -> its title, and the range of the plot around the render's
SCORES = {
  "lpips_vgg": ("LPIPS", (-0.12, 0.06)),
  "sharpness": ("sharpness (1: true)", (-0.1, 0.6)),
  "psnr": ("PSNR of one sample, dB", (-4, 1)),
  "ssim": ("SSIM", (-0.2, 0.1)),
}


def main(argv):
  del argv
  path = pathlib.Path(_WORKDIR.value) / "few_steps.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  results = json.loads(path.read_text()) if path.exists() else {"rows": {}}
  if _CHECKPOINT.value:
    measure(results, path)
  print(table(results))
  if _PLOT.value:
    plot(results, _PLOT.value)


def measure(results: dict, path: pathlib.Path) -> None:
  """Draws and scores every method at every count, and writes as it goes."""
  genvs, scenes = checkpoint_scenes.load(
    _CHECKPOINT.value, _WORKDIR.value, _SCENES.value
  )
  source = f"{_CHECKPOINT.value} at step {genvs.step}"
  there = results.setdefault("source", source)
  if there != source:
    raise app.UsageError(
      f"{path} has scores of {there}, but --checkpoint is {source}: name"
      " another --workdir"
    )
  scorer = image_scores.Scorer(_WEIGHTS.value)
  results["views"] = sum(len(s.images) for s in scenes)
  results["scenes"] = len(scenes)
  for name in _METHODS.value or METHODS:
    sampler, churn = METHODS[name]
    for most in map(int, _COUNTS.value):
      steps, evaluations = steps_for(sampler, most)
      key = f"{name}/{most}"
      if key in results["rows"] or evaluations <= most // 2:
        continue  # done, or the same as the count before
      genvs.config.sampler.update(name=sampler, steps=steps, churn=churn)
      scores, rendered, seconds = draw(genvs, scenes, scorer)
      scores |= {"evaluations": evaluations, "seconds": seconds}
      results["rows"][key], results["render"] = scores, rendered
      path.write_text(json.dumps(results, indent=1))
      print(key, scores, flush=True)


def draw(genvs: pretrained.Pretrained, scenes, scorer):
  """(scores of samples, of renders, seconds of drawing a view)."""
  batch = genvs.config.evaluate.batch_size
  predict = prediction.build_predictor(
    genvs.config, genvs.model, genvs.variables, batch
  )
  predict(scenes[:batch], samples=1)  # compiles
  begin = time.perf_counter()
  predicted = []
  for first in range(0, len(scenes), batch):
    predicted += predict(scenes[first : first + batch], samples=1)
  seconds = (time.perf_counter() - begin) / sum(len(s.images) for s in scenes)
  truth = np.concatenate([s.images for s in scenes])
  means = []
  for pictures in (
    [p.samples[:, 0] for p in predicted],
    [p.render for p in predicted],
  ):
    scores = scorer.score(np.concatenate(pictures), truth, None)
    means.append({k: float(v.mean()) for k, v in scores.items()})
  return means[0], means[1], seconds


def steps_for(sampler: str, evaluations: int) -> tuple[int, int]:
  """Steps that take at most so many evaluations, and how many they take."""
  if sampler == "heun":
    steps = (evaluations + 1) // 2
    return steps, 2 * steps - 1
  return evaluations, evaluations


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
  """A panel per score against evaluations; what lies far off is cut."""
  from matplotlib import pyplot  # noqa: PLC0415  (wanted for this alone)

  panels = [name for name in SCORES if name in results["render"]][:3]
  figure, axes = pyplot.subplots(
    1, len(panels), figsize=(5 * len(panels), 4), layout="constrained"
  )
  for axis, score in zip(axes, panels, strict=True):
    label, around = SCORES[score]
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
      "render, not denoised", (10, rendered), color="grey", va="bottom"
    )
    axis.set_xscale("log")
    axis.set_xlabel("network evaluations")
    axis.set_ylabel(label)
    axis.set_ylim(*(rendered + x for x in around))
  axes[0].legend()
  figure.savefig(path, dpi=100)


if __name__ == "__main__":
  flags.mark_flag_as_required("workdir")
  measuring.check_names("methods", tuple(METHODS))
  app.run(main)
