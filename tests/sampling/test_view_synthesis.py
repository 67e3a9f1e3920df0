"""Drawing views: reproducible, independent of the batch, scored right."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genvs_jax.data import datasets
from genvs_jax.data import decoding
from genvs_jax.images import grids
from genvs_jax.models import builders
from genvs_jax.runtime import writers
from genvs_jax.sampling import view_grids
from genvs_jax.sampling import view_synthesis


@pytest.fixture(scope="module")
def drawn(drawing):
  """(config, model, variables, synthesize, batch) with random weights."""
  config, model, variables = drawing
  config = config.copy_and_resolve_references()
  config.sampler.churn = 0.3
  records = datasets.load_split(config, "", "validation")
  decoded = [decoding.decode_views(r, [0, 1], 32, "area") for r in records]
  batch = {k: np.stack([d[k] for d in decoded]) for k in decoded[0]}
  synthesize = view_synthesis.build_synthesize(config, model)
  return config, model, variables, synthesize, batch


def inputs_of(batch, rows):
  return {
    "images": batch["images"][rows, :1],
    "poses": batch["poses"][rows, :1],
    "intrinsics": batch["intrinsics"][rows, :1],
  }


def test_a_view_does_not_depend_on_its_batch(drawn):
  _, _, variables, synthesize, batch = drawn
  rows = np.arange(3)
  keys = view_synthesis.view_keys(0, rows, np.arange(1))
  together = synthesize(
    variables, inputs_of(batch, rows), batch["poses"][:, 1:], keys
  )
  alone = synthesize(
    variables, inputs_of(batch, rows[2:]), batch["poses"][2:, 1:], keys[2:]
  )
  assert together.estimates is None
  for a, b in zip(together[:4], alone[:4], strict=True):
    np.testing.assert_allclose(a[2:], b, atol=1e-4)
  assert jnp.abs(together.sample[0] - together.sample[1]).max() > 0.1


def test_seed_scene_and_frame_change_the_noise():
  keys = [
    view_synthesis.view_keys(seed, np.array([scene]), np.array([frame]))[0, 0]
    for seed in (0, 1)
    for scene in (0, 1)
    for frame in (0, 1)
  ]
  assert len({int(jax.random.bits(k)) for k in keys}) == 8


def test_pictures_are_in_range_and_of_the_image_size(drawn):
  _, _, variables, synthesize, batch = drawn
  keys = view_synthesis.view_keys(0, np.arange(3), np.arange(1))
  views = synthesize(
    variables, inputs_of(batch, np.arange(3)), batch["poses"][:, 1:], keys
  )
  assert views.sample.shape == views.rgb.shape == (3, 1, 32, 32, 3)
  assert views.weighted_depth.shape == views.opacity.shape == (3, 1, 32, 32)
  for x in (views.sample, views.rgb, views.opacity):
    assert x.min() >= 0 and x.max() <= 1


def test_render_alone_is_the_render_of_the_samples(drawn):
  _, model, variables, synthesize, batch = drawn
  rows, poses = np.arange(3), batch["poses"][:, 1:]
  keys = view_synthesis.view_keys(0, rows, np.arange(1))
  both = synthesize(variables, inputs_of(batch, rows), poses, keys)
  alone = view_synthesis.build_render(model)(
    variables, inputs_of(batch, rows), poses
  )
  assert alone.sample is None
  np.testing.assert_allclose(both.rgb, alone.rgb, atol=1e-6)
  np.testing.assert_allclose(
    both.weighted_depth, alone.weighted_depth, atol=1e-5
  )


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_residuals_are_sampled_from_the_render_on(drawn, guidance):
  """With next to no noise the render itself is drawn."""
  config, _, variables, _, batch = drawn
  config = config.copy_and_resolve_references()
  config.diffusion.target, config.diffusion.units = "residual", "sigma_data"
  config.sampler.sigma_min, config.sampler.sigma_max = 1e-5, 1e-3
  config.sampler.guidance = guidance
  model = builders.build_model(config)
  draw = view_synthesis.build_synthesize(config, model)
  rows = np.arange(3)
  keys = view_synthesis.view_keys(0, rows, np.arange(1))
  views = draw(variables, inputs_of(batch, rows), batch["poses"][:, 1:], keys)
  np.testing.assert_allclose(views.sample, views.rgb, atol=3e-3)
  assert views.rgb.std() > 0.05
  with pytest.raises(ValueError, match="needs an input view"):
    view_synthesis.build_unconditional(config, model)


def test_unknown_sampler_is_refused(drawn):
  config, model, *_ = drawn
  config = config.copy_and_resolve_references()
  config.sampler.name = "ddim"
  with pytest.raises(
    ValueError, match="'ddim', expected one of euler, heun, dpmpp_2m, renoise"
  ):
    view_synthesis.build_synthesize(config, model)


def test_sheets_put_pictures_where_they_belong():
  red = np.zeros((16, 16, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
  blue = red[..., ::-1]
  sheet = grids.image_grid([("a", [red, blue]), ("b", [blue])])
  assert (sheet[48, 84 + 48] == [255, 0, 0]).all()
  assert (sheet[48, 84 + 98 + 48] == [0, 0, 255]).all()
  assert (sheet[98 + 48, 84 + 48] == [0, 0, 255]).all()
  assert (sheet[98 + 48, 84 + 98 + 48] == 255).all()


def test_depth_pictures_are_dark_where_near_and_white_where_empty():
  depth, opacity = np.array([[0.8, 1.8, 0.0]]), np.array([[1.0, 1.0, 0.0]])
  view = view_synthesis.Views(None, depth, depth * opacity, opacity)
  picture = view_grids.shade_depth(view, 0.8, 1.8)
  np.testing.assert_allclose(picture[0, :, 0], [0, 255, 255])


def test_metrics_of_a_cut_run_are_dropped(tmp_path):
  first = writers.Writer(str(tmp_path), 0)
  for step in (1, 2, 3):
    first.write_scalars(step, {"loss": step})
  first.close()
  path = tmp_path / writers.METRICS_FILE
  path.write_text(path.read_text() + '{"step": 4, "lo')  # killed in a write
  second = writers.Writer(str(tmp_path), 2)
  second.write_scalars(3, {"loss": 30})
  second.close()
  assert path.read_text().splitlines() == [
    '{"step": 1, "loss": 1.0}',
    '{"step": 2, "loss": 2.0}',
    '{"step": 3, "loss": 30.0}',
  ]
  quiet = writers.Writer(str(tmp_path / "quiet"), 0, active=False)
  quiet.write_scalars(1, {"loss": 1.0})
  assert not pathlib.Path(tmp_path / "quiet").exists()
