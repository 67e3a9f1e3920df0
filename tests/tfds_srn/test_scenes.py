"""Reading SRN layout: both packagings, zips, and everything that goes wrong."""

import pathlib
import random
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from tfds_srn import camera_poses
from tfds_srn import scenes
from tfds_srn import splits
from tfds_srn import srn_writer
from tfds_srn.synthetic_cars import car_scenes


def write(root: pathlib.Path, packaging: str = "pixelnerf", **counts):
  return car_scenes.write_scenes(
    root,
    counts=counts or {"train": 1},
    size=32,
    views=3,
    spiral_splits=(),
    packaging=packaging,
    processes=1,
  )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
  root = tmp_path_factory.mktemp("both")
  return {p: write(root / p, p, train=2, val=1) for p in srn_writer.PACKAGINGS}


def zip_folder(folder: pathlib.Path, target: pathlib.Path, below: str = ""):
  with zipfile.ZipFile(target, "w") as out:
    for path in sorted(folder.rglob("*")):
      name = f"{below}{path.relative_to(folder)}"
      out.write(path, name + ("/" if path.is_dir() else ""))
  return target


def assert_same(a: scenes.Scene, b: scenes.Scene):
  assert a.scene_id == b.scene_id
  assert a.images == b.images
  np.testing.assert_array_equal(a.image_sizes, b.image_sizes)
  np.testing.assert_array_equal(a.poses, b.poses)
  np.testing.assert_allclose(a.intrinsics, b.intrinsics, rtol=1e-6)


def test_both_packagings_give_the_same_scene(both):
  a, b = (
    splits.find_scenes(str(both[p]))["train"][0] for p in srn_writer.PACKAGINGS
  )
  first, second = scenes.read_scene(a), scenes.read_scene(b)
  assert_same(first, second)
  np.testing.assert_allclose(
    first.intrinsics[0], [32.8125, 32.8125, 16, 16], rtol=1e-6
  )
  text = next((both["srn"] / "cars_train").rglob("intrinsics/*.txt"))
  assert text.read_text().split()[0] == "525.0"  # SRN's 512-pixel render


def test_zips_read_like_folders(both, tmp_path):
  folder = splits.find_scenes(str(both["pixelnerf"]))
  one = zip_folder(both["pixelnerf"], tmp_path / "srn_cars.zip", "srn_cars/")
  several = [
    zip_folder(both["srn"] / name, tmp_path / f"{name}.zip", f"{name}/")
    for name in ("cars_train", "cars_val")
  ]
  bare = tmp_path / "bare"
  bare.mkdir()
  zip_folder(both["srn"] / "cars_train", bare / "cars_train.zip")
  for source in (str(one), ",".join(map(str, several))):
    result = splits.find_scenes(source)
    assert [f.scene_id for f in result["train"]] == [
      f.scene_id for f in folder["train"]
    ]
    for split in ("train", "validation"):
      assert_same(
        scenes.read_scene(result[split][0]),
        scenes.read_scene(folder[split][0]),
      )
  # A folder that holds zip files, without a split folder inside the zip.
  alone = splits.find_scenes(str(bare))
  assert len(alone["train"]) + len(alone["validation"]) == 2


def test_extra_folder_level_of_chairs(tmp_path):
  write(tmp_path / "flat", train=2, val=1)
  deep = tmp_path / "chairs" / "chairs_train" / "chairs_2.0_train"
  deep.parent.mkdir(parents=True)
  shutil.move(tmp_path / "flat" / "cars_train", deep)
  shutil.move(
    tmp_path / "flat" / "cars_val", tmp_path / "chairs" / "chairs_val"
  )
  result = splits.find_scenes(str(tmp_path / "chairs"))
  assert {split: len(group) for split, group in result.items()} == {
    "train": 2,
    "validation": 1,
  }
  assert not scenes.survey(result["train"])[1]


def test_validation_is_cut_from_train_by_the_reference_rule(tmp_path):
  root = tmp_path / "cars_train"
  ids = [f"{i:032x}" for i in range(30)]
  for name in ids:
    (root / name / "rgb").mkdir(parents=True)
  result = splits.find_scenes(str(tmp_path))
  order = sorted(ids)
  random.seed(1)
  random.shuffle(order)
  assert [f.scene_id for f in result["train"]] == sorted(order[:27])
  assert [f.scene_id for f in result["validation"]] == sorted(order[27:])
  assert "test" not in result


