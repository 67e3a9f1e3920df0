"""Noise schedules, samplers and augmentation against recorded numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rule

from genvs_jax.diffusion import augmentation
from genvs_jax.diffusion import samplers

FILES = (
  "sigmas",
  "samplers_kdiff",
  "samplers_production",
  "samplers_edm",
  "augmentation",
)


def gaussian_denoiser(arrays):
  """The analytic denoiser of the files: data N(mu, s^2)."""
  mu, s = rule.nhwc(arrays["mu"][None]), float(arrays["s"])

  def denoise(x, sigma, step):
    del step
    return (s**2 * x + sigma**2 * mu) / (s**2 + sigma**2)

  return denoise


def recorded(sampler, denoise, noise, sigmas, step_noise, churn):
  """The result, and (x, sigma, denoised, step) of every evaluation."""
  calls = []

  def spy(x, sigma, step):
    estimate = denoise(x, sigma, step)
    calls.append((x, sigma, estimate, int(step)))
    return estimate

  with jax.disable_jit():
    result, returned = sampler(spy, noise, sigmas, step_noise, churn)
  firsts = {}
  for x, sigma, estimate, step in calls:
    firsts.setdefault(step, (x, sigma, estimate))
  x, sigma, estimate = zip(*firsts.values(), strict=True)
  np.testing.assert_array_equal(returned, np.stack(estimate))
  return result, np.stack(x), np.stack(sigma), np.stack(estimate), len(calls)


def trajectory_nchw(x) -> np.ndarray:
  return np.moveaxis(np.asarray(x), -1, 2)


def test_karras_schedules(golden):
  arrays = golden("sigmas")
  for key in arrays.starting(""):
    steps, low = re.fullmatch(r"karras_n(\d+)_min([\d.]+)", key).groups()
    sigmas = samplers.karras_sigmas(int(steps), float(low), 80.0)
    arrays.check(key, sigmas, "sampler")


@pytest.mark.parametrize(
  "run", ["euler", "euler_churn", "heun", "heun_churn", "dpmpp_2m"]
)
def test_k_diffusion_trajectories(golden, run):
  arrays = golden("samplers_kdiff")
  sigmas = jnp.asarray(arrays["sigmas"])
  noise = jnp.asarray(rule.nhwc(arrays["x_init"])) / sigmas[0]
  churn, step_noise = samplers.Churn(), None
  if f"{run}/noise" in arrays:
    amount, low, high, scale = (float(v) for v in arrays["churn_params"])
    churn = samplers.Churn(amount, scale, low, high)
    drawn = np.moveaxis(arrays[f"{run}/noise"], 2, -1)
    step_noise = lambda i: drawn[i]  # noqa: E731
  result, x, sigma, estimates, _ = recorded(
    samplers.SAMPLERS[run.removesuffix("_churn")],
    gaussian_denoiser(arrays),
    noise,
    sigmas,
    step_noise,
    churn,
  )
  path = np.concatenate([x, np.asarray(result)[None]])
  expected = arrays[f"{run}/x"]
  arrays.check(f"{run}/x", trajectory_nchw(path), "sampler")
  # The end is small beside the start: it has its own scale.
  end = np.abs(trajectory_nchw(path)[-1] - expected[-1]).max()
  assert end <= 5 * 6e-7 * np.abs(expected[-1]).max()
  arrays.check(f"{run}/sigma_hat", sigma, "sampler")
  arrays.check(f"{run}/denoised", trajectory_nchw(estimates), "sampler")


def test_the_reference_samplers_as_it_uses_them(golden):
  arrays = golden("samplers_production")
  denoise = gaussian_denoiser(arrays)
  noise = jnp.asarray(rule.nhwc(arrays["x_unit"]))
  drawn = jnp.asarray(np.moveaxis(arrays["later/noise"], 2, -1))

  def draw(name, steps, low, high, churn):
    sigmas = samplers.karras_sigmas(steps, low, high)
    x, _ = samplers.SAMPLERS[name](
      denoise, noise, sigmas, lambda i: drawn[i], churn
    )
    return rule.nchw(x)

  main = draw("dpmpp_2m", 50, 0.01, 80.0, samplers.Churn())
  arrays.check("main/result", main, "sampler")
  steps = len(drawn)
  churn = samplers.Churn(0.4 * steps, 1.003)
  later = draw("euler", steps, 0.03, 50.0, churn)
  arrays.check("later/result", later, "sampler")
  plain = draw("euler", steps, 0.03, 50.0, samplers.Churn())
  arrays.check("later/result_det", plain, "sampler")


@pytest.mark.parametrize("run", ["det", "churn"])
def test_edm_stochastic_heun(golden, run):
  arrays = golden("samplers_edm")
  steps, low, high, rho, amount, s_min, s_max, scale = (
    float(v) for v in arrays["params"]
  )
  sigmas = samplers.karras_sigmas(int(steps), low, high, rho)
  arrays.check("t_steps", sigmas[:-1], "sampler")
  churn, step_noise = samplers.Churn(), None
  if run == "churn":
    churn = samplers.Churn(amount, scale, s_min, s_max)
    drawn = np.moveaxis(arrays["churn/noise"], 2, -1)
    step_noise = lambda i: drawn[i]  # noqa: E731
  result, x, sigma, _, evaluations = recorded(
    samplers.heun,
    gaussian_denoiser(arrays),
    jnp.asarray(rule.nhwc(arrays["latents"])),
    sigmas,
    step_noise,
    churn,
  )
  arrays.check(f"{run}/x_hat", trajectory_nchw(x), "sampler")
  arrays.check(f"{run}/t_hat", sigma, "sampler")
  arrays.check(f"{run}/result", rule.nchw(result), "sampler")
  assert evaluations == int(arrays[f"{run}/evaluations"])


def test_augmentation(golden):
  arrays = golden("augmentation")
  images = jnp.asarray(rule.nhwc(arrays["image"]))
  warp = augmentation.warp_from_draws(
    jnp.asarray(arrays["draws"]), jnp.asarray(arrays["a_prob"])
  )
  arrays.check("cond", augmentation.labels(warp), "augmentation")
  maps = augmentation.matrices(warp, *images.shape[1:3])
  arrays.check("mat", maps, "augmentation")
  warped = augmentation.apply(images, maps)
  arrays.check("image_out", rule.nchw(warped), "augmentation")
  features = jnp.asarray(rule.nhwc(arrays["features"]))
  warped = augmentation.apply(features, maps[: len(features)])
  arrays.check("features_out", rule.nchw(warped), "augmentation")
  by_hand = jnp.asarray(arrays["hand_mat"])
  same = jnp.repeat(images[:1], len(by_hand), 0)
  warped = augmentation.apply(same, by_hand)
  arrays.check("hand_out", rule.nchw(warped), "augmentation")


def test_every_item_has_its_own_flip(golden):
  """The reference gives a batch item 0's flip, and tells each its own."""
  arrays = golden("augmentation")
  mirrored = arrays["batched_flip_bug/a0"]
  draws = jnp.zeros((len(mirrored), augmentation.DRAWS))
  warp = augmentation.warp_from_draws(draws.at[:, 0].set(mirrored), 0.0)
  augment_labels = augmentation.labels(warp)
  arrays.check("batched_flip_bug/cond", augment_labels, "augmentation")
  size = arrays["image"].shape[-1]
  maps = np.asarray(augmentation.matrices(warp, size, size))
  theirs = arrays["batched_flip_bug/mat"]
  as_item_0 = mirrored == mirrored[0]
  np.testing.assert_allclose(maps[as_item_0], theirs[as_item_0], atol=1e-5)
  np.testing.assert_array_equal(maps[:, 0, 0], 1 - 2 * mirrored)


def test_z_every_array_was_read(check_all_read):
  check_all_read(FILES)


def test_no_file_is_left_out(golden):
  import test_golden_networks  # noqa: PLC0415
  import test_golden_rendering  # noqa: PLC0415
  import test_golden_training  # noqa: PLC0415

  others = (test_golden_networks, test_golden_rendering, test_golden_training)
  claimed = {*FILES, *(name for module in others for name in module.FILES)}
  claimed |= {"perceptual"} & {path.stem for path in golden.folder.iterdir()}
  assert claimed == {path.stem for path in golden.folder.glob("*.npz")}
