"""Augmentation of images and their features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genvs_jax.diffusion import augmentation


@pytest.fixture
def pictures():
  key = jax.random.key(0)
  return (
    jax.random.normal(key, (64, 8, 8, 3)),
    jax.random.normal(jax.random.fold_in(key, 1), (64, 8, 8, 5)),
  )


def keys():
  return jax.random.split(jax.random.key(3), 64)


def test_picture_and_features_take_the_same_warp(pictures):
  """With no other kind, half of all warped examples are mirrored."""
  clean, features, labels = augmentation.augment(*pictures, keys(), 1.0, 0.0)
  mirrored = np.asarray(labels[:, 0] == 1)
  assert 16 < mirrored.sum() < 48
  np.testing.assert_array_equal(labels[:, 1:], 0)
  for before, after in zip(pictures, (clean, features), strict=True):
    np.testing.assert_allclose(
      after[mirrored], before[mirrored][:, :, ::-1], atol=1e-4
    )
    np.testing.assert_allclose(after[~mirrored], before[~mirrored], atol=1e-4)


def test_the_rest_is_left_alone_with_labels_of_zeros(pictures):
  clean, _, labels = augmentation.augment(*pictures, keys(), 0.25, 1.0)
  warped = np.asarray(jnp.any(labels != 0, -1))
  assert 4 < warped.sum() < 30
  np.testing.assert_allclose(clean[~warped], pictures[0][~warped], atol=1e-6)
  assert (jnp.abs(clean - pictures[0])[warped].max((1, 2, 3)) > 0.1).all()
