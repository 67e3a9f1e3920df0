"""Parts of the objective that need no network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genvs_jax import objectives


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
    chosen, *pictures, jax.random.key(3)
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
  clean, _, told = objectives.augment(some, *pictures, jax.random.key(3))
  warped = np.asarray(jnp.any(told != 0, -1))
  assert 4 < warped.sum() < 30
  np.testing.assert_allclose(clean[~warped], pictures[0][~warped], atol=1e-6)
  assert (jnp.abs(clean - pictures[0])[warped].max((1, 2, 3)) > 0.1).all()
  none = options(debug_config, augmentation=0.0)
  same, _, told = objectives.augment(none, *pictures, jax.random.key(3))
  assert same is pictures[0] and not told.any()
