"""The stages of training on tiny networks, each handed on to the next."""

import json
import pathlib
import shutil
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import debug
from genvs_jax import config_fields
from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import pretrained
from genvs_jax.data import datasets
from genvs_jax.data import decoding
from genvs_jax.evaluation import evaluate
from genvs_jax.evaluation import report
from genvs_jax.models import builders
from genvs_jax.models import denoising
from genvs_jax.models import pipeline
from genvs_jax.sampling import sample_scenes
from genvs_jax.sampling import view_synthesis
from genvs_jax.training import loop
from genvs_jax.training import stages
from genvs_jax.training import startup

ONE = jax.devices()[:1]


def stage(debug_workdir: str, **objective):
  config = debug.get_config()
  config.data.data_dir = f"{debug_workdir}/data"
  config.train.steps = config.checkpoint.every = 2
  config.sampler.steps = 2
  config.objective.update(objective)
  return config


@pytest.fixture(scope="module")
def nerf(staged) -> str:
  """The workdir of a run of encoder and field alone."""
  return f"{staged[1]}/{stages.RENDER_STAGE}"


@pytest.fixture(scope="module")
def diffusion(debug_workdir, tmp_path_factory) -> str:
  """The workdir of a run of the unconditional denoiser alone."""
  workdir = str(tmp_path_factory.mktemp("diffusion"))
  config = stage(debug_workdir, name="diffusion")
  config.model.denoiser.conditional = False
  loop.train_and_evaluate(config, workdir, ONE)
  return workdir


def started(config):
  """(model, state) of a run at its first step, from `config.init_from`."""
  model = builders.build_model(config)
  state = startup.init_on_devices(config, model)
  return model, startup.take_over(config, model, state)


@pytest.fixture(scope="module")
def joint(debug_workdir, nerf, diffusion):
  """(config, model, state) of a joint run combined of both."""
  config = stage(debug_workdir)
  config.init_from.encoder = config.init_from.field = nerf
  config.init_from.denoiser = diffusion
  return config, *started(config)


def variables_of(state):
  return pipeline.join_variables(state.params, state.buffers)


def some_views(size: int):
  rng = np.random.default_rng(0)
  poses = jnp.eye(4).at[2, 3].set(-1.3)
  return {
    "images": rng.integers(0, 255, (1, 2, size, size, 3), np.uint8),
    "poses": jnp.stack([poses, poses.at[0, 3].set(0.1)])[None],
    "intrinsics": jnp.array([[size, size, size / 2, size / 2]], jnp.float32),
  }


def test_a_stage_holds_and_trains_its_own_parts(nerf, diffusion):
  assert set(pretrained.load(nerf).variables) == {"encoder", "field"}
  assert set(pretrained.load(diffusion).variables) == {"denoiser"}
  for workdir, expected in (
    (nerf, {"loss_rgb", "loss_opacity"}),
    (diffusion, {"loss_denoising"}),
  ):
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    names = set(json.loads(lines[-1]))
    assert expected < names
    assert ("loss_rgb" in names) == ("loss_rgb" in expected)
    assert (pathlib.Path(workdir) / "image_grids" / "00000002.png").exists()


def test_joint_renders_what_the_first_stage_rendered(joint, nerf):
  config, model, state = joint
  batch = some_views(model.image_size)
  render = view_synthesis.build_render(model)
  before = pretrained.load(nerf)
  # On the host and with the same parts: for one compiled program.
  theirs, ours = (
    render(
      {k: jax.device_get(variables[k]) for k in before.variables},
      batch,
      batch["poses"],
    )
    for variables in (before.variables, variables_of(state))
  )
  np.testing.assert_array_equal(ours.rgb, theirs.rgb)
  assert jnp.std(ours.rgb) > 0
  fresh = startup.init_on_devices(config, model)
  assert jnp.abs(fresh.params["field"]["out"]["bias"]).max() > 0


