"""What the viewer draws is what sampling draws."""

import jax
import numpy as np
import pytest

from genvs_jax.checkpointing import pretrained
from genvs_jax.data import made_scenes
from genvs_jax.geometry import camera_paths
from genvs_jax.images import grids
from genvs_jax.sampling import rollouts
from genvs_jax.viewer import drawing
from genvs_jax.viewer import scenes


@pytest.fixture(scope="module")
def genvs(trained_workdir):
  return pretrained.load(trained_workdir)


@pytest.fixture(scope="module")
def inputs(genvs):
  view = made_scenes.input_view(1, 3, 64, genvs.model.image_size)
  return {**view, "scene": np.int32(3)}


@pytest.fixture
def scene(genvs, inputs):
  scene = drawing.build_drawing(genvs.config, genvs.model, genvs.variables)
  scene.set_inputs(inputs)
  return scene


@pytest.fixture(scope="module")
def pose():
  return np.asarray(camera_paths.orbit(5, 30.0, 1.3)[2])


def first_frame(genvs, inputs, pose, config, seed):
  """Of a rollout whose noise sticks to surfaces, as the viewer's does."""
  config.rollout.policy, config.rollout.noise = "input", "surface"
  rollout = rollouts.build_rollout(config, genvs.model)
  batch = {key: np.asarray(value)[None] for key, value in inputs.items()}
  (views,) = rollout.run(genvs.variables, batch, pose[None], seed)
  return jax.tree.map(lambda x: np.asarray(x)[0, 0], views)


@pytest.mark.parametrize(
  "name",
  [
    *("dpmpp_2m", "renoise"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("euler", "heun")),
  ],
)
def test_a_sample_in_steps_is_the_sample(genvs, inputs, scene, pose, name):
  config = genvs.config.copy_and_resolve_references()
  config.sampler.name, config.sampler.steps = name, 4
  whole = first_frame(genvs, inputs, pose, config, seed=7)
  settings = drawing.Settings(name, 4, 1.0, "input", 7)
  render = scene.render(pose)
  np.testing.assert_allclose(render.views.rgb, whole.rgb, atol=1e-5)
  numbers, estimates = zip(*scene.sample(render, settings), strict=True)
  assert numbers == (1, 2, 3, 4)
  off = np.abs(estimates[-1].astype(int) - grids.picture(whole.sample))
  assert off.max() <= 1  # a rounding apart
  assert np.abs(estimates[0].astype(int) - estimates[-1]).max() > 1


def test_settings_take_effect(scene, pose):
  render = scene.render(pose)

  def last(**changes):
    settings = drawing.Settings("euler", 2, 1.0, "input", 0)
    *_, (_, picture) = scene.sample(render, settings._replace(**changes))
    return picture.astype(int)

  plain = last()
  np.testing.assert_array_equal(plain, last(policy="nearest"))
  for change in ({"seed": 1}, {"guidance": 3.0}, {"steps": 3}):
    assert np.abs(plain - last(**change)).max() > 1, change


def test_a_small_render_shows_the_same(scene, pose):
  small, large = scene.render(pose, is_small=True), scene.render(pose)
  assert small.views.rgb.shape == large.views.rgb.shape
  difference = np.abs(small.views.opacity - large.views.opacity)
  assert 0 < difference.mean() < 0.1


def test_a_drawn_view_becomes_an_input(scene, pose):
  before = scene.render(pose).views.rgb
  picture = np.full_like(scene.inputs["images"][0], 40)
  scene.add_view(picture, pose)
  assert scene.inputs["images"].shape[0] == len(scene.inputs["poses"]) == 2
  np.testing.assert_array_equal(scene.inputs["images"][1], picture)
  assert np.abs(scene.render(pose).views.rgb - before).max() > 1e-4


def test_a_rollout_is_the_rollout(genvs, inputs, scene):
  config = genvs.config.copy_and_resolve_references()
  config.rollout.policy = "anchors"
  config.sampler.name, config.sampler.steps = "euler", 2
  config.sampler.guidance = 1.0
  path = np.asarray(camera_paths.orbit(3, 10.0, 1.3))
  rollout = rollouts.build_rollout(config, genvs.model)
  batch = {key: np.asarray(value)[None] for key, value in inputs.items()}
  expected = rollouts.in_path_order(rollout, genvs.variables, batch, path, 5)
  settings = drawing.Settings("euler", 2, 1.0, "anchors", 5)
  frames = dict(scene.roll_out(path, settings))
  assert sorted(frames) == [0, 1, 2]
  for number, frame in frames.items():
    np.testing.assert_allclose(
      frame.sample, expected[number].sample[0, 0], atol=1e-5
    )


def test_a_denoiser_alone_has_nothing_to_turn(genvs):
  alone = {"denoiser": genvs.variables["denoiser"]}
  with pytest.raises(ValueError, match="a denoiser alone"):
    drawing.build_drawing(genvs.config, genvs.model, alone)


def test_scenes_of_the_dataset_and_made_up(genvs, trained_workdir, tmp_path):
  config = genvs.config.copy_and_resolve_references()
  of_dataset = scenes.build_scenes(config, genvs.model, trained_workdir)
  assert "validation" in of_dataset.label
  loaded = of_dataset.load(0, 1)
  size = genvs.model.image_size
  assert loaded["images"].shape == (1, size, size, 3)
  with pytest.raises(ValueError, match="input view is 999"):
    of_dataset.load(0, 999)
  config.data.data_dir = str(tmp_path)
  made = scenes.build_scenes(config, genvs.model, str(tmp_path))
  view = made.load(2, made.view)
  assert made.number > 100 and view["scene"] == 2
  # A car in the middle, white around it.
  assert view["images"][0, 0].min() == 255
  assert view["images"][0, size // 2, size // 2].min() < 250


def test_an_upload_that_is_no_picture(genvs):
  with pytest.raises(ValueError, match="no picture"):
    scenes.from_upload(b"text", genvs.config, 32, 20.0)
