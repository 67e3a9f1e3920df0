"""Prepared datasets: what they were made from, and what is known of them."""

import pathlib
import shutil

import numpy as np
import pytest
from absl import logging

from configs import debug
from genvs_jax.data import dataset_builders
from genvs_jax.data import datasets
from genvs_jax.data import loading
from tfds_srn.synthetic_cars import car_scenes


def write(folder: pathlib.Path, seed: int, views: int = 3) -> pathlib.Path:
  return car_scenes.write_scenes(
    folder,
    counts={"train": 3, "val": 2, "test": 1},
    size=32,
    views=views,
    spiral_splits=(),
    seed=seed,
    processes=1,
  )


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory) -> list[pathlib.Path]:
  """Two folders of one name that hold other scenes."""
  root = tmp_path_factory.mktemp("sources")
  return [write(root / name / "scenes", i) for i, name in enumerate("ab")]


@pytest.fixture
def config(tmp_path):
  config = debug.get_config()
  config.data.dataset = "folder"
  config.data.data_dir = str(tmp_path / "data")
  return config


def first_id(config) -> str:
  return datasets.load_split(config, "", "train")[0]["scene_id"].decode()


def test_two_sources_never_share_a_dataset(config, two_sources):
  a, b = map(str, two_sources)
  config.data.source = a
  datasets.prepare(config, "")
  scene = first_id(config)
  config.data.source = b
  message = r"made from something else: source '.*/a/scenes', now '.*/b/scenes'"
  for use in (
    lambda: datasets.prepare(config, ""),
    lambda: datasets.load_split(config, "", "train"),
  ):
    with pytest.raises(ValueError, match=message) as error:
      use()
    assert "--config.data.name=NAME" in str(error.value)
    assert "--rebuild" in str(error.value)
  # The two ways out.
  config.data.name = "b"
  datasets.prepare(config, "")
  assert first_id(config) != scene
  config.data.name = ""
  datasets.prepare(config, "", rebuild=True)
  assert first_id(config) != scene
  assert not list(pathlib.Path(config.data.data_dir).rglob("*.before"))


def test_other_planes_and_changed_scenes_are_noticed(
  config, two_sources, tmp_path
):
  source = tmp_path / "scenes"
  shutil.copytree(two_sources[0], source)
  config.data.source = str(source)
  datasets.prepare(config, "")
  datasets.prepare(config, "")  # the same: nothing to do
  config.data.near, config.data.far = 0.5, 2.5
  with pytest.raises(ValueError, match=r"near 0\.0, now 0\.5; far 0\.0, now"):
    datasets.load_split(config, "", "train")
  config.data.near = config.data.far = 0.0
  (scene, *_) = sorted((source / "cars_train").iterdir())
  shutil.copytree(scene, scene.with_name("f" * 32))
  with pytest.raises(ValueError, match="its files have changed"):
    datasets.prepare(config, "")
  datasets.prepare(config, "", rebuild=True)
  assert len(datasets.load_split(config, "", "train")) == 4


def test_a_named_kind_notices_another_source_too(config, two_sources):
  config.data.dataset = "cars"
  config.data.source = str(two_sources[0])
  datasets.prepare(config, "")
  config.data.source = str(two_sources[1])
  with pytest.raises(ValueError, match="made from something else"):
    datasets.prepare(config, "")


def test_a_rebuild_that_fails_leaves_the_old_dataset(
  config, two_sources, tmp_path
):
  source = tmp_path / "scenes"
  shutil.copytree(two_sources[0], source)
  config.data.source = str(source)
  datasets.prepare(config, "")
  scene = first_id(config)
  for path in source.rglob("000000.png"):
    path.write_bytes(b"")
  with pytest.raises(ValueError, match="problem"):
    datasets.prepare(config, "", rebuild=True)
  assert first_id(config) == scene


def test_a_rebuild_makes_the_newest_version(config, two_sources):
  """Beside one that an older version of the package made, or in its place."""
  config.data.source = str(two_sources[0])
  newest = pathlib.Path(datasets.prepare(config, ""))
  older = newest.with_name("1.0.0")
  shutil.copytree(newest, older)
  for path in older.glob("*.json"):
    text = path.read_text()
    named = (f'"version": "{folder.name}"' for folder in (newest, older))
    path.write_text(text.replace(*named))
  assert datasets.prepare(config, "", rebuild=True) == str(newest)
  assert newest.exists() and older.exists()
  shutil.rmtree(newest)
  assert datasets.prepare(config, "") == str(older)
  assert datasets.prepare(config, "", rebuild=True) == str(newest)
  assert newest.exists() and not older.exists()
  assert datasets.prepare(config, "") == str(newest)


