"""Augmentation of training images, see `diffusion.augmentation`."""

import jax
import jax.numpy as jnp

from genvs_jax.diffusion import augmentation
from genvs_jax.training import randomness


def augment(
  images: jax.Array,
  features: jax.Array,
  keys: jax.Array,
  share: float,
  probability: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Warps images and their features alike, example by example.

  Args:
    images: [B,H,W,3].
    features: [B,H,W,F].
    keys: [B].
    share: of the examples that are warped at all.
    probability: of each kind of warp in those.

  Returns:
    both, and the augmentation labels [B,9].
  """
  coin_keys, draw_keys = randomness.split(keys, 2)
  is_warped = randomness.each(jax.random.bernoulli, coin_keys, share)
  draws = randomness.each(augmentation.draw, draw_keys)
  warp = augmentation.warp_from_draws(draws, probability)
  # A warp of zeros is the identity, with labels of zeros.
  warp = jax.tree.map(lambda x: jnp.where(is_warped, x, 0.0), warp)
  maps = augmentation.matrices(warp, *images.shape[1:3])
  return (
    augmentation.apply(images, maps),
    augmentation.apply(features, maps),
    augmentation.labels(warp),
  )
