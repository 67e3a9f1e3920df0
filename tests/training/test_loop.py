"""The train step and the loop: resuming, devices, optimizer, EMA."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import pretrained
from genvs_jax.data import datasets
from genvs_jax.data import loading
from genvs_jax.models import builders
from genvs_jax.models import pipeline
from genvs_jax.runtime import sharding
from genvs_jax.training import loop
from genvs_jax.training import objectives
from genvs_jax.training import optimizers
from genvs_jax.training import randomness
from genvs_jax.training import startup
from genvs_jax.training import train_step


def read_metrics(workdir: str, name: str = "loss") -> dict[int, float]:
  lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
  values = [json.loads(line) for line in lines]
  assert len({v["step"] for v in values}) == len(values)
  return {v["step"]: v[name] for v in values}


def assert_trees_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_resuming_is_exact_to_the_last_digit(
  debug_config, trained_workdir, tmp_path
):
  """Cut off after the checkpoint of step 4, against straight through."""
  workdir = str(tmp_path / "cut")
  one = jax.devices()[:1]
  # As if killed at step 8, before its checkpoint was finished.
  shutil.copytree(trained_workdir, workdir)
  shutil.rmtree(tmp_path / "cut" / "checkpoints" / "8")
  debug_config.train.steps = 8
  resumed = loop.train_and_evaluate(debug_config, workdir, one)
  assert int(resumed.step) == 8

  checkpointer, step = checkpoints.open_existing(trained_workdir, None)
  straight = checkpointer.restore(
    step,
    checkpoints.abstract_like(
      resumed, sharding.replicated(sharding.make_mesh(one))
    ),
  )
  assert_trees_equal(straight, resumed)
  assert read_metrics(workdir) == read_metrics(trained_workdir)


def test_workdir_describes_the_run(trained_workdir):
  folder = pathlib.Path(trained_workdir)
  config = json.loads((folder / "config.json").read_text())
  assert config["train"]["steps"] == 8
  assert "encoder/head/kernel" in (folder / "parameters.txt").read_text()
  assert "jax" in json.loads((folder / "versions.json").read_text())
  assert list(folder.glob("events.out.tfevents.*"))
  assert (folder / "image_grids" / "00000008.png").exists()
  assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
    "4",
    "8",
  ]


def test_insight_while_it_runs(trained_workdir):
  """What is written beside the losses."""
  every = {
    *("gradient_norm/encoder", "update_norm/field", "parameter_norm/denoiser"),
    *("gradient_norm", "update_norm", "parameter_norm", "skipped"),
    "process_memory_peak_gib",
  }
  rates = {
    *("steps_per_second", "images_per_second", "data_wait_share"),
    "tflops_per_second",
  }
  scores = {"validation/psnr_render", "validation/denoising_error"}
  lines = (pathlib.Path(trained_workdir) / "metrics.jsonl").read_text()
  for line in map(json.loads, lines.splitlines()):
    assert every <= line.keys()
    assert (rates <= line.keys()) == (line["step"] > 1)
    assert (scores <= line.keys()) == (line["step"] in (4, 8))
    norms = [line[f"gradient_norm/{part}"] for part in pipeline.PARTS]
    np.testing.assert_allclose(
      line["gradient_norm"], np.linalg.norm(norms), rtol=1e-5
    )
    if line["step"] > 1:
      assert 0 <= line["data_wait_share"] <= 1
      rate = line["images_per_second"] / line["steps_per_second"]
      np.testing.assert_allclose(rate, 8)
  sigmas = [k for k in json.loads(lines.splitlines()[-1]) if "_sigma_" in k]
  assert len(sigmas) == 7
  assert list(pathlib.Path(trained_workdir, "profile").rglob("*.xplane.pb"))


def test_finished_run_takes_no_further_step(trained_workdir, debug_config):
  before = read_metrics(trained_workdir)
  state = loop.train_and_evaluate(
    debug_config, trained_workdir, jax.devices()[:1]
  )
  assert int(state.step) == 8
  assert read_metrics(trained_workdir) == before


def test_batch_must_divide_over_the_devices(debug_config, tmp_path):
  debug_config.train.batch_size = 12
  with pytest.raises(ValueError, match="is 12, expected a multiple of the 8"):
    loop.train_and_evaluate(debug_config, str(tmp_path))


@pytest.fixture(scope="module")
def batch(debug_workdir):
  from configs import debug  # noqa: PLC0415

  config = debug.get_config()
  config.data.data_dir = f"{debug_workdir}/data"
  records = datasets.load_split(config, "", "train")
  return next(loading.train_batches(config, records, start_step=0))


def objective_of(config, batch, seed=0, **options):
  """(loss, metrics) of the joint objective with some options replaced."""
  model = builders.build_model(config)
  state = startup.init_on_devices(config, model)
  variables = pipeline.join_variables(state.params, state.buffers)
  chosen = dataclasses.replace(objectives.build_options(config), **options)
  loss, (metrics, buffers) = jax.jit(
    lambda v, b: objectives.joint(
      model, chosen, v, b, randomness.step_keys(seed, 0, 4)
    )
  )(variables, batch)
  return loss, metrics, buffers, variables


def test_loss_is_the_weighted_sum_of_its_parts(debug_config, batch):
  loss, metrics, _, _ = objective_of(
    debug_config, batch, denoising=2.0, rgb=3.0, rgb_input=4.0, opacity=5.0
  )
  expected = (
    2 * metrics["loss_denoising"]
    + 3 * metrics["loss_rgb"]
    + 4 * metrics["loss_rgb_input"]
    + 5 * metrics["loss_opacity"]
  )
  assert metrics["loss_rgb_input"] > 0
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_untrained_denoiser_has_the_loss_of_a_zero_network(debug_config, batch):
  """F = 0 and log-variance 0: half the variance of the target."""
  _, metrics, _, _ = objective_of(debug_config, batch)
  assert 0.05 < metrics["loss_denoising"] < 2.0


def test_training_updates_running_statistics_and_keeps_constants(
  debug_config, batch
):
  _, _, buffers, variables = objective_of(debug_config, batch)
  before = variables["encoder"]["batch_stats"]["trunk"]["stem_norm"]["mean"]
  after = buffers["encoder"]["batch_stats"]["trunk"]["stem_norm"]["mean"]
  assert jnp.abs(before - after).max() > 0
  assert_trees_equal(
    buffers["denoiser"]["constants"], variables["denoiser"]["constants"]
  )


def test_scenes_use_one_to_v_input_views(debug_config, batch):
  """With clean inputs, the second view matters for about half the scenes."""
  debug_config.model.input_views = 2
  model = builders.build_model(debug_config)
  state = startup.init_on_devices(debug_config, model)
  variables = pipeline.join_variables(state.params, state.buffers)
  options = objectives.build_options(debug_config)
  used = []
  for seed in range(8):
    inputs, _ = objectives.encode_inputs(
      model,
      options,
      variables,
      {k: jnp.asarray(v) for k, v in batch.items()},
      jnp.asarray(batch["images"][:, :2] / 255.0),
      randomness.step_keys(seed, 0, 4),
    )
    used += inputs.mask.sum(1).tolist()
    assert inputs.mask[:, 0].all()
  assert set(used) == {1, 2}


def test_conditioning_dropout_acts_per_example(debug_config, batch):
  """At rate 1/2 some examples of a batch keep their features, others not."""
  model = builders.build_model(debug_config)
  state = startup.init_on_devices(debug_config, model)
  params = dict(state.params)
  key = jax.random.key(0)
  output = params["denoiser"]["output"]
  output["kernel"] = jax.random.normal(key, output["kernel"].shape)
  variables = pipeline.join_variables(params, state.buffers)
  clean = jnp.asarray(batch["images"][:, -1] / 255.0)
  features = jax.random.uniform(key, (*clean.shape[:3], 8))
  options = dataclasses.replace(
    objectives.build_options(debug_config), conditioning_dropout=0.5
  )

  def loss(features):
    keys = randomness.step_keys(3, 0, 4)
    losses = objectives.denoising_losses(
      model, options, variables, clean, features, keys
    )
    return losses["loss_denoising"]

  gradient = jax.jit(jax.grad(loss))(features)
  has_gradient = jnp.abs(gradient).max((1, 2, 3)) > 0
  assert has_gradient.any() and not has_gradient.all()


def test_each_part_has_its_own_rate_behind_a_common_clip(debug_config):
  options = debug_config.optimizer
  options.warmup, options.clip_norm = 0, 1.0
  options.encoder_rate, options.field_rate = 1e-3, 2e-3
  options.denoiser_rate = 4e-3
  options.weight_decay = 0.0
  optimizer = optimizers.build_optimizer(debug_config)
  params = {part: jnp.ones(2) for part in pipeline.PARTS}
  grads = {part: jnp.array([3.0, -3.0]) for part in pipeline.PARTS}
  updates, state = optimizer.update(grads, optimizer.init(params), params)
  for part, rate in zip(pipeline.PARTS, (1e-3, 2e-3, 4e-3), strict=True):
    np.testing.assert_allclose(updates[part], [-rate, rate], rtol=1e-4)
  clipped = 3 / np.sqrt(6 * 9) * options.clip_norm  # before the first moment
  moments = optax.tree.get(state[1].inner_states["encoder"], "mu")
  np.testing.assert_allclose(
    jnp.abs(moments["encoder"]), 0.1 * clipped, rtol=1e-5
  )


def test_weight_decay_is_decoupled_and_scaled_by_the_rate(debug_config):
  options = debug_config.optimizer
  options.warmup, options.weight_decay, options.encoder_rate = 0, 0.1, 1e-2
  optimizer = optimizers.build_optimizer(debug_config)
  params = {part: jnp.full(1, 2.0) for part in pipeline.PARTS}
  grads = {part: jnp.zeros(1) for part in pipeline.PARTS}
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  np.testing.assert_allclose(updates["encoder"], -1e-2 * 0.1 * 2, rtol=1e-5)


def test_warm_up_is_linear(debug_config):
  options = debug_config.optimizer
  options.warmup, options.weight_decay, options.encoder_rate = 4, 0.0, 1e-3
  optimizer = optimizers.build_optimizer(debug_config)
  params = {part: jnp.ones(1) for part in pipeline.PARTS}
  grads = params
  state, steps = optimizer.init(params), []
  for _ in range(6):
    updates, state = optimizer.update(grads, state, params)
    steps.append(-float(updates["encoder"][0]))
  np.testing.assert_allclose(
    steps, np.minimum(np.arange(1, 7) / 4, 1) * 1e-3, rtol=1e-3
  )


def test_ema_half_life_in_images():
  """After the half-life has passed, half of the start is left."""
  average, batch_size, half_life = 1.0, 10, 500
  for step in range(1000, 1000 + half_life // batch_size):
    average *= float(
      optimizers.half_life_decay(step, batch_size, half_life, 10.0)
    )
  np.testing.assert_allclose(average, 0.5, rtol=1e-5)
  early = optimizers.half_life_decay(0, batch_size, half_life, 0.05)
  assert early < 0.01  # the random start is forgotten at once


def test_ema_by_an_inverse_power(debug_config):
  debug_config.train.ema = "inverse_power"
  debug_config.train.ema_power, debug_config.train.ema_max_decay = 0.5, 0.9
  decay = optimizers.build_ema_decay(debug_config)
  np.testing.assert_allclose(
    [decay(step) for step in (0, 3, 1000)], [0, 0.5, 0.9], rtol=1e-6
  )
  debug_config.train.ema = "half"
  with pytest.raises(ValueError, match="'half', expected one of half_life,"):
    optimizers.build_ema_decay(debug_config)


def test_a_run_may_keep_no_average(debug_config, tmp_path):
  debug_config.objective.name = "diffusion"
  debug_config.model.denoiser.conditional = False
  debug_config.train.ema = "none"
  debug_config.train.steps = 2
  one = jax.devices()[:1]
  with pytest.raises(ValueError, match="there are no averaged parameters"):
    loop.train_and_evaluate(debug_config, str(tmp_path), one)
  debug_config.sampler.params = "raw"
  state = loop.train_and_evaluate(debug_config, str(tmp_path), one)
  assert state.ema == {} and int(state.step) == 2
  with pytest.raises(ValueError, match="there are no averaged parameters"):
    pretrained.load(str(tmp_path), params="ema")
  loaded = pretrained.load(str(tmp_path), params="raw")
  jax.tree.map(
    np.testing.assert_array_equal,
    pipeline.split_variables(loaded.variables)[0],
    state.params,
  )


def test_sampling_weights_are_named(debug_config):
  state = train_step.TrainState(0, {"a": 1}, {"a": 2}, {"a": {}}, None, 0)
  assert state.variables("ema")["a"]["params"] == 2
  assert state.variables("raw")["a"]["params"] == 1
  with pytest.raises(ValueError, match="expected one of ema, raw"):
    pretrained.check_params(debug_config, "best")
