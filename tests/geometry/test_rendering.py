"""Volume rendering in closed form."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genvs_jax.geometry import rendering
from genvs_jax.geometry import volume_lookup

COUNTS = rendering.SampleCounts(64, 64)
FEATURE = jnp.array([0.2, 0.7])


def slab(start: float, end: float, density: float):
  """A field that is constant between two distances along the x axis."""

  def field(points):
    x = points[..., 0]
    inside = (x >= start) & (x <= end)
    return inside * density, jnp.broadcast_to(FEATURE, (*x.shape, 2))

  return field


def rays(count: int):
  origins = jnp.zeros((count, 3))
  directions = jnp.tile(jnp.array([1.0, 0, 0]), (count, 1))
  return origins, directions, jnp.full(count, 0.5), jnp.full(count, 1.5)


@pytest.mark.parametrize("density", [0.5, 3.0, 20.0])
def test_slab_of_constant_density(density):
  render = rendering.render_rays(slab(0.0, 9.0, density), *rays(1), COUNTS)
  # The last sample stands for one more coarse interval beyond the far end.
  length = 1 + 1 / 64
  opacity = 1 - np.exp(-density * length)
  np.testing.assert_allclose(render.opacity, [opacity], rtol=1e-4)
  np.testing.assert_allclose(
    render.features[0], opacity * FEATURE + (1 - opacity), rtol=1e-4
  )
  mean = 0.5 + 1 / density - length * (1 - opacity) / opacity
  np.testing.assert_allclose(
    render.weighted_depth / render.opacity, [mean], atol=0.02
  )


def test_density_learns_from_the_first_channels_alone():
  """The picture stays; what is behind the first channels moves no density."""

  def render(density, channels):
    return rendering.render_rays(
      slab(0.0, 9.0, density), *rays(1), COUNTS, density_channels=channels
    )

  for channels, moves in ((0, [False, False]), (1, [True, False])):
    given, all_of_it = render(3.0, channels), render(3.0, None)
    np.testing.assert_allclose(given.features, all_of_it.features, rtol=1e-6)
    tangent = jax.jacobian(lambda d, c=channels: render(d, c))(3.0)
    assert [bool(x) for x in tangent.features[0] != 0] == moves
    assert tangent.opacity[0] > 0 and tangent.weighted_depth[0] != 0


def test_second_pass_finds_a_thin_slab():
  """128 samples behave like far more: half of them land in the slab."""
  field = slab(0.93, 1.0, 400.0)
  render = rendering.render_rays(field, *rays(1), COUNTS)
  np.testing.assert_allclose(render.opacity, [1], atol=1e-3)
  np.testing.assert_allclose(render.weighted_depth, [0.935], atol=0.006)


def test_empty_space_is_white_and_a_miss_is_too():
  origins, directions, near, far = rays(2)
  missed = jnp.array([0.5, 1e9]), jnp.array([1.5, 1e9])
  del near, far
  render = rendering.render_rays(
    slab(5.0, 6.0, 1.0), origins, directions, *missed, COUNTS
  )
  np.testing.assert_allclose(render.features, 1)
  np.testing.assert_allclose(render.opacity, 0)
  np.testing.assert_allclose(render.weighted_depth, 0)


def test_products_are_of_full_precision_on_every_device():
  """TPUs and GPUs would round them: to bfloat16, to TensorFloat-32."""
  origins, *rest = rays(2)

  def depth(origins):
    field = slab(0.0, 9.0, 1.0)
    return rendering.render_rays(
      field, origins, *rest, COUNTS
    ).weighted_depth.sum()

  program = str(jax.make_jaxpr(jax.grad(depth))(origins))
  products = program.count("dot_general[")
  assert products == program.count("precision=(Precision.HIGHEST") > 0


def test_a_sample_does_not_shadow_itself():
  weights = rendering.compositing_weights(
    jnp.array([1e9, 1.0]), jnp.array([1.0, 2.0]), jnp.array(1.0)
  )
  np.testing.assert_allclose(weights, [1, 0], atol=1e-6)


def test_field_is_evaluated_once_per_sample():
  evaluated = []

  def field(points):
    evaluated.append(points.shape[-2])
    return slab(0.9, 1.2, 5.0)(points)

  rendering.render_rays(field, *rays(1), rendering.SampleCounts(10, 7))
  assert sum(evaluated) == 17


def test_fine_distances_follow_the_weights():
  """Nine tenths of the weight in one bin draws nine tenths of the samples."""
  distances = jnp.linspace(0.0, 1.0, 11)
  weights = jnp.zeros(11).at[3].set(0.9).at[7].set(0.1)
  fine = rendering.fine_distances(distances, weights, 1000, None)
  first = ((fine >= 0.25) & (fine <= 0.35)).mean()
  second = ((fine >= 0.65) & (fine <= 0.75)).mean()
  np.testing.assert_allclose([first, second], [0.9, 0.1], atol=2e-3)
  assert (jnp.diff(fine) >= 0).all()


def test_jitter_keeps_the_order_and_half_leaves_the_place():
  near, far = jnp.array([0.5]), jnp.array([1.5])
  plain = rendering.coarse_distances(near, far, 16, None)
  half = rendering.coarse_distances(near, far, 16, jnp.full((1, 16), 0.5))
  np.testing.assert_allclose(plain, half, rtol=1e-6)
  uniform = jax.random.uniform(jax.random.key(0), (1, 16))
  assert (
    jnp.diff(rendering.coarse_distances(near, far, 16, uniform)) > 0
  ).all()


FORMS = pytest.mark.parametrize("form", ["corners", "blocks"])


@FORMS
@pytest.mark.parametrize("align_corners", [True, False])
def test_lookup_is_exact_on_an_affine_volume(align_corners, form):
  shape = (5, 6, 7)
  h, w, d = jnp.meshgrid(*[jnp.arange(n) for n in shape], indexing="ij")
  volume = jnp.stack([h, w, d, 2 * h - w + 0.5 * d], -1).astype(jnp.float32)
  uvw = jax.random.uniform(jax.random.key(1), (50, 3), minval=-0.8, maxval=0.8)
  size = jnp.array([6, 5, 7])
  index = (uvw + 1) / 2 * (size - 1 if align_corners else size)
  index -= 0 if align_corners else 0.5
  u, v, depth = index.T
  expected = jnp.stack([v, u, depth, 2 * v - u + 0.5 * depth], -1)
  result = volume_lookup.trilinear_lookup(volume, uvw, align_corners, form)
  np.testing.assert_allclose(result, expected, atol=2e-5)


@FORMS
def test_lookup_continues_the_border(form):
  volume = jnp.arange(8.0).reshape(2, 2, 2, 1)
  result = volume_lookup.trilinear_lookup(
    volume, jnp.array([[-5.0, -5, -5], [5, 5, 5], [5, -5, -5]]), False, form
  )
  np.testing.assert_allclose(result[:, 0], [0, 7, 2])


@pytest.mark.parametrize(
  "shape",
  [(5, 4, 64, 16), (3, 3, 12, 16), (4, 2, 2, 200), (3, 4, 9, 3)],
  ids=["whole blocks", "a last one that overlaps", "two planes", "one block"],
)
def test_forms_of_the_lookup_agree(shape):
  """Values and gradients, also at voxels, at the border and beyond."""
  keys = jax.random.split(jax.random.key(3), 3)
  volume = jax.random.normal(keys[0], shape)
  inside = jax.random.uniform(keys[1], (300, 3), minval=-1.2, maxval=1.2)
  centres = jnp.linspace(-1, 1, shape[2])[:, None].repeat(3, 1)
  uvw = jnp.concatenate([inside, centres])
  cotangent = jax.random.normal(keys[2], (len(uvw), shape[-1]))
  results = []
  for form in ("corners", "blocks"):
    values, pull = jax.vjp(
      lambda v, form=form: volume_lookup.trilinear_lookup(v, uvw, True, form),
      volume,
    )
    results.append((values, *pull(cotangent)))
  for corners, blocks in zip(*results, strict=True):
    np.testing.assert_allclose(blocks, corners, atol=2e-5)


@FORMS
def test_gradients_of_a_narrow_volume_are_summed_in_float32(form):
  """A bfloat16 sum of ones stays at 256."""
  volume = jnp.zeros((3, 3, 9, 16), jnp.bfloat16)
  uvw = jnp.zeros((1000, 3))  # all at the voxel in the middle
  _, pull = jax.vjp(
    lambda v: volume_lookup.trilinear_lookup(v, uvw, True, form), volume
  )
  (gradient,) = pull(jnp.ones((1000, 16), jnp.bfloat16))
  np.testing.assert_allclose(gradient[1, 1, 4].astype(float), 1000, rtol=0.01)


def test_auto_is_the_form_of_the_platform():
  """As lowered for it, which needs no device."""
  volume = jax.ShapeDtypeStruct((4, 4, 64, 16), jnp.float32)
  uvw = jax.ShapeDtypeStruct((8, 3), jnp.float32)
  traced = jax.jit(volume_lookup.trilinear_lookup, static_argnums=2).trace(
    volume, uvw, False
  )
  widths = {
    platform: re.findall(
      r"slice_sizes = array<i64: ([\d, ]+)>",
      traced.lower(lowering_platforms=(platform,)).as_text(),
    )
    for platform in ("cpu", "cuda", "tpu")
  }
  assert widths["cpu"] == widths["cuda"] == 8 * ["1, 1, 1, 16"]
  assert widths["tpu"] == ["1, 128"]


def test_lookup_refuses_a_flat_volume():
  with pytest.raises(ValueError, match="two or more voxels"):
    volume_lookup.trilinear_lookup(
      jnp.zeros((2, 2, 1, 4)), jnp.zeros((1, 3)), True
    )


def test_gradient_matches_finite_differences():
  """Through lookup, both passes and the reordering of samples."""
  key = jax.random.key(0)
  volume = jax.random.normal(key, (3, 3, 3, 3))
  origins, directions, near, far = rays(1)
  directions = jnp.array([[0.9, 0.3, 0.3]])

  def loss(volume):
    def field(points):
      flat = points.reshape(-1, 3) - 0.9
      x = volume_lookup.trilinear_lookup(volume, flat, False)
      x = x.reshape(*points.shape[:-1], 3)
      return jax.nn.softplus(x[..., 0]), jax.nn.sigmoid(x[..., 1:])

    # No second pass moves here, so that differences are differentiable.
    uniforms = rendering.Uniforms(None, None)
    counts = rendering.SampleCounts(8, 8)
    out = rendering.render_rays(
      field, origins, directions, near, far, counts, uniforms
    )
    return jnp.sum(out.features * jnp.array([1.0, -2.0])) + out.opacity[0]

  with jax.enable_x64(True):
    volume = volume.astype(jnp.float64)
    direction = jax.random.normal(jax.random.key(1), volume.shape, jnp.float64)
    gradient = jnp.sum(jax.grad(loss)(volume) * direction)
    h = 1e-5
    change = (loss(volume + h * direction) - loss(volume - h * direction)) / (
      2 * h
    )
  # Fine distances move with the volume but carry no gradient by design, hence
  # not closer than this.
  np.testing.assert_allclose(gradient, change, rtol=0.05)


def test_weights_of_two_sets_are_those_of_the_sorted_whole():
  """Ties, sets that do not overlap and rays that miss are among them."""
  rng = np.random.default_rng(0)
  first = np.sort(rng.random((6, 5)), -1)
  second = np.sort(rng.random((6, 7)), -1)
  second[1] = np.sort(np.concatenate([first[1], [0.5, 0.5]]))
  second[2] += 1
  second[3] -= 1
  first[4], second[4] = 1e9, 1e9
  density = 5 * rng.random((6, 12))
  last = np.array([0.1, 0.2, 0.3, 0.4, 0.0, 0.6])
  weight = rng.random((6, 12))
  order = np.argsort(np.concatenate([first, second], -1), -1, kind="stable")

  def of_both(density):
    return jnp.concatenate(
      rendering.merged_compositing_weights(
        density[:, :5], first, density[:, 5:], second, last
      ),
      -1,
    )

  def of_sorted(density):
    weights = rendering.compositing_weights(
      jnp.take_along_axis(density, order, -1),
      np.take_along_axis(np.concatenate([first, second], -1), order, -1),
      last,
    )
    return jnp.zeros_like(density).at[np.arange(6)[:, None], order].set(weights)

  np.testing.assert_allclose(
    of_both(density), of_sorted(density), atol=1e-6, rtol=1e-5
  )
  result, expected = (
    jax.grad(lambda x, f=f: jnp.sum(f(x) * weight))(density)
    for f in (of_both, of_sorted)
  )
  np.testing.assert_allclose(result, expected, atol=1e-6, rtol=1e-5)


def test_bfloat16_volumes_are_summed_in_float32():
  """The gradient of 4096 ones in bfloat16 would stop growing at 256."""
  volume = jnp.ones((2, 2, 2, 1), jnp.bfloat16)
  at = jnp.full((4096, 3), -1.0)

  def loss(volume):
    values = volume_lookup.trilinear_lookup(volume, at, True)
    return jnp.sum(values.astype(jnp.float32))

  gradient = jax.grad(loss)(volume)
  assert gradient[0, 0, 0, 0] == 4096 and gradient.dtype == jnp.bfloat16
