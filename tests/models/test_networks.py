"""The networks: sizes, shapes and the arithmetic of their layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cars64
from configs import debug
from configs import paper128
from configs import reference64
from configs import reference128
from configs import reference128_dlv3
from genvs_jax.models import builders
from genvs_jax.models import ddpmpp
from genvs_jax.models import image_v1
from genvs_jax.models import layers
from genvs_jax.models import pipeline
from genvs_jax.models import radiance_field
from genvs_jax.models import resnet


def count(tree) -> int:
  return sum(x.size for x in jax.tree.leaves(tree))


def init(network: nn.Module, *args):
  return jax.jit(network.init, static_argnames="train")(*args, train=False)


def apply(network: nn.Module, *args):
  return jax.jit(network.apply, static_argnames="train")(*args, train=False)


@pytest.mark.parametrize(
  "module, counts",
  [
    (cars64, (62_519_784, 2_193, 113_080_196)),
    (reference64, (62_519_784, 2_193, 113_080_196)),
    (reference128, (62_519_784, 2_193, 115_033_220)),
    (reference128_dlv3, (74_011_760, 2_193, 115_033_220)),
    # Without norms the trunk's convolutions have biases (8,512), and the field
    # a second hidden layer.
    (paper128, (74_011_760 + 8_512, 2_193 + 4_160, 66_733_699)),
  ],
)
def test_full_size_networks_have_the_published_widths(module, counts):
  """Parameter counts of the PyTorch networks."""
  model = builders.build_model(module.get_config())
  variables = jax.eval_shape(
    lambda: builders.init_variables(model, jax.random.key(0))
  )
  params, _ = pipeline.split_variables(variables)
  assert tuple(count(params[part]) for part in pipeline.PARTS) == counts


def test_stock_ddpmpp_has_the_published_width():
  """EDM's CIFAR-10 configuration: 128 x [2,2,2], attention at 16."""
  network = ddpmpp.DDPMpp(
    channels=(256, 256, 256),
    depths=(4, 4, 4),
    attention=(False, True, False),
    augmentation=True,
  )
  image = jnp.zeros((1, 32, 32, 3))
  variables = jax.eval_shape(
    lambda: network.init(
      jax.random.key(0),
      image,
      jnp.ones(1),
      image[..., :0],
      jnp.zeros((1, 9)),
      train=False,
    )
  )
  assert count(variables["params"]) == 55_733_891


def test_output_stride_16_keeps_the_weights_and_doubles_the_map():
  image = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
  weights, maps = {}, {}
  for stride in (16, 32):
    trunk = resnet.ResNet34(4, (1, 1, 1, 1), "frozen", stride)
    variables = jax.eval_shape(
      lambda trunk=trunk: trunk.init(jax.random.key(1), image, train=False)
    )
    weights[stride] = jax.tree.map(jnp.shape, variables)
    features = jax.eval_shape(
      lambda v, trunk=trunk: trunk.apply(v, image, train=False), variables
    )
    maps[stride] = [f.shape[1] for f in features]
  assert weights[16] == weights[32]
  assert maps == {16: [32, 16, 8, 4, 4], 32: [32, 16, 8, 4, 2]}


def test_a_trunk_without_norms_starts_as_its_shortcuts():
  image = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
  trunk = resnet.ResNet34(16, (3, 4, 6, 3), "none")
  variables = init(trunk, jax.random.key(1), image)
  assert set(variables) == {"params"}
  scale = [float(jnp.std(x)) for x in apply(trunk, variables, image)]
  assert max(scale) < 5 * min(scale)


def test_growing_the_denoiser_keeps_all_names():
  """128 pixels with one more outer level is a superset of 64."""

  def names(size, channels, depths, attention):
    network = image_v1.ImageV1(channels, depths, attention, 16)
    image = jnp.zeros((1, size, size, 3))
    variables = jax.eval_shape(
      lambda: network.init(
        jax.random.key(0),
        image,
        jnp.ones(1),
        jnp.zeros((1, size, size, 16)),
        jnp.zeros((1, 9)),
        train=False,
      )
    )
    return set(variables["params"])

  small = names(16, (8, 16), (1, 2), (False, True))
  grown = names(32, (8, 8, 16), (1, 1, 2), (False, False, True))
  assert small < grown
  assert {n for n in grown - small} == {"down_32_block0", "up_32_block0"}


