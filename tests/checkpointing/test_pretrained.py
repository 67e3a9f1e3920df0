"""Small checkpoints for use: what they keep, and how they are found."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from genvs_jax import config_fields
from genvs_jax import modes
from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import pretrained
from genvs_jax.convert import command as convert
from genvs_jax.data import dataset_builders
from genvs_jax.data import datasets
from genvs_jax.models import pipeline


@pytest.fixture(scope="module")
def small(trained_workdir, tmp_path_factory):
  """A small copy of a trained checkpoint, and the lines printed of it."""
  folder = str(tmp_path_factory.mktemp("small") / "tiny")
  lines = convert.convert(None, (), trained_workdir, folder, False)
  return folder, lines


def size_of(folder):
  return sum(
    p.stat().st_size for p in pathlib.Path(folder).rglob("*") if p.is_file()
  )


def test_a_small_copy_is_the_average_in_half_precision(small, trained_workdir):
  folder, lines = small
  ours, theirs = pretrained.load(folder), pretrained.load(trained_workdir)
  assert ours.step == theirs.step and ours.model == theirs.model
  for part, variables in theirs.variables.items():
    copy = dict(ours.variables[part])
    params = copy.pop("params")
    jax.tree.map(
      np.testing.assert_array_equal, copy, _without_params(variables)
    )
    for a, b in zip(
      jax.tree.leaves(params), jax.tree.leaves(variables["params"]), strict=True
    ):
      assert a.dtype == jnp.float32
      np.testing.assert_allclose(a, b, rtol=2**-11, atol=2**-25)
      np.testing.assert_array_equal(a, a.astype(jnp.float16))
  assert size_of(folder) < size_of(f"{trained_workdir}/checkpoints/8") / 2
  assert folder in lines[0] and "MiB" in lines[0]


def _without_params(variables):
  return {k: v for k, v in variables.items() if k != "params"}


def test_a_small_copy_names_no_folder_of_its_machine(small, trained_workdir):
  folder, _ = small
  text = pretrained.load(folder).config.to_json()
  assert (
    trained_workdir not in text and str(pathlib.Path(folder).parent) not in text
  )
  assert pretrained.load(folder).config.data.data_dir == "WORKDIR/data"
  parent = str(pathlib.Path(folder).parent).encode()
  for path in pathlib.Path(folder).rglob("*"):
    assert path.is_dir() or parent not in path.read_bytes(), path


def test_a_small_copy_finds_the_metrics_of_its_own_machine(
  trained_workdir, tmp_path
):
  genvs = pretrained.load(trained_workdir)
  genvs.config.evaluate.metric_weights = "/data/metrics"
  pretrained.save(str(tmp_path), genvs)
  copy = pretrained.load(str(tmp_path))
  assert copy.config.evaluate.metric_weights == "auto"


def test_a_run_without_an_average_has_a_small_copy_too(
  trained_workdir, tmp_path
):
  workdir, copy = str(tmp_path / "run"), str(tmp_path / "copy")
  raw = pretrained.load(trained_workdir, params="raw")
  config = raw.config.copy_and_resolve_references()
  config.train.ema, config.sampler.params = "none", "raw"
  params, buffers = pipeline.split_variables(raw.variables)
  saver = checkpoints.Checkpointer(f"{workdir}/{checkpoints.FOLDER}")
  saver.save(
    1, {"params": params, "buffers": buffers}, config_fields.to_dict(config)
  )
  saver.close()
  convert.convert(None, (), workdir, copy, False)
  genvs = pretrained.load(copy)
  assert genvs.config.sampler.params == "ema"
  for part, theirs in params.items():
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-10, atol=2**-24),
      genvs.variables[part]["params"],
      theirs,
    )


def test_what_is_made_for_a_checkpoint_heeds_what_is_set(debug_config):
  debug_config.data.data_dir = "/data"
  small = dataset_builders.with_one_split
  assert small(debug_config, "evaluate").data.data_dir == "WORKDIR/data"
  theirs = small(debug_config, "evaluate", overrides=("data.data_dir",))
  assert theirs.data.data_dir == "/data"
  debug_config.evaluate.baselines = True
  assert not small(debug_config, "evaluate").evaluate.baselines
  with pytest.raises(ValueError, match="baselines is True, but of training"):
    small(debug_config, "evaluate", overrides=("evaluate.baselines",))
  # Some of many scenes are never as many as are there.
  debug_config.evaluate.split = "test"
  debug_config.data.synthetic.test_scenes = 50
  for number in (3, 8, 40):
    synthetic = small(debug_config, "evaluate", number).data.synthetic
    assert number < synthetic.test_scenes < 50
  debug_config.sample.split = "val"
  with pytest.raises(ValueError, match=r"sample\.split is 'val', expected"):
    small(debug_config, "sample")


def test_what_half_precision_cannot_hold_is_refused(trained_workdir, tmp_path):
  genvs = pretrained.load(trained_workdir)
  field = genvs.variables["field"]
  huge = jax.tree.map(lambda x: x + 1e6, field["params"])
  genvs.variables["field"] = {**field, "params": huge}
  with pytest.raises(ValueError, match="expected at most 65504"):
    pretrained.save(str(tmp_path / "copy"), genvs)
  assert not (tmp_path / "copy").exists()


def test_a_model_of_the_package_is_found_by_its_name(
  small, monkeypatch, tmp_path
):
  folder, _ = small
  monkeypatch.setattr(checkpoints, "_PACKAGED", pathlib.Path(folder).parent)
  monkeypatch.chdir(tmp_path)
  assert checkpoints.packaged_names() == ["tiny"]
  assert pretrained.load("tiny").step == 8
  # A new workdir of that name is no checkpoint to resume.
  with pytest.raises(
    checkpoints.CheckpointError, match="no checkpoint in tiny"
  ):
    checkpoints.open_existing("tiny", None)
  with pytest.raises(checkpoints.CheckpointError, match="in it, or tiny"):
    pretrained.load("tine")
  (tmp_path / "tiny").mkdir()  # a folder of the user's goes before
  with pytest.raises(checkpoints.CheckpointError, match="found: none"):
    pretrained.load("tiny")


def using(checkpoint: str) -> modes.Command:
  return modes.Command(
    config=None,
    config_file=None,
    overrides=(),
    workdir="",
    checkpoint=checkpoint,
    step=None,
    skip_bad_scenes=False,
    rebuild=False,
    images="",
    limit=0,
    export="",
    host="localhost",
    port=0,
    topology="",
    largest_batch=False,
    started=0.0,
  )


@pytest.mark.parametrize("below", ["", "/checkpoints/8"])
def test_a_checkpoint_finds_the_scenes_of_its_run(
  small, debug_workdir, tmp_path, below
):
  run = tmp_path / "run"
  shutil.copytree(small[0], run)
  config = base.get_config()
  config.data.data_dir = "WORKDIR/data"
  command = using(f"{run}{below}")._replace(
    config=config, overrides=("data.data_dir",)
  )
  _, names = modes._of_checkpoint(command, ("evaluate",))
  assert names == ("prepare", "evaluate")
  (run / "data").symlink_to(f"{debug_workdir}/data")
  command, names = modes._of_checkpoint(command, ("evaluate",))
  assert names == ("evaluate",)
  assert command.config.data.data_dir == f"{run}/data"


@pytest.mark.parametrize("below", ["", "/checkpoints/8"])
def test_a_checkpoint_is_enough_to_draw(small, monkeypatch, tmp_path, below):
  """No config, no workdir, no data: its scenes are made."""
  folder, _ = small
  monkeypatch.chdir(tmp_path)
  command = using(folder + below)
  dataset, *lines, _ = modes.run(command, ("sample",))
  (film,) = [line for line in lines if line.startswith("turntable ")]
  assert "outputs/tiny/data" in dataset
  path = tmp_path / "outputs" / "tiny" / "samples" / "validation_0000"
  assert (path / "turntable.mp4").exists() and "turntable.mp4" in film
  # Of the other splits one scene each is made.
  records = datasets.load_split(
    dataset_builders.with_one_split(pretrained.load(folder).config, "sample"),
    str(tmp_path / "outputs" / "tiny"),
    "train",
  )
  assert len(records) == 1
  if below:
    return
  # Fields that are set change the checkpoint's config, and nothing else does.
  config = base.get_config()
  config.sample.scene, config.sample.frames = 1, 2
  command = command._replace(
    config=config, overrides=("sample.scene", "sample.frames")
  )
  modes.run(command, ("sample",))
  second = path.with_name("validation_0001")
  with np.load(second / "frames.npz") as arrays:
    assert len(arrays["images"]) == 2


def test_the_model_of_the_package_is_small_and_whole():
  folder = checkpoints._PACKAGED / "cars64-small"
  assert size_of(folder) < 16e6
  genvs = pretrained.load("cars64-small")
  assert set(genvs.variables) == {"encoder", "field", "denoiser"}
  assert genvs.model.image_size == 64 and genvs.model.target == "residual"
  finite = jax.tree.map(lambda x: bool(jnp.isfinite(x).all()), genvs.variables)
  assert all(jax.tree.leaves(finite))
  text = genvs.config.to_json()
  assert "/tmp" not in text and "/home" not in text
