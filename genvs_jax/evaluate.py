"""Scores on scenes never trained on, against baselines on the same views.

PSNR in dB over whole pictures and, where the truth has depth, inside the
object's mask; means over views, then over scenes, then over seeds.
"""

import json
import time
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath

from genvs_jax import camera_paths
from genvs_jax import data
from genvs_jax import files
from genvs_jax import metrics
from genvs_jax import pictures
from genvs_jax import synthesis

RESULTS_FILE = "results.json"
_MEAN_IMAGE_SCENES = 100  # training scenes that make the mean image
_COLUMNS = (
  ("psnr_render", "RGB render"),
  ("psnr_sample", "denoised sample"),
  ("psnr_mean_image", "mean training image"),
  ("psnr_input_copy", "input view copied"),
  ("psnr_render_wrong_input", "render, another scene's input"),
)


class TestViews(NamedTuple):
  """Input and target views of all scenes, on the host.

  Attributes:
    images: u8 [scenes,1,H,W,3] input views.
    poses: f32 [scenes,1,4,4] of the input views.
    intrinsics: f32 [scenes,4].
    target_images: f32 [scenes,T,H,W,3] in [0,1].
    target_poses: f32 [scenes,T,4,4].
    masks: bool [scenes,T,H,W] or None.
  """

  images: np.ndarray
  poses: np.ndarray
  intrinsics: np.ndarray
  target_images: np.ndarray
  target_poses: np.ndarray
  masks: np.ndarray | None


def evaluate(config, model, variables, workdir: str) -> dict[str, float | None]:
  """Scores `config.evaluate.scenes` scenes.

  Args:
    config: evaluate, sampler and data are read from it.
    model: the model.
    variables: of the model.
    workdir: where a dataset with data_dir WORKDIR lies.

  Returns:
    PSNR by row of the table (`psnr_render`, .., and `.._masked`, None where
    there is no mask), `scenes`, and `views`, the scored views of all scenes.
  """
  if "encoder" not in variables:
    raise ValueError(
      "the checkpoint holds a denoiser alone, which draws any object: there is"
      " nothing to score; --mode=sample draws pictures"
    )
  options = config.evaluate
  records = data.load_split(config, workdir, options.split)
  count = min(options.scenes or len(records), len(records))
  if count < 2:
    raise ValueError(
      f"evaluate.scenes gives {count} scene(s), expected 2 or more (one row of"
      " the table needs another scene's input view)"
    )
  test = load_test_views(config, records, count)
  mean_image = _mean_training_image(config, workdir)
  synthesize = synthesis.build_draw(config, model, variables)
  render = synthesis.build_render(model)
  targets = options.targets

  def draw(inputs: np.ndarray, seed: int | None) -> synthesis.Views:
    """Targets of scene i from the input view of inputs[i]; None: no samples."""
    drawn = []
    for first in range(0, count, options.batch_size):
      # The last batch repeats its last scene to keep the compiled shape.
      rows = np.minimum(np.arange(first, first + options.batch_size), count - 1)
      batch = {
        "images": test.images[inputs[rows]],
        "poses": test.poses[inputs[rows]],
        "intrinsics": test.intrinsics[inputs[rows]],
      }
      poses = test.target_poses[rows]
      if seed is None:
        views = render(variables, batch, poses)
      else:
        keys = synthesis.view_keys(seed, rows, np.arange(targets))
        views = synthesize(variables, batch, poses, keys)
      kept = min(options.batch_size, count - first)
      drawn.append(jax.tree.map(lambda x, n=kept: np.asarray(x)[:n], views))
      logging.log_every_n_seconds(
        logging.INFO, "scored %d of %d scenes", 10, first + kept, count
      )
    return jax.tree.map(lambda *x: np.concatenate(x), *drawn)

  own, other = np.arange(count), np.roll(np.arange(count), 1)
  samples = options.samples if "denoiser" in variables else 1
  scored = [draw(own, config.seed + k) for k in range(samples)]
  pictures_by_row = {
    "psnr_render": [scored[0].rgb],
    "psnr_mean_image": [mean_image],
    "psnr_input_copy": [test.images / np.float32(255)],
    "psnr_render_wrong_input": [draw(other, None).rgb],
  }
  if "denoiser" in variables:
    pictures_by_row["psnr_sample"] = [views.sample for views in scored]
  results: dict[str, float | None] = {}
  for suffix, mask in (("", None), ("_masked", test.masks)):
    for row, images in pictures_by_row.items():
      results[row + suffix] = (
        None
        if suffix and mask is None
        else float(np.mean([_score(image, test, mask) for image in images]))
      )
  results["scenes"] = count
  results["views"] = count * targets
  shown = min(count, 4)
  pictures.save_png(
    epath.Path(workdir) / "samples" / f"{options.split}_sheet.png",
    _sheet(test, scored[0], shown),
  )
  return results


