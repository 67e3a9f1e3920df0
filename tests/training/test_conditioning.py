"""All that a denoiser can be conditioned on, from training to scores."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import debug
from genvs_jax.checkpointing import autoguidance
from genvs_jax.checkpointing import pretrained
from genvs_jax.evaluation import evaluate
from genvs_jax.models import builders
from genvs_jax.models import cross_views
from genvs_jax.models import denoising
from genvs_jax.models import pipeline
from genvs_jax.sampling import rollouts
from genvs_jax.sampling import view_synthesis
from genvs_jax.training import loop
from genvs_jax.training import objectives
from genvs_jax.training import randomness
from genvs_jax.training import startup
from tfds_srn.synthetic_cars import car_scenes

ONE = jax.devices()[:1]


def told_everything(debug_workdir):
  config = debug.get_config()
  config.data.data_dir = f"{debug_workdir}/data"
  config.train.steps, config.checkpoint.every = 2, 1
  config.model.denoiser.cross_views = True
  config.model.denoiser.geometry = ("pluecker", "depth", "opacity")
  config.model.encoder.noise_told = True
  config.rollout.policy, config.rollout.drawn_noise = "nearest", 0.3
  config.sampler.steps = 2
  config.validation.scenes = 2
  config.train.image_grid_every = 2
  config.evaluate.scenes, config.evaluate.samples = 1, 1
  config.evaluate.rollouts, config.evaluate.field_fit = 1, False
  config.evaluate.baselines, config.sample.frames = False, 5
  return config


@pytest.fixture(scope="module")
def trained(debug_workdir, tmp_path_factory):
  """The workdir of such a run, with a checkpoint of each step."""
  workdir = str(tmp_path_factory.mktemp("told"))
  loop.train_and_evaluate(told_everything(debug_workdir), workdir, ONE)
  return workdir


def test_it_trains_validates_and_is_scored(trained):
  lines = (pathlib.Path(trained) / "metrics.jsonl").read_text().splitlines()
  metrics = {k: v for line in lines for k, v in json.loads(line).items()}
  assert np.isfinite(metrics["validation/denoising_error"])
  assert (pathlib.Path(trained) / "image_grids" / "00000002.png").exists()
  genvs = pretrained.load(trained)
  results = evaluate.evaluate(
    genvs.config, genvs.model, genvs.variables, trained
  )
  assert np.isfinite(results["rows"]["sample"]["psnr"])
  assert results["rows"]["sample"]["reprojection_scored"][1] == 1


def test_a_rollout_keeps_the_keys_of_its_views(trained):
  """Its second frame is what its two pictures give when encoded anew."""
  genvs = pretrained.load(trained)
  config = genvs.config.copy_and_resolve_references()
  config.rollout.drawn_noise = 0.0
  poses = np.asarray(debug_poses(3))
  inputs = {
    "images": np.full((1, 1, 32, 32, 3), 200, np.uint8),
    "poses": poses[None, :1],
    "intrinsics": np.array([[38.0, 38, 16, 16]], np.float32),
  }
  rollout = rollouts.build_rollout(config, genvs.model)
  scene = {**inputs, "scene": np.zeros(1, int)}
  first, second = rollout.run(genvs.variables, scene, poses[1:], 0)
  pair = {
    "images": np.stack([inputs["images"][:, 0] / 255, first.sample[:, 0]], 1),
    "poses": poses[None, :2],
    "intrinsics": inputs["intrinsics"],
  }
  keys = view_synthesis.view_keys(0, np.zeros(1), np.arange(2))[:, 1:]

  @jax.jit
  def draw(variables, pair):
    images = jnp.asarray(pair["images"], jnp.float32)
    volumes, _ = pipeline.encode(genvs.model, variables, images)
    views = pipeline.InputViews(
      volumes,
      pair["poses"],
      pair["intrinsics"],
      jnp.ones((1, 2), bool),
      cross_views.encode(
        genvs.model, variables, images, pair["poses"], pair["intrinsics"]
      ),
    )
    features, attended, _ = view_synthesis.render_inputs(
      genvs.model, variables, views, poses[None, 2:]
    )
    sampler = view_synthesis.build_sampler(config, genvs.model)
    return sampler(variables, features[:, 0], keys[0], attended)[0]

  np.testing.assert_allclose(
    draw(genvs.variables, pair), second.sample[:, 0], atol=1e-4
  )
  # Declared noisy, the drawn view counts for something else.
  config.rollout.drawn_noise = 0.5
  told = rollouts.build_rollout(config, genvs.model)
  _, other = told.run(genvs.variables, scene, poses[1:], 0)
  assert np.abs(other.opacity - second.opacity).max() > 1e-5


def debug_poses(count):
  return car_scenes.train_poses(0, "train", 0, count)


def test_gradients_reach_what_attends_and_what_is_told(debug_workdir):
  """The view encoder once its outputs count, the fourth channel at once."""
  config = told_everything(debug_workdir)
  config.objective.conditioning_dropout = 0.0
  model = builders.build_model(config)
  variables = jax.jit(
    lambda: builders.init_variables(model, jax.random.key(0))
  )()
  ones = jax.tree_util.tree_map_with_path(
    lambda path, x: x + 0.1 * ("out" in jax.tree_util.keystr(path)),
    variables["denoiser"]["params"],
  )
  variables["denoiser"] = {**variables["denoiser"], "params": ones}
  params, buffers = pipeline.split_variables(variables)
  rng = np.random.default_rng(0)
  batch = {
    "images": rng.integers(0, 255, (2, 3, 32, 32, 3), np.uint8),
    "poses": np.stack([debug_poses(3)] * 2),
    "intrinsics": np.tile(np.float32([38, 38, 16, 16]), (2, 1)),
  }
  batch = jax.tree.map(jnp.asarray, batch)

  @jax.jit
  def gradient(params, dropout):
    chosen = objectives.build_options(config)
    chosen = objectives.dataclasses.replace(
      chosen, conditioning_dropout=dropout, rgb=0.0, opacity=0.0
    )
    keys = randomness.step_keys(0, jnp.int32(0), 2)
    return jax.grad(
      lambda p: objectives.joint(
        model, chosen, pipeline.join_variables(p, buffers), batch, keys
      )[0]
    )(params)

  grads = gradient(params, 0.0)
  views = grads["denoiser"]["views"]
  assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(views))
  stem = grads["encoder"]["trunk"]["stem"]["kernel"]
  assert stem.shape[2] == 4 and np.abs(stem[:, :, 3]).max() > 0
  # Conditioning dropout hides the pictures too.
  views = gradient(params, 1.0)["denoiser"]["views"]
  assert all(np.abs(x).max() == 0 for x in jax.tree.leaves(views))


def test_targets_attend_with_their_own_cameras(debug_workdir, monkeypatch):
  """Also where an input view is rendered in front of them."""
  config = told_everything(debug_workdir)
  config.objective.rgb_input = 0.1
  model = builders.build_model(config)
  shapes = jax.eval_shape(
    lambda: builders.init_variables(model, jax.random.key(0))
  )
  variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  seen = []
  of_targets = cross_views.of_targets

  def noted(inputs, poses, size):
    seen.append((inputs.drawn_with, poses))
    return of_targets(inputs, poses, size)

  monkeypatch.setattr(cross_views, "of_targets", noted)
  views = config.model.input_views
  batch = {
    "images": np.zeros((2, views + 2, 32, 32, 3), np.uint8),
    "poses": np.stack([debug_poses(views + 2)] * 2),
    "intrinsics": np.tile(np.float32([38, 38, 16, 16]), (2, views + 2, 1)),
  }
  # Of each view a focal length of its own.
  batch["intrinsics"][..., 0] += np.arange(views + 2)
  options = objectives.build_options(config)

  @jax.jit
  def cameras_of_targets(batch):
    keys = randomness.step_keys(0, jnp.int32(0), 2)
    objectives.joint(model, options, variables, batch, keys)
    return seen.pop()

  intrinsics, poses = cameras_of_targets(batch)
  assert not seen
  np.testing.assert_array_equal(poses, batch["poses"][:, views:])
  np.testing.assert_array_equal(intrinsics, batch["intrinsics"][:, views:])


def test_a_guide_that_attends_is_refused(trained):
  genvs = pretrained.load(trained)
  genvs.config.sampler.guide = f"{trained}/checkpoints/1"
  with pytest.raises(ValueError, match="denoiser attends to the input views"):
    autoguidance.add_guide(genvs.config, genvs.model, genvs.variables)


def test_a_renderer_is_rolled_out_without_keys(trained):
  """A checkpoint of encoder and field, whose denoiser would attend."""
  genvs = pretrained.load(trained)
  variables = {k: genvs.variables[k] for k in ("encoder", "field")}
  inputs = {
    "images": np.zeros((1, 1, 32, 32, 3), np.uint8),
    "poses": debug_poses(1)[None],
    "intrinsics": np.float32([[38, 38, 16, 16]]),
    "scene": np.arange(1),
  }
  rollout = rollouts.build_rollout(genvs.config, genvs.model, False)
  frames = list(rollout.run(variables, inputs, debug_poses(2), 0))
  assert len(frames) == 2 and frames[0].sample is None


def test_a_denoiser_that_never_attended_goes_on(trained_workdir):
  """The new layers start fresh, and add nothing yet."""
  config = debug.get_config()
  config.model.denoiser.cross_views = True
  for part in pipeline.PARTS:
    config.init_from[part] = trained_workdir
  model = builders.build_model(config)
  state = startup.init_on_devices(config, model)
  state = startup.take_over(config, model, state)
  before = pretrained.load(trained_workdir)
  variables = pipeline.join_variables(state.params, state.buffers)
  noisy = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
  features = jax.random.normal(jax.random.key(1), (1, 32, 32, 8))
  sigma = jnp.array([0.5])
  denoise = jax.jit(denoising.denoise, static_argnums=0)
  np.testing.assert_allclose(
    denoise(model, variables, noisy, sigma, features),
    denoise(before.model, before.variables, noisy, sigma, features),
    atol=1e-6,
  )


def test_an_earlier_checkpoint_guides(trained_workdir, tmp_path):
  """D = D_guide + w (D - D_guide): by itself nothing, at 0 the guide alone."""
  genvs = pretrained.load(trained_workdir)
  config = genvs.config.copy_and_resolve_references()
  config.sampler.steps, config.sampler.churn = 1, 0.0
  features = jax.random.normal(jax.random.key(1), (1, 32, 32, 8))
  keys = jax.random.split(jax.random.key(2), 1)

  def drawn(guidance, guide, variables=genvs.variables):
    config.sampler.guidance, config.sampler.guide = guidance, guide
    model, variables = autoguidance.add_guide(config, genvs.model, variables)
    draw = jax.jit(view_synthesis.build_sampler(config, model))
    return draw(variables, features, keys)[0]

  early = f"{trained_workdir}/checkpoints/4"
  alone = drawn(1.0, "")
  np.testing.assert_allclose(drawn(3.0, trained_workdir), alone, atol=1e-5)
  other = pretrained.load(early)
  np.testing.assert_allclose(
    drawn(0.0, early), drawn(1.0, "", other.variables), atol=1e-5
  )
  assert np.abs(drawn(3.0, early) - alone).max() > 1e-5
  config.model.denoiser.geometry = ("depth",)
  with pytest.raises(ValueError, match=r"whose model\.denoiser\.geometry is"):
    drawn(2.0, early)


@pytest.mark.parametrize(
  "fields, sentence",
  [
    ({"model.denoiser.name": "ddpmpp"}, "conditional image_v1 with"),
    ({"model.denoiser.attention": (False, False)}, "attention at some level"),
  ],
)
def test_what_cannot_attend_is_refused(fields, sentence):
  config = debug.get_config()
  config.update_from_flattened_dict(
    {"model.denoiser.cross_views": True, **fields}
  )
  with pytest.raises(ValueError, match=sentence):
    builders.build_model(config)


def test_noise_is_declared_to_models_that_listen(trained_workdir):
  genvs = pretrained.load(trained_workdir)
  config = genvs.config.copy_and_resolve_references()
  config.rollout.drawn_noise = 0.1
  with pytest.raises(ValueError, match="not trained to be told of noise"):
    rollouts.build_rollout(config, genvs.model)
