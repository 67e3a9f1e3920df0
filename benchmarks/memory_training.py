"""Trains on synthetic cars in memory, for a given time."""

import collections
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measuring
from benchmarks import memory_scenes
from genvs_jax import config_fields
from genvs_jax.checkpointing import checkpoints
from genvs_jax.images import encoding
from genvs_jax.images import metrics
from genvs_jax.models import builders
from genvs_jax.runtime import files
from genvs_jax.runtime import sharding
from genvs_jax.sampling import view_grids
from genvs_jax.sampling import view_synthesis
from genvs_jax.training import startup
from genvs_jax.training import train_step

_VIEWS = 24  # of a scene
_HELD_OUT = 8  # scenes that are scored and drawn
_IN_FLIGHT = 3  # steps that the device has ahead of it
_BETWEEN_SCORES, _TO_FINISH = 60, 30  # seconds


def train(
  spec: measuring.Spec, count: int, output: str, scratch: str, until: float
) -> dict:
  """Goes on from SCRATCH's checkpoint; scores and saves now and then.

  Args:
    spec: config and fields.
    count: scenes to train on.
    output: receives train.jsonl, grid_first.png and grid_last.png.
    scratch: receives scenes, checkpoints and compiled programs.
    until: when to end, as `time.time` tells it.

  Returns:
    {"step": the last one}.
  """
  config = measuring.load_config(spec)
  jax.config.update("jax_compilation_cache_dir", f"{scratch}/compiled")
  mesh = sharding.make_mesh(
    replicas=config.mesh.replicas, shards=config.mesh.shards
  )
  model = builders.build_model(config)
  checkpointer = checkpoints.Checkpointer(
    f"{scratch}/checkpoints", keep_every=10**9
  )
  abstract = jax.eval_shape(lambda: startup.init_state(config, model))
  shardings = sharding.split_state(mesh, abstract)
  if checkpointer.steps():
    state = checkpointer.restore(
      checkpointer.steps()[-1], checkpoints.abstract_like(abstract, shardings)
    )
  else:
    state = startup.init_on_devices(config, model, shardings)
  first_step = step = int(state.step)
  scenes = _scenes(pathlib.Path(scratch), "train", count, model.image_size)
  held_out = _scenes(pathlib.Path(scratch), "val", _HELD_OUT, model.image_size)
  score = _Score(config, model, held_out, pathlib.Path(output), first_step)
  step_fn, _ = train_step.compile_step(config, model, mesh, state)
  batches = memory_scenes.batches(
    scenes,
    config.train.batch_size,
    config.model.input_views + config.train.target_views,
    first_step,
  )
  if step == 0:
    score(step, state, {})
  under_way = collections.deque()
  saved, begin = step, time.time()
  while True:
    over = time.time() > until - _TO_FINISH
    if step > saved and (over or time.time() - begin > _BETWEEN_SCORES):
      jax.block_until_ready(state)
      score.seconds += time.time() - begin
      score(step, state, {"loss": float(under_way[-1]["loss"])})
      checkpointer.save(step, state, config_fields.to_dict(config))
      saved, begin = step, time.time()
    if over:
      break
    batch = sharding.to_devices(next(batches), mesh, config.train.batch_size)
    state, metrics = step_fn(state, batch)
    under_way.append(metrics)
    step += 1
    if len(under_way) > _IN_FLIGHT:
      jax.block_until_ready(under_way.popleft())
  checkpointer.close()
  return {"step": step}


def _scenes(folder: pathlib.Path, split: str, count: int, size: int):
  """Drawn scenes, kept in a file."""
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f"{split}_{count}x{_VIEWS}_{size}px.npz"
  if not path.exists():
    drawn = memory_scenes.draw(split, count, _VIEWS, size)
    part = path.with_suffix(".part.npz")
    np.savez(part, **drawn._asdict())
    part.replace(path)
  with np.load(path) as arrays:
    return memory_scenes.Scenes(arrays["images"], arrays["poses"])


class _Score:
  """Writes a line of scores and a grid of scenes never trained on.

  Lines of steps after the first one, of a run that was stopped, are dropped.

  Attributes:
    seconds: of training up to now.
  """

  def __init__(self, config, model, scenes, output: pathlib.Path, step: int):
    views = config.model.input_views
    self._output, self._frustum = output, config.frustum
    self._curve = output / "train.jsonl"
    resumes = step > 0 and self._curve.exists()
    lines = self._curve.read_text().splitlines() if resumes else []
    lines = [line for line in lines if json.loads(line)["step"] <= step]
    self._curve.write_text("".join(f"{line}\n" for line in lines))
    self.seconds = json.loads(lines[-1])["seconds"] if lines else 0.0
    self._params = config.sampler.params
    self._images = scenes.images[:, : views + 1]
    self._inputs = {
      "images": scenes.images[:, :views],
      "poses": scenes.poses[:, :views],
      "intrinsics": np.tile(
        memory_scenes.intrinsics(model.image_size), (len(scenes.images), 1)
      ),
    }
    self._poses = scenes.poses[:, views : views + 1]
    self._index = np.arange(len(scenes.images))
    self._keys = view_synthesis.view_keys(
      config.seed, self._index, np.arange(1)
    )
    self._draw = view_synthesis.build_synthesize(config, model)

  def __call__(self, step: int, state, values: dict[str, float]) -> None:
    variables = state.variables(self._params)
    drawn = self._draw(variables, self._inputs, self._poses, self._keys)
    truth = self._images[:, -1] / np.float32(255)
    line = {"step": step, "seconds": self.seconds, **values}
    for name, pictures_of in (
      ("psnr_render", drawn.rgb),
      ("psnr_sample", drawn.sample),
    ):
      scores = metrics.psnr(pictures_of[:, 0], truth)
      line[name] = float(jnp.mean(scores))
    with self._curve.open("a") as file:
      file.write(json.dumps(line) + "\n")
    grid = view_grids.scene_grid(
      self._index, self._images, drawn, self._frustum.near, self._frustum.far
    )
    name = "grid_last.png" if step else "grid_first.png"
    files.write_whole(self._output / name, encoding.png(grid))
    print(json.dumps(line), flush=True)
