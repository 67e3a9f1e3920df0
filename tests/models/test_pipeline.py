"""Where the networks meet: masks, chunks, sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import debug
from genvs_jax.geometry import rendering
from genvs_jax.models import builders
from genvs_jax.models import denoising
from genvs_jax.models import pipeline
from tfds_srn.synthetic_cars import car_scenes

CONFIG = debug.get_config()
MODEL = builders.build_model(CONFIG)


@pytest.fixture(scope="module")
def variables():
  return jax.jit(lambda: builders.init_variables(MODEL, jax.random.key(0)))()


def inputs(mask) -> pipeline.InputViews:
  batch, views = mask.shape
  poses = car_scenes.train_poses(0, "train", 0, batch * views)
  return pipeline.InputViews(
    volumes=jax.random.normal(jax.random.key(1), (batch, views, 32, 32, 4, 8)),
    poses=jnp.asarray(poses).reshape(batch, views, 4, 4),
    intrinsics=jnp.tile(jnp.array([32.8, 32.8, 16, 16]), (batch, 1)),
    mask=mask,
  )


TARGETS = jnp.asarray(car_scenes.train_poses(1, "train", 0, 4)).reshape(
  2, 2, 4, 4
)


def test_a_masked_view_has_no_influence(variables):
  views = inputs(jnp.array([[True, True, False], [True, False, False]]))
  render = pipeline.render_features(MODEL, variables, views, TARGETS)
  unused = ~views.mask[:, :, None, None, None, None]
  other = views._replace(volumes=jnp.where(unused, 9.0, views.volumes))
  again = pipeline.render_features(MODEL, variables, other, TARGETS)
  jax.tree.map(np.testing.assert_array_equal, render, again)
  used = views._replace(volumes=jnp.where(unused, views.volumes, 9.0))
  moved = pipeline.render_features(MODEL, variables, used, TARGETS)
  assert jnp.abs(render.features - moved.features).max() > 1e-3


def test_order_of_input_views_does_not_matter(variables):
  views = inputs(jnp.ones((2, 3), bool))
  turned = pipeline.InputViews(
    views.volumes[:, ::-1],
    views.poses[:, ::-1],
    views.intrinsics,
    views.mask[:, ::-1],
  )
  a = pipeline.render_features(MODEL, variables, views, TARGETS)
  b = pipeline.render_features(MODEL, variables, turned, TARGETS)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), a, b)


def test_every_view_may_have_a_camera_of_its_own(variables):
  views = inputs(jnp.ones((2, 3), bool))
  render = pipeline.render_features(MODEL, variables, views, TARGETS)
  # The same camera for all, said once or for each.
  tiled = jnp.broadcast_to(views.intrinsics[:, None], (2, 3, 4))
  same = views._replace(intrinsics=tiled)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    render,
    pipeline.render_features(MODEL, variables, same, TARGETS),
  )
  # Cameras go with their views, whatever their order. (The first view's is
  # what targets are drawn with unless another is named.)
  zoom = jnp.array([1.0, 1.3, 0.8])[:, None] * jnp.array([1, 1, 0, 0])
  own = views._replace(
    intrinsics=tiled * jnp.where(zoom == 0, 1, zoom),
    drawn_with=views.intrinsics,
  )
  turned = own._replace(
    volumes=own.volumes[:, ::-1],
    poses=own.poses[:, ::-1],
    intrinsics=own.intrinsics[:, ::-1],
  )
  a = pipeline.render_features(MODEL, variables, own, TARGETS)
  b = pipeline.render_features(MODEL, variables, turned, TARGETS)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), a, b)
  assert jnp.abs(a.features - render.features).max() > 1e-3


def test_targets_may_have_cameras_of_their_own(variables):
  views = inputs(jnp.ones((2, 2), bool))
  zoom = jnp.array([[1.0, 1.4], [0.7, 1.0]])[..., None]
  cameras = views.intrinsics[:, None] * jnp.where(
    jnp.arange(4) < 2, zoom, 1.0
  )  # [B,Q,4]
  both = views._replace(drawn_with=cameras)
  render = pipeline.render_features(MODEL, variables, both, TARGETS)
  image = denoising.conditioning_image(MODEL, render, TARGETS, cameras)
  for q in range(2):
    one = views._replace(drawn_with=cameras[:, q])
    alone = pipeline.render_features(
      MODEL, variables, one, TARGETS[:, q : q + 1]
    )
    jax.tree.map(
      lambda x, y, q=q: np.testing.assert_allclose(x[:, q], y[:, 0], atol=1e-5),
      render,
      alone,
    )
    expected = denoising.conditioning_image(
      MODEL, alone, TARGETS[:, q : q + 1], cameras[:, q]
    )
    np.testing.assert_allclose(image[:, q], expected[:, 0], atol=1e-5)


def test_scenes_may_have_a_near_and_a_far_of_their_own(variables):
  views = inputs(jnp.ones((2, 2), bool))
  render = pipeline.render_features(MODEL, variables, views, TARGETS)

  def with_bounds(*bounds):
    width = jnp.broadcast_to(views.intrinsics[:, None], (2, 2, 4))
    tiled = jnp.broadcast_to(jnp.array(bounds)[:, None], (2, 2, 2))
    return views._replace(intrinsics=jnp.concatenate([width, tiled], -1))

  # Said once in the config, or for each view.
  frustum = CONFIG.frustum
  both = [frustum.near, frustum.far]
  same = pipeline.render_features(
    MODEL, variables, with_bounds(both, both), TARGETS
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), render, same
  )
  # Each scene has its own.
  other = [0.7, 2.1]
  mixed = pipeline.render_features(
    MODEL, variables, with_bounds(both, other), TARGETS
  )
  np.testing.assert_allclose(mixed.features[0], render.features[0], atol=1e-5)
  assert jnp.abs(mixed.features[1] - render.features[1]).max() > 1e-3
  model = dataclasses.replace(
    MODEL, frustum=dataclasses.replace(MODEL.frustum, near=0.7, far=2.1)
  )
  alone = pipeline.render_features(model, variables, views, TARGETS)
  np.testing.assert_allclose(mixed.features[1], alone.features[1], atol=1e-5)


def test_bounds_that_a_frustum_lacks_are_refused():
  config = CONFIG.copy_and_resolve_references()
  config.frustum.bounds = "scene"
  assert builders.batch_spec(config)["intrinsics"].shape[-1] == 6
  config.frustum.kind = "unit_cube"
  with pytest.raises(ValueError, match=r"bounds is 'scene', but .*'unit_cube'"):
    builders.batch_spec(config)


def test_random_numbers_may_come_in_any_order(variables):
  """Those of the second pass; a chunk wants them ascending."""
  views = inputs(jnp.ones((2, 2), bool))
  coarse, fine = jax.random.uniform(jax.random.key(5), (2, 2, 128, 4))
  a, b = (
    pipeline.render_features(
      MODEL, variables, views, TARGETS, rendering.Uniforms(coarse, x)
    )
    for x in (fine, fine[..., ::-1])
  )
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


def test_chunks_change_nothing(variables):
  """Neither values nor gradients, random numbers included."""
  views = inputs(jnp.ones((2, 2), bool))
  key = jax.random.key(5)
  uniforms = rendering.Uniforms(
    jax.random.uniform(key, (2, 128, 4)), jax.random.uniform(key, (2, 128, 4))
  )

  def loss(volumes, chunk):
    model = dataclasses.replace(MODEL, rays_per_chunk=chunk)
    render = pipeline.render_features(
      model, variables, views._replace(volumes=volumes), TARGETS, uniforms
    )
    return jnp.sum(render.features**2) + jnp.sum(render.weighted_depth)

  whole = jax.value_and_grad(loss)(views.volumes, 0)
  parts = jax.value_and_grad(loss)(views.volumes, 32)
  np.testing.assert_allclose(whole[0], parts[0], rtol=1e-6)
  np.testing.assert_allclose(whole[1], parts[1], atol=1e-5)


def test_chunks_that_do_not_divide_the_rays_are_refused(variables):
  model = dataclasses.replace(MODEL, rays_per_chunk=48)
  with pytest.raises(ValueError, match="is 48, expected a divisor of the 128"):
    pipeline.render_features(
      model, variables, inputs(jnp.ones((2, 2), bool)), TARGETS
    )


def test_image_size_must_suit_the_encoder():
  config = debug.get_config()
  config.model.image_size = 40
  with pytest.raises(ValueError, match="is 40, expected a multiple of 32"):
    builders.build_model(config)


def test_denoiser_is_the_identity_at_no_noise(variables):
  image = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
  features = jnp.zeros((2, 32, 32, 8))
  out = denoising.denoise(MODEL, variables, image, jnp.full(2, 1e-5), features)
  np.testing.assert_allclose(out, image, atol=1e-4)


def test_a_fresh_denoiser_of_residuals_gives_the_render(variables):
  """F = 0: D = base + c_skip (noisy - base), in closed form."""
  model = dataclasses.replace(MODEL, target="residual", sigma_data=0.2)
  keys = jax.random.split(jax.random.key(0), 2)
  noisy = jax.random.normal(keys[0], (2, 32, 32, 3))
  features = jax.random.uniform(keys[1], (2, 32, 32, 8))
  base = denoising.base_image(model, features)
  np.testing.assert_array_equal(base, features[..., :3])
  sigma = jnp.array([0.1, 3.0])
  skip = (0.04 / (0.04 + sigma**2))[:, None, None, None]
  out = denoising.denoise(model, variables, noisy, sigma, features, base)
  np.testing.assert_allclose(out, base + skip * (noisy - base), atol=1e-5)
  assert denoising.base_image(MODEL, features) is None
  gradient = jax.grad(lambda x: denoising.base_image(model, x).sum())(features)
  assert not gradient.any()


def test_features_are_scaled_and_geometry_is_not():
  config = debug.get_config()
  config.model.denoiser.geometry = ("opacity", "directions")
  plain = builders.build_model(config)
  assert plain.denoiser_features == 8 + 1 + 3
  config.diffusion.feature_mean, config.diffusion.feature_std = 0.5, 0.25
  scaled = builders.build_model(config)
  variables = jax.jit(
    lambda: builders.init_variables(plain, jax.random.key(0), ("denoiser",))
  )()
  kernel = variables["denoiser"]["params"]["output"]["kernel"]
  variables["denoiser"]["params"]["output"]["kernel"] = jnp.ones_like(kernel)
  keys = jax.random.split(jax.random.key(1), 2)
  noisy = jax.random.normal(keys[0], (2, 32, 32, 3))
  image = jax.random.uniform(keys[1], (2, 32, 32, 12))
  by_hand = image.at[..., :8].set((image[..., :8] - 0.5) * 4)
  sigma = jnp.ones(2)
  a, _ = denoising.predict(scaled, variables, noisy, sigma, image)
  b, _ = denoising.predict(plain, variables, noisy, sigma, by_hand)
  np.testing.assert_allclose(a, b, atol=1e-5)
  other, _ = denoising.predict(plain, variables, noisy, sigma, image)
  assert jnp.abs(a - other).max() > 1e-2


def test_flipped_input_flips_what_the_encoder_sees(variables):
  image = jax.random.uniform(jax.random.key(0), (1, 1, 32, 32, 3))
  flipped = dataclasses.replace(MODEL, flip_input=True)
  a, _ = pipeline.encode(MODEL, variables, image[:, :, ::-1])
  b, _ = pipeline.encode(flipped, variables, image)
  np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("precision", ["default", "highest"])
def test_the_field_multiplies_as_the_config_says(variables, precision):
  """Its own products; those of the geometry are always exact."""
  model = dataclasses.replace(MODEL, precision=precision)
  points = jnp.zeros((2, 3, 4, 3))

  def products(program):
    for equation in program.eqns:
      if equation.primitive.name == "dot_general":
        yield equation.params["precision"]
      for value in equation.params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
          yield from products(inner)

  program = jax.make_jaxpr(
    lambda v, x: pipeline.evaluate_field(
      model, v, inputs(jnp.ones((2, 2), bool)), x
    )
  )(variables, points)
  highest = (jax.lax.Precision.HIGHEST,) * 2
  others = [p for p in products(program.jaxpr) if p != highest]
  assert bool(others) == (precision == "default")


@pytest.mark.parametrize("precision", ["default", "highest"])
def test_networks_multiply_as_the_config_says(variables, precision):
  """Every product and convolution of the networks carries the precision."""
  config = debug.get_config()
  config.model.precision = precision
  model = builders.build_model(config)
  x = jnp.zeros((1, 32, 32, 3))

  def denoise(variables, x):
    return denoising.denoise(
      model, variables, x, jnp.ones(1), jnp.ones((1, 32, 32, 8))
    )

  def encode(variables, x):
    return pipeline.encode(model, variables, x[None])[0]

  for function in (denoise, encode):
    program = str(jax.make_jaxpr(function)(variables, x))
    exact = program.count("precision=Precision.HIGHEST") + program.count(
      "precision=(Precision.HIGHEST, Precision.HIGHEST)"
    )
    other = program.count("precision=None") + program.count("DEFAULT")
    assert (exact > 0, other > 0) == (
      (True, False) if precision == "highest" else (False, True)
    )


def test_the_form_of_the_lookup_is_the_models(variables):
  """Another program, the same picture."""
  views = inputs(jnp.ones((2, 2), bool))
  renders, programs = [], []
  for form in ("corners", "blocks"):
    model = dataclasses.replace(MODEL, lookup=form)
    render = jax.jit(pipeline.render_features, static_argnums=0)
    renders.append(render(model, variables, views, TARGETS))
    text = render.lower(model, variables, views, TARGETS).as_text()
    programs.append(text.count("stablehlo.gather"))
  assert programs[0] > programs[1] > 0
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), *renders
  )


@pytest.mark.parametrize("kind", ["near_far", "unit_cube"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "none"])
def test_an_image_that_skips_the_encoder_is_seen_from_its_camera(
  kind, activation
):
  """A fog of any density has the pixel's colour all along its ray."""
  config = debug.get_config()
  config.frustum.kind = kind
  config.frustum.flip_input = kind == "unit_cube"
  config.model.encoder.image_skip = True
  config.model.field.feature_activation = activation
  config.rendering.size = config.model.image_size
  config.rendering.rays_per_chunk = 0
  model = builders.build_model(config)
  shapes = jax.eval_shape(
    lambda: builders.init_variables(model, jax.random.key(0), ("field",))
  )
  # Networks of zeros pass on the skip alone.
  field = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes["field"])
  field["params"]["out"]["bias"] = field["params"]["out"]["bias"].at[0].set(3.0)
  x, y = jnp.meshgrid(jnp.linspace(0.1, 0.9, 32), jnp.linspace(0.1, 0.9, 32))
  images = jnp.stack([x, y, (x + y) / 2], -1)[None, None]
  volumes = jnp.zeros((1, 1, 32, 32, 4, 8))
  views = pipeline.InputViews(
    volumes + pipeline.skip_volumes(model, images, volumes),
    jnp.asarray(car_scenes.train_poses(0, "train", 0, 1))[None],
    jnp.array([[[38.0, 38, 16, 16]]]),
    jnp.ones((1, 1), bool),
  )
  render = jax.jit(pipeline.render_features, static_argnums=0)(
    model, {"field": field}, views, views.poses
  )
  opacity = np.asarray(render.opacity)[..., None]
  assert opacity[0, 0, 16, 16] > 0.8
  np.testing.assert_allclose(
    render.features[..., :3],
    images * opacity + (1 - opacity),
    # The reference's cube ends at the centres of the outermost pixels.
    atol=1e-3 if kind == "near_far" else 0.8 / 32,
  )