def test_denoiser_starts_at_zero_and_sees_all_its_inputs():
  config = debug.get_config()
  network = builders.build_denoiser(config)
  key = jax.random.key(0)
  x = jax.random.normal(key, (2, 8, 8, 3))
  features = jax.random.normal(key, (2, 8, 8, 8))
  args = [x, jnp.array([0.1, 2.0]), features, jnp.zeros((2, 9))]
  variables = init(network, key, *args)
  output, log_variance = apply(network, variables, *args)
  np.testing.assert_array_equal(output, 0)
  np.testing.assert_array_equal(log_variance, 0)

  kernel = variables["params"]["output"]["kernel"]
  variables["params"]["output"]["kernel"] = jax.random.normal(key, kernel.shape)
  before, _ = apply(network, variables, *args)
  changes = [x + 0.1, jnp.array([0.2, 2.0]), features + 0.1, jnp.ones((2, 9))]
  for i, changed in enumerate(changes):
    after, _ = apply(network, variables, *args[:i], changed, *args[i + 1 :])
    assert jnp.abs(after - before).max() > 1e-4, f"input {i} has no influence"


def test_denoiser_refuses_levels_that_do_not_match():
  config = debug.get_config()
  config.model.denoiser.depths = (1,)
  with pytest.raises(
    ValueError, match="have 2, 1, 2 levels, expected the same number"
  ):
    builders.build_model(config)


def test_unknown_network_names_are_refused_with_the_known_ones():
  config = debug.get_config()
  config.model.encoder.name = "resnet50"
  with pytest.raises(
    ValueError, match=r"'resnet50', expected one of resnet34_unet, deeplab"
  ):
    builders.build_encoder(config)


def test_encoder_gives_a_volume_of_the_image_size():
  config = debug.get_config()
  encoder = builders.build_encoder(config)
  image = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
  variables = init(encoder, jax.random.key(1), image)
  volume = apply(encoder, variables, image)
  assert volume.shape == (2, 32, 32, 4, 8)