def test_a_folder_of_scenes_of_any_name_and_size(tmp_path):
  for name in ("mug", "cup"):
    for i, key in enumerate(("front", "left", "view10", "view2")):
      (tmp_path / name / "rgb").mkdir(parents=True, exist_ok=True)
      (tmp_path / name / "pose").mkdir(exist_ok=True)
      Image.new("RGBA", (20, 10), (i, 0, 0, 255)).save(
        tmp_path / name / "rgb" / f"{key}.png"
      )
      pose = camera_poses.look_at_origin(np.array([1.0 + i, 0.5, 0.2]))
      lines = "\n".join(" ".join(map(str, row)) for row in pose.tolist())
      (tmp_path / name / "pose" / f"{key}.txt").write_text(lines)
    (tmp_path / name / "intrinsics.txt").write_text(
      "40 20 10 0.\n0. 0. 0.\n1.\n20 40\n"
    )
  result = splits.find_scenes(str(tmp_path))
  scene = scenes.read_scene(result["train"][0])
  assert scene.image_sizes.tolist() == [[10, 20]] * len(scene.images)
  # The file is for 40x20 pixels, the images have 20x10.
  np.testing.assert_allclose(scene.intrinsics[-1], [20, 20, 10, 5])
  assert [float(p[0, 3]) for p in scene.poses] == [1, 2, 4, 3]  # 2 before 10


def test_world_to_camera_flag(tmp_path):
  write(tmp_path)
  folder = splits.find_scenes(str(tmp_path / "cars_train"))["train"][0]
  scene = scenes.read_scene(folder)
  path = tmp_path / "cars_train" / scene.scene_id
  for file, pose in zip(
    sorted((path / "pose").iterdir()), scene.poses, strict=True
  ):
    inverse = np.linalg.inv(pose.astype(np.float64))
    file.write_text(" ".join(map(str, inverse.ravel())))
  (path / "intrinsics.txt").write_text(
    (path / "intrinsics.txt").read_text() + "1\n"
  )
  np.testing.assert_allclose(
    scenes.read_scene(folder).poses, scene.poses, atol=1e-5
  )


def break_nothing(scene: pathlib.Path):
  del scene


def remove_pose(scene: pathlib.Path):
  (scene / "pose" / "000001.txt").unlink()


def remove_view(scene: pathlib.Path):
  (scene / "rgb" / "000002.png").unlink()
  (scene / "depth" / "000002.png").unlink()


def scale_pose(scene: pathlib.Path):
  path = scene / "pose" / "000001.txt"
  values = np.array(path.read_text().split(), float).reshape(4, 4)
  values[:3, :3] *= 1.1
  path.write_text(" ".join(map(str, values.ravel())))


def mirror_pose(scene: pathlib.Path):
  path = scene / "pose" / "000001.txt"
  values = np.array(path.read_text().split(), float).reshape(4, 4)
  values[:3, 0] *= -1
  path.write_text(" ".join(map(str, values.ravel())))


def shorten_pose(scene: pathlib.Path):
  (scene / "pose" / "000001.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n")


def other_size(scene: pathlib.Path):
  Image.new("RGB", (16, 16)).save(scene / "rgb" / "000001.png")


def truncate(scene: pathlib.Path):
  path = scene / "rgb" / "000001.png"
  path.write_bytes(path.read_bytes()[:-40])


def not_a_picture(scene: pathlib.Path):
  (scene / "rgb" / "000001.png").write_bytes(b"<html>quota exceeded</html>")


def matrix_as_intrinsics(scene: pathlib.Path):
  (scene / "intrinsics.txt").write_text("525 0 256\n0 525 256\n0 0 1\n")


def line_as_matrix(scene: pathlib.Path):
  (scene / "intrinsics.txt").rename(scene / "pixelnerf.txt")
  (scene / "intrinsics").mkdir()
  for i in range(3):
    shutil.copy(scene / "pixelnerf.txt", scene / "intrinsics" / f"{i:06d}.txt")


def no_intrinsics(scene: pathlib.Path):
  (scene / "intrinsics.txt").unlink()


def two_cameras(scene: pathlib.Path):
  (scene / "intrinsics").mkdir()
  (scene / "intrinsics" / "000000.txt").write_text("600 0 256 0 600 256 0 0 1")


def empty(scene: pathlib.Path):
  shutil.rmtree(scene / "rgb")


