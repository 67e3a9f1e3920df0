"""The table of what fields decide, and configs that older versions wrote."""

import importlib
import pathlib
import tarfile

import jax
import numpy as np
import pytest

from configs import base
from configs import debug
from genvs_jax import config_fields
from genvs_jax import config_history
from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import pretrained
from genvs_jax.convert import recognize
from genvs_jax.training import loop

ROOT = pathlib.Path(__file__).parents[1]
# Written by the version before the fields were renamed; step 2.
OLD = ROOT / "tests" / "checkpointing" / "checkpoint_of_version_2.tar.xz"


@pytest.fixture(scope="module")
def old_workdir(tmp_path_factory) -> str:
  folder = tmp_path_factory.mktemp("old")
  with tarfile.open(OLD) as archive:
    archive.extractall(folder, filter="data")
  return str(folder)


def test_every_field_has_one_role():
  fields = set(config_fields.flatten(base.get_config()))
  assert set(config_fields.ROLES) == fields
  listed = " ".join(config_fields._FIELDS_BY_ROLE.values()).split()
  assert len(listed) == len(set(listed))
  selectors = {s for s, _ in config_fields._ACTS_IF.values()}
  assert {*config_fields._ACTS_IF, *config_fields._AGREED, *selectors} <= fields
  assert set(config_history.RENAMED.values()) <= fields
  assert not set(config_history.RENAMED) & fields
  # What a converted file decides is what weights mean, or how they are drawn.
  roles = {config_fields.ROLES[f] for f in recognize._REFERENCE_MEANING}
  assert roles == {config_fields.MEANING, config_fields.PICTURE}


def test_selectors_have_the_values_of_the_table():
  """Each value of the table is one that some recipe could have."""
  from genvs_jax.models import builders  # noqa: PLC0415

  registries = {
    "frustum.kind": builders.FRUSTA,
    "model.encoder.name": builders.ENCODERS,
    "model.denoiser.name": builders.DENOISERS,
  }
  for selector, values in config_fields._ACTS_IF.values():
    if selector in registries:
      assert set(values) < set(registries[selector])


@pytest.mark.parametrize(
  "path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem
)
def test_recipes_set_no_field_that_is_idle_there(path):
  recipe = importlib.import_module(f"configs.{path.stem}").get_config()
  ours = config_fields.flatten(recipe)
  neutral = config_fields.flatten(base.get_config())
  changed = {name for name in ours if ours[name] != neutral[name]}
  idle = {n for n in changed if not config_fields.acts(recipe, n)}
  # Stages are told from their recipe by the objective alone.
  assert not {n for n in idle if not n.startswith("objective.")}


def test_idle_overrides_are_refused():
  config = debug.get_config()
  config.rollout.policy = "nearest"
  with pytest.raises(
    ValueError,
    match=r"rollout\.random_views has no effect with rollout\.policy ="
    r" 'nearest'.* to 'reference'",
  ):
    config_fields.check_overrides(config, ["rollout.random_views"])
  config_fields.check_overrides(config, ["rollout.nearest_views"])
  with pytest.raises(
    ValueError, match=r"guidance_interval has no effect with .*guidance = 1:"
  ):
    config_fields.check_overrides(config, ["sampler.guidance_interval"])
  stages = ["train.render_steps", "train.one_view_steps"]
  config.train.one_view_steps = 5
  with pytest.raises(ValueError, match=r"one_view_steps has no effect with"):
    config_fields.check_overrides(config, stages)
  config.train.one_view_steps = 0
  config_fields.check_overrides(config, stages)
  config.data.dataset, config.data.source = "cars", "cars.zip"
  with pytest.raises(ValueError, match=r"no effect beside data\.source"):
    config_fields.check_overrides(config, ["data.url", "data.source"])
  config.data.source = ""
  config_fields.check_overrides(config, ["data.url"])
  config.sampler.guidance = 2.0
  config_fields.check_overrides(config, ["sampler.guidance_interval"])


