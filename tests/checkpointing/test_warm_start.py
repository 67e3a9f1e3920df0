"""Starting from parts of other checkpoints, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genvs_jax.checkpointing import pretrained
from genvs_jax.checkpointing import warm_start
from genvs_jax.models import builders
from genvs_jax.models import image_v1
from genvs_jax.models import pipeline
from genvs_jax.runtime import sharding
from genvs_jax.training import startup


def denoiser(size, channels, depths, attention, features=4):
  """(a small network, its variables with random values everywhere)."""
  network = image_v1.ImageV1(channels, depths, attention, 8)
  shapes = jax.eval_shape(
    lambda: network.init(
      jax.random.key(0),
      jnp.zeros((1, size, size, 3)),
      jnp.ones(1),
      jnp.zeros((1, size, size, features)),
      jnp.zeros((1, 9)),
      train=False,
    )
  )
  rng = np.random.default_rng(size + features)
  return network, jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32) / 8, shapes
  )


@pytest.fixture(scope="module")
def fresh(debug_workdir):
  """A debug run's config, model and fresh state."""
  from configs import debug  # noqa: PLC0415

  config = debug.get_config()
  config.data.data_dir = f"{debug_workdir}/data"
  config.seed = 5
  model = builders.build_model(config)
  mesh = sharding.make_mesh(jax.devices()[:1])
  state = startup.init_on_devices(config, model, sharding.replicated(mesh))
  return config, model, state


def test_chosen_parts_start_from_the_checkpoint(fresh, trained_workdir):
  config, model, state = fresh
  config = config.copy_and_resolve_references()
  config.init_from.encoder = config.init_from.field = trained_workdir
  started = startup.take_over(config, model, state)
  trained = pretrained.load(trained_workdir).variables
  for part in ("encoder", "field"):
    jax.tree.map(
      np.testing.assert_array_equal,
      {"params": started.params[part], **started.buffers[part]},
      dict(trained[part]),
    )
    jax.tree.map(
      np.testing.assert_array_equal, started.ema[part], started.params[part]
    )
  assert started.params["denoiser"] is state.params["denoiser"]
  assert int(started.step) == 0


@pytest.mark.parametrize(
  "field, value",
  [
    ("model.image_range", (-1.0, 1.0)),
    ("frustum.near", 0.5),
    ("frustum.kind", "unit_cube"),
    ("model.field.skip", False),
  ],
)
def test_another_meaning_is_refused(fresh, trained_workdir, field, value):
  config, model, state = fresh
  config = config.copy_and_resolve_references()
  part = "field" if "field" in field else "encoder"
  config.init_from[part] = trained_workdir
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=f"was trained with {field} = "):
    startup.take_over(config, model, state)


def test_a_skip_of_images_may_come_later_but_not_go(fresh):
  config, _, _ = fresh
  with_skip = config.copy_and_resolve_references()
  with_skip.model.encoder.image_skip = True
  warm_start.check_meaning(with_skip, config, "encoder", "DIR")
  with pytest.raises(ValueError, match="image_skip = True, expected False"):
    warm_start.check_meaning(config, with_skip, "encoder", "DIR")


@pytest.mark.parametrize("name", ["resnet34_unet", "deeplabv3plus"])
def test_skipped_images_take_the_place_of_learned_colours(fresh, name):
  config = fresh[0].copy_and_resolve_references()
  config.model.encoder.name = name
  config.model.encoder.norm = "none"
  config.model.encoder.image_skip = True
  model = builders.build_model(config)
  encoder = jax.jit(
    lambda: builders.init_variables(model, jax.random.key(0), ("encoder",))
  )()["encoder"]
  images = jax.random.uniform(jax.random.key(1), (1, 1, 32, 32, 3))

  @jax.jit
  def encode(encoder):
    return pipeline.encode(model, {"encoder": encoder}, images)[0]

  before = encode(encoder)
  after = encode(warm_start.without_colours(encoder, config))
  np.testing.assert_allclose(
    jax.nn.sigmoid(after[..., :3]),
    jnp.broadcast_to(
      jnp.clip(images, 0.02, 0.98)[..., None, :], after[..., :3].shape
    ),
    atol=1e-5,
  )
  np.testing.assert_array_equal(after[..., 3:], before[..., 3:])
  assert np.abs(after - before)[..., :3].max() > 1e-3