def test_joint_denoises_what_the_second_stage_denoised(joint, diffusion):
  """Whatever the features: their kernel starts at zero."""
  _, model, state = joint
  before = pretrained.load(diffusion)
  key = jax.random.key(0)
  x = jax.random.normal(key, (2, 32, 32, 3))
  features = jax.random.normal(key, (2, 32, 32, model.denoiser_features))
  sigma = jnp.array([0.2, 3.0])
  denoise = jax.jit(denoising.denoise, static_argnums=0)
  ours = denoise(model, variables_of(state), x, sigma, features)
  theirs = denoise(before.model, before.variables, x, sigma, features[..., :0])
  np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_grown_denoiser_computes_inside_what_it_did(joint, tmp_path):
  """From 32 to 64 pixels by an outer level: equal inside for equal input."""
  config, small, state = joint
  saver = checkpoints.Checkpointer(f"{tmp_path}/checkpoints")
  saver.save(2, state, config_fields.to_dict(config))
  saver.close()
  grown = config.copy_and_resolve_references()
  grown.model.image_size = 64
  grown.model.denoiser.channels = (8, 8, 16)
  grown.model.denoiser.depths = (1, 1, 1)
  grown.model.denoiser.attention = (False, False, True)
  for part in pipeline.PARTS:
    grown.init_from[part] = str(tmp_path)
  large, large_state = started(grown)

  inside = jax.random.normal(jax.random.key(1), (1, 32, 32, 8))

  def inner(model, variables):
    """What the level of 32 pixels hands up, given `inside` from above."""
    actual = {}

    def intercept(call, args, kwargs, context):
      name = "/".join(context.module.path)
      if context.method_name == "__call__" and name == "down_32_block0":
        args = (inside, *args[1:])
      result = call(*args, **kwargs)
      actual[name] = result
      return result

    size = model.image_size
    with nn.intercept_methods(intercept):
      denoising.predict(
        model,
        variables,
        jnp.ones((1, size, size, 3)),
        jnp.array([0.7]),
        jnp.ones((1, size, size, model.denoiser_features)),
      )
    return actual["up_32_block0"]

  np.testing.assert_allclose(
    jax.jit(lambda v: inner(large, v))(variables_of(large_state)),
    jax.jit(lambda v: inner(small, v))(variables_of(state)),
    atol=1e-6,
  )
  # Encoder and field have no size: they lift and render as before.
  for part in ("encoder", "field"):
    jax.tree.map(
      np.testing.assert_array_equal,
      large_state.params[part],
      state.params[part],
    )


def test_parts_that_a_run_has_not_are_refused(debug_workdir, nerf, diffusion):
  config = stage(debug_workdir, name="nerf")
  config.init_from.denoiser = diffusion
  with pytest.raises(ValueError, match="trains no denoiser: leave it empty"):
    started(config)
  config = stage(debug_workdir)
  config.init_from.denoiser = nerf
  with pytest.raises(
    ValueError, match="holds no denoiser, only encoder, field"
  ):
    started(config)


def test_scores_of_a_stage_are_those_that_it_can_have(
  nerf, diffusion, tmp_path
):
  loaded = pretrained.load(nerf)
  results = evaluate.evaluate(
    loaded.config, loaded.model, loaded.variables, str(tmp_path)
  )
  assert set(results["rows"]) & {"render", "sample"} == {"render"}
  assert "one sample" not in report.table(results)
  loaded = pretrained.load(diffusion)
  with pytest.raises(ValueError, match="there is nothing to score"):
    evaluate.evaluate(
      loaded.config, loaded.model, loaded.variables, str(tmp_path)
    )


def test_pictures_of_a_stage_are_those_that_it_can_draw(
  nerf, diffusion, tmp_path
):
  for workdir, expected in (
    (nerf, {"mp4", "gif", "grid", "npz"}),
    (diffusion, {"unconditional"}),
  ):
    loaded = pretrained.load(workdir)
    (files,) = sample_scenes.sample(
      loaded.config, loaded.model, loaded.variables, str(tmp_path)
    )
    assert set(files) == expected
    assert all(path.read_bytes() for path in files.values())