def load_test_views(config, records, count: int) -> TestViews:
  """Decodes the input view and the spread targets of the first scenes."""
  options, size = config.evaluate, config.model.image_size
  resize = config.model.resize
  inputs, targets, masks = [], [], []
  for i in range(count):
    record = records[i]
    chosen = camera_paths.spread_targets(
      np.array(record["poses"]),
      options.input_view,
      options.targets,
      options.min_angle,
    )
    given = [options.input_view]
    inputs.append(data.decode_views(record, given, size, resize))
    targets.append(data.decode_views(record, chosen, size, resize))
    masks.append(data.decode_masks(record, chosen, size))
  return TestViews(
    images=np.stack([x["images"] for x in inputs]),
    poses=np.stack([x["poses"] for x in inputs]),
    intrinsics=np.stack([x["intrinsics"] for x in inputs]),
    target_images=np.stack([x["images"] for x in targets]) / np.float32(255),
    target_poses=np.stack([x["poses"] for x in targets]),
    masks=None if any(m is None for m in masks) else np.stack(masks),
  )


def table(results: dict[str, float | None]) -> str:
  """The scores as a Markdown table."""
  lines = [
    "| on scenes never trained on | PSNR, dB | PSNR inside the mask, dB |",
    "|---|---|---|",
  ]
  for key, label in _COLUMNS:
    if key not in results:  # a model without a denoiser draws no samples
      continue
    masked = results[f"{key}_masked"]
    shown = "no mask" if masked is None else f"{masked:.2f}"
    lines.append(f"| {label} | {results[key]:.2f} | {shown} |")
  return "\n".join(lines)


def write_results(
  workdir: str, results: dict, step: int, started: float
) -> epath.Path:
  """Writes results.json; `started` is the command's `time.monotonic()`."""
  seconds = time.monotonic() - started
  content = {**results, "steps": step, "seconds": round(seconds, 1)}
  text = json.dumps(content, indent=2) + "\n"
  return files.write_whole(epath.Path(workdir) / RESULTS_FILE, text.encode())


def _score(image: np.ndarray, test: TestViews, mask) -> float:
  """Mean over views, then scenes."""
  per_view = metrics.psnr(image, test.target_images, mask)
  return float(np.mean(np.nanmean(np.asarray(per_view), -1)))


def _mean_training_image(config, workdir: str) -> np.ndarray:
  """Mean over the views of training scenes, f32 [H,W,3] in [0,1]."""
  records = data.load_split(config, workdir, "train")
  total, views = 0.0, 0
  for i in range(min(len(records), _MEAN_IMAGE_SCENES)):
    every = range(len(records[i]["poses"]))
    images = data.decode_views(
      records[i], every, config.model.image_size, config.model.resize
    )
    total = total + images["images"].sum(0, dtype=np.float64)
    views += len(images["images"])
  return (total / views / 255).astype(np.float32)


def _sheet(test: TestViews, views: synthesis.Views, count: int) -> np.ndarray:
  """Truth, render and sample of the first targets, three rows a scene."""
  shown = min(test.target_images.shape[1], 8)
  rows = []
  for i in range(count):
    rows += [
      (f"scene {i}", [test.images[i, 0], *_u8(test.target_images[i, :shown])]),
      ("RGB render", [_blank(test), *_u8(views.rgb[i, :shown])]),
    ]
    if views.sample is not None:
      rows.append(("sample", [_blank(test), *_u8(views.sample[i, :shown])]))
  return pictures.sheet(rows)


def _u8(images) -> list[np.ndarray]:
  return [pictures.to_uint8(image) for image in images]


def _blank(test: TestViews) -> np.ndarray:
  return np.full_like(test.images[0, 0], 255)