BREAKAGES = {
  remove_pose: r"rgb/000001\.png has no pose: expected pose/000001\.txt",
  remove_view: r"pose/000002\.txt has no view: expected rgb/000002\.png",
  scale_pose: r"pose/000001\.txt is no rigid motion: .*determinant 1\.33",
  mirror_pose: r"pose/000001\.txt is no rigid motion: .*determinant -1",
  shorten_pose: r"pose/000001\.txt holds 12 numbers, expected 16",
  other_size: r"rgb/000001\.png is 16x16 pixels, expected 32x32",
  truncate: r"rgb/000001\.png is no whole PNG",
  not_a_picture: r"rgb/000001\.png is no whole PNG \(27 bytes",
  matrix_as_intrinsics: r"intrinsics\.txt holds a matrix, .*SRN's own packag",
  line_as_matrix: r"intrinsics/000000\.txt .*belongs to pixelNeRF's packaging",
  no_intrinsics: r"has no intrinsics: expected intrinsics\.txt",
  two_cameras: r"000000\.txt gives .* one camera per scene",
  empty: r" is empty: expected views in rgb/NAME\.png",
}


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda b: b.__name__)
def test_what_is_wrong_is_named(breakage, tmp_path):
  write(tmp_path, train=10)
  scene = sorted((tmp_path / "cars_train").iterdir())[4]
  breakage(scene)
  result = splits.find_scenes(str(tmp_path))
  _, problems = scenes.survey(f for g in result.values() for f in g)
  assert [f.scene_id for f in problems] == [scene.name]
  lines = "\n".join(next(iter(problems.values())))
  with pytest.raises(scenes.BadScenesError, match=BREAKAGES[breakage]):
    scenes.read_scene(next(iter(problems)))
  assert scene.name in lines


def test_all_problems_are_listed_at_once(tmp_path):
  write(tmp_path, train=1)
  scene = next((tmp_path / "cars_train").iterdir())
  for breakage in (truncate, scale_pose, matrix_as_intrinsics):
    breakage(scene)
  (folder,) = splits.find_scenes(str(tmp_path))["train"]
  with pytest.raises(scenes.BadScenesError) as caught:
    scenes.read_scene(folder)
  assert len(caught.value.problems) == 3


def test_a_scene_found_twice_is_refused(both):
  with pytest.raises(ValueError, match="twice in split train: name only one"):
    splits.find_scenes(",".join(map(str, both.values())))


def test_missing_and_empty_sources(tmp_path):
  with pytest.raises(ValueError, match="does not exist: name a folder"):
    splits.find_scenes(str(tmp_path / "nowhere"))
  with pytest.raises(ValueError, match="no scenes in"):
    splits.find_scenes(str(tmp_path))
  broken = tmp_path / "cars_train.zip"
  broken.write_bytes(b"PK\x03\x04 cut short")
  with pytest.raises(ValueError, match="is no readable zip file"):
    splits.find_scenes(str(broken))


def test_files_that_cannot_be_read_are_problems_like_others(tmp_path):
  """Every one is listed; nothing aborts the check of all scenes."""
  root = write(tmp_path / "scenes", train=3)
  first, second, third = sorted((root / "cars_train").iterdir())
  (first / "rgb" / "000000.png").rename(first / "rgb" / "000000.PNG")
  (second / "pose" / "000001.txt").unlink()
  (second / "pose" / "000001.txt").symlink_to(tmp_path / "nowhere")
  (third / "rgb" / "000000.png").rename(third / "rgb" / "1²3.png")
  (third / "pose" / "000000.txt").rename(third / "pose" / "1²3.txt")
  (third / "depth" / "000000.png").rename(third / "depth" / "1²3.png")
  splits_of_root = splits.find_scenes(str(root)).values()
  summaries, problems = scenes.survey(f for g in splits_of_root for f in g)
  # An ending in capitals and an odd name are fine.
  names = sorted(folder.scene_id for folder in summaries)
  assert names == [first.name, third.name], problems
  ((line,),) = problems.values()
  assert "000001.txt" in line and "No such file" in line


@pytest.mark.parametrize("kind", ["damaged", "encrypted", "unknown"])
def test_members_that_a_zip_cannot_give_are_problems(tmp_path, kind):
  root = write(tmp_path / "scenes", train=2)
  target = zip_folder(root, tmp_path / "scenes.zip")
  content = bytearray(target.read_bytes())
  with zipfile.ZipFile(target) as archive:
    info = next(i for i in archive.infolist() if i.filename.endswith(".png"))
  central = content.rindex(info.filename.encode()) - 46
  start = info.header_offset
  if kind == "damaged":
    at = start + 30 + len(info.filename) + 40
    content[at : at + 20] = bytes(20)
  elif kind == "encrypted":
    content[start + 6] |= 1
    content[central + 8] |= 1
  else:  # deflate64
    content[start + 8 : start + 10] = (9).to_bytes(2, "little")
    content[central + 10 : central + 12] = (9).to_bytes(2, "little")
  target.write_bytes(content)
  folders = splits.find_scenes(str(target)).values()
  _, problems = scenes.survey(f for group in folders for f in group)
  assert len(problems) == 1
  assert any(info.filename in p for lines in problems.values() for p in lines)