def test_batch_norm_matches_pytorch_statistics():
  x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 5, 6))
  norm = layers.BatchNorm()
  variables = norm.init(jax.random.key(0), x, train=True)
  y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
  np.testing.assert_allclose(jnp.mean(y, (0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(jnp.std(y, (0, 1, 2)), 1, atol=1e-3)
  flat = np.asarray(x).reshape(-1, 6)
  stats = updated["batch_stats"]
  np.testing.assert_allclose(stats["mean"], 0.1 * flat.mean(0), rtol=1e-5)
  expected = 0.9 + 0.1 * flat.var(0, ddof=1)  # unbiased, as PyTorch stores it
  np.testing.assert_allclose(stats["var"], expected, rtol=1e-5)
  running = norm.apply({**variables, **updated}, x, train=False)
  by_hand = (flat - 0.1 * flat.mean(0)) / np.sqrt(expected + 1e-5)
  np.testing.assert_allclose(running.reshape(-1, 6), by_hand, rtol=1e-4)


def test_frozen_batch_norm_has_no_parameters_and_never_changes():
  x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
  norm = layers.BatchNorm(frozen=True)
  variables = norm.init(jax.random.key(0), x, train=True)
  assert "params" not in variables
  _, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
  jax.tree.map(
    np.testing.assert_array_equal,
    updated["batch_stats"],
    variables["batch_stats"],
  )


def blur_matrix(size: int) -> np.ndarray:
  """[1,3,3,1]/8 with stride 2 and reflection, row by row."""
  matrix = np.zeros((size // 2, size))
  for y in range(size // 2):
    for tap, weight in zip(
      range(2 * y - 1, 2 * y + 3), (1, 3, 3, 1), strict=True
    ):
      reflected = -tap if tap < 0 else tap
      reflected = 2 * size - 2 - reflected if reflected >= size else reflected
      matrix[y, reflected] += weight / 8
  return matrix


def test_blur_downsample_is_its_matrix():
  x = jax.random.normal(jax.random.key(0), (1, 8, 6, 2))
  expected = np.einsum("yh,xw,nhwc->nyxc", blur_matrix(8), blur_matrix(6), x)
  np.testing.assert_allclose(layers.blur_downsample(x), expected, atol=1e-6)


def test_blur_upsample_reproduces_a_line():
  """Away from the border, [1,3,3,1]/4 interpolates linearly at quarters."""
  x = jnp.arange(8.0).reshape(1, 8, 1, 1) * jnp.ones((1, 8, 8, 1))
  y = layers.blur_upsample(x)[0, 2:-2, 4, 0]
  np.testing.assert_allclose(y, np.arange(12) / 2 + 0.75, atol=1e-6)


def test_pixel_shuffle_order():
  x = jnp.arange(8.0).reshape(1, 1, 1, 8)  # two channels of 2x2
  y = layers.pixel_shuffle(x)
  np.testing.assert_array_equal(y[0, :, :, 0], [[0, 1], [2, 3]])
  np.testing.assert_array_equal(y[0, :, :, 1], [[4, 5], [6, 7]])


def test_icnr_starts_as_nearest_neighbour():
  conv = nn.Conv(12, (1, 1), kernel_init=layers.icnr)
  x = jax.random.normal(jax.random.key(0), (1, 3, 3, 5))
  y = conv.apply(conv.init(jax.random.key(1), x), x)
  shuffled = layers.pixel_shuffle(y)
  np.testing.assert_allclose(
    shuffled,
    jnp.repeat(jnp.repeat(shuffled[:, ::2, ::2], 2, 1), 2, 2),
    rtol=1e-6,
  )


@pytest.mark.parametrize("aggregate", ["after", "before"])
def test_field_ignores_views_that_do_not_see_a_point(aggregate):
  field = radiance_field.RadianceField(4, 8, 2, aggregate=aggregate)
  x = jax.random.normal(jax.random.key(0), (1, 3, 2, 5))
  seen = jnp.array([[[True, False], [True, False], [False, False]]])
  variables = field.init(jax.random.key(1), x, seen)
  density, features = field.apply(variables, x, seen)
  moved = x.at[0, 2].add(7.0)
  density_moved, features_moved = field.apply(variables, moved, seen)
  np.testing.assert_array_equal(density, density_moved)
  np.testing.assert_array_equal(features, features_moved)
  assert density[0, 0] > 0
  assert density[0, 1] == 0  # nobody sees it: empty
  swapped = field.apply(variables, x[:, ::-1], seen[:, ::-1])[0]
  np.testing.assert_allclose(density, swapped, rtol=1e-5)


def test_aggregating_before_and_after_differ_on_two_views():
  x = jax.random.normal(jax.random.key(0), (1, 2, 4, 5))
  seen = jnp.ones((1, 2, 4), bool)
  after = radiance_field.RadianceField(4, 8, 1)
  before = radiance_field.RadianceField(4, 8, 1, aggregate="before")
  variables = after.init(jax.random.key(1), x, seen)
  gap = after.apply(variables, x, seen)[0] - before.apply(variables, x, seen)[0]
  assert jnp.abs(gap).max() > 1e-4


def test_bfloat16_stays_close_and_keeps_float32_parameters():
  config = debug.get_config()
  exact = builders.build_encoder(config)
  config.model.dtype = "bfloat16"
  fast = builders.build_encoder(config)
  image = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
  variables = init(fast, jax.random.key(1), image)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  a = apply(exact, variables, image)
  b = apply(fast, variables, image)
  assert b.dtype == jnp.bfloat16
  scale = jnp.abs(a).max()
  assert jnp.abs(a - b).max() < 0.05 * scale
