"""Samplers on Gaussian data, whose ideal denoiser is known in closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import debug
from genvs_jax.diffusion import edm
from genvs_jax.diffusion import samplers

MEAN, DEVIATION = 0.3, 0.5


def denoise(x, sigma, step):
  """E[x0 | x] for x0 ~ N(MEAN, DEVIATION^2)."""
  del step
  share = DEVIATION**2 / (DEVIATION**2 + sigma**2)
  return MEAN + share * (x - MEAN)


def exact(noise, sigma_max):
  """Where the probability flow carries sigma_max * noise at sigma = 0."""
  total = np.sqrt(DEVIATION**2 + sigma_max**2)
  return MEAN + DEVIATION / total * (sigma_max * noise - MEAN)


def no_noise(step):
  raise AssertionError("a deterministic sampler drew noise")


def test_karras_sigmas():
  sigmas = samplers.karras_sigmas(5, 0.02, 80.0, 7.0)
  assert sigmas.shape == (6,)
  np.testing.assert_allclose(
    sigmas[jnp.array([0, 4, 5])], [80, 0.02, 0], rtol=1e-5
  )
  middle = ((80 ** (1 / 7) + 0.02 ** (1 / 7)) / 2) ** 7
  np.testing.assert_allclose(sigmas[2], middle, rtol=1e-5)


def test_noise_levels_can_be_multiples_of_sigma_data(debug_config):
  debug_config.diffusion.sigma_data = 0.2
  debug_config.diffusion.schedule = ((100, 0.5, 1.0),)
  plain = samplers.build_sigmas(debug_config)
  law = edm.build_sigma_law(debug_config)
  debug_config.diffusion.units = "sigma_data"
  np.testing.assert_allclose(
    samplers.build_sigmas(debug_config), 0.2 * plain, rtol=1e-5
  )
  scaled = edm.build_sigma_law(debug_config)
  for step in (0, 50, 200):
    mean, deviation = law.at(step)
    np.testing.assert_allclose(
      scaled.at(step), (mean + np.log(0.2), deviation), rtol=1e-5
    )


@pytest.mark.parametrize(
  "name, order", [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)]
)
def test_order_of_convergence(name, order):
  """Halving the steps multiplies the error by 2^order."""
  noise = jnp.array([[[[1.3, -0.4, 0.2]]]])
  errors = []
  with jax.enable_x64(True):
    for steps in (64, 128, 256):
      # Ends above 0, where the last step of every sampler is first order.
      sigmas = jnp.linspace(4.0, 0.1, steps + 1, dtype=jnp.float64)
      start = noise.astype(jnp.float64)
      end, _ = samplers.SAMPLERS[name](denoise, start, sigmas, no_noise)
      scale = np.sqrt((DEVIATION**2 + 0.1**2) / (DEVIATION**2 + 16))
      truth = MEAN + scale * (4.0 * noise - MEAN)
      errors.append(float(jnp.abs(end - truth).max()))
  rates = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
  np.testing.assert_allclose(rates, order, atol=0.15)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_reaches_the_data(name):
  noise = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
  sigmas = samplers.karras_sigmas(400, 0.002, 80.0)
  end, estimates = samplers.SAMPLERS[name](denoise, noise, sigmas, no_noise)
  np.testing.assert_allclose(end, exact(noise, 80.0), atol=0.05)
  # The first estimate is that of the noise, the last nearly the end.
  assert estimates.shape == (400, 1, 8, 8, 3)
  first = denoise(80.0 * noise, sigmas[0], 0)
  np.testing.assert_allclose(estimates[0], first, atol=1e-5)
  np.testing.assert_allclose(estimates[-1], end, atol=1e-3)


def test_churn_by_config(debug_config):
  options = debug_config.sampler
  options.steps, options.churn, options.noise_scale = 5, 0.2, 1.1
  amounts = {"euler": 1, "heun": 1, "dpmpp_2m": 0, "renoise": 0}
  for name, amount in amounts.items():
    options.name = name
    churn = samplers.build_churn(debug_config)
    assert churn.amount == pytest.approx(amount)


@pytest.mark.parametrize(
  "name, reason",
  [("dpmpp_2m", "is deterministic"), ("renoise", "draws all of its noise")],
)
def test_churn_has_no_place(name, reason):
  with pytest.raises(ValueError, match=f"{name} {reason}"):
    samplers.SAMPLERS[name](
      denoise,
      jnp.zeros((1, 1, 1, 3)),
      samplers.karras_sigmas(4, 0.1, 10.0),
      no_noise,
      samplers.Churn(1.0),
    )


def test_renoise_forgets_noise_and_varies_less():
  """Its variance follows v' = share^2 v + sigma'^2, which is below the data's,
  and nothing of the first noise is left."""
  noise = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))

  def step_noise(step):
    return jax.random.normal(jax.random.key(step + 1), noise.shape)

  sigmas = samplers.karras_sigmas(6, 0.05, 5.0)
  end, _ = samplers.renoise(denoise, noise, sigmas, step_noise)
  variance = sigmas[0] ** 2
  for sigma, following in itertools.pairwise(sigmas):
    share = DEVIATION**2 / (DEVIATION**2 + sigma**2)
    variance = share**2 * variance + following**2
  assert variance < 0.8 * DEVIATION**2
  np.testing.assert_allclose(jnp.std(end), jnp.sqrt(variance), rtol=0.02)
  np.testing.assert_allclose(jnp.mean(end), MEAN, atol=0.02)
  assert abs(jnp.mean((end - MEAN) * noise)) < 0.01


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_churn_keeps_the_distribution(name):
  """Fresh noise at each step, and the samples' statistics are the data's."""
  noise = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))

  def step_noise(step):
    return jax.random.normal(jax.random.key(step + 1), noise.shape)

  sigmas = samplers.karras_sigmas(400, 0.002, 80.0)
  plain, _ = samplers.SAMPLERS[name](denoise, noise, sigmas, no_noise)
  churned, _ = samplers.SAMPLERS[name](
    denoise, noise, sigmas, step_noise, samplers.Churn(40.0)
  )
  np.testing.assert_allclose(jnp.mean(churned), MEAN, atol=0.02)
  np.testing.assert_allclose(jnp.std(churned), DEVIATION, rtol=0.05)
  correlation = jnp.corrcoef(plain.ravel(), churned.ravel())[0, 1]
  assert abs(correlation) < 0.1  # the start is forgotten


def test_churn_acts_only_between_its_bounds():
  noise = jnp.ones((1, 1, 1, 3))
  sigmas = samplers.karras_sigmas(10, 0.1, 10.0)
  outside = samplers.Churn(4.0, sigma_min=20.0)
  end, _ = samplers.euler(
    denoise, noise, sigmas, lambda step: jnp.full_like(noise, 9.0), outside
  )
  np.testing.assert_allclose(
    end, samplers.euler(denoise, noise, sigmas, no_noise)[0], rtol=1e-6
  )


def test_noise_of_a_picture_does_not_depend_on_its_batch():
  keys = jax.random.split(jax.random.key(0), 5)
  blank = jnp.zeros((5, 4, 4, 3))
  together = samplers.normal_like(keys, blank)
  alone = samplers.normal_like(keys[3:4], blank[:1])
  np.testing.assert_array_equal(together[3:4], alone)


@pytest.mark.parametrize(
  "field, value, message",
  [
    ("steps", 0, r"sampler\.steps is 0, expected 1 or more"),
    ("sigma_min", 0.0, r"expected 0 < sigma_min < sigma_max"),
    ("sigma_max", 0.001, r"expected 0 < sigma_min < sigma_max"),
    ("churn", 0.5, r"sampler\.churn is 0\.5, expected 0 to sqrt\(2\) - 1"),
  ],
)
def test_nonsense_is_refused(field, value, message):
  config = debug.get_config()
  config.sampler[field] = value
  with pytest.raises(ValueError, match=message):
    samplers.build_sigmas(config)
    samplers.build_churn(config)