def test_bombs_are_problems(tmp_path, monkeypatch):
  """Neither a huge member of a zip nor a huge picture is unpacked."""
  root = write(tmp_path / "scenes", train=1)
  (scene,) = (root / "cars_train").iterdir()
  with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as out:
    for path in sorted(root.rglob("*")):
      if path.is_file():
        out.write(path, path.relative_to(root))
    out.writestr(f"cars_train/{scene.name}/rgb/000009.png", bytes(1 << 28))
  (folder,) = splits.find_scenes(str(tmp_path / "bomb.zip"))["train"]
  _, problems = scenes.survey([folder])
  assert any("larger than 128 MiB" in p for p in problems[folder])
  with open(scene / "rgb" / "000009.png", "wb") as huge:
    huge.truncate(1 << 28)  # no byte of it is on the disk
  (folder,) = splits.find_scenes(str(root))["train"]
  _, problems = scenes.survey([folder])
  assert any("larger than 128 MiB" in p for p in problems[folder])
  (scene / "rgb" / "000009.png").unlink()
  # Pillow itself refuses the second one.
  Image.new("1", (14_000, 14_000)).save(scene / "rgb" / "000001.png")
  Image.new("1", (9000, 9000)).save(scene / "rgb" / "000000.png")
  (folder,) = splits.find_scenes(str(root))["train"]
  _, problems = scenes.survey([folder])
  assert any("has 9000x9000 pixels" in p for p in problems[folder])
  assert any("000001.png" in p for p in problems[folder])


@pytest.mark.parametrize("is_zipped", [False, True])
def test_a_source_is_a_split_by_its_own_name(tmp_path, is_zipped):
  root = write(tmp_path / "all", train=2, val=1, test=1)
  items = []
  for split in ("train", "val", "test"):
    folder = (root / f"cars_{split}").rename(tmp_path / split)
    items.append(zip_folder(folder, tmp_path / f"{split}.zip"))
    if not is_zipped:
      items[-1] = folder
  folders = splits.find_scenes(",".join(map(str, items)))
  counts = {split: len(group) for split, group in folders.items()}
  assert counts == {"train": 2, "validation": 1, "test": 1}


def test_zips_beside_folders_are_warned_of(tmp_path, caplog):
  root = write(tmp_path / "scenes", train=2, val=1)
  zip_folder(root / "cars_val", root / "cars_val.zip", "cars_val/")
  splits.find_scenes(str(root))
  assert not caplog.text  # it lies there unpacked, too
  shutil.rmtree(root / "cars_val")
  splits.find_scenes(str(root))
  assert "zip files are not read: cars_val.zip" in caplog.text


def test_a_scene_may_be_called_like_a_split(tmp_path):
  root = write(tmp_path / "scenes", train=2)
  first, second = sorted((root / "cars_train").iterdir())
  cars = tmp_path / "my_cars"
  shutil.copytree(first, cars / "ferrari_test")
  shutil.copytree(second, cars / "fiat")
  folders = splits.find_scenes(str(cars))
  ids = sorted(f.scene_id for group in folders.values() for f in group)
  assert ids == ["ferrari_test", "fiat"] and "test" not in folders


def test_one_scene_is_trained_on(tmp_path):
  root = write(tmp_path / "scenes", train=1)
  folders = splits.find_scenes(str(root))
  assert {split: len(group) for split, group in folders.items()} == {"train": 1}


def test_a_hidden_folder_above_hides_no_change(tmp_path):
  root = write(tmp_path / ".data" / "scenes")
  before = splits.listing_digest(str(root))
  assert splits.listing_digest(str(root)) == before
  (root / ".notes").write_text("hidden itself: not of the scenes")
  assert splits.listing_digest(str(root)) == before
  next(root.rglob("pose/*.txt")).unlink()
  assert splits.listing_digest(str(root)) != before


def test_damaged_depth_is_a_problem(tmp_path):
  root = write(tmp_path)
  path = next(root.rglob("depth/*.png"))
  path.write_bytes(path.read_bytes()[:50])
  (folder,) = splits.find_scenes(str(root))["train"]
  with pytest.raises(scenes.BadScenesError, match=r"depth/.* is no whole PNG"):
    scenes.read_scene(folder)


@pytest.mark.parametrize(
  ("picture", "problem"),
  [
    (Image.new("L", (32, 32)), "mode L, expected grey ones of 16 bits"),
    (Image.new("RGB", (32, 32)), "mode RGB, expected grey ones of 16 bits"),
    (Image.new("I;16", (32, 16)), "is 32x16 pixels, expected the shape of"),
  ],
)
def test_other_pictures_are_no_depth(tmp_path, picture, problem):
  root = write(tmp_path)
  picture.save(next(root.rglob("depth/*.png")))
  (folder,) = splits.find_scenes(str(root))["train"]
  with pytest.raises(scenes.BadScenesError, match=f"depth/.* {problem}"):
    scenes.read_scene(folder)
