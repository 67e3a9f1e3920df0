"""Samplers: from noise at the largest sigma to an image.

All share one contract: (denoise, noise, sigmas, step_noise, churn) -> (x0,
estimates). `denoise(x, sigma, step)` gives x0 for images x [B,H,W,3] at noise
level sigma (a scalar), `noise` is unit Gaussian like x, `sigmas` [n+1] descends
to 0, and `step_noise(step)` is the unit Gaussian [B,H,W,3] that a step adds.
`estimates` [n,B,H,W,3] are what denoise first gave in each step. Each is one
`lax.scan` over the steps of a `Solver`, compiled once however many.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from genvs_jax.diffusion import edm

Denoise = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
StepNoise = Callable[[jax.Array], jax.Array]
Result = tuple[jax.Array, jax.Array]
# The most that churn raises a noise level in a step (EDM, algorithm 2).
MAX_GAMMA = math.sqrt(2) - 1


@dataclasses.dataclass(frozen=True)
class Churn:
  """Noise added back at each step (EDM, algorithm 2).

  Attributes:
    amount: S_churn; each step's gamma is amount / steps, at most sqrt(2) - 1.
      0 makes the sampler deterministic.
    noise_scale: S_noise.
    sigma_min: S_tmin, churn acts from this sigma ...
    sigma_max: S_tmax, ... to this one.
  """

  amount: float = 0.0
  noise_scale: float = 1.0
  sigma_min: float = 0.0
  sigma_max: float = math.inf


class Solver(NamedTuple):
  """A sampler, step by step.

  Attributes:
    start: x [B,H,W,3] at the largest sigma -> what goes from step to step.
    step: (carry, (i, sigma, sigma_next)) -> (carry, estimate of x0 [B,H,W,3]).
    image: carry -> x [B,H,W,3] at the noise level that it has come to.
  """

  start: Callable[[jax.Array], Any]
  step: Callable[[Any, tuple], tuple[Any, jax.Array]]
  image: Callable[[Any], jax.Array]


BuildSolver = Callable[[Denoise, int, StepNoise, Churn], Solver]


def karras_sigmas(
  steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0
) -> jax.Array:
  """Noise levels f32 [steps+1], from `sigma_max` down to 0 (EDM, eq. 5)."""
  # Evenly spaced in sigma^(1/rho): short steps where sigma is small.
  ramp = jnp.linspace(0.0, 1.0, steps)
  low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
  return jnp.append((high + ramp * (low - high)) ** rho, 0.0)


def euler_solver(
  denoise: Denoise, steps: int, step_noise: StepNoise, churn: Churn
) -> Solver:
  """Euler's method with optional churn: one evaluation a step."""

  def step(x, inputs):
    i, sigma, sigma_next = inputs
    x, sigma = _add_churn(x, sigma, i, steps, step_noise, churn)
    estimate = denoise(x, sigma, i)
    # dx/dsigma of the probability flow (EDM, eq. 3).
    slope = (x - estimate) / sigma
    return x + slope * (sigma_next - sigma), estimate

  return Solver(_same, step, _same)


def heun_solver(
  denoise: Denoise, steps: int, step_noise: StepNoise, churn: Churn
) -> Solver:
  """Heun's method (EDM, algorithm 2): two evaluations a step but the last."""

  def step(x, inputs):
    i, sigma, sigma_next = inputs
    x, sigma = _add_churn(x, sigma, i, steps, step_noise, churn)
    estimate = denoise(x, sigma, i)
    slope = (x - estimate) / sigma
    proposal = x + slope * (sigma_next - sigma)

    # The slope's mean over both ends; at sigma = 0 there is no slope to take.
    def corrected():
      second = (proposal - denoise(proposal, sigma_next, i)) / sigma_next
      return x + (slope + second) / 2 * (sigma_next - sigma)

    x = jax.lax.cond(sigma_next > 0, corrected, lambda: proposal)
    return x, estimate

  return Solver(_same, step, _same)


def dpmpp_2m_solver(
  denoise: Denoise, steps: int, step_noise: StepNoise, churn: Churn
) -> Solver:
  """DPM-Solver++(2M) (Lu et al. 2022): second order, one evaluation a step.

  It extrapolates from the previous estimate in h = log(sigma / sigma_next);
  the first and the last step, which lands on sigma = 0, are of first order.
  It has no place for churn.
  """
  del steps, step_noise
  _refuse_churn(churn, "dpmpp_2m is deterministic")

  def step(carry, inputs):
    x, previous, previous_h = carry
    i, sigma, sigma_next = inputs
    estimate = denoise(x, sigma, i)
    h = jnp.log(sigma) - jnp.log(sigma_next)
    # (estimate - previous) / (2 r) with r = previous_h / h: how estimates have
    # changed, carried on to the middle of this step.
    extrapolate = (i > 0) & (sigma_next > 0)
    slope = jnp.where(extrapolate, h / (2 * previous_h), 0.0)
    target = estimate + slope * (estimate - previous)
    # Exact where `target` stays the same over the step.
    x = sigma_next / sigma * x - jnp.expm1(-h) * target
    return (x, estimate, h), estimate

  # The previous estimate and step of the first one are never used.
  return Solver(
    start=lambda x: (x, jnp.zeros_like(x), jnp.ones(())),
    step=step,
    image=lambda carry: carry[0],
  )