@pytest.fixture(scope="module")
def staged(debug_workdir, tmp_path_factory):
  """(config, workdir) of a run whose renderer had a stage of its own."""
  workdir = str(tmp_path_factory.mktemp("staged"))
  config = stage(debug_workdir)
  config.train.render_steps = 2
  config.diffusion.target, config.diffusion.sigma_data = "residual", 0.0
  config.diffusion.units = "sigma_data"
  state, stopped = stages.run(config, workdir, ONE)
  assert int(state.step) == 2 and not stopped
  return config, workdir


def test_the_renderer_has_a_stage_of_its_own_and_stays(staged):
  _, workdir = staged
  first = pretrained.load(f"{workdir}/{stages.RENDER_STAGE}")
  assert set(first.variables) == {"encoder", "field"}
  last = pretrained.load(workdir)
  for part in ("encoder", "field"):
    jax.tree.map(
      np.testing.assert_array_equal,
      first.variables[part],
      last.variables[part],
    )


def test_what_the_denoiser_draws_is_measured_and_recorded(staged):
  """Against the deviation of pictures minus renders, drawn for themselves."""
  config, workdir = staged
  genvs = pretrained.load(workdir)
  recorded = genvs.config.diffusion
  records = datasets.load_split(config, workdir, "train")
  views = [decoding.decode_views(r, range(8), 32, "area") for r in records]
  batch = {k: np.stack([v[k] for v in views]) for k in views[0]}
  inputs = {k: batch[k][:, :1] for k in ("images", "poses", "intrinsics")}
  drawn = view_synthesis.build_render(genvs.model)(
    genvs.variables, inputs, batch["poses"][:, 1:]
  )
  residual = batch["images"][:, 1:] / 255 - drawn.rgb
  # Other views and input noise: near, not equal.
  np.testing.assert_allclose(recorded.sigma_data, residual.std(), rtol=0.1)
  assert 0.3 < recorded.feature_mean < 0.9
  assert 0.02 < recorded.feature_std < 0.4


def test_a_resumed_stage_measures_nothing_anew(staged, tmp_path, monkeypatch):
  """Nor trains the first again, whose folder may be gone by then."""
  config, workdir = staged
  config = config.copy_and_resolve_references()
  copy = tmp_path / "copy"
  shutil.copytree(workdir, copy)
  shutil.rmtree(copy / stages.RENDER_STAGE)
  before = pretrained.load(workdir).config.diffusion

  def measure(config, workdir):
    raise AssertionError("measured again")

  monkeypatch.setattr(stages, "measure", measure)
  config.train.steps = 3
  state, _ = stages.run(config, str(copy), ONE)
  assert int(state.step) == 3
  assert not (copy / stages.RENDER_STAGE).exists()
  assert pretrained.load(str(copy)).config.diffusion == before


def test_a_damaged_config_is_no_end_of_a_staged_run(staged, tmp_path):
  """The checkpoint before it says what was measured."""
  config, workdir = staged
  config = config.copy_and_resolve_references()
  copy = tmp_path / "copy"
  shutil.copytree(workdir, copy)
  config.train.steps, config.checkpoint.every = 3, 1
  stages.run(config, str(copy), ONE)
  newest = copy / "checkpoints" / "3" / "config" / "metadata"
  newest.write_text(newest.read_text()[:20])
  recorded = stages._recorded_config(str(copy))
  assert recorded.diffusion == pretrained.load(workdir).config.diffusion


def test_measured_values_are_those_of_a_denoiser_that_goes_on(staged):
  config, workdir = staged
  config = config.copy_and_resolve_references()
  config.init_from.denoiser = workdir
  values = stages.with_measured_values(config, "", None).diffusion
  assert values == pretrained.load(workdir).config.diffusion


