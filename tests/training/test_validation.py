"""Scores of fixed scenes, against closed forms."""

import numpy as np
import pytest

from configs import cars64
from configs import paper128
from genvs_jax.data import datasets
from genvs_jax.diffusion import edm
from genvs_jax.images import metrics
from genvs_jax.models import builders
from genvs_jax.sampling import view_synthesis
from genvs_jax.training import startup
from genvs_jax.training import validation


@pytest.fixture(scope="module")
def untrained(debug_workdir):
  """(config, model, variables) whose denoiser is still F = 0."""
  from configs import debug  # noqa: PLC0415

  config = debug.get_config()
  config.data.data_dir = f"{debug_workdir}/data"
  config.validation.sigmas = (0.1, 2.0)
  config.validation.scenes = 2
  model = builders.build_model(config)
  state = startup.init_on_devices(config, model)
  return config, model, state.variables("ema")


def test_scores_of_an_untrained_model(untrained):
  config, model, variables = untrained
  scores = validation.build_validation(config, model, "")(variables)
  scenes = validation.load_scenes(config, "", 2)
  truth = scenes.target / np.float32(255)
  # With F = 0 the denoiser is D = c_skip (x0 + sigma n).
  errors = []
  for sigma in (0.1, 2.0):
    skip = edm.scalings(sigma, model.sigma_data).skip
    expected = np.mean((skip - 1) ** 2 * truth**2) + (skip * sigma) ** 2
    error = scores[f"denoising_error_sigma_{sigma:g}"]
    np.testing.assert_allclose(error, expected, rtol=0.1)
    errors.append(error)
  np.testing.assert_allclose(
    scores["denoising_error"], np.mean(errors), rtol=1e-5
  )
  views = view_synthesis.build_render(model)(
    variables, scenes.inputs, scenes.target_pose
  )
  np.testing.assert_allclose(
    scores["psnr_render"],
    np.mean(metrics.psnr(views.rgb[:, 0], truth)),
    rtol=1e-4,
  )


def test_scores_are_the_same_each_time(untrained):
  config, model, variables = untrained
  validate = validation.build_validation(config, model, "")
  assert validate(variables) == validate(variables)


def test_targets_are_not_among_the_inputs(untrained):
  config, _, _ = untrained
  scenes = validation.load_scenes(config, "", 2)
  poses = scenes.inputs["poses"]
  assert poses.shape == (2, 2, 4, 4)
  apart = np.abs(poses - scenes.target_pose).max((2, 3))
  assert (apart > 0.01).all()


def test_the_best_is_by_a_score_that_the_objective_has(untrained):
  config, _, _ = untrained
  config = config.copy_and_resolve_references()
  assert validation.build_ranking(config) == ("psnr_render", True)
  config.checkpoint.best_metric = "psnr"
  with pytest.raises(ValueError, match="'psnr', expected one of '', auto,"):
    validation.build_ranking(config)
  config.checkpoint.best_metric = "psnr_render"
  config.objective.name = "diffusion"
  with pytest.raises(ValueError, match="does not measure: choose denoising_er"):
    validation.build_ranking(config)
  config.checkpoint.best_metric = "auto"
  assert validation.build_ranking(config) == ("denoising_error", False)
  config.validation.scenes = 0
  assert validation.build_ranking(config).metric == ""


def test_auto_ranks_by_what_the_objective_trains():
  """The paper's recipe asks nothing of the render's colours."""
  assert validation.build_ranking(paper128.get_config()) == (
    "denoising_error",
    False,
  )
  assert validation.build_ranking(cars64.get_config()) == ("psnr_render", True)


def test_the_target_is_never_an_input(untrained, monkeypatch, caplog):
  """Also where the middle view is one; scenes of too few views are left out."""
  config, _, _ = untrained
  records = datasets.load_split(config, "", "validation")

  def cut(record, views):
    one = ("scene_id", "near", "far", "category")
    return {k: v if k in one else v[:views] for k, v in record.items()}

  scenes = [cut(records[0], 3), cut(records[1], 2), cut(records[2], 1)]
  monkeypatch.setattr(datasets, "load_split", lambda *args: scenes)
  loaded = validation.load_scenes(config, "", 3)
  assert loaded.numbers.tolist() == [0]
  np.testing.assert_array_equal(
    loaded.target_pose[0, 0], records[0]["poses"][2]
  )
  assert "validation scene 1 has 2 views and is left out" in caplog.text
  monkeypatch.setattr(datasets, "load_split", lambda *args: scenes[1:])
  with pytest.raises(ValueError, match="no validation scene has 3 views or"):
    validation.load_scenes(config, "", 3)