def renoise_solver(
  denoise: Denoise, steps: int, step_noise: StepNoise, churn: Churn
) -> Solver:
  """Keeps the estimate alone and adds new noise of the next level to it.

  That is multistep consistency sampling (Song et al. 2023, algorithm 1). With
  a denoiser that gives the mean of what a picture may be, samples vary less
  than the data and lie nearer the mean; but no step hands its errors on as
  noise, which a network trained for a short time needs most.
  """
  del steps
  _refuse_churn(churn, "renoise draws all of its noise anew")

  def step(x, inputs):
    i, sigma, sigma_next = inputs
    estimate = denoise(x, sigma, i)
    # None of x itself is kept; the last step, to sigma = 0, adds nothing.
    return estimate + sigma_next * step_noise(i), estimate

  return Solver(_same, step, _same)


def _refuse_churn(churn: Churn, reason: str) -> None:
  """For samplers that have no place for it."""
  if churn.amount:
    raise ValueError(
      f"sampler.churn is above 0 ({churn.amount:g} over all steps), but"
      f" {reason}: set it to 0 or choose euler or heun"
    )


def _same(x: jax.Array) -> jax.Array:
  """The image is all that goes from step to step but in dpmpp_2m."""
  return x


def run(solver: Solver, noise: jax.Array, sigmas: jax.Array) -> Result:
  """All steps of a solver in one scan."""
  steps = jnp.arange(len(sigmas) - 1)
  # At the largest sigma the image itself is lost in the noise.
  carry, estimates = jax.lax.scan(
    solver.step,
    solver.start(noise * sigmas[0]),
    (steps, sigmas[:-1], sigmas[1:]),
  )
  return solver.image(carry), estimates


def _add_churn(x, sigma, i, steps, step_noise: StepNoise, churn: Churn):
  """Raises sigma by gamma and the image's noise with it (EDM, algorithm 2)."""
  if churn.amount == 0:
    return x, sigma
  # EDM's bound: a step adds at most as much noise as there is.
  gamma = min(churn.amount / steps, MAX_GAMMA)
  active = (sigma >= churn.sigma_min) & (sigma <= churn.sigma_max)
  higher_sigma = jnp.where(active, sigma * (1 + gamma), sigma)
  # sqrt(raised^2 - sigma^2), without the rounding of a difference of squares.
  extra_std = jnp.where(active, sigma * math.sqrt(gamma * (2 + gamma)), 0.0)
  return x + churn.noise_scale * extra_std * step_noise(i), higher_sigma


def _sampler(build_solver: BuildSolver) -> Callable[..., Result]:
  """A sampler with the contract above."""

  def sample(denoise, noise, sigmas, step_noise, churn=Churn()):
    solver = build_solver(denoise, len(sigmas) - 1, step_noise, churn)
    return run(solver, noise, sigmas)

  return sample


SOLVERS: dict[str, BuildSolver] = {
  "euler": euler_solver,
  "heun": heun_solver,
  "dpmpp_2m": dpmpp_2m_solver,
  "renoise": renoise_solver,
}
SAMPLERS = {name: _sampler(build) for name, build in SOLVERS.items()}
euler, heun, dpmpp_2m, renoise = SAMPLERS.values()


def normal_like(keys: jax.Array, x: jax.Array) -> jax.Array:
  """Unit Gaussian [B,..] like x whose item j depends on keys[j] alone.

  A picture drawn with it does not depend on the batch it is drawn in.
  """
  # In one axis, where the same numbers compile and are drawn sooner.
  flat = (math.prod(x.shape[1:]),)
  return jax.vmap(lambda k: jax.random.normal(k, flat))(keys).reshape(x.shape)


def build_sigmas(config: ml_collections.ConfigDict) -> jax.Array:
  """From `config.sampler`.

  Raises:
    ValueError: for no steps, or levels that do not descend to above 0.
  """
  steps = config.sampler.steps
  unit = edm.noise_unit(config)
  low, high = config.sampler.sigma_min, config.sampler.sigma_max
  if steps < 1:
    raise ValueError(f"sampler.steps is {steps}, expected 1 or more")
  if not 0 < low * unit < high * unit < math.inf:
    raise ValueError(
      f"sampler.sigma_min is {low} and sampler.sigma_max {high}, expected"
      " 0 < sigma_min < sigma_max"
    )
  return karras_sigmas(steps, low * unit, high * unit)


def build_churn(config: ml_collections.ConfigDict) -> Churn:
  """From `config.sampler`; none for the samplers that have no place for it."""
  if config.sampler.name not in ("euler", "heun"):
    return Churn()
  # A step's gamma; beyond EDM's bound it would be cut without a word.
  if not 0 <= config.sampler.churn <= MAX_GAMMA:
    raise ValueError(
      f"sampler.churn is {config.sampler.churn}, expected 0 to sqrt(2) - 1 ="
      f" {MAX_GAMMA:.4f}, EDM's bound for a step"
    )
  return Churn(
    config.sampler.churn * config.sampler.steps, config.sampler.noise_scale
  )
