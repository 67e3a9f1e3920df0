"""The perceptual loss of the denoiser's estimate, with made-up networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genvs_jax import perceptual
from genvs_jax.models import builders
from genvs_jax.models import denoising
from genvs_jax.models import pipeline
from genvs_jax.perceptual import weights
from genvs_jax.training import objectives
from genvs_jax.training import randomness
from genvs_jax.training import startup
from tfds_srn.synthetic_cars import car_scenes

# Of AlexNet's convolutions: [h,w,in,out].
KERNELS = (
  (11, 11, 3, 64),
  (5, 5, 64, 192),
  (3, 3, 192, 384),
  (3, 3, 384, 256),
  (3, 3, 256, 256),
)


@pytest.fixture
def alexnet(tmp_path):
  """A folder with an AlexNet of random kernels, and heads of ones."""
  rng = np.random.default_rng(0)
  layers = {}
  for number, shape in zip((0, 3, 6, 8, 10), KERNELS, strict=True):
    scale = np.sqrt(2 / np.prod(shape[:3]))
    kernel = rng.normal(scale=scale, size=shape)
    layers[f"features.{number}.kernel"] = kernel.astype(np.float32)
    layers[f"features.{number}.bias"] = np.zeros(shape[3], np.float32)
  heads = {f"lin{i}": np.ones(s[3], np.float32) for i, s in enumerate(KERNELS)}
  weights.save(str(tmp_path), "alexnet", layers)
  weights.save(str(tmp_path), "lpips_alex", heads)
  return str(tmp_path)


def with_loss(config, folder, weight=1.0):
  config.objective.perceptual = weight
  config.evaluate.metric_weights = folder
  return config


@pytest.mark.parametrize("target", ["image", "residual"])
def test_it_compares_pictures_with_the_estimate(
  debug_config, alexnet, monkeypatch, target
):
  """A network that returns F makes D; what is shown is base + D, in [0,1]."""
  config = with_loss(debug_config, alexnet)
  config.diffusion.target = target
  config.model.image_range = (-1.0, 1.0)
  config.objective.conditioning_dropout = 1.0
  model, seen = builders.build_model(config), []

  def predict(model, variables, noisy, sigma, *rest):
    # c_skip x + c_out F is this, whatever the noise.
    total = sigma**2 + model.sigma_data**2
    skip, out = model.sigma_data**2 / total, sigma * model.sigma_data
    skip, out = (x[:, None, None, None] for x in (skip, out / total**0.5))
    return (0.25 - skip * noisy) / out, jnp.zeros(len(noisy))

  def distance(images, truth):
    seen.extend((images, truth))
    return jnp.mean(jnp.abs(images - truth), (1, 2, 3))

  monkeypatch.setattr(denoising, "predict", predict)
  chosen = objectives.dataclasses.replace(
    objectives.build_options(config), distance=distance
  )
  rng = np.random.default_rng(0)
  picture = jnp.asarray(rng.uniform(-1, 1, (2, 32, 32, 3)), jnp.float32)
  features = jnp.asarray(rng.uniform(size=(2, 32, 32, 8)), jnp.float32)
  losses = objectives.denoising_losses(
    model, chosen, {}, picture, features, randomness.step_keys(0, 0, 2)
  )
  base = features[..., :3] if target == "residual" else 0.0
  estimate = jnp.broadcast_to((base + 0.25 + 1) / 2, picture.shape)
  np.testing.assert_allclose(seen[0], estimate, 1e-3)
  np.testing.assert_allclose(seen[1], (picture + 1) / 2, 1e-5)
  expected = jnp.mean(jnp.abs(seen[0] - seen[1]))
  np.testing.assert_allclose(losses["loss_perceptual"], expected, 1e-5)


def test_its_weight_and_its_gradient(debug_config, alexnet):
  """It adds to the loss, and reaches denoiser, field and encoder."""
  rng = np.random.default_rng(0)
  batch = {
    "images": rng.integers(0, 255, (2, 3, 32, 32, 3), np.uint8),
    "poses": np.stack([car_scenes.train_poses(0, "train", 0, 3)] * 2),
    "intrinsics": np.tile(np.float32([38, 38, 16, 16]), (2, 1)),
  }
  batch = jax.tree.map(jnp.asarray, batch)
  model = builders.build_model(with_loss(debug_config, alexnet))
  state = startup.init_on_devices(debug_config, model)
  # A fresh denoiser returns nothing, and passes nothing on.
  params = jax.tree.map(lambda x: x + 0.05 * (x.ndim > 3), state.params)
  debug_config.objective.denoising = debug_config.objective.rgb = 0.0
  debug_config.objective.opacity = debug_config.objective.rgb_input = 0.0
  chosen = objectives.build_options(debug_config)

  @jax.jit
  def joint_loss(params, weight):
    options = objectives.dataclasses.replace(chosen, perceptual=weight)
    variables = pipeline.join_variables(params, state.buffers)
    keys = randomness.step_keys(0, 0, 2)
    return objectives.joint(model, options, variables, batch, keys)

  values = jax.value_and_grad(joint_loss, has_aux=True)
  (loss, (metrics, _)), grads = values(params, 3.0)
  assert metrics["loss_perceptual"] > 0.01
  np.testing.assert_allclose(loss, 3 * metrics["loss_perceptual"], 1e-5)
  for part in pipeline.PARTS:
    largest = max(np.abs(x).max() for x in jax.tree.leaves(grads[part]))
    assert 0 < largest < np.inf, part


def test_the_distance_to_train_with_is_that_of_the_scores(alexnet):
  scores, _ = perceptual.build_metrics(alexnet)
  rng = np.random.default_rng(0)
  pair = rng.uniform(size=(2, 2, 64, 64, 3)).astype(np.float32)
  distance = perceptual.build_distance(alexnet, "a.field", "lpips_alex")
  np.testing.assert_allclose(distance(*pair), scores["lpips_alex"](*pair), 1e-5)
  np.testing.assert_allclose(distance(pair[0], pair[0]), 0, atol=1e-7)


def test_it_is_off_without_weights_to_load(debug_config):
  """No weights are asked for at weight 0, nor by a stage without a denoiser."""
  with_loss(debug_config, "no folder", weight=0.0)
  assert objectives.build_options(debug_config).distance is None
  debug_config.objective.perceptual = 1.0
  debug_config.objective.name = "nerf"
  assert objectives.build_options(debug_config).distance is None


def test_missing_weights_and_unknown_metrics_are_named(debug_config, tmp_path):
  with_loss(debug_config, str(tmp_path))
  with pytest.raises(
    ValueError,
    match=r"objective\.perceptual_metric is lpips_alex, but .* has no"
    r" alexnet\.npz and no lpips_alex\.npz: fetch them",
  ):
    objectives.build_options(debug_config)
  debug_config.objective.perceptual_metric = "mse"
  with pytest.raises(ValueError, match="expected one of lpips_vgg, lpips_alex"):
    objectives.build_options(debug_config)