def test_a_skipped_image_is_added_once_and_without_its_noise():
  config = debug.get_config()
  images = jax.random.uniform(jax.random.key(1), (1, 2, 32, 32, 3))
  noise = jax.random.normal(jax.random.key(2), images.shape)
  plain = builders.build_model(config)
  config.model.encoder.image_skip = True
  model = builders.build_model(config)
  variables = jax.jit(
    lambda: builders.init_variables(plain, jax.random.key(0), ("encoder",))
  )()
  before, after = (
    jax.jit(pipeline.encode, static_argnums=0)(m, variables, images, noise)[0]
    for m in (plain, model)
  )
  colours = jax.nn.sigmoid((after - before)[..., :3])
  expected = jnp.clip(images, 0.02, 0.98)[..., None, :]
  np.testing.assert_allclose(
    colours, jnp.broadcast_to(expected, colours.shape), atol=1e-5
  )
  np.testing.assert_array_equal(after[..., 3:], before[..., 3:])


@pytest.mark.parametrize(
  "fields, sentence",
  [
    ({"model.field.skip": False}, "the field would not pass on the colours"),
    ({"model.field.feature_activation": "relu"}, "'relu', expected one of"),
  ],
)
def test_a_skip_that_the_field_does_not_pass_on_is_refused(fields, sentence):
  config = debug.get_config()
  config.update_from_flattened_dict(
    {"model.encoder.image_skip": True, **fields}
  )
  with pytest.raises(ValueError, match=sentence):
    builders.build_model(config)
