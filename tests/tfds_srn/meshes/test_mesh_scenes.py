"""Scenes of models: found, shared out, rendered once, and their dataset."""

import dataclasses
import functools
import json
import shutil
import zipfile

import numpy as np
import pytest
import trimesh

import tfds_srn
from tests.tfds_srn import test_synthetic
from tfds_srn import camera_poses
from tfds_srn import scenes
from tfds_srn import splits
from tfds_srn import srn_writer
from tfds_srn import tfds_srn_dataset_builder as srn
from tfds_srn.meshes import mesh_scenes
from tfds_srn.meshes import model_files

OPTIONS = mesh_scenes.Options(image_size=16, views=2)


@pytest.fixture
def source(tmp_path):
  """Five models in folders and in a zip file."""
  root = tmp_path / "source"
  for name in ("box.stl", "deep/er/ball.ply", "chair/chair.glb", "rod.off"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    trimesh.creation.box((1, 2, len(name))).export(path)
  trimesh.creation.icosphere(1).export(tmp_path / "zipped.obj")
  with zipfile.ZipFile(root / "more.zip", "w") as archive:
    archive.write(tmp_path / "zipped.obj", "inside/zipped.obj")
  (root / "notes.txt").write_text("no model")
  return root


def ids(files) -> list[str]:
  return [file.object_id for file in files]


def test_models_are_found_in_folders_and_zip_files(source, tmp_path):
  files = model_files.find_models(str(source), tmp_path / "unpacked")
  assert ids(files) == [
    "box",
    "chair",
    "deep_er_ball",
    "more_inside_zipped",
    "rod",
  ]
  assert all(file.path.exists() for file in files)
  # Two formats of one model are two; a file and a zip can be named alone.
  shutil.copy(source / "box.stl", source / "box.off")
  named = f"{source / 'box.stl'}, {source / 'more.zip'}"
  assert ids(model_files.find_models(named, tmp_path / "unpacked")) == [
    "box",
    "more_inside_zipped",
  ]
  both = ids(model_files.find_models(str(source), tmp_path / "unpacked"))
  assert {"box", "box_stl"} < set(both)
  with pytest.raises(ValueError, match=r"there is no such folder"):
    model_files.find_models(str(tmp_path / "gone"), tmp_path)
  with pytest.raises(ValueError, match=r"no models in .*expected \.glb"):
    model_files.find_models(f"{source / 'notes.txt'}", tmp_path)


def test_names_in_zip_files_do_not_lead_out_of_the_folder(tmp_path):
  with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
    archive.writestr("../../evil.stl", "solid")
  model_files.find_models(str(tmp_path / "evil.zip"), tmp_path / "a" / "b")
  inside = [p for p in tmp_path.rglob("evil.stl")]
  assert inside and all(tmp_path / "a" / "b" in p.parents for p in inside)


def test_each_model_is_in_one_split(source, tmp_path):
  files = model_files.find_models(str(source), tmp_path)
  shares = model_files.share_out(files, "", 0.2, seed=3)
  assert sorted(ids(f for g in shares.values() for f in g)) == ids(files)
  assert [len(shares[s]) for s in splits.SPLITS] == [3, 1, 1]
  assert model_files.share_out(files, "", 0.2, seed=3) == shares
  others = [model_files.share_out(files, "", 0.2, seed) for seed in range(9)]
  assert len({ids(share["test"])[0] for share in others}) > 1
  assert ids(model_files.share_out(files, "", 0.0, 0)["train"]) == ids(files)
  with pytest.raises(ValueError, match=r"2 model\(s\) cannot be shared out"):
    model_files.share_out(files[:2], "", 0.1, 0)


def test_a_list_says_what_is_in_which_split(source, tmp_path):
  files = model_files.find_models(str(source), tmp_path)
  path = tmp_path / "splits.txt"
  path.write_text("train box\nval chair/chair.glb\n\ntest rod\n")
  shares = model_files.share_out(files, str(path), 0.1, 0)
  assert {k: ids(v) for k, v in shares.items()} == {
    "train": ["box"],
    "validation": ["chair"],
    "test": ["rod"],
  }
  for text, match in (
    ("train gone", r"line 1: found 'gone', which is neither the id nor"),
    ("train ball", r"found 'ball'.*did you mean 'deep_er_ball'\?"),
    ("valid box", r"line 1: found 'valid box', expected train, validation"),
    ("box", r"line 1: found 'box'"),
    ("train box\ntest box", r"line 2: box is in train already"),
  ):
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
      model_files.share_out(files, str(path), 0.1, 0)


def test_same_bytes_whatever_the_number_of_processes_and_models(
  source, tmp_path
):
  for name, processes in (("a", 1), ("b", 2)):
    _root, problems = mesh_scenes.write_scenes(
      tmp_path / name, str(source), OPTIONS, processes=processes
    )
    assert not problems
  a, b = (test_synthetic.digest(tmp_path / name) for name in "ab")
  assert a == b and len(a) > 5
  # A model's pictures are its own, whatever others there are.
  alone, _ = mesh_scenes.write_scenes(
    tmp_path / "c",
    str(source / "box.stl"),
    dataclasses.replace(OPTIONS, held_out=0.0),
    processes=1,
  )
  (scene,) = (tmp_path / "a").glob("*/box")
  if scene.parent.name != "meshes_test":
    assert test_synthetic.digest(scene) == test_synthetic.digest(
      alone / "meshes_train" / "box"
    )


def test_scenes_have_cameras_as_asked_and_a_record_of_the_object(
  source, tmp_path
):
  options = dataclasses.replace(
    OPTIONS, region="upper", distance=2.0, held_out=0.2, views=9
  )
  root, _ = mesh_scenes.write_scenes(
    tmp_path / "a", str(source), options, processes=1
  )
  folders = splits.find_scenes(str(root))
  assert {s: len(g) for s, g in folders.items()} == {
    "train": 3,
    "validation": 1,
    "test": 1,
  }
  train = scenes.read_scene(folders["train"][0])
  places = train.poses[:, :3, 3]
  np.testing.assert_allclose(np.linalg.norm(places, axis=-1), 2, rtol=1e-5)
  assert (places[:, 2] >= 0).all() and len(places) == 9
  assert len(train.depths) == 9
  test = scenes.read_scene(folders["test"][0])
  np.testing.assert_allclose(
    test.poses, camera_poses.spiral_poses(2.0), atol=1e-6
  )
  notes = json.loads(
    (root / folders["train"][0].path / "object.json").read_text()
  )
  assert notes["triangles"] == 12 and notes["file"].endswith(".stl")
  assert notes["up"] == "z" and notes["scale"] > 0


def test_an_interrupted_run_goes_on_with_what_is_left(source, tmp_path):
  root, _ = mesh_scenes.write_scenes(
    tmp_path / "a", str(source), OPTIONS, processes=1
  )
  whole = test_synthetic.digest(root)
  first, second, *_ = sorted(root.glob("meshes_*/*"))
  shutil.rmtree(first)
  (second / "rgb" / "000000.png").write_bytes(b"kept as it is")
  # As a killed run leaves a scene.
  (first.parent / f".{first.name}" / "rgb").mkdir(parents=True)
  mesh_scenes.write_scenes(root, str(source), OPTIONS, processes=1)
  again = test_synthetic.digest(root)
  changed = {name for name in whole if whole[name] != again.get(name)}
  assert changed == {f"{second.relative_to(root)}/rgb/000000.png"}
  with pytest.raises(ValueError, match=r"holds scenes made with .*'views': 2"):
    mesh_scenes.write_scenes(
      root, str(source), dataclasses.replace(OPTIONS, views=3), processes=1
    )


def test_scenes_of_other_options_are_replaced_if_asked(source, tmp_path):
  write = functools.partial(
    mesh_scenes.write_scenes, tmp_path, str(source), processes=1
  )
  write(OPTIONS)
  (image, *_) = sorted(tmp_path.glob("meshes_train/*/rgb/000000.png"))
  image.write_bytes(b"kept as it is")
  write(OPTIONS, replace=True)
  assert image.read_bytes() == b"kept as it is"
  write(dataclasses.replace(OPTIONS, views=3), replace=True)
  assert image.read_bytes() != b"kept as it is"
  assert len(list(image.parent.iterdir())) == 3


def test_added_changed_and_removed_models_leave_each_in_one_split(
  source, tmp_path
):
  root, _ = mesh_scenes.write_scenes(
    tmp_path / "a", str(source), OPTIONS, processes=1
  )
  for i in range(6):  # others come into other splits
    trimesh.creation.box((1, 1, 1 + i)).export(source / f"new{i}.stl")
  trimesh.creation.box((2, 1, 1)).export(source / "box.stl")
  (source / "rod.off").unlink()
  mesh_scenes.write_scenes(root, str(source), OPTIONS, processes=1)
  again, _ = mesh_scenes.write_scenes(
    tmp_path / "b", str(source), OPTIONS, processes=1
  )
  names = [path.name for path in root.glob("meshes_*/*")]
  assert len(names) == len(set(names)) == 10 and "rod" not in names
  assert test_synthetic.digest(root) == test_synthetic.digest(again)


def test_a_changed_material_file_renders_its_model_anew(source, tmp_path):
  (source / "wedge.mtl").write_text("newmtl m\nKd 0.9 0.1 0.1\n")
  (source / "wedge.obj").write_text(
    "mtllib wedge.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 1\n"
    "usemtl m\nf 1 2 3\nf 1 2 4\n"
  )
  root, problems = mesh_scenes.write_scenes(
    tmp_path / "a", str(source), OPTIONS, processes=1
  )
  assert not problems
  before = test_synthetic.digest(root)
  (source / "wedge.mtl").write_text("newmtl m\nKd 0.1 0.1 0.9\n")
  mesh_scenes.write_scenes(root, str(source), OPTIONS, processes=1)
  after = test_synthetic.digest(root)
  changed = {name for name in before if before[name] != after[name]}
  assert {name.split("/")[1] for name in changed} == {"wedge"}
  assert any(name.endswith("rgb/000000.png") for name in changed)


@pytest.mark.parametrize(
  "field,value,match",
  [
    ("up", "w", r"data\.meshes\.up is 'w', expected one of auto, z, y, x"),
    ("region", "lower", r"region is 'lower', expected one of sphere, upper"),
    ("distance", 0.4, r"distance is 0\.4, expected more than 0\.5"),
    ("distance", 7.0, r"distance is 7, expected .* at most 6"),
    ("held_out", 0.5, r"held_out is 0\.5, expected a share"),
  ],
)
def test_wrong_options_are_named(source, tmp_path, field, value, match):
  options = dataclasses.replace(OPTIONS, **{field: value})
  with pytest.raises(ValueError, match=match):
    mesh_scenes.write_scenes(tmp_path / "a", str(source), options, processes=1)
  assert not (tmp_path / "a").exists()


def zipped(path, *names):
  path.parent.mkdir(parents=True, exist_ok=True)
  with zipfile.ZipFile(path, "w") as archive:
    for name in names:
      archive.writestr(name, f"{path} {name}")
  return path


def test_zip_files_of_one_name_do_not_share_a_folder(tmp_path):
  """Nor do two in different zip files; what was replaced is gone."""

  paths = [
    zipped(tmp_path / "a" / "models.zip", "chair.obj", "desk.obj"),
    zipped(tmp_path / "b" / "models.zip", "chair.ply"),
  ]
  source = ",".join(map(str, paths))
  files = model_files.find_models(source, tmp_path / "unpacked")
  texts = {f.path.read_text() for f in files}
  assert texts == {
    f"{paths[0]} chair.obj",
    f"{paths[0]} desk.obj",
    f"{paths[1]} chair.ply",
  }
  zipped(paths[0], "desk.obj")
  files = model_files.find_models(str(paths[0]), tmp_path / "unpacked")
  assert ids(files) == ["models_desk"]


def test_a_single_model_is_a_source(source):
  (path,) = list(source.rglob("box.*"))[:1]
  digest = splits.listing_digest(str(path))
  path.write_bytes(path.read_bytes() + b"\n")
  assert splits.listing_digest(str(path)) != digest


def test_models_beside_zips_are_listed(tmp_path):
  zipped(tmp_path / "more.zip", "chair.ply")
  (tmp_path / "desk.off").write_text("OFF")
  digest = splits.listing_digest(str(tmp_path), of_models=True)
  (tmp_path / "desk.off").write_text("OFF 1")
  changed = splits.listing_digest(str(tmp_path), of_models=True)
  zipped(tmp_path / "more.zip", "chair.ply", "lamp.ply")
  again = splits.listing_digest(str(tmp_path), of_models=True)
  assert len({digest, changed, again}) == 3


def test_a_damaged_note_of_a_folder_is_named(tmp_path):
  (tmp_path / "meshes.json").write_text("")
  with pytest.raises(ValueError, match=r"meshes\.json is damaged .* remove"):
    srn_writer.claim(tmp_path, "meshes.json", {})


def test_what_was_refused_is_no_earlier_run(source, tmp_path):
  """A list that names no model, then none."""
  path = tmp_path / "splits.txt"
  path.write_text("train gone\n")
  wrong = dataclasses.replace(OPTIONS, splits=str(path))
  with pytest.raises(ValueError, match="'gone'"):
    mesh_scenes.write_scenes(tmp_path / "a", str(source), wrong, processes=1)
  mesh_scenes.write_scenes(tmp_path / "a", str(source), OPTIONS, processes=1)


def test_the_dataset_lists_what_is_broken_and_holds_the_rest(source, tmp_path):
  (source / "broken.glb").write_bytes(b"no glb")
  (source / "empty.obj").write_bytes(b"")
  names = ("train box", "train broken", "val rod", "test chair", "test empty")
  (tmp_path / "splits.txt").write_text("\n".join(names))
  options = dataclasses.replace(OPTIONS, splits=str(tmp_path / "splits.txt"))
  config = srn.CONFIGS["meshes"].variant("meshes_test", meshes=options)

  def build(**kwargs):
    builder = tfds_srn.Builder(
      config=config, data_dir=tmp_path / "tfds", source=str(source), **kwargs
    )
    builder.download_and_prepare(download_dir=tmp_path / "downloads")
    return builder

  with pytest.raises(scenes.BadScenesError, match=r"2 problem\(s\)") as error:
    build()
  assert "broken.glb cannot be read" in str(error.value)
  assert "empty.obj is empty" in str(error.value)
  builder = build(skip_bad_scenes=True)
  counts = {k: v.num_examples for k, v in builder.info.splits.items()}
  assert counts == {"train": 1, "validation": 1, "test": 1}
  record = builder.as_data_source(split="test")[0]
  assert len(record["images"]) == 251 and len(record["depths"]) == 251
  assert record["near"] == pytest.approx(0.8, rel=0.02)
  # The dataset belongs to this list of splits.
  listing = builder.info.metadata["made_from"]["listing"]
  assert builder.listing_digest("") == listing
  (tmp_path / "splits.txt").write_text("\n".join([*names, "train chair"]))
  assert builder.listing_digest("") != listing
