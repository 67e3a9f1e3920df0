"""Checkpoints restore anywhere, or say why not."""

import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cars64
from genvs_jax import config_fields
from genvs_jax import config_history
from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import pretrained
from genvs_jax.models import builders
from genvs_jax.runtime import sharding
from genvs_jax.training import startup


def test_config_survives_the_round_trip():
  config = cars64.get_config()
  values = config_fields.to_dict(config)
  again = config_history.from_dict(values)
  assert again.to_dict() == config.to_dict()
  assert isinstance(again.model.denoiser.channels, tuple)


@pytest.mark.parametrize("below", ["", "checkpoints", "checkpoints/8"])
def test_restores_without_the_workdir(trained_workdir, tmp_path, below):
  """Copied elsewhere, from any of the three paths, onto other devices."""
  copy = tmp_path / "elsewhere"
  shutil.copytree(f"{trained_workdir}/checkpoints", copy / "checkpoints")
  checkpointer, step = checkpoints.open_existing(str(copy / below), None)
  assert step == 8
  config = checkpointer.read_config(step)
  assert config.model.image_size == 32
  model = builders.build_model(config)
  abstract = jax.eval_shape(lambda: startup.init_state(config, model))
  mesh = sharding.make_mesh(jax.devices()[:4])
  state = checkpointer.restore(
    step, checkpoints.abstract_like(abstract, sharding.replicated(mesh))
  )
  leaf = state.params["encoder"]["head"]["kernel"]
  assert len(leaf.sharding.device_set) == 4
  assert int(state.step) == 8


def test_an_older_step_can_be_named(trained_workdir):
  checkpointer, step = checkpoints.open_existing(trained_workdir, 4)
  assert step == 4
  del checkpointer
  with pytest.raises(checkpoints.CheckpointError, match=r"step 5 .*4, 8"):
    checkpoints.open_existing(trained_workdir, 5)


def test_missing_checkpoints_are_named(tmp_path):
  with pytest.raises(checkpoints.CheckpointError, match="expected a workdir"):
    checkpoints.open_existing(str(tmp_path / "nowhere"), None)
  with pytest.raises(checkpoints.CheckpointError, match="found: none"):
    checkpoints.open_existing(str(tmp_path), None)


def test_reading_leaves_a_save_in_flight_alone(trained_workdir, tmp_path):
  shutil.copytree(f"{trained_workdir}/checkpoints", tmp_path / "checkpoints")
  under_way = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
  under_way.mkdir()
  checkpointer, step = checkpoints.open_existing(str(tmp_path), None)
  checkpointer.read_config(step)
  checkpointer.close()
  assert step == 8
  assert under_way.exists()


def test_latest_and_every_nth_are_kept(tmp_path):
  checkpointer = checkpoints.Checkpointer(
    str(tmp_path), keep_latest=2, keep_every=4
  )
  for step in range(1, 11):
    checkpointer.save(step, {"x": jnp.full(3, step)}, {"a": 1})
  checkpointer.close()
  steps = sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit())
  assert steps == [4, 8, 9, 10]


@pytest.mark.parametrize("highest, best", [(True, 2), (False, 3)])
def test_the_best_is_kept(tmp_path, highest, best):
  checkpointer = checkpoints.Checkpointer(
    str(tmp_path),
    keep_every=1000,
    best_metric="psnr",
    highest_is_best=highest,
  )
  scores = {1: 20.0, 2: 30.0, 3: 10.0, 4: 25.0, 6: 15.0}
  for step in range(1, 7):
    metrics = {"psnr": scores[step]} if step in scores else None
    checkpointer.save(step, {"x": jnp.zeros(1)}, {}, metrics)
  checkpointer.close()
  steps = sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit())
  assert steps == [best, 6]


def test_an_older_format_serves_for_its_weights_alone(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoints, "FORMAT_VERSION", 1)
  checkpointer = checkpoints.Checkpointer(str(tmp_path))
  checkpointer.save(1, {"x": jnp.zeros(1)}, {"a": 1})
  checkpointer.wait()
  monkeypatch.undo()
  assert checkpointer.read_config(1).a == 1
  with pytest.raises(checkpoints.CheckpointError, match="--config\\.init_f"):
    checkpointer.read_config(1, to_resume=True)


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoints, "FORMAT_VERSION", 99)
  checkpointer = checkpoints.Checkpointer(str(tmp_path))
  checkpointer.save(1, {"x": jnp.zeros(1)}, {"a": (1, 2)})
  checkpointer.close()
  monkeypatch.undo()
  checkpointer, step = checkpoints.open_existing(str(tmp_path), None)
  with pytest.raises(checkpoints.CheckpointError, match="version 99, expected"):
    checkpointer.read_config(step)


def test_saved_values_are_those_at_the_time_of_saving(tmp_path):
  """Saving is asynchronous and the train step donates its state."""
  step = jax.jit(lambda x: x + 1, donate_argnums=0)
  x = jnp.zeros((300, 300))
  checkpointer = checkpoints.Checkpointer(str(tmp_path), keep_latest=5)
  for i in range(4):
    checkpointer.save(i, {"x": x}, {})
    x = step(x)
  checkpointer.close()
  again = checkpoints.Checkpointer(str(tmp_path), keep_latest=5)
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  for i in range(4):
    restored = again.restore(i, checkpoints.abstract_like({"x": x}, place))
    np.testing.assert_array_equal(restored["x"], i)


def test_a_config_of_an_older_version_is_named(trained_workdir, monkeypatch):
  read = checkpoints.Checkpointer.read_config

  def without_field(self, step):
    config = read(self, step)
    with config.unlocked():
      del config.diffusion.null_noise
    return config

  monkeypatch.setattr(checkpoints.Checkpointer, "read_config", without_field)
  with pytest.raises(ValueError, match=r"lacks a field .*null_noise.* older"):
    pretrained.load(trained_workdir)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("highest", [True, False])
def test_a_score_that_is_not_finite_never_costs_the_best(
  tmp_path, bad, highest
):
  checkpointer = checkpoints.Checkpointer(
    str(tmp_path),
    keep_latest=1,
    keep_every=1000,
    best_metric="psnr",
    highest_is_best=highest,
  )
  scores = (20.0, bad, 15.0, 14.0) if highest else (4.0, bad, 5.0, 6.0)
  for step, score in enumerate(scores, 1):
    checkpointer.save(step, {"x": np.ones(2)}, {}, {"psnr": score})
    checkpointer.wait()
  checkpointer.close()
  steps = sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit())
  assert steps == [1, 4]


def test_a_step_that_contradicts_the_path_is_refused(trained_workdir):
  path = f"{trained_workdir}/checkpoints/4"
  with pytest.raises(
    checkpoints.CheckpointError, match="checkpoint of step 4, but --step is 8"
  ):
    checkpoints.open_existing(path, 8)
  reader, step = checkpoints.open_existing(path, 4)
  reader.close()
  assert step == 4


def test_reading_says_nothing_of_its_own(trained_workdir, caplog):
  pretrained.load(trained_workdir)
  assert "read only" not in caplog.text
