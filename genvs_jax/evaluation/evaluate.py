"""`--mode=evaluate`: scores scenes never trained on, by a standard protocol.

Scenes are drawn, scored and written group by group: an evaluation that was
stopped goes on, and several processes share the groups. At the end the first
of them writes the summary.
"""

import functools
import json
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import pretrained
from genvs_jax.data import loading
from genvs_jax.evaluation import perceptual
from genvs_jax.evaluation import protocol
from genvs_jax.evaluation import rollout_scores
from genvs_jax.evaluation import scene_scores
from genvs_jax.evaluation import scorer as scorer_module
from genvs_jax.evaluation import store as store_module
from genvs_jax.evaluation import summary
from genvs_jax.evaluation.perceptual import distances
from genvs_jax.images import pictures
from genvs_jax.models import pipeline
from genvs_jax.runtime import files
from genvs_jax.runtime import sharding
from genvs_jax.sampling import sample_scenes
from genvs_jax.sampling import view_synthesis

RESULTS_FILE = "results.json"
# Fields of evaluate that change no scores.
_HARMLESS = ("scenes", "batch_size", "batch_views", "weights", "rollouts")


def evaluate(
  config,
  model: pipeline.Model,
  variables: pipeline.Variables,
  workdir: str,
  limit: int = 0,
) -> dict[str, Any]:
  """Scores `config.evaluate.scenes` scenes, or `limit` if that is fewer.

  Args:
    config: evaluate, sampler, rollout, sample and data are read from it.
    model: the model.
    variables: of the model, whole on each device.
    workdir: receives `evaluation/..`, and holds a dataset whose data_dir is
      WORKDIR.
    limit: most scenes, 0 for all.

  Returns:
    what `results.json` holds: "rows" with the mean of each metric by row of
    the table (None: not scored), and what they were measured on. Nothing in
    processes other than the first.

  Raises:
    ValueError: if there is nothing to score, or the processes disagree.
  """
  if "encoder" not in variables:
    raise ValueError(
      "the checkpoint holds a denoiser alone, which draws any object: there is"
      " nothing to score; --mode=sample draws pictures"
    )
  if limit < 0:
    raise ValueError(f"--limit is {limit}, expected 0 (all scenes) or more")
  options = config.evaluate
  records = loading.load_split(config, workdir, options.split)
  wanted = [n for n in (options.scenes, limit, len(records)) if n > 0]
  scenes = range(min(wanted))
  if options.baselines and len(records) < 2:
    raise ValueError(
      f"split {options.split} has one scene, expected 2 or more: the row of"
      " another scene's input needs one (or --config.evaluate.baselines=False)"
    )
  path = sample_scenes.build_path(config, 1.0) if options.rollouts else None
  if path is not None and len(path) < 5:
    raise ValueError(
      f"a rollout of {len(path)} frames cannot be scored for consistency,"
      " expected 5 or more: set --config.sample.frames"
    )
  variables = jax.tree.map(lambda x: x.addressable_data(0), variables)
  scorer = scorer_module.Scorer(options.weights)
  for metric, names in scorer.left_out.items():
    logging.info(
      "%s is left out: no weights %s in %s",
      metric,
      ", ".join(names),
      perceptual.weights.folder(options.weights),
    )
  store = store_module.Store(
    epath.Path(workdir) / "evaluation",
    f"{options.split}_{'_'.join(map(str, options.input_views))}"
    f"_{options.targets}",
    _settings(config, workdir, variables, scorer),
  )
  _start_together(store)
  mine = functools.partial(_my_groups, store=store, size=options.batch_size)

  pending = mine("scenes", scenes)
  if pending:
    score = scene_scores.SceneScores(
      config, model, variables, workdir, scorer, store, len(pending[0])
    )
    for group in pending:
      score(group, records)
      logging.info("scored scenes up to %d of %d", group[-1] + 1, len(scenes))
  rolled_out = scenes[: options.rollouts]
  values = checkpoints.config_to_dict(config)
  depends_on = files.digest([values["rollout"], path])
  kind = f"rollouts_{depends_on[:8]}"
  pending = mine(kind, rolled_out)
  if pending:
    score_rollouts = rollout_scores.build_rollout_scores(
      config, model, variables, len(pending[0])
    )
    for group in pending:
      inputs = [protocol.load_inputs(config, records[i]) for i in group]
      poses = [sample_scenes.build_path(config, _distance(x)) for x in inputs]
      for line in score_rollouts(inputs, group, np.stack(poses)):
        store.write(kind, line["scene"], line)
      logging.info(
        "scored rollouts up to %d of %d", group[-1] + 1, len(rolled_out)
      )
  sharding.wait_for_all("scored")
  if jax.process_index():
    return {}
  lines = store.read("scenes", scenes)
  rollouts = store.read(kind, rolled_out)
  return _summarise(config, scorer, store, lines, rollouts)


def write_results(
  workdir: str, results: dict[str, Any], step: int, started: float
) -> epath.Path:
  """Writes results.json; `started` is the command's `time.monotonic()`."""
  seconds = time.monotonic() - started
  content = {**results, "steps": step, "seconds": round(seconds, 1)}
  text = json.dumps(content, indent=2) + "\n"
  return files.write_whole(epath.Path(workdir) / RESULTS_FILE, text.encode())