def test_a_dataset_outlives_its_source(config, two_sources, tmp_path, caplog):
  source = tmp_path / "scenes"
  shutil.copytree(two_sources[0], source)
  config.data.source = str(source)
  folder = datasets.prepare(config, "")
  shutil.rmtree(source)
  assert datasets.prepare(config, "") == folder
  assert f"source {source} does not exist" in caplog.text


def test_identities_differ_by_scenes(config, two_sources):
  identities = []
  for name, source in zip("ab", two_sources, strict=True):
    config.data.name, config.data.source = name, str(source)
    datasets.prepare(config, "")
    identities.append(datasets.identity(config, ""))
  assert identities[0]["scenes"] != identities[1]["scenes"]
  first, second = (identity["made_from"] for identity in identities)
  assert first["listing"] != second["listing"]
  assert identities[0] != identities[1]


def test_all_scenes_are_known_before_the_first_step(
  config, two_sources, tmp_path, monkeypatch
):
  """Near, far and views of every scene, not of the first few alone."""
  source = tmp_path / "scenes"
  shutil.copytree(two_sources[0], source)
  last = sorted((source / "cars_train").iterdir())[-1]
  for path in last.rglob("000002.*"):
    path.unlink()
  for path in (last / "pose").iterdir():
    pose = np.loadtxt(path).reshape(4, 4)
    pose[:3, 3] *= 2
    path.write_text(" ".join(map(str, pose.ravel())))
  config.data.source = str(source)
  config.model.input_views = 2
  datasets.prepare(config, "")
  records = datasets.load_split(config, "", "train")
  with pytest.raises(ValueError, match="has 2 views, expected 3 or more"):
    loading.train_batches(config, records, start_step=0)
  warnings = []
  monkeypatch.setattr(logging, "warning", lambda m, *a: warnings.append(m % a))
  datasets.check_cameras(config, records)
  assert "near from 0.8 to 1.6, far from 1.8 to 3.6" in warnings[0]


def test_scenes_of_another_size_than_the_configs_are_warned_of(
  config, two_sources, monkeypatch
):
  config.data.source = str(two_sources[0])
  datasets.prepare(config, "")
  records = datasets.load_split(config, "", "train")
  warnings = []
  monkeypatch.setattr(logging, "warning", lambda m, *a: warnings.append(m % a))
  config.frustum.bounds = "scene"
  datasets.check_cameras(config, records)
  assert not warnings
  config.frustum.near, config.frustum.far = 6.0, 14.0
  datasets.check_cameras(config, records)
  assert "far - frustum.near is 4: meshes" in warnings[0]
  assert "--config.frustum.near=0.8 --config.frustum.far=1.8" in warnings[0]


def test_the_cube_needs_a_centred_principal_point(config, tmp_path):
  source = write(tmp_path / "scenes", 0)
  for path in source.rglob("intrinsics.txt"):
    path.write_text(path.read_text().replace(" 16.000000 ", " 18.000000 ", 1))
  config.data.source = str(source)
  datasets.prepare(config, "")
  records = datasets.load_split(config, "", "train")
  datasets.check_cameras(config, records)
  config.frustum.kind = "unit_cube"
  with pytest.raises(ValueError, match=r"6\.2 % of the image's width off"):
    datasets.check_cameras(config, records)


def test_planes_are_compared_without_a_source_too(config, two_sources):
  config.data.name, config.data.source = "named", str(two_sources[0])
  datasets.prepare(config, "")
  config.data.source = ""
  assert first_id(config)
  config.data.near, config.data.far = 0.5, 2.5
  with pytest.raises(ValueError, match=r"near 0\.0, now 0\.5"):
    datasets.load_split(config, "", "train")


def test_synthetic_datasets_take_a_name_as_well(config):
  config.data.dataset = "synthetic_cars"
  names = []
  for config.data.name in ("", "mine"):
    names.append(dataset_builders.build_builder(config, "").builder_config.name)
  assert names[1] == f"{names[0]}_mine"


def test_cameras_that_a_unit_cube_does_not_know_are_refused(config):
  config.frustum.kind = "unit_cube"
  size = (32, 32)
  datasets.check_principal_point(config, "x", np.array([40, 40, 16, 16]), size)
  off = np.array([40, 40, 20, 16])
  with pytest.raises(ValueError, match=r"x has its principal point 12\.5 %"):
    datasets.check_principal_point(config, "x", off, size)
  config.frustum.kind = "near_far"
  datasets.check_principal_point(config, "x", off, size)