def test_a_run_resumes_only_with_the_same_meaning_and_state():
  config, stored = debug.get_config(), debug.get_config()
  config.train.steps = 99
  config.train.ema = "inverse_power"  # another average, but an average
  config.model.dtype = "bfloat16"
  assert config_fields.changed(config, stored) == (
    [],
    [
      "model.dtype = 'float32', here 'bfloat16'",
      "train.ema = 'half_life', here 'inverse_power'",
      "train.steps = 8, here 99",
    ],
  )
  config.train.ema = "none"
  config.frustum.near = 0.5
  forbidden, _ = config_fields.changed(config, stored)
  assert forbidden == [
    "frustum.near = 0.8, here 0.5",
    "train.ema = 'half_life', here 'none'",
  ]


def test_parts_are_taken_over_only_with_the_same_meaning():
  config, stored = debug.get_config(), debug.get_config()
  stored.frustum.far = 2.0
  stored.diffusion.sigma_data = 0.2
  stored.frustum.min_near = 0.1  # of the other kind of frustum
  assert config_fields.disagreements(config, stored, "encoder") == {
    "frustum.far": (1.8, 2.0)
  }
  assert config_fields.disagreements(config, stored, "denoiser") == {
    "diffusion.sigma_data": (0.5, 0.2)
  }


def test_a_checkpoint_decides_what_its_weights_mean():
  config, stored = debug.get_config(), debug.get_config()
  stored.model.depth_planes = 32
  stored.rendering.coarse_samples = 7
  config.sampler.steps = 5
  used = config_fields.with_checkpoint(config, stored, ["sampler.steps"])
  assert used.model.depth_planes == 32
  assert (
    used.rendering.coarse_samples == 7
  )  # of the checkpoint, not of --config
  assert used.sampler.steps == 5
  config.rendering.coarse_samples = 9
  used = config_fields.with_checkpoint(
    config, stored, ["rendering.coarse_samples"]
  )
  assert used.rendering.coarse_samples == 9
  assert stored.rendering.coarse_samples == 7
  with pytest.raises(ValueError, match=r"depth_planes is 4, but the check"):
    config_fields.with_checkpoint(config, stored, ["model.depth_planes"])


def test_names_of_older_versions_are_understood(old_workdir):
  loaded = pretrained.load(old_workdir)
  assert set(config_fields.flatten(loaded.config)) == set(config_fields.ROLES)
  assert loaded.config.objective.weighting == "edm"
  assert loaded.config.sampler.params == "ema"
  assert loaded.config.diffusion.schedule == ()
  raw = pretrained.load(old_workdir, params="raw")
  apart = [
    np.abs(np.asarray(a) - np.asarray(b)).max()
    for a, b in zip(
      jax.tree.leaves(loaded.variables),
      jax.tree.leaves(raw.variables),
      strict=True,
    )
  ]
  assert max(apart) > 0
  values = config_history.from_dict({"sampler": {"weights": "params"}})
  assert values.sampler.params == "raw"
  for same, noise in ((True, "screen"), (False, "own")):
    values = config_history.from_dict({"rollout": {"same_noise": same}})
    assert values.rollout.noise == noise and "same_noise" not in values.rollout


@pytest.mark.slow
def test_a_run_of_an_older_version_goes_on(old_workdir, debug_workdir):
  reader, step = checkpoints.open_existing(old_workdir, None)
  config = reader.read_config(step, to_resume=True)
  reader.close()
  config.data.data_dir = f"{debug_workdir}/data"
  config.train.steps = 3
  state = loop.train_and_evaluate(config, old_workdir, jax.devices()[:1])
  assert int(state.step) == 3


def test_fields_of_training_are_refused_at_use():
  config_fields.check_training_overrides(["sampler.steps", "rendering.size"])
  with pytest.raises(ValueError, match=r"train\.steps has no effect on a trai"):
    config_fields.check_training_overrides(["sampler.steps", "train.steps"])
