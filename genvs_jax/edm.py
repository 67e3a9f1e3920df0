"""EDM: preconditioning, noise levels and the denoising loss.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based
Generative Models", table 1 and sec. 5. A noisy image is x = x0 + sigma n; the
network F sees c_in x and the denoiser is D(x, sigma) = c_skip x + c_out F.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Scalings(NamedTuple):
  skip: jax.Array
  out: jax.Array
  inp: jax.Array


@dataclasses.dataclass(frozen=True)
class SigmaLaw:
  """log sigma ~ Normal(mean, std) during training."""

  mean: float
  std: float

  def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Noise levels in image units, float32."""
    return jnp.exp(self.mean + self.std * jax.random.normal(key, shape))


def scalings(sigma: jax.Array, sigma_data: float) -> Scalings:
  """c_skip, c_out and c_in (EDM, table 1), each the shape of `sigma`."""
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
  """The estimate of x0 from the network's output, images [B,H,W,3]."""
  c = scalings(sigma[:, None, None, None], sigma_data)
  return c.skip * noisy + c.out * output


def build_sigma_law(config) -> SigmaLaw:
  """From `config.diffusion`."""
  return SigmaLaw(config.diffusion.log_mean, config.diffusion.log_std)