def test_an_encoder_that_gains_the_skip_starts_from_the_image(
  fresh, trained_workdir
):
  config, _, state = fresh
  config = config.copy_and_resolve_references()
  config.model.encoder.image_skip = True
  config.init_from.encoder = trained_workdir
  started = startup.take_over(config, builders.build_model(config), state)
  stored = pretrained.load(trained_workdir).variables["encoder"]["params"]
  for name in ("kernel", "bias"):
    leaf, learned = (
      np.asarray(params["head"][name]).reshape(-1, 4, 8)
      for params in (started.params["encoder"], stored)
    )
    np.testing.assert_array_equal(leaf[..., :3], 0)
    np.testing.assert_array_equal(leaf[..., 3:], learned[..., 3:])


def test_a_widened_denoiser_draws_what_it_drew():
  narrow, stored = denoiser(8, (8, 16), (1, 1), (False, True), features=0)
  wide, variables = denoiser(8, (8, 16), (1, 1), (False, True), features=4)
  merged, report = warm_start.merge(variables, stored)
  assert report.widened == ["params/input/kernel"] and not report.fresh
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  features = jax.random.normal(jax.random.key(1), (2, 8, 8, 4))
  rest = (jnp.ones(2), jnp.zeros((2, 9)))

  def run(network, variables, features):
    return jax.jit(network.apply, static_argnames="train")(
      variables, x, rest[0], features, rest[1], train=False
    )

  before, _ = run(narrow, stored, features[..., :0])
  after, _ = run(wide, merged, features)
  np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_grown_denoiser_keeps_its_inner_levels():
  _, stored = denoiser(8, (8, 16), (1, 1), (False, True))
  _, variables = denoiser(16, (8, 8, 16), (1, 1, 1), (False, False, True))
  merged, report = warm_start.merge(variables, stored)
  assert report.fresh and all("_16_" in name for name in report.fresh)
  assert not report.unused
  jax.tree.map(
    np.testing.assert_array_equal,
    {name: merged["params"][name] for name in stored["params"]},
    stored["params"],
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    merged["params"]["down_16_block0"],
    variables["params"]["down_16_block0"],
  )


def test_what_nothing_explains_is_refused(fresh):
  config, model, _ = fresh
  report = warm_start.MergeReport(
    same=[],
    widened=[],
    fresh=["params/down_64_block0/conv1/kernel", "params/mapping0/kernel"],
    unused=["params/other/bias"],
  )
  with pytest.raises(ValueError) as caught:
    warm_start.check_explained(report, "denoiser", "DIR", model, 32)
  message = str(caught.value)
  assert "init_from.denoiser = DIR does not fit ImageV1" in message
  assert "mapping0/kernel is not in the checkpoint" in message
  assert "other/bias has no place in this run" in message
  assert "down_64" not in message  # a new outer level
  with pytest.raises(ValueError, match="down_64_block0"):
    warm_start.check_explained(report, "denoiser", "DIR", model, 64)
  del config


def test_the_entry_of_a_ddpmpp_level_is_new_when_grown():
  for name, size, outside in (
    ("params/encoder_64_down/conv0/kernel", 64, True),
    ("params/encoder_32_down/conv0/kernel", 64, False),
    ("params/decoder_128_block0/conv0/kernel", 64, True),
    ("params/decoder_64_up/conv0/kernel", 64, False),
  ):
    assert warm_start._is_outside(name, size) == outside, name


def test_shapes_that_no_rule_explains_are_refused():
  a, b = {"params": {"x": jnp.zeros(3)}}, {"params": {"x": jnp.zeros(4)}}
  with pytest.raises(ValueError, match=r"params/x has shape \(4,\)"):
    warm_start.merge(a, b)
