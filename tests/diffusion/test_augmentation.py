"""Augmentation: exact warps by hand, and statistics of the draws."""

import jax
import jax.numpy as jnp
import numpy as np

from genvs_jax.diffusion import augmentation


def warp(**values) -> augmentation.Warp:
  zeros = augmentation.Warp(*[jnp.zeros(1)] * 8)
  return zeros._replace(**{k: jnp.full(1, v) for k, v in values.items()})


def applied(image, **values):
  maps = augmentation.matrices(warp(**values), *image.shape[1:3])
  return augmentation.apply(image, maps)


def test_no_warp_is_the_identity_and_tells_zeros():
  image = jax.random.normal(jax.random.key(0), (1, 6, 10, 2))
  np.testing.assert_allclose(applied(image), image, atol=1e-6)
  np.testing.assert_array_equal(augmentation.labels(warp()), 0)


def test_mirror_flip_turn_and_shift_move_whole_pixels():
  image = jax.random.normal(jax.random.key(0), (1, 8, 8, 2))
  mirrored = applied(image, mirror=1.0)
  np.testing.assert_allclose(mirrored, image[:, :, ::-1], atol=1e-5)
  flipped = applied(image, flip=1.0)
  np.testing.assert_allclose(flipped, image[:, ::-1], atol=1e-5)
  # One eighth of 8 pixels to the right.
  shifted = applied(image, shift_x=1.0)
  np.testing.assert_allclose(shifted[:, :, 1:], image[:, :, :-1], atol=1e-5)
  turned = applied(image, rotation=np.pi / 2)
  expected = np.rot90(image, 1, axes=(1, 2))
  np.testing.assert_allclose(turned, expected, atol=1e-4)


def test_a_wide_image_turns_about_its_own_centre():
  """The reference swaps height and width in the centring."""
  image = jax.random.normal(jax.random.key(0), (1, 4, 12, 1))
  mirrored = applied(image, mirror=1.0, flip=1.0)
  np.testing.assert_allclose(mirrored, image[:, ::-1, ::-1], atol=1e-5)


def test_what_leaves_the_image_is_reflected():
  image = jnp.arange(5.0).reshape(1, 1, 5, 1) * jnp.ones((1, 3, 5, 1))
  maps = jnp.eye(3).at[0, 2].set(2.0)[None]  # two pixels to the right
  np.testing.assert_allclose(
    augmentation.apply(image, maps)[0, 1, :, 0], [2, 1, 0, 1, 2], atol=1e-6
  )


def test_half_are_mirrored_and_others_happen_at_their_probability():
  draws = jax.vmap(augmentation.draw)(jax.random.split(jax.random.key(0), 4000))
  some = augmentation.warp_from_draws(draws, 0.25)
  assert abs(jnp.mean(some.mirror) - 0.5) < 0.03
  assert abs(jnp.mean(some.flip) - 0.125) < 0.02  # a quarter toss a coin
  for value in (some.scale, some.rotation, some.stretch, some.shift_x):
    assert abs(jnp.mean(value != 0) - 0.25) < 0.03
  np.testing.assert_array_equal(some.shift_x != 0, some.shift_y != 0)
  every = augmentation.warp_from_draws(draws, 1.0)
  assert abs(jnp.std(every.scale) - 1) < 0.05
  assert jnp.abs(every.rotation).max() <= jnp.pi


def test_gradients_reach_the_image():
  image = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  draws = jax.vmap(augmentation.draw)(jax.random.split(jax.random.key(1), 2))
  maps = augmentation.matrices(augmentation.warp_from_draws(draws, 1.0), 8, 8)
  # The map is linear: its gradient's sum is that of the weights it reads with.
  gradient = jax.grad(lambda x: augmentation.apply(x, maps).sum())(image)
  np.testing.assert_allclose(gradient.sum(), image.size, rtol=1e-5)
