"""EDM: preconditioning, training noise levels and the denoising losses.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based
Generative Models", table 1 and sec. 5. A noisy image is x = x0 + sigma n; the
network F sees c_in x and the denoiser is D(x, sigma) = c_skip x + c_out F.
Images are [B,H,W,3] in the model's value range, sigma has the same unit.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections


class Scalings(NamedTuple):
  """c_skip, c_out and c_in of EDM, table 1."""

  skip: jax.Array
  out: jax.Array
  inp: jax.Array


@dataclasses.dataclass(frozen=True)
class SigmaLaw:
  """log sigma ~ Normal(mean, std) during training; both may change.

  Attributes:
    knots: (step, mean, std) by ascending step; linear in between, constant
      before the first and after the last.
  """

  knots: tuple[tuple[int, float, float], ...]

  def __post_init__(self):
    steps = [step for step, _, _ in self.knots]
    if steps != sorted(set(steps)):
      raise ValueError(
        f"diffusion.schedule has steps {steps[1:]}, expected them to ascend"
        " from 1"
      )

  def at(self, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of log sigma at a step."""
    steps, means, deviations = (
      jnp.array(v, jnp.float32) for v in zip(*self.knots, strict=True)
    )
    return jnp.interp(step, steps, means), jnp.interp(step, steps, deviations)

  def sample(self, keys: jax.Array, step: jax.Array) -> jax.Array:
    """A noise level for each of the keys [B], float32 [B]."""
    mean, deviation = self.at(step)
    # EDM writes ln(sigma) ~ N(P_mean, P_std^2).
    return jnp.exp(mean + deviation * jax.vmap(jax.random.normal)(keys))


def scalings(sigma: jax.Array, sigma_data: float) -> Scalings:
  """c_skip, c_out and c_in (EDM, table 1), each the shape of `sigma`.

  Args:
    sigma: noise level in image units.
    sigma_data: standard deviation of clean images.
  """
  # The variance of x; c_in makes the network's input unit variance, c_out its
  # target, and c_skip is the one that keeps c_out smallest.
  total = sigma**2 + sigma_data**2
  return Scalings(
    skip=sigma_data**2 / total,
    out=sigma * sigma_data / jnp.sqrt(total),
    inp=1 / jnp.sqrt(total),
  )


def network_target(
  clean: jax.Array, noisy: jax.Array, sigma: jax.Array, sigma_data: float
) -> jax.Array:
  """What F should return: (x0 - c_skip x) / c_out, images [B,H,W,3]."""
  c = scalings(sigma[:, None, None, None], sigma_data)
  return (clean - c.skip * noisy) / c.out


def denoised(
  noisy: jax.Array, output: jax.Array, sigma: jax.Array, sigma_data: float
) -> jax.Array:
  """D(x, sigma), the estimate of x0, from F's output, images [B,H,W,3]."""
  c = scalings(sigma[:, None, None, None], sigma_data)
  return c.skip * noisy + c.out * output


def learned_variance_loss(
  output: jax.Array, target: jax.Array, log_variance: jax.Array
) -> jax.Array:
  """Gaussian likelihood of the network's target with a learned variance.

  Args:
    output: F(c_in x) [B,H,W,3].
    target: `network_target` [B,H,W,3].
    log_variance: v [B]; zeros give half the squared error.

  Returns:
    the scalar mean of ((F - target)^2 / exp(v) + v) / 2, as k-diffusion's
    DenoiserWithVariance: the network itself says how much a noise level, whose
    error it cannot reduce further, should count.
  """
  error = jnp.mean((output - target) ** 2, (1, 2, 3))
  return jnp.mean(error * jnp.exp(-log_variance) + log_variance) / 2


def edm_loss(output: jax.Array, target: jax.Array) -> jax.Array:
  """EDM's weighted denoising loss (EDM, table 1 and eq. 8), a scalar mean.

  Args:
    output: F(c_in x) [B,H,W,3].
    target: `network_target` [B,H,W,3].
  """
  # EDM's weights (sigma^2 + s^2) / (sigma s)^2 on |D - x0|^2 are 1 / c_out^2,
  # which leaves the plain squared error of the network's own target.
  return jnp.mean((output - target) ** 2)


def build_sigma_law(config: ml_collections.ConfigDict) -> SigmaLaw:
  """From `config.diffusion`."""
  options = config.diffusion
  start = (0, options.log_mean, options.log_std)
  shift = math.log(noise_unit(config))
  return SigmaLaw(
    tuple(
      (step, mean + shift, deviation)
      for step, mean, deviation in (start, *options.schedule)
    )
  )


def noise_unit(config: ml_collections.ConfigDict) -> float:
  """What noise levels in a config are multiples of, in image units."""
  options = config.diffusion
  return options.sigma_data if options.units == "sigma_data" else 1.0