def _settings(config, workdir, variables, scorer) -> dict[str, Any]:
  """What the scores of a scene depend on."""
  values = checkpoints.config_to_dict(config)
  options = {k: v for k, v in values["evaluate"].items() if k not in _HARMLESS}
  return {
    "evaluate": options,
    "metrics": scorer.names + ["fid"] * scorer.has_fid,
    "dataset": loading.build_builder(config, workdir).builder_config.name,
    "weights": pretrained.fingerprint(variables),
    **{name: values[name] for name in view_synthesis.CONFIG_SECTIONS},
  }


def _start_together(store: store_module.Store) -> None:
  """Makes the folder; refuses processes that would not fill the same one."""
  if jax.process_index() == 0:
    store.start()
  if not sharding.all_agree(int(store.digest[:8], 16)):
    raise ValueError(
      "the processes would score different things: they need the same --config,"
      " the same checkpoint (--step) and the same metrics' weights"
      " (--config.evaluate.weights on a disk that all share)"
    )
  if not store.started():
    raise ValueError(
      f"{store.folder} was made by another process and is not here: --workdir"
      " must lie on a disk that all processes share"
    )


def _my_groups(
  kind: str, scenes: Sequence[int], *, store: store_module.Store, size: int
) -> list[list[int]]:
  """This process's share of the scenes that are left, in groups."""
  left = [i for i in scenes if not store.has(kind, i)]
  if len(left) < len(scenes):
    done = len(scenes) - len(left)
    logging.info("%d of %d %s are done", done, len(scenes), kind)
  # Every process has looked before any writes.
  sharding.wait_for_all(kind)
  count = jax.process_count()
  size = min(size, max(-(-len(left) // count), 1))
  groups = [left[i : i + size] for i in range(0, len(left), size)]
  return groups[jax.process_index() :: count]


def _summarise(config, scorer, store, lines, rollouts) -> dict[str, Any]:
  """Writes the lines and the table, and returns the results."""
  statistics = {}
  if scorer.has_fid:
    for line in lines:
      for row, features in store.features(line["scene"]).items():
        found = statistics.setdefault(row, distances.FeatureStatistics())
        found.add(features)
  truth = statistics.pop("truth", None)

  def fid(row: str) -> float | None:
    if row not in statistics or truth.count < 2:
      return None
    return distances.frechet(statistics[row], truth)

  rows = summary.summarise(lines, rollouts, fid)
  views = sum(len(line["views"]) for line in lines)
  results = {
    "rows": rows,
    "scenes": len(lines),
    "views": views,
    "split": config.evaluate.split,
    "input_views": list(config.evaluate.input_views),
    "targets": config.evaluate.targets,
    "image_size": config.model.image_size,
    "samples": config.evaluate.samples,
    "left_out": scorer.left_out,
    "folder": str(store.folder),
  }
  if rollouts:
    results["rollouts"] = {
      "scenes": len(rollouts),
      "frames": rollouts[0]["frames"],
    }
  if truth is not None:
    results["fid"] = {"flavour": perceptual.FID_FLAVOUR, "images": views}
  for line, rollout in zip(lines, rollouts, strict=False):
    line["rollout"] = rollout
  text = "".join(json.dumps(x) + "\n" for x in [*lines, {"dataset": results}])
  files.write_whole(store.folder / "scores.jsonl", text.encode())
  shown = table(results)
  files.write_whole(store.folder / "table.md", f"{shown}\n".encode())
  sheet = _sheet(store.read_shown())
  pictures.save_png(store.folder / "sheet.png", sheet)
  return results


def table(results: dict[str, Any]) -> str:
  """The scores as a Markdown table, with what they were measured on."""
  notes = [
    f"{results['views']} views of {results['scenes']} scenes of split"
    f" {results['split']}, {results['image_size']}x{results['image_size']};"
    f" given {_views(results['input_views'])}; targets: {results['targets']}."
  ]
  if "fid" in results:
    fid = results["fid"]
    notes.append(f"FID over {fid['images']} pictures: {fid['flavour']}.")
  if "rollouts" in results:
    rollouts = results["rollouts"]
    notes.append(
      f"Reprojection and field fit over rollouts of {rollouts['frames']} frames"
      f" of {rollouts['scenes']} scenes."
    )
  if results["left_out"]:
    notes.append(
      f"Left out, for want of weights: {', '.join(results['left_out'])}."
    )
  shown = summary.table(results["rows"], results["samples"])
  return shown + "\n\n" + " ".join(notes)


def _distance(inputs: dict[str, np.ndarray]) -> float:
  """Of the first input camera from the origin."""
  return float(np.linalg.norm(inputs["poses"][0, :3, 3]))


def _views(inputs: Sequence[int]) -> str:
  word = "view" if len(inputs) == 1 else "views"
  return f"{word} {', '.join(map(str, inputs))}"


def _sheet(shown: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
  """Truth, render and sample of the first targets, three rows a scene."""
  rows = []
  for i, of_scene in enumerate(shown):
    inputs = list(of_scene["inputs"])
    blank = [np.full_like(image, 255) for image in inputs]
    rows.append((f"scene {i}", [*inputs, *of_scene["truth"]]))
    rows.append(("RGB render", [*blank, *of_scene["render"]]))
    if "sample" in of_scene:
      rows.append(("sample", [*blank, *of_scene["sample"]]))
  return pictures.sheet(rows)
