"""The summary of an evaluation as one HTML file that any browser shows."""

import base64
import html
from collections.abc import Sequence
from typing import Any

from genvs_jax.evaluation import summary

SHOWN_SCENES = 3  # of the best, and of the worst
_PLOT_WIDTH, _PLOT_HEIGHT, _MARGIN = 760, 220, 40
_COLOURS = {"render": "#888", "sample": "#1c7ed6"}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 62em;
       padding: 0 1em; color: #222; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3em .5em; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.2em 0; } img, video { max-width: 100%; }
figcaption, .note { color: #555; font-size: 13px; }
svg text { font: 12px system-ui, sans-serif; fill: #555; }
"""


def page(
  model: str,
  results: dict[str, Any],
  notes: str,
  lines: Sequence[dict[str, Any]],
  strips: dict[int, bytes],
  film: bytes | None,
) -> str:
  """The file's text.

  Args:
    model: that was scored, for the title.
    results: of `report.write_results`.
    notes: on what was scored.
    lines: of the scenes.
    strips: JPEG pictures by number of the scene; those that are missing are
      left out.
    film: MP4 of a rollout; None for none.
  """
  metric, ranking = _ranked(lines)
  # No scene is both.
  count = min(SHOWN_SCENES, len(ranking) // 2)
  best = ranking[: max(count, 1)]
  worst = ranking[::-1][:count]
  title = f"{model}: {results['scenes']} scenes of split {results['split']}"
  parts = [
    "<!doctype html><html lang=en><meta charset=utf-8>",
    f"<title>genvs_jax: {html.escape(title)}</title>",
    f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>",
    _table(results),
    f"<p class=note>{html.escape(notes)}</p>",
    "<h2>PSNR by scene</h2>",
    _plot(lines),
    f"<h2>Best scenes, by {metric}</h2>",
    *[_scene(line, strips) for line in best],
    *([f"<h2>Worst scenes, by {metric}</h2>"] if worst else []),
    *[_scene(line, strips) for line in worst],
  ]
  if film is not None:
    source = base64.b64encode(film).decode()
    parts.append(
      "<h2>A rollout: input, sample, render</h2><video controls loop autoplay"
      f' muted src="data:video/mp4;base64,{source}"></video>'
    )
  return "\n".join([*parts, "</html>\n"])


def _table(results: dict[str, Any]) -> str:
  """The Markdown table in HTML."""
  head, _, *rows = summary.table(results["rows"], results["samples"]).split(
    "\n"
  )

  def cells(line: str, tag: str) -> str:
    values = [v.strip() for v in line.strip("|").split("|")]
    return "".join(f"<{tag}>{html.escape(v)}</{tag}>" for v in values)

  body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
  table = f"<table><tr>{cells(head, 'th')}</tr>\n{body}</table>"
  return f"<div class=wide>{table}</div>"


def _ranked(
  lines: Sequence[dict[str, Any]],
) -> tuple[str, list[dict[str, Any]]]:
  """The score that ranks scenes, and the scenes from best to worst."""
  row = "sample" if "sample" in lines[0]["means"] else "render"
  has_lpips = all("lpips_vgg" in line["means"][row] for line in lines)
  name, sign = ("lpips_vgg", 1) if has_lpips else ("psnr", -1)
  label = f"{'LPIPS (VGG)' if has_lpips else 'PSNR'} of the {row}"
  return label, sorted(lines, key=lambda x: sign * x["means"][row][name])


def _plot(lines: Sequence[dict[str, Any]]) -> str:
  """A point for each scene and row, scenes from low to high PSNR."""
  rows = [r for r in _COLOURS if r in lines[0]["means"]]
  ordered = sorted(lines, key=lambda x: x["means"][rows[-1]]["psnr"])
  values = [x["means"][r]["psnr"] for x in ordered for r in rows]
  low, high = int(min(values)) - 1, int(max(values)) + 2
  step = max(1, (high - low) // 5)

  def y(value: float) -> float:
    share = (value - low) / (high - low)
    return _PLOT_HEIGHT - _MARGIN / 2 - share * (_PLOT_HEIGHT - _MARGIN)

  def x(index: int) -> float:
    share = index / max(1, len(ordered) - 1)
    return _MARGIN + share * (_PLOT_WIDTH - 1.5 * _MARGIN)

  marks = [
    f'<line x1="{_MARGIN}" x2="{_PLOT_WIDTH}" y1="{y(v):.1f}" y2="{y(v):.1f}"'
    f' stroke="#eee"/><text x="4" y="{y(v) + 4:.1f}">{v} dB</text>'
    for v in range(low, high + 1, step)
  ]
  for index, line in enumerate(ordered):
    for row in rows:
      value = line["means"][row]["psnr"]
      title = html.escape(f"{line['name']}: {row} {value:.2f} dB")
      marks.append(
        f'<circle cx="{x(index):.1f}" cy="{y(value):.1f}" r="3"'
        f' fill="{_COLOURS[row]}"><title>{title}</title></circle>'
      )
  for i, row in enumerate(rows):
    marks.append(
      f'<text x="{_MARGIN + 90 * i}" y="12" style="fill:{_COLOURS[row]}">'
      f"{row}</text>"
    )
  return (
    f'<svg width="{_PLOT_WIDTH}" height="{_PLOT_HEIGHT}" role="img">'
    + "".join(marks)
    + "</svg>"
  )


def _scene(line: dict[str, Any], strips: dict[int, bytes]) -> str:
  """A scene's pictures and scores."""
  scores = ", ".join(
    f"{row} {means['psnr']:.2f} dB"
    + (f", LPIPS {means['lpips_vgg']:.3f}" if "lpips_vgg" in means else "")
    for row, means in line["means"].items()
    if row in _COLOURS
  )
  caption = f"scene {line['scene']} ({line['name']}): {scores}"
  picture = ""
  if line["scene"] in strips:
    source = base64.b64encode(strips[line["scene"]]).decode()
    picture = (
      f'<img alt="{html.escape(caption)}"'
      f' src="data:image/jpeg;base64,{source}">'
    )
  return (
    f"<figure>{picture}<figcaption>{html.escape(caption)}. First column: input"
    " views; rows: truth, render, sample.</figcaption></figure>"
  )
