"""Keys of a step, its examples and its pieces."""

import jax
import jax.numpy as jnp
import numpy as np

from genvs_jax.training import randomness


def bits(keys) -> list[int]:
  return jax.vmap(jax.random.bits)(jnp.ravel(keys)).tolist()


def test_keys_differ_by_step_use_and_example():
  result = []
  for step in (1, 2):
    for keys in randomness.step_keys(0, step, 4)[1:]:
      result += bits(keys)
  assert len(set(result)) == len(result) == 2 * (1 + 8 * 4)


def test_an_example_draws_the_same_in_any_batch():
  small = randomness.step_keys(3, 7, 2)
  large = randomness.step_keys(3, 7, 8)
  assert bits(small.noise) == bits(large.noise)[:2]


def test_pieces_hold_every_nth_example_and_masks_of_their_own():
  keys = randomness.step_keys(0, 5, 6)
  pieces = keys.pieces(2)
  assert pieces.step.tolist() == [5, 5]
  assert bits(pieces.noise[0]) == bits(keys.noise)[::2]
  assert bits(pieces.noise[1]) == bits(keys.noise)[1::2]
  assert len(set(bits(pieces.dropout))) == 2
  batch = np.arange(12).reshape(6, 2)
  np.testing.assert_array_equal(
    randomness.interleave(batch, 3)[1], [[2, 3], [8, 9]]
  )


def test_images_of_a_scene_have_keys_of_their_own():
  keys = jax.random.split(jax.random.key(0), 3)
  drawn = randomness.per_image(keys, 4)
  assert drawn.shape == (12,) and len(set(bits(drawn))) == 12
  alone = randomness.per_image(keys[1:2], 4)
  assert bits(alone) == bits(drawn)[4:8]


def test_numbers_stay_what_they_are():
  """Pinned: a use that is added or moved must not change the others."""
  keys = randomness.step_keys(7, 11, 2)
  pinned = {
    "dropout": [3117187062],
    "view_count": [39433445, 790751391],
    "noise": [571363946, 2865991546],
    "augmentation": [2252400053, 1049079942],
  }
  assert {name: bits(getattr(keys, name)) for name in pinned} == pinned
