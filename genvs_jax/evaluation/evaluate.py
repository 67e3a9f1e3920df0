"""`--mode=evaluate`: scores scenes never trained on, by a standard protocol.

Scenes are drawn, scored and written group by group: an evaluation that was
stopped goes on, and several processes share the groups. At the end the first
of them writes the summary.
"""

import json
import time
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from genvs_jax import config_fields
from genvs_jax import perceptual
from genvs_jax.data import datasets
from genvs_jax.data import paths
from genvs_jax.evaluation import image_scores
from genvs_jax.evaluation import protocol
from genvs_jax.evaluation import report
from genvs_jax.evaluation import rollout_scores
from genvs_jax.evaluation import scene_scores
from genvs_jax.evaluation import score_files
from genvs_jax.evaluation import web_page
from genvs_jax.images import encoding
from genvs_jax.models import pipeline
from genvs_jax.runtime import console
from genvs_jax.runtime import files
from genvs_jax.runtime import messages
from genvs_jax.runtime import processes


class _Work(NamedTuple):
  """What is to be scored.

  Attributes:
    records: of the split.
    scenes: numbers of the scenes to score.
    rolled_out: numbers of those that are rolled out too.
    rollout_kind: folder of their scores, named by what they depend on.
    scorer: of pictures.
    store: of scores.
  """

  records: Sequence[datasets.Record]
  scenes: Sequence[int]
  rolled_out: Sequence[int]
  rollout_kind: str
  scorer: image_scores.Scorer
  store: score_files.Store


