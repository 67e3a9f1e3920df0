"""Learning rates and the clip in closed form."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genvs_jax.training import optimizers


def rates(steps, **options):
  defaults = {"warmup": 0, "period": 100, "final": 0.1}
  return np.array(
    [optimizers.learning_rate(n, 1.0, **{**defaults, **options}) for n in steps]
  )


def test_warm_up_rises_linearly_to_the_peak():
  np.testing.assert_allclose(
    rates([0, 1, 3, 50], schedule="constant", warmup=4), [0.25, 0.5, 1, 1]
  )


def test_cosine_falls_once_and_stays():
  np.testing.assert_allclose(
    rates([0, 50, 100, 170], schedule="cosine"), [1, 0.55, 0.1, 0.1], rtol=1e-6
  )


def test_restarts_begin_again_at_the_peak():
  np.testing.assert_allclose(
    rates([0, 50, 99, 100, 150], schedule="cosine_restarts"),
    [1, 0.55, 0.1 + 0.45 * (1 + np.cos(0.99 * np.pi)), 1, 0.55],
    rtol=1e-5,
  )


def test_unknown_schedules_and_missing_periods_are_refused():
  with pytest.raises(ValueError, match="'step', expected one of constant"):
    rates([0], schedule="step")
  with pytest.raises(ValueError, match=r"optimizer.period is 0, expected"):
    rates([0], schedule="cosine", period=0)


@pytest.mark.parametrize("size", [0.0, 0.1, 40.0])
def test_the_clip_scales_all_gradients_alike(size):
  grads = {"a": size * jnp.array([3.0, 0.0]), "b": size * jnp.array([[4.0]])}
  clip = optimizers.clip_by_global_norm(2.0)
  clipped, _ = clip.update(grads, clip.init(grads))
  expected = min(5 * size, 2.0)
  assert float(optax.global_norm(clipped)) == pytest.approx(expected)
  np.testing.assert_allclose(
    clipped["b"][0, 0] * 3, clipped["a"][0] * 4, rtol=1e-6
  )


def test_averages_know_more_images_than_int32():
  """Batch 8192 at step 262,143: 2^31 images."""
  decay = optimizers.half_life_decay(
    jnp.int32(262_143), 8192, half_life=500_000, ramp_up=0.05
  )
  np.testing.assert_allclose(decay, 0.5 ** (8192 / 500_000), rtol=1e-5)
