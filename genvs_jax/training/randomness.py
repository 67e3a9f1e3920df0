"""Randomness of training: a function of (seed, step, use, example).

Every example of a batch draws from keys of its own, so that the numbers do not
depend on how a batch is spread over devices or cut into pieces.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# What is folded into a step's key for each use. A use keeps its number for
# good: others can come and go, or be reordered, without changing its draws.
_NUMBERS = {
  "dropout": 0,
  "view_count": 1,
  "input_noise": 2,
  "coarse": 3,
  "fine": 4,
  "sigma": 5,
  "noise": 6,
  "conditioning": 7,
  "augmentation": 8,
}


class StepKeys(NamedTuple):
  """The keys of a step; all but the first two are one per example, [B].

  Attributes:
    step: i32, the number of the step; no key.
    dropout: one key, for the masks inside the networks.
    view_count: of how many input views are used.
    input_noise: of the noise on them.
    coarse: of the first samples on the rays.
    fine: of the second ones.
    sigma: of noise levels.
    noise: of the noise on target views.
    conditioning: of conditioning dropout.
    augmentation: of warps.
  """

  step: jax.Array
  dropout: jax.Array
  view_count: jax.Array
  input_noise: jax.Array
  coarse: jax.Array
  fine: jax.Array
  sigma: jax.Array
  noise: jax.Array
  conditioning: jax.Array
  augmentation: jax.Array

  def pieces(self, count: int) -> "StepKeys":
    """The keys of `count` interleaved pieces of the batch, [count,..]."""
    per_example = self._asdict()
    step, dropout = per_example.pop("step"), per_example.pop("dropout")
    return StepKeys(
      step=jnp.broadcast_to(step, (count,)),
      # Masks inside the networks differ from piece to piece ...
      dropout=jax.random.split(dropout, count),
      # ... but an example keeps the keys that it has in an uncut batch.
      **{name: interleave(keys, count) for name, keys in per_example.items()},
    )


def step_keys(seed: int, step: jax.Array, count: int) -> StepKeys:
  """The keys of a step for a batch of `count` examples."""
  root = jax.random.fold_in(jax.random.key(seed), step)
  # All uses at once, then all examples of each: one short program.
  numbers, examples = jnp.array(list(_NUMBERS.values())), jnp.arange(count)
  uses = jax.vmap(jax.random.fold_in, (None, 0))(root, numbers)
  # A second fold, by the example's place in the batch: [uses] -> [uses,B].
  fold_in = jax.vmap(jax.random.fold_in, (None, 0))
  per_example = jax.vmap(fold_in, (0, None))(uses, examples)
  keys = dict(zip(_NUMBERS, per_example, strict=True))
  keys["dropout"] = uses[list(_NUMBERS).index("dropout")]
  return StepKeys(step=step, **keys)


def each(
  draw: Callable, keys: jax.Array, shape: tuple[int, ...], **options
) -> jax.Array:
  """[B,*shape]: draw(key, shape=shape, **options) for each of the keys [B].

  Drawn in one axis, which gives the same numbers: XLA compiles, and on CPU
  runs, the random bits of many axes much slower.
  """
  flat = (math.prod(shape),)
  numbers = jax.vmap(lambda key: draw(key, shape=flat, **options))(keys)
  return numbers.reshape(len(keys), *shape)


def split(keys: jax.Array, count: int) -> jax.Array:
  """[B] keys -> [count,B] new ones."""
  return jnp.moveaxis(
    jax.vmap(lambda k: jax.random.split(k, count))(keys), 1, 0
  )


def per_image(keys: jax.Array, count: int) -> jax.Array:
  """Keys of scenes [B] -> of `count` images each, [B count]."""
  return jax.vmap(lambda k: jax.random.split(k, count))(keys).reshape(-1)


def interleave(x: jax.Array, count: int) -> jax.Array:
  """[B,..] -> [count,B/count,..], every count-th example together.

  A batch that is spread over devices in neighbouring examples stays where it
  is: each device has its share of every piece.
  """
  x = x.reshape(x.shape[0] // count, count, *x.shape[1:])
  return jnp.moveaxis(x, 1, 0)