def evaluate(
  config: ml_collections.ConfigDict,
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
  variables = jax.tree.map(lambda x: x.addressable_data(0), variables)
  work = _load(config, variables, workdir, limit)
  _score_scenes(config, model, variables, workdir, work)
  _score_rollouts(config, model, variables, work)
  processes.wait_for_all("scored")
  if jax.process_index():
    return {}
  lines = work.store.read("scenes", work.scenes)
  rollouts = work.store.read(work.rollout_kind, work.rolled_out)
  # Results of all scenes are not overwritten by those of some.
  suffix = (
    "" if len(work.scenes) == len(work.records) else f"_limit{len(work.scenes)}"
  )
  results = report.write_results(
    config, work.scorer, work.store, lines, rollouts, suffix
  )
  film = work.store.read_film(work.rollout_kind, work.rolled_out)
  strips = work.store.read_strips(work.scenes)
  notes = report.notes(results)
  name = epath.Path(workdir).name
  text = web_page.page(name, results, notes, lines, strips, film)
  path = epath.Path(workdir) / f"report{suffix}.html"
  files.write_whole(path, text.encode())
  return results


def _load(
  config: ml_collections.ConfigDict, variables, workdir: str, limit: int
) -> _Work:
  """Checks what is asked for, and makes the folder of scores."""
  if "encoder" not in variables:
    raise ValueError(
      "the checkpoint holds a denoiser alone, which draws any object: there is"
      " nothing to score; --mode=sample draws pictures"
    )
  if limit < 0:
    raise ValueError(f"--limit is {limit}, expected 0 (all scenes) or more")
  options = config.evaluate
  for name in ("batch_size", "batch_views"):
    messages.check_at_least(f"evaluate.{name}", options[name], 1)
  for name in ("samples", "rollouts"):
    messages.check_at_least(f"evaluate.{name}", options[name], 0)
  records = datasets.load_split(config, workdir, options.split)
  datasets.check_cameras(config, records)
  limits = [n for n in (options.scenes, limit, len(records)) if n > 0]
  scenes = range(min(limits))
  if options.baselines and len(records) < 2:
    raise ValueError(
      f"split {options.split} has one scene, expected 2 or more: the row of"
      " another scene's input needs one (or --config.evaluate.baselines=False)"
    )
  path = paths.build_path(config, 1.0) if options.rollouts else None
  if path is not None and len(path) < 5:
    raise ValueError(
      f"a rollout of {len(path)} frames cannot be scored for consistency,"
      " expected 5 or more: set --config.sample.frames"
    )
  scorer = image_scores.Scorer(options.metric_weights)
  if scorer.left_out:
    logging.info(
      "left out, for there are no weights in %s: %s",
      perceptual.weights.folder(options.metric_weights),
      ", ".join(scorer.left_out),
    )
  store = score_files.Store(
    epath.Path(workdir) / "evaluation",
    f"{options.split}_{'_'.join(map(str, options.input_views))}"
    f"_{options.targets}",
    _settings(config, workdir, variables, scorer),
  )
  _start_together(store)
  rollout_fields = _fields_of(config, config_fields.SCORE, "rollout.")
  rollout_settings = [rollout_fields, path, options.field_fit]
  return _Work(
    records=records,
    scenes=scenes,
    rolled_out=scenes[: options.rollouts],
    rollout_kind=f"rollouts_{files.digest(rollout_settings)[:8]}",
    scorer=scorer,
    store=store,
  )


def _score_scenes(
  config: ml_collections.ConfigDict, model, variables, workdir: str, work: _Work
) -> None:
  """Scores the scenes of this process that are left."""
  size = config.evaluate.batch_size
  groups = _groups("scenes", work.scenes, work.store, size)
  if not groups:
    return
  score = scene_scores.build_scene_scores(
    config,
    model,
    variables,
    work.records,
    workdir,
    work.scorer,
    work.store,
    len(groups[0]),
  )
  for group in console.progress(groups, len(groups), f"scoring {_by(groups)}"):
    score(group, len(work.records))


def _score_rollouts(
  config: ml_collections.ConfigDict, model, variables, work: _Work
) -> None:
  """Rolls out and scores the scenes of this process that are left."""
  kind, size = work.rollout_kind, config.evaluate.batch_size
  groups = _groups(kind, work.rolled_out, work.store, size)
  if not groups:
    return
  score = rollout_scores.build_rollout_scores(
    config, model, variables, len(groups[0])
  )
  label = f"rolling out {_by(groups)}"
  for group in console.progress(groups, len(groups), label):
    inputs = [protocol.decode_inputs(config, work.records[i]) for i in group]
    # Each scene is seen from as far as its first input view.
    distances = [np.linalg.norm(x["poses"][0, :3, 3]) for x in inputs]
    poses = [paths.build_path(config, float(d)) for d in distances]
    for line, film in score(inputs, group, np.stack(poses)):
      if line["scene"] == work.rolled_out[0]:
        mp4 = encoding.mp4(film, config.sample.fps)
        work.store.write_film(kind, line["scene"], mp4)
      work.store.write(kind, line["scene"], line)


def write_results(
  workdir: str, results: dict[str, Any], step: int, started: float
) -> epath.Path:
  """Writes results.json, or results_limitN.json beside it for a quick look.

  Args:
    workdir: of the run.
    results: of `evaluate`.
    step: of the checkpoint.
    started: the command's `time.monotonic()`.
  """
  seconds = time.monotonic() - started
  content = {**results, "steps": step, "seconds": round(seconds, 1)}
  text = json.dumps(content, indent=2) + "\n"
  path = epath.Path(workdir) / f"results{results['suffix']}.json"
  return files.write_whole(path, text.encode())


def _settings(
  config: ml_collections.ConfigDict, workdir, variables, scorer
) -> dict[str, Any]:
  """What the scores of a scene depend on."""
  return {
    **config_fields.of_roles(
      config, config_fields.MEANING, config_fields.PICTURE
    ),
    **_fields_of(config, config_fields.SCORE, "evaluate."),
    "view_list": protocol.view_list_digest(config.evaluate.view_list),
    "metrics": scorer.names + [scorer.frechet],
    "dataset": datasets.identity(config, workdir),
    "variables": files.fingerprint(variables),
  }


def _fields_of(
  config: ml_collections.ConfigDict, role: str, prefix: str
) -> dict[str, Any]:
  """Fields of a role in one section."""
  fields = config_fields.of_roles(config, role)
  return {k: v for k, v in fields.items() if k.startswith(prefix)}


def _start_together(store: score_files.Store) -> None:
  """Makes the folder; refuses processes that would not fill the same one."""
  if jax.process_index() == 0:
    store.start()
  if not processes.all_agree(int(store.digest[:8], 16)):
    raise ValueError(
      "the processes would score different things: they need the same --config,"
      " the same checkpoint (--step) and the same metrics' weights"
      " (--config.evaluate.metric_weights on a disk that all share)"
    )
  if not store.started():
    raise ValueError(
      f"{store.folder} was made by another process and is not here: --workdir"
      " must lie on a disk that all processes share"
    )


def _by(groups: list[list[int]]) -> str:
  """What progress counts."""
  size = len(groups[0])
  return "scenes" if size == 1 else f"groups of {size} scenes"


def _groups(
  kind: str, scenes: Sequence[int], store: score_files.Store, size: int
) -> list[list[int]]:
  """This process's share of the scenes that are left, in groups."""
  left = [i for i in scenes if not store.has(kind, i)]
  if len(left) < len(scenes):
    done = len(scenes) - len(left)
    logging.info("%d of %d %s are done", done, len(scenes), kind)
  # Every process has looked before any writes.
  processes.wait_for_all(kind)
  count = jax.process_count()
  size = min(size, max(-(-len(left) // count), 1))
  groups = [left[i : i + size] for i in range(0, len(left), size)]
  return groups[jax.process_index() :: count]
