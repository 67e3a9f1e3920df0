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
  """log sigma ~ Normal(mean, std) during training; both may move.

  Attributes:
    knots: (step, mean, std) by ascending step; linear in between, constant
      before the first and after the last.
  """

  knots: tuple[tuple[int, float, float], ...]

  def __post_init__(self):
    steps = [step for step, _, _ in self.knots]
    if steps != sorted(set(steps)):
      raise ValueError(
        f"diffusion.moves has steps {steps[1:]}, expected them to ascend from 1"
      )

  def at(self, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation at a step."""
    steps, means, deviations = (
      jnp.array(v, jnp.float32) for v in zip(*self.knots, strict=True)
    )
    return jnp.interp(step, steps, means), jnp.interp(step, steps, deviations)

  def sample(self, keys: jax.Array, step: jax.Array) -> jax.Array:
    """A noise level in image units for each of the keys, float32."""
    mean, deviation = self.at(step)
    return jnp.exp(mean + deviation * jax.vmap(jax.random.normal)(keys))


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
  options = config.diffusion
  start = (0, options.log_mean, options.log_std)
  return SigmaLaw((start, *(tuple(knot) for knot in options.moves)))
