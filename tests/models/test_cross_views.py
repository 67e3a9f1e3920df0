"""Attention to the input views: what it depends on, and what not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import debug
from genvs_jax.geometry import cameras
from genvs_jax.models import builders
from genvs_jax.models import cross_views
from genvs_jax.models import denoising
from genvs_jax.models import pipeline
from genvs_jax.sampling import view_synthesis
from tfds_srn.synthetic_cars import car_scenes

POSES = jnp.asarray(car_scenes.train_poses(0, "train", 0, 4))
INTRINSICS = jnp.array([[38.0, 38.0, 16.0, 16.0]])
SIGMA = jnp.array([0.3])


@pytest.fixture(scope="module")
def attending():
  """A model that attends, whose attention is not zero as at the start."""
  config = debug.get_config()
  config.model.denoiser.cross_views = True
  model = builders.build_model(config)
  variables = jax.jit(
    lambda: builders.init_variables(model, jax.random.key(0))
  )()
  keys = iter(jax.random.split(jax.random.key(1), 99))

  def disturb(path, x):
    name = jax.tree_util.keystr(path)
    is_last = "output" in name or ("_views" in name and "out" in name)
    return jax.random.normal(next(keys), x.shape) * 0.3 if is_last else x

  params = variables["denoiser"]["params"]
  params = jax.tree_util.tree_map_with_path(disturb, params)
  variables["denoiser"] = {**variables["denoiser"], "params": params}
  return config, model, variables


def estimate(attending, images, poses, mask, target):
  """D of one view with the input views [V,H,W,3] at poses [V,4,4]."""
  _, model, variables = attending
  mask = jnp.asarray(mask)
  return _estimate(model, variables, images, poses, mask, target)


@functools.partial(jax.jit, static_argnums=0)
def _estimate(model, variables, images, poses, mask, target):
  keys = cross_views.encode(
    model, variables, images[None], poses[None], INTRINSICS
  )
  inputs = pipeline.InputViews(
    jnp.zeros(0), poses[None], INTRINSICS, mask[None], keys
  )
  views = cross_views.of_targets(inputs, target[None, None], 32)
  noisy = jax.random.normal(jax.random.key(2), (1, 32, 32, 3))
  features = jnp.zeros((1, 32, 32, model.denoiser_features))
  return denoising.denoise(
    model, variables, noisy, SIGMA, features, views=views
  )


def pictures(count):
  return jax.random.uniform(jax.random.key(3), (count, 32, 32, 3))


def test_cameras_count_by_their_relative_poses(attending):
  """The whole world moved: nothing changes. One camera alone: something."""
  moved = jnp.asarray(car_scenes.train_poses(1, "train", 5, 1)[0])
  images, mask = pictures(2), [True, True]
  here = estimate(attending, images, POSES[:2], mask, POSES[2])
  there = estimate(attending, images, moved @ POSES[:2], mask, moved @ POSES[2])
  np.testing.assert_allclose(here, there, atol=2e-4)
  other = estimate(attending, images, moved @ POSES[:2], mask, POSES[2])
  assert np.abs(here - other).max() > 0.01


def test_views_are_a_set_and_those_not_in_use_do_not_count(attending):
  images, poses = pictures(3), POSES[:3]
  mask = jnp.array([True, False, True])
  out = estimate(attending, images, poses, mask, POSES[3])
  order = jnp.array([2, 1, 0])
  np.testing.assert_allclose(
    out,
    estimate(attending, images[order], poses[order], mask[order], POSES[3]),
    atol=1e-5,
  )
  without = estimate(attending, images[::2], poses[::2], [True] * 2, POSES[3])
  np.testing.assert_allclose(out, without, atol=1e-5)
  changed = estimate(attending, images.at[0].set(0), poses, mask, POSES[3])
  assert np.abs(out - changed).max() > 0.01


def test_without_views_nothing_is_added(attending):
  _, model, variables = attending
  none = estimate(attending, pictures(2), POSES[:2], [False] * 2, POSES[2])
  noisy = jax.random.normal(jax.random.key(2), (1, 32, 32, 3))
  features = jnp.zeros((1, 32, 32, model.denoiser_features))
  plain = denoising.denoise(model, variables, noisy, SIGMA, features)
  np.testing.assert_allclose(none, plain, atol=1e-5)


def test_one_token_is_turned_from_its_camera_to_the_target():
  """By hand: a key that wins, whose value is a direction of its camera."""
  layer = cross_views.CrossAttention(0, jnp.float32)
  value = jnp.zeros((1, 1, 1, 128)).at[..., 64 + 2].set(1.0)  # (0,0,1,0), once
  keys = value.at[..., :64].set(0.0)
  views = cross_views.Views(
    cross_views.turn(keys, POSES[None, :1]),
    jnp.ones((1, 1), bool),
    POSES[1:2],
    jnp.array([[1.2, 1.2, 0.5, 0.5]]),
  )
  x, vector = jnp.zeros((1, 2, 2, 8)), jnp.zeros((1, 4))
  variables = layer.init(jax.random.key(0), x, vector, views)
  kernel = jnp.zeros((64, 8)).at[:4, :4].set(jnp.eye(4))
  variables["params"]["out"]["kernel"] = kernel
  out = layer.apply(variables, x, vector, views)
  axis = POSES[0, :3, 2]  # the optical axis of the input camera, in the world
  expected = POSES[1, :3, :3].T @ axis
  # Logits of 0 beside the empty key's 0: half of it.
  np.testing.assert_allclose(out[0, 0, 0, :3], expected / 2, atol=1e-6)
  origin = cameras.world_to_camera(POSES[:1, :3, 3], POSES[1:2])
  assert np.abs(origin).max() > 0.1  # the cameras stand apart


def test_drawing_uses_the_pictures(attending):
  """Through the sampler: another picture with the same render, another view;
  guidance weight 0 leaves neither."""
  config, model, variables = attending
  config = config.copy_and_resolve_references()
  batch = {
    "images": np.full((1, 1, 32, 32, 3), 128, np.uint8),
    "poses": np.asarray(POSES[None, :1]),
    "intrinsics": np.asarray(INTRINSICS),
  }
  inputs = view_synthesis.encode_views(model, variables, batch)
  assert inputs.keys.shape == (1, 1, 64, 256)
  features, attended, _ = view_synthesis.render_inputs(
    model, variables, inputs, POSES[None, 1:2]
  )
  keys = view_synthesis.view_keys(0, np.arange(1), np.arange(1))[0]
  other = attended._replace(keys=attended.keys + 1.0)
  for guidance, differ in ((1.0, True), (2.0, True), (0.0, False)):
    config.sampler.guidance = guidance
    draw = jax.jit(view_synthesis.build_sampler(config, model))
    a, _ = draw(variables, features[0], keys, attended)
    b, _ = draw(variables, features[0], keys, other)
    assert (np.abs(a - b).max() > 1e-3) == differ
