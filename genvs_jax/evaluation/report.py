"""The summary of an evaluation: results, table and grid of pictures."""

import json
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from genvs_jax import perceptual
from genvs_jax.evaluation import image_scores
from genvs_jax.evaluation import score_files
from genvs_jax.evaluation import summary
from genvs_jax.images import encoding
from genvs_jax.images import grids
from genvs_jax.perceptual import distances
from genvs_jax.runtime import files


def write_results(
  config: ml_collections.ConfigDict,
  scorer: image_scores.Scorer,
  store: score_files.Store,
  lines: Sequence[dict[str, Any]],
  rollouts: Sequence[dict[str, Any]],
  suffix: str,
) -> dict[str, Any]:
  """Writes scores.jsonl, table.md and grid.png, and returns the results.

  Args:
    config: evaluate and model are read from it.
    scorer: that scored.
    store: of the scores.
    lines: of the scenes.
    rollouts: consistency scores of scenes.
    suffix: of the files' names: those of a part stand beside those of all.
  """
  statistics: dict[str, distances.FeatureStatistics] = {}
  if scorer.frechet:
    for line in lines:
      for row, features in store.features(line["scene"]).items():
        statistics.setdefault(row, distances.FeatureStatistics()).add(features)
  truth = statistics.pop("truth", None)

  def frechet(row: str) -> float | None:
    if row not in statistics or truth is None or truth.count < 2:
      return None
    return distances.frechet(statistics[row], truth)

  rows = summary.summarise(lines, rollouts, frechet, scorer.frechet)
  views = sum(len(line["views"]) for line in lines)
  results: dict[str, Any] = {
    **_headlines(rows),
    "rows": rows,
    "categories": summary.by_category(lines),
    "scenes": len(lines),
    "views": views,
    "split": config.evaluate.split,
    "input_views": list(config.evaluate.input_views),
    "view_list": config.evaluate.view_list,
    "targets": config.evaluate.targets,
    "image_size": config.model.image_size,
    "samples": config.evaluate.samples,
    "left_out": scorer.left_out,
    "folder": str(store.folder),
    "suffix": suffix,
  }
  if rollouts:
    results["rollouts"] = {
      "scenes": len(rollouts),
      "frames": rollouts[0]["frames"],
    }
  if truth is not None:
    label, flavour = perceptual.FLAVOURS[scorer.frechet]
    results["frechet"] = {"name": label, "flavour": flavour, "images": views}
  for line, rollout in zip(lines, rollouts, strict=False):
    line["rollout"] = rollout
  text = "".join(json.dumps(x) + "\n" for x in [*lines, {"dataset": results}])
  contents = {
    f"scores{suffix}.jsonl": text.encode(),
    f"table{suffix}.md": f"{table(results)}\n".encode(),
    f"grid{suffix}.png": encoding.png(_grid(store.read_examples())),
  }
  for name, content in contents.items():
    files.write_whole(store.folder / name, content)
  return results


def _headlines(rows: summary.Scores) -> dict[str, float | None]:
  """What a script asks for first; None where a score is missing."""
  names = ("psnr", "lpips_vgg", "mean_colour", "sharpness", "reprojection")
  scores = {
    f"{name}_{row}": rows.get(row, {}).get(name)
    for name in names
    for row in ("render", "sample")
  }
  of_sample, of_render = rows.get("sample", {}), rows.get("render", {})
  return scores | {
    "colour_correlation_sample": of_sample.get("colour_correlation"),
    "colour_correlation_truth": of_render.get("truth_colour_correlation"),
  }


def table(results: dict[str, Any]) -> str:
  """The scores as a Markdown table, with what they were measured on."""
  rows = summary.table(results["rows"], results["samples"])
  if results["categories"]:
    rows += f"\n\n{summary.category_table(results['categories'])}"
  return f"{rows}\n\n{notes(results)}"


def notes(results: dict[str, Any]) -> str:
  """What the scores were measured on."""
  inputs = results["input_views"]
  word = "view" if len(inputs) == 1 else "views"
  numbers = ", ".join(map(str, inputs))
  if results["view_list"]:
    numbers = f"as {results['view_list']} says"
  sentences = [
    f"{results['views']} views of {results['scenes']} scenes of split"
    f" {results['split']}, {results['image_size']}x{results['image_size']};"
    f" input {word} {numbers}; targets:"
    f" {results['targets']}."
  ]
  if "frechet" in results:
    frechet = results["frechet"]
    sentences.append(
      f"{frechet['name']} over {frechet['images']} pictures:"
      f" {frechet['flavour']}."
    )
  if "rollouts" in results:
    rollouts = results["rollouts"]
    sentences.append(
      f"3D consistency over rollouts of {rollouts['frames']} frames"
      f" of {rollouts['scenes']} scenes."
    )
  if results["left_out"]:
    metrics = ", ".join(results["left_out"])
    sentences.append(f"Left out, because their weights are missing: {metrics}.")
  truth = results["colour_correlation_truth"]
  if truth is not None:
    sentences.append(f"The truth's colours have {truth:.2f} with the render's.")
  return " ".join(sentences)


def _grid(examples: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
  """Truth, render and sample of the first targets, three rows a scene."""
  rows = []
  for i, scene in enumerate(examples):
    inputs = list(scene["inputs"])
    blank = [np.full_like(image, 255) for image in inputs]
    rows.append((f"scene {i}", [*inputs, *scene["truth"]]))
    rows.append(("RGB render", [*blank, *scene["render"]]))
    if "sample" in scene:
      rows.append(("sample", [*blank, *scene["sample"]]))
  return grids.image_grid(rows)