def test_a_denoiser_without_features_keeps_its_deviation(
  staged, diffusion, monkeypatch
):
  """What it has never taken is measured."""
  config, workdir = staged
  config = config.copy_and_resolve_references()
  config.init_from.denoiser = diffusion
  measured = dict.fromkeys(stages.MEASURED, 0.25)
  monkeypatch.setattr(stages, "measure", lambda *args: dict(measured))
  values = stages.with_measured_values(config, workdir, None).diffusion
  theirs = pretrained.load(diffusion).config.diffusion
  assert values.sigma_data == theirs.sigma_data != 0.25
  assert values.feature_mean == values.feature_std == 0.25


def test_measuring_needs_a_renderer(debug_config):
  debug_config.diffusion.sigma_data = 0.0
  with pytest.raises(ValueError, match=r"set train\.render_steps, or"):
    stages.run(debug_config, "nowhere")


@pytest.mark.parametrize(
  "fields, sentence",
  [
    ({"objective.name": "nerf"}, "objective.name 'nerf' and"),
    ({"objective.rgb": 0.0}, "objective.rgb 0: set it to 0"),
    ({"optimizer.frozen": ("denoiser",)}, "the denoiser alone trains last"),
    ({"sampler.churn": 2.0}, "sampler.churn is 2.0"),
    ({"model.denoiser.geometry": ("rays",)}, "'rays', expected one of"),
    ({"checkpoint.best_metric": "loss"}, "best_metric is 'loss'"),
    ({"model.denoiser.conditional": False}, "is trained by 'diffusion'"),
  ],
)
def test_mistakes_in_a_later_stage_are_found_before_the_first(
  debug_config, tmp_path, fields, sentence
):
  debug_config.train.render_steps = 2
  debug_config.update_from_flattened_dict(fields)
  with pytest.raises(ValueError, match=sentence):
    stages.run(debug_config, str(tmp_path), ONE)
  assert not list(tmp_path.iterdir())


def test_a_stage_of_one_view_hands_its_renderer_on(
  debug_config, tmp_path, monkeypatch
):
  """By the folders and configs that the loop is called with."""
  config = debug_config
  config.train.render_steps, config.train.one_view_steps = 3, 2
  config.model.input_views, config.objective.depth_consistency = 2, 0.1
  runs = []

  def train(config, folder, devices, stop):
    runs.append((config, folder))
    return types.SimpleNamespace(step=config.train.steps)

  monkeypatch.setattr(loop, "train_and_evaluate", train)
  stages.run(config, str(tmp_path))
  folders = [f"{tmp_path}/one_view_stage", f"{tmp_path}/render_stage"]
  assert [folder for _, folder in runs] == [*folders, str(tmp_path)]
  one, render, last = (run for run, _ in runs)
  assert (one.train.steps, render.train.steps, last.train.steps) == (2, 3, 8)
  assert (one.model.input_views, render.model.input_views) == (1, 2)
  assert one.objective.depth_consistency == 0 < last.objective.depth_consistency
  assert one.objective.name == render.objective.name == "nerf"
  assert one.init_from.encoder == ""
  assert render.init_from.encoder == render.init_from.field == folders[0]
  assert last.init_from.encoder == folders[1]


def test_a_signal_in_the_last_step_of_a_stage_ends_the_run(
  debug_config, tmp_path, monkeypatch
):
  debug_config.train.render_steps = 2
  folders = []

  def train(config, folder, devices, stop):
    folders.append(folder)
    stop.asked = True
    return types.SimpleNamespace(step=config.train.steps)

  monkeypatch.setattr(loop, "train_and_evaluate", train)
  _, stopped = stages.run(debug_config, str(tmp_path))
  assert stopped and folders == [f"{tmp_path}/{stages.RENDER_STAGE}"]
