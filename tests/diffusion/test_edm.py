"""EDM's identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genvs_jax.diffusion import edm

SIGMA = jnp.array([0.01, 0.5, 3.0, 80.0])


def test_input_and_target_have_unit_variance():
  """What the scalings are for (EDM, appendix B.6), by Monte Carlo."""
  key, other = jax.random.split(jax.random.key(0))
  shape = (4, 100, 100, 3)
  clean = 0.5 * jax.random.normal(key, shape)
  noisy = clean + SIGMA[:, None, None, None] * jax.random.normal(other, shape)
  c = edm.scalings(SIGMA, 0.5)
  deviation = jnp.std(noisy, (1, 2, 3)) * c.inp
  np.testing.assert_allclose(deviation, 1, atol=0.02)
  target = edm.network_target(clean, noisy, SIGMA, 0.5)
  np.testing.assert_allclose(jnp.std(target, (1, 2, 3)), 1, atol=0.02)


def test_a_network_that_returns_its_target_denoises_perfectly():
  clean = jax.random.uniform(jax.random.key(0), (4, 4, 4, 3))
  noise = jax.random.normal(jax.random.key(1), clean.shape)
  noisy = clean + SIGMA[:, None, None, None] * noise
  target = edm.network_target(clean, noisy, SIGMA, 0.5)
  again = edm.denoised(noisy, target, SIGMA, 0.5)
  np.testing.assert_allclose(again, clean, atol=2e-5)


def test_sigma_law_has_its_mean_and_deviation():
  law = edm.SigmaLaw(((0, -1.0, 1.4),))
  sigma = law.sample(jax.random.split(jax.random.key(0), 20_000), 7)
  np.testing.assert_allclose(jnp.mean(jnp.log(sigma)), -1.0, atol=0.03)
  np.testing.assert_allclose(jnp.std(jnp.log(sigma)), 1.4, atol=0.03)


def test_sigma_law_moves_by_step():
  law = edm.SigmaLaw(((0, 1.0, 1.4), (100, 0.5, 1.4), (300, -1.2, 1.2)))
  for step, expected in (
    (0, (1.0, 1.4)),
    (50, (0.75, 1.4)),
    (100, (0.5, 1.4)),
    (200, (-0.35, 1.3)),
    (1000, (-1.2, 1.2)),
  ):
    np.testing.assert_allclose(law.at(step), expected, rtol=1e-6)
  with pytest.raises(ValueError, match=r"has steps \[5, 5\], expected"):
    edm.SigmaLaw(((0, 1.0, 1.0), (5, 0.0, 1.0), (5, 1.0, 1.0)))
