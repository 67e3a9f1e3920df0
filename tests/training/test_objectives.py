"""Parts of the objectives: their losses, consistency, frozen parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genvs_jax.diffusion import edm
from genvs_jax.images import metrics
from genvs_jax.models import builders
from genvs_jax.models import denoising
from genvs_jax.models import pipeline
from genvs_jax.runtime import sharding
from genvs_jax.training import objectives
from genvs_jax.training import optimizers
from genvs_jax.training import randomness
from genvs_jax.training import regularizers
from genvs_jax.training import startup
from genvs_jax.training import train_step


def options(debug_config, **values):
  debug_config.objective.update(values)
  return objectives.build_options(debug_config)


def test_input_noise_has_its_probability_and_strength(
  debug_config, monkeypatch
):
  """Half of the images, each with a deviation from U(0, 2)."""
  chosen = options(
    debug_config, input_noise_probability=0.5, input_noise_max=2.0
  )
  model, source = builders.build_model(debug_config), []

  def encode(model, variables, images, noise, deviation, train):
    source.append(noise)
    source.append(deviation)
    return jnp.zeros(images.shape[:2]), {}

  monkeypatch.setattr(pipeline, "encode", encode)
  count = 200
  images = jnp.zeros((count, 2, 16, 16, 3))
  batch = {
    "poses": jnp.zeros((count, 2, 4, 4)),
    "intrinsics": jnp.ones((count, 4)),
  }
  keys = randomness.step_keys(0, 0, count)
  objectives.encode_inputs(model, chosen, {}, batch, images, keys)
  deviation = np.std(source[0], (2, 3, 4)).ravel()
  # What the encoder can be told of it.
  np.testing.assert_allclose(source[1].ravel(), deviation, atol=0.15)
  noisy = deviation > 0
  assert abs(noisy.mean() - 0.5) < 0.07
  np.testing.assert_allclose(np.mean(source[0]), 0, atol=0.01)
  quarters = np.quantile(deviation[noisy], [0.25, 0.5, 0.75])
  np.testing.assert_allclose(quarters, [0.5, 1.0, 1.5], atol=0.2)


def data_batch(rng):
  """Two scenes of three views from the same side."""
  images = rng.integers(0, 255, (2, 3, 32, 32, 3), np.uint8)
  poses = np.broadcast_to(np.eye(4, dtype=np.float32), (2, 3, 4, 4)).copy()
  poses[..., 2, 3] = -1.3
  return {
    "images": jnp.asarray(images),
    "poses": jnp.asarray(poses),
    "intrinsics": jnp.full((2, 4), 32.0).at[:, 2:].set(16.0),
  }


def test_consistency_compares_with_the_last_input_view_alone(debug_config):
  """Two equal input views agree; two different ones do not."""
  debug_config.objective.depth_consistency = 1.0
  debug_config.objective.opacity_consistency = 1.0
  debug_config.objective.input_noise_probability = 0.0
  model = builders.build_model(debug_config)
  state = startup.init_on_devices(debug_config, model)
  variables = pipeline.join_variables(state.params, state.buffers)
  chosen = objectives.build_options(debug_config)
  batch = data_batch(np.random.default_rng(0))
  images = batch["images"]
  same = {**batch, "images": images.at[:, 1].set(images[:, 0])}
  run = jax.jit(
    lambda b: (
      objectives.rendering_losses(
        model, chosen, variables, b, randomness.step_keys(0, 0, 2)
      ).metrics
    )
  )
  for name in ("loss_depth_consistency", "loss_opacity_consistency"):
    np.testing.assert_allclose(run(same)[name], 0, atol=1e-9)
  assert run(batch)["loss_opacity_consistency"] > 1e-6


def test_the_denoiser_meets_what_the_render_lacks(debug_config, monkeypatch):
  """Noisy minus noise is the picture minus its render, features or not."""
  debug_config.diffusion.target = "residual"
  debug_config.diffusion.log_mean = -20.0  # next to no noise
  for dropout in (0.0, 1.0):
    chosen = options(debug_config, conditioning_dropout=dropout)
    model, calls = builders.build_model(debug_config), []

    def predict(model, variables, noisy, sigma, features, *rest, calls=calls):
      calls.append((noisy, features))
      return jnp.zeros_like(noisy), jnp.zeros(len(noisy))

    monkeypatch.setattr(denoising, "predict", predict)
    rng = np.random.default_rng(0)
    clean = jnp.asarray(rng.uniform(size=(2, 32, 32, 3)))
    features = jnp.asarray(rng.uniform(size=(2, 32, 32, 8)))
    keys = randomness.step_keys(0, 0, 2)
    objectives.denoising_losses(model, chosen, {}, clean, features, keys)
    ((noisy, told),) = calls
    np.testing.assert_allclose(noisy, clean - features[..., :3], atol=1e-4)
    assert bool(jnp.array_equal(told, features)) == (dropout == 0.0)


def test_residuals_need_a_render(debug_config):
  debug_config.diffusion.target = "residual"
  debug_config.objective.name = "diffusion"
  with pytest.raises(ValueError, match=r"expected objective\.name 'joint'"):
    objectives.build_options(debug_config)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("reaches", denoising.REACHES)
def test_a_share_of_the_gradient_reaches_the_features(
  debug_config, share, reaches
):
  debug_config.model.feature_channels = 5
  debug_config.model.denoiser.geometry = ("depth", "opacity")
  model = builders.build_model(debug_config)
  x = jnp.array([1.5, -2.0, 0.5, 1.0, 3.0, -1.0, 2.0])
  value, gradient = jax.value_and_grad(
    lambda x: (denoising.scale_gradient(model, x, share, reaches) ** 2).sum()
  )(x)
  np.testing.assert_allclose(value, (x**2).sum())
  # RGB comes first, depth and opacity last.
  passes = np.ones(7) if reaches == "render" else [0, 0, 0, 1, 1, 0, 0]
  np.testing.assert_allclose(gradient, share * 2 * x * np.array(passes))


@pytest.mark.parametrize("reaches", denoising.REACHES)
def test_the_denoiser_moves_density_only_through_the_whole_render(
  debug_config, monkeypatch, reaches
):
  """Without losses of the render, density learns from the denoiser or not."""
  chosen = options(
    debug_config,
    rgb=0.0,
    opacity=0.0,
    conditioning_dropout=0.0,
    gradient_reaches=reaches,
  )

  def predict(model, variables, noisy, sigma, features, *rest):
    shown = jnp.mean(features, -1, keepdims=True)
    return shown + jnp.zeros_like(noisy), jnp.zeros(len(noisy))

  monkeypatch.setattr(denoising, "predict", predict)
  model = builders.build_model(debug_config)
  state = startup.init_on_devices(debug_config, model)
  variables = pipeline.join_variables(state.params, state.buffers)
  batch = data_batch(np.random.default_rng(0))

  def loss(scale):
    evaluate = pipeline.evaluate_field

    def field(*args):
      density, features = evaluate(*args)
      return scale[0] * density, scale[1:] * features

    with monkeypatch.context() as patch:
      patch.setattr(pipeline, "evaluate_field", field)
      keys = randomness.step_keys(0, 0, 2)
      return objectives.joint(model, chosen, variables, batch, keys)[0]

  gradient = jax.grad(loss)(jnp.ones(1 + model.feature_channels))
  assert bool(jnp.any(gradient[0])) == (reaches == "render")
  assert bool(jnp.any(gradient[1:4])) == (reaches == "render")
  assert bool(jnp.all(gradient[4:]))


def test_consistency_needs_two_input_views(debug_config):
  debug_config.objective.depth_consistency = 1.0
  debug_config.model.input_views = 1
  with pytest.raises(ValueError, match=r"input_views of 2 or more, found 1"):
    objectives.build_options(debug_config)


def test_frozen_parts_and_their_statistics_stay(debug_config):
  debug_config.objective.name = "nerf"
  debug_config.optimizer.frozen = ("encoder",)
  model = builders.build_model(debug_config)
  state = startup.init_on_devices(debug_config, model)
  rng = np.random.default_rng(0)
  batch = {
    "images": jnp.asarray(rng.integers(0, 255, (2, 3, 32, 32, 3), np.uint8)),
    "poses": jnp.broadcast_to(jnp.eye(4).at[2, 3].set(-1.3), (2, 3, 4, 4)),
    "intrinsics": jnp.full((2, 4), 32.0).at[:, 2:].set(16.0),
  }
  mesh = sharding.make_mesh(jax.devices()[:1])
  step = jax.jit(train_step.build_train_step(debug_config, model, mesh))
  after, _ = step(state, batch)

  def changed(name, part):
    pairs = zip(
      jax.tree.leaves(getattr(state, name)[part]),
      jax.tree.leaves(getattr(after, name)[part]),
      strict=True,
    )
    return any(bool((a != b).any()) for a, b in pairs)

  assert not changed("params", "encoder") and not changed("buffers", "encoder")
  assert changed("params", "field")
  # No moments are kept for what is not trained.
  shapes = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
  assert state.params["encoder"]["head"]["kernel"].shape not in shapes


def test_freezing_needs_known_parts_and_something_left():
  params = {"encoder": 1, "field": 2, "denoiser": 3}
  for frozen in (("volume",), ("encoder", "field", "denoiser")):
    with pytest.raises(ValueError, match=r"optimizer.frozen is \("):
      optimizers.trainable(params, frozen)


def test_unknown_objectives_are_refused(debug_config):
  debug_config.objective.name = "gan"
  with pytest.raises(ValueError, match="'gan', expected one of joint, nerf"):
    startup.init_state(debug_config, builders.build_model(debug_config))


def test_denoising_loss_is_lowest_at_the_true_variance():
  target = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  output = target + 0.3

  def loss(log_variance):
    return edm.learned_variance_loss(output, target, jnp.full(2, log_variance))

  best = np.log(0.3**2)
  np.testing.assert_allclose(loss(best), (1 + best) / 2, rtol=1e-4)
  assert loss(best) < min(loss(best + 0.3), loss(best - 0.3))
  np.testing.assert_allclose(jax.grad(loss)(best), 0, atol=1e-5)
  np.testing.assert_allclose(loss(0.0), 0.3**2 / 2, rtol=1e-5)


def test_rgb_loss_compares_each_view_with_its_own_target():
  """The reference's broadcast would give 0.25 here."""
  images = jnp.stack([jnp.zeros((1, 4, 4, 3)), jnp.ones((1, 4, 4, 3))])
  features = jnp.concatenate([images, jnp.full((2, 1, 4, 4, 5), 9.0)], -1)
  assert objectives.rgb_error(features, images) == 0
  with pytest.raises(ValueError, match="differ in size"):
    objectives.rgb_error(features[:, 0], images)


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
  at_distance = regularizers.depth_prior(1.3 * opacity, opacity, distance)
  np.testing.assert_allclose(at_distance, 0, atol=1e-9)
  # 0.2 too far, weighted by opacity: (0.5 + 1 + 0 + 0.25) / 4 * 0.04.
  further = regularizers.depth_prior(1.5 * opacity, opacity, distance)
  np.testing.assert_allclose(further, 0.4375 * 0.04, rtol=1e-3)


