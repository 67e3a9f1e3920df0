"""Losses and scores by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genvs_jax.diffusion import edm
from genvs_jax.images import metrics
from genvs_jax.training import losses


def test_denoising_loss_is_lowest_at_the_true_variance():
  target = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  output = target + 0.3

  def loss(log_variance):
    return losses.denoising(output, target, jnp.full(2, log_variance))

  best = np.log(0.3**2)
  np.testing.assert_allclose(loss(best), (1 + best) / 2, rtol=1e-4)
  assert loss(best) < min(loss(best + 0.3), loss(best - 0.3))
  np.testing.assert_allclose(jax.grad(loss)(best), 0, atol=1e-5)
  np.testing.assert_allclose(loss(0.0), 0.3**2 / 2, rtol=1e-5)


def test_rgb_loss_compares_each_view_with_its_own_target():
  """The reference's broadcast would give 0.25 here."""
  images = jnp.stack([jnp.zeros((1, 4, 4, 3)), jnp.ones((1, 4, 4, 3))])
  features = jnp.concatenate([images, jnp.full((2, 1, 4, 4, 5), 9.0)], -1)
  assert losses.rgb(features, images) == 0
  with pytest.raises(ValueError, match="differ in size"):
    losses.rgb(features[:, 0], images)


def test_psnr_inside_a_mask():
  truth = jnp.zeros((2, 4, 4, 3))
  image = truth.at[:, 0, 0].set(0.1)
  mask = jnp.zeros((2, 4, 4), bool).at[:, 0, :2].set(True)
  np.testing.assert_allclose(
    metrics.psnr(image, truth), -10 * np.log10(0.01 / 16), rtol=1e-5
  )
  np.testing.assert_allclose(
    metrics.psnr(image, truth, mask), -10 * np.log10(0.01 / 2), rtol=1e-5
  )


def test_depth_prior_is_zero_where_the_object_stands():
  opacity = jnp.array([[[0.5, 1.0], [0.0, 0.25]]])
  distance = jnp.array([[[1.3]]])
  at_distance = losses.depth_prior(1.3 * opacity, opacity, distance)
  np.testing.assert_allclose(at_distance, 0, atol=1e-9)
  # 0.2 too far, weighted by opacity: (0.5 + 1 + 0 + 0.25) / 4 * 0.04.
  further = losses.depth_prior(1.5 * opacity, opacity, distance)
  np.testing.assert_allclose(further, 0.4375 * 0.04, rtol=1e-3)


def test_opacity_loss_is_the_mean_opacity():
  opacity = jnp.array([[[0.5, 1.0], [0.0, 0.25]]])
  np.testing.assert_allclose(losses.opacity(opacity), 0.4375)


def test_consistency_moves_one_render_alone():
  a, b = jnp.array([0.2, 0.6]), jnp.array([0.0, 1.0])
  np.testing.assert_allclose(losses.consistency(a, b), (0.04 + 0.16) / 2)
  by_a, by_b = jax.grad(losses.consistency, (0, 1))(a, b)
  np.testing.assert_allclose(by_a, a - b)
  np.testing.assert_array_equal(by_b, 0)


def test_edm_weights_are_the_squared_error_of_the_network():
  """Against EDM's own formula: lambda(sigma) |D - x0|^2."""
  key = jax.random.key(0)
  clean = jax.random.uniform(key, (3, 4, 4, 3))
  sigma = jnp.array([0.02, 0.5, 9.0])
  wide = sigma[:, None, None, None]
  noisy = clean + wide * jax.random.normal(
    jax.random.fold_in(key, 1), clean.shape
  )
  output = jax.random.normal(jax.random.fold_in(key, 2), clean.shape)
  denoised = edm.denoised(noisy, output, sigma, 0.5)
  weight = (wide**2 + 0.25) / (wide * 0.5) ** 2
  expected = jnp.mean(weight * (denoised - clean) ** 2)
  target = edm.network_target(clean, noisy, sigma, 0.5)
  np.testing.assert_allclose(
    losses.denoising_edm(output, target), expected, rtol=1e-4
  )
