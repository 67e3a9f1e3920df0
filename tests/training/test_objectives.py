"""Parts of the objectives: augmentation, consistency, frozen parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genvs_jax.models import pipeline
from genvs_jax.training import objectives
from genvs_jax.training import optimizers
from genvs_jax.training import randomness
from genvs_jax.training import train_state


@pytest.fixture
def pictures():
  key = jax.random.key(0)
  return (
    jax.random.normal(key, (64, 8, 8, 3)),
    jax.random.normal(jax.random.fold_in(key, 1), (64, 8, 8, 5)),
  )


def options(debug_config, **values):
  debug_config.objective.update(values)
  return objectives.build_options(debug_config)


def test_picture_and_features_take_the_same_warp(debug_config, pictures):
  """With no other kind, half of all augmented examples are mirrored."""
  chosen = options(debug_config, augmentation=1.0, augmentation_kinds=0.0)
  clean, features, told = objectives.augment(
    chosen, *pictures, jax.random.split(jax.random.key(3), 64)
  )
  mirrored = np.asarray(told[:, 0] == 1)
  assert 16 < mirrored.sum() < 48
  np.testing.assert_array_equal(told[:, 1:], 0)
  for before, after in zip(pictures, (clean, features), strict=True):
    np.testing.assert_allclose(
      after[mirrored], before[mirrored][:, :, ::-1], atol=1e-4
    )
    np.testing.assert_allclose(after[~mirrored], before[~mirrored], atol=1e-4)


def test_the_rest_is_left_alone_and_told_so(debug_config, pictures):
  some = options(debug_config, augmentation=0.25, augmentation_kinds=1.0)
  clean, _, told = objectives.augment(
    some, *pictures, jax.random.split(jax.random.key(3), 64)
  )
  warped = np.asarray(jnp.any(told != 0, -1))
  assert 4 < warped.sum() < 30
  np.testing.assert_allclose(clean[~warped], pictures[0][~warped], atol=1e-6)
  assert (jnp.abs(clean - pictures[0])[warped].max((1, 2, 3)) > 0.1).all()
  none = options(debug_config, augmentation=0.0)
  same, _, told = objectives.augment(
    none, *pictures, jax.random.split(jax.random.key(3), 64)
  )
  assert same is pictures[0] and not told.any()


def test_input_noise_has_its_probability_and_strength(
  debug_config, monkeypatch
):
  """Half of the images, each with a deviation from U(0, 2)."""
  chosen = options(
    debug_config, input_noise_probability=0.5, input_noise_max=2.0
  )
  model, given = pipeline.build_model(debug_config), []

  def encode(model, variables, images, noise, train):
    given.append(noise)
    return jnp.zeros(images.shape[:2]), {}

  monkeypatch.setattr(pipeline, "encode", encode)
  count = 200
  images = jnp.zeros((count, 2, 16, 16, 3))
  batch = {"poses": jnp.zeros((count, 2, 4, 4)), "intrinsics": None}
  keys = randomness.step_keys(0, 0, count)
  objectives.encode_inputs(model, chosen, {}, batch, images, keys)
  deviation = np.std(given[0], (2, 3, 4)).ravel()
  noisy = deviation > 0
  assert abs(noisy.mean() - 0.5) < 0.07
  np.testing.assert_allclose(np.mean(given[0]), 0, atol=0.01)
  quarters = np.quantile(deviation[noisy], [0.25, 0.5, 0.75])
  np.testing.assert_allclose(quarters, [0.5, 1.0, 1.5], atol=0.2)


def test_consistency_compares_with_the_last_input_view_alone(debug_config):
  """Two equal input views agree; two different ones do not."""
  debug_config.objective.depth_consistency = 1.0
  debug_config.objective.opacity_consistency = 1.0
  debug_config.objective.input_noise_probability = 0.0
  model = pipeline.build_model(debug_config)
  state = train_state.init_on_devices(debug_config, model)
  variables = pipeline.join_variables(state.params, state.buffers)
  chosen = objectives.build_options(debug_config)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 255, (2, 3, 32, 32, 3), np.uint8)
  poses = np.broadcast_to(np.eye(4, dtype=np.float32), (2, 3, 4, 4)).copy()
  poses[..., 2, 3] = -1.3
  batch = {
    "images": jnp.asarray(images),
    "poses": jnp.asarray(poses),
    "intrinsics": jnp.full((2, 4), 32.0).at[:, 2:].set(16.0),
  }
  same = {**batch, "images": batch["images"].at[:, 1].set(images[:, 0])}
  run = jax.jit(
    lambda b: (
      objectives.rendering_losses(
        model, chosen, variables, b, randomness.step_keys(0, 0, 2)
      ).metrics
    )
  )
  for name in ("depth_consistency", "opacity_consistency"):
    np.testing.assert_allclose(run(same)[name], 0, atol=1e-9)
  assert run(batch)["opacity_consistency"] > 1e-6


def test_consistency_needs_two_input_views(debug_config):
  debug_config.objective.depth_consistency = 1.0
  debug_config.model.input_views = 1
  with pytest.raises(ValueError, match=r"input_views of 2 or more, found 1"):
    objectives.build_options(debug_config)


def test_frozen_parts_and_their_statistics_stay(debug_config):
  debug_config.objective.name = "nerf"
  debug_config.optimizer.frozen = ("encoder",)
  model = pipeline.build_model(debug_config)
  state = train_state.init_on_devices(debug_config, model)
  rng = np.random.default_rng(0)
  batch = {
    "images": jnp.asarray(rng.integers(0, 255, (2, 3, 32, 32, 3), np.uint8)),
    "poses": jnp.broadcast_to(jnp.eye(4).at[2, 3].set(-1.3), (2, 3, 4, 4)),
    "intrinsics": jnp.full((2, 4), 32.0).at[:, 2:].set(16.0),
  }
  step = jax.jit(train_state.build_train_step(debug_config, model))
  after, _ = step(state, batch)

  def changed(name, part):
    pairs = zip(
      jax.tree.leaves(getattr(state, name)[part]),
      jax.tree.leaves(getattr(after, name)[part]),
      strict=True,
    )
    return any(bool((a != b).any()) for a, b in pairs)

  assert not changed("params", "encoder") and not changed("buffers", "encoder")
  assert changed("params", "field")
  # No moments are kept for what is not trained.
  kept = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
  assert state.params["encoder"]["head"]["kernel"].shape not in kept


def test_freezing_needs_known_parts_and_something_left():
  params = {"encoder": 1, "field": 2, "denoiser": 3}
  for frozen in (("volume",), ("encoder", "field", "denoiser")):
    with pytest.raises(ValueError, match=r"optimizer.frozen is \("):
      optimizers.trained(params, frozen)


def test_unknown_objectives_are_refused(debug_config):
  debug_config.objective.name = "gan"
  with pytest.raises(
    ValueError, match="'gan', expected one of diffusion, joint"
  ):
    train_state.init_state(debug_config, pipeline.build_model(debug_config))
