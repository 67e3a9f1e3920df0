"""Means over views, then over scenes, and the table that shows them."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

from genvs_jax.evaluation import colours

ROWS = {
  "render": "RGB render",
  "sample": "one sample",
  "sample_mean": "mean of {samples} samples",
  "sample_best": "best of {samples} samples",
  "mean_image": "mean training image",
  "input_copy": "nearest input view copied",
  "render_wrong_input": "render, another scene's input",
}
_COLUMNS = {
  "psnr": ("PSNR, dB", "{:.2f}"),
  "psnr_masked": ("PSNR in the mask, dB", "{:.2f}"),
  "ssim": ("SSIM", "{:.3f}"),
  "lpips_vgg": ("LPIPS (VGG)", "{:.3f}"),
  "lpips_alex": ("LPIPS (Alex)", "{:.3f}"),
  "dists": ("DISTS", "{:.3f}"),
  "fid": ("FID", "{:.1f}"),
  "frechet_vgg16": ("Frechet distance (VGG16)", "{:.2f}"),
  "sharpness": ("sharpness", "{:.2f}"),
  "mean_colour": ("mean colour, CIEDE2000", "{:.1f}"),
  "colour_correlation": ("colours with the render's", "{:.2f}"),
  "depth_error": ("depth error (coverage)", "{:.3f}"),
  "reprojection": ("reprojection, dB (coverage)", "{:.1f}"),
  "field_fit": ("field fit, dB (coverage)", "{:.1f}"),
}
# Scores over a part of the pixels, and where its share stands.
_COVERAGES = {
  "depth_error": "depth_coverage",
  "reprojection": "reprojection_coverage",
  "field_fit": "field_fit_coverage",
}

Scores = dict[str, dict[str, Any]]


def to_lists(scores: dict[str, dict[str, np.ndarray]]) -> Scores:
  """Scores by row and metric for JSON; null where there is none."""
  return {
    row: {
      metric: [float(v) if np.isfinite(v) else None for v in values]
      for metric, values in by_metric.items()
    }
    for row, by_metric in scores.items()
  }


def mean_over_views(scores: Scores) -> Scores:
  """One number by row and metric; None where no view has any."""
  return {
    row: {metric: _mean(values) for metric, values in by_metric.items()}
    for row, by_metric in scores.items()
  }


def summarise(
  lines: Sequence[dict[str, Any]],
  rollouts: Sequence[dict[str, Any]],
  frechet: Callable[[str], float | None],
  frechet_name: str = "fid",
) -> Scores:
  """Means over scenes by row and metric.

  Args:
    lines: of `score_files`, with "means" of each scene.
    rollouts: consistency scores by row, in scenes of their own.
    frechet: distance of a row's pictures from the truth's; None if unknown.
    frechet_name: which distance that is.
  """
  summary: Scores = {}
  for row in ROWS:
    means = [line["means"][row] for line in lines if row in line["means"]]
    if not means:
      continue
    # Scenes without depth lack some metrics: the others count.
    metrics = dict.fromkeys(metric for scene in means for metric in scene)
    summary[row] = {
      metric: _mean([scene.get(metric) for scene in means])
      for metric in metrics
    }
    products = [summary[row].pop(name, None) for name in colours.PRODUCTS]
    if None not in products:
      # In the render's row the products are the truth's with the render.
      whose = "truth_" if row == "render" else ""
      correlation = colours.correlation(*products)
      summary[row][f"{whose}colour_correlation"] = correlation
    distance = frechet(row)
    if distance is not None:
      summary[row][frechet_name] = distance
    for metric in ("reprojection", "field_fit"):
      scores = [
        r["scores"][row] for r in rollouts if metric in r["scores"].get(row, {})
      ]
      if scores:
        values = [s[metric] for s in scores]
        coverage = _COVERAGES[metric]
        summary[row][metric] = _mean(values)
        summary[row][coverage] = _mean([s[coverage] for s in scores])
        scored = len(values) - values.count(None)
        summary[row][f"{metric}_scored"] = [scored, len(values)]
  return summary


def by_category(lines: Sequence[dict[str, Any]]) -> dict[str, Scores]:
  """`summarise` of each category's scenes; empty if there is but one."""
  groups: dict[str, list[dict[str, Any]]] = {}
  for line in lines:
    groups.setdefault(line.get("category", ""), []).append(line)
  if len(groups) < 2:
    return {}
  return {
    category: {"scenes": {"count": len(groups[category])}}
    | summarise(groups[category], [], lambda row: None)
    for category in sorted(groups)
  }


def category_table(categories: dict[str, Scores]) -> str:
  """PSNR, SSIM and LPIPS of render and sample by category, and their means
  over the categories, as a Markdown table."""
  columns = [
    (row, metric)
    for row in ("render", "sample")
    for metric in ("psnr", "ssim", "lpips_vgg")
    if all(metric in scores.get(row, {}) for scores in categories.values())
  ]
  head = [f"{ROWS[row]}, {_COLUMNS[metric][0]}" for row, metric in columns]
  lines = [
    f"| category | scenes | {' | '.join(head)} |",
    f"|---|---|{'---|' * len(columns)}",
  ]
  values = {
    category: [scores[row][metric] for row, metric in columns]
    for category, scores in categories.items()
  }
  values["mean of the categories"] = [
    _mean(column) for column in zip(*values.values(), strict=True)
  ]
  for category, row_values in values.items():
    cells = [
      "not scored" if v is None else _COLUMNS[metric][1].format(v)
      for (_, metric), v in zip(columns, row_values, strict=True)
    ]
    counts = categories.get(category, {}).get("scenes", {})
    count = counts.get("count", "")
    lines.append(f"| {category} | {count} | {' | '.join(cells)} |")
  return "\n".join(lines)


def table(summary: Scores, samples: int) -> str:
  """The scores as a Markdown table; columns that no row has are left out."""
  columns = [
    name
    for name in _COLUMNS
    if any(name in by_metric for by_metric in summary.values())
  ]
  head = [_COLUMNS[name][0] for name in columns]
  lines = [
    f"| | {' | '.join(head)} |",
    f"|---|{'---|' * len(columns)}",
  ]
  for row, label in ROWS.items():
    if row not in summary:
      continue
    cells = [_cell(summary[row], name) for name in columns]
    lines.append(f"| {label.format(samples=samples)} | {' | '.join(cells)} |")
  return "\n".join(lines)


def _cell(by_metric: dict[str, Any], name: str) -> str:
  if name not in by_metric:
    return ""
  value = by_metric[name]
  text = "not scored" if value is None else _COLUMNS[name][1].format(value)
  coverage = by_metric.get(_COVERAGES.get(name, ""))
  if coverage is None:
    return text
  scored, total = by_metric.get(f"{name}_scored", (1, 1))
  some = f", {scored} of {total} scenes" if 0 < scored < total else ""
  return f"{text} ({coverage:.2f}{some})"


def _mean(values: Sequence[float | None]) -> float | None:
  finite = [v for v in values if v is not None]
  return float(np.mean(finite)) if finite else None