def test_consistency_moves_one_render_alone():
  a, b = jnp.array([0.2, 0.6]), jnp.array([0.0, 1.0])
  np.testing.assert_allclose(regularizers.consistency(a, b), (0.04 + 0.16) / 2)
  by_a, by_b = jax.grad(regularizers.consistency, (0, 1))(a, b)
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
  np.testing.assert_allclose(edm.edm_loss(output, target), expected, rtol=1e-4)


def test_augmentation_needs_a_denoiser_with_labels(debug_config):
  debug_config.objective.augmentation = 0.5
  debug_config.model.denoiser.name = "ddpmpp"
  debug_config.model.denoiser.augmentation = False
  with pytest.raises(ValueError, match="would draw warped images"):
    objectives.build_options(debug_config)
  debug_config.model.denoiser.augmentation = True
  assert objectives.build_options(debug_config).augmentation == 0.5


@pytest.mark.parametrize(
  "kind", ["near_far", pytest.param("unit_cube", marks=pytest.mark.slow)]
)
def test_gradients_stay_finite_where_cameras_are_odd(debug_config, kind):
  """In bfloat16: cameras that look away, and at 50 times the distance."""
  debug_config.model.dtype = "bfloat16"
  debug_config.frustum.kind = kind
  model = builders.build_model(debug_config)
  state = startup.init_on_devices(debug_config, model)
  options = objectives.build_options(debug_config)
  rng = np.random.default_rng(0)
  poses = np.broadcast_to(np.eye(4, dtype=np.float32), (4, 3, 4, 4)).copy()
  poses[..., 2, 3] = -1.3
  poses[1, 1, :3, :3] = np.diag([1.0, -1.0, -1.0])  # an input looks away
  poses[2, 2, :3, :3] = np.diag([-1.0, 1.0, -1.0])  # the target does
  poses[3, :, 2, 3] = -65.0
  batch = {
    "images": jnp.asarray(rng.integers(0, 255, (4, 3, 32, 32, 3), np.uint8)),
    "poses": jnp.asarray(poses),
    "intrinsics": jnp.full((4, 4), 32.0).at[:, 2:].set(16.0),
  }

  def loss(params, seed):
    variables = pipeline.join_variables(params, state.buffers)
    keys = randomness.step_keys(seed, 0, 4)
    return objectives.joint(model, options, variables, batch, keys)[0]

  gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  value, grads = gradient(state.params, 0)
  assert jnp.isfinite(value)
  assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(grads))
