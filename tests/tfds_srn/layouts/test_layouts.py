"""Layouts of others, written here anew from their descriptions and read back.

Views are those of a car by the analytic ray caster, at cameras that this file
converts on its own way: through points and where they are seen.
"""

import io
import json
import pathlib
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

import tfds_srn
from configs import debug
from genvs_jax.data import datasets
from genvs_jax.data import decoding
from genvs_jax.geometry import cameras
from tfds_srn import camera_poses
from tfds_srn import pixel_rays
from tfds_srn import scenes
from tfds_srn import splits
from tfds_srn import tfds_srn_dataset_builder as srn
from tfds_srn.layouts import nerf
from tfds_srn.layouts import nmr
from tfds_srn.layouts import zero123
from tfds_srn.synthetic_cars import cars
from tfds_srn.synthetic_cars import ray_caster

SIZE = 24
VIEWS = 3


def views(index: int, distance=1.3):
  """(u8 [SIZE,SIZE,3], camera-to-world) of some views of a car."""
  car = cars.sample_car(0, "train", index)
  rng = np.random.default_rng(index)
  poses = camera_poses.random_poses(rng, VIEWS, distance)
  for pose in poses:
    image, _ = ray_caster.render_view(car, pose, SIZE)
    yield (image * 255 + 0.5).astype(np.uint8), pose.astype(np.float64)


def camera_axes(pose):
  """Right, up and towards the viewer of a camera, and its place, in the
  world."""
  return pose[:3, 0], -pose[:3, 1], -pose[:3, 2], pose[:3, 3]


def write_nerf(folder: pathlib.Path, index: int, **fields):
  """Blender's: no suffix, the columns are the camera's axes and place."""
  frames = []
  (folder / "train").mkdir(parents=True)
  for i, (image, pose) in enumerate(views(index)):
    Image.fromarray(image).save(folder / "train" / f"r_{i}.png")
    matrix = np.eye(4)
    matrix[:3] = np.stack(camera_axes(pose), -1)
    frames.append(
      {"file_path": f"./train/r_{i}", "transform_matrix": matrix.tolist()}
    )
  angle = 2 * np.arctan(0.5 / pixel_rays.FOCAL_PER_WIDTH)
  content = {"camera_angle_x": angle, "frames": frames, **fields}
  (folder / "transforms_train.json").write_text(json.dumps(content))


def write_nmr(root: pathlib.Path, category: str, index: int, inverse=False):
  """y up in the world; rows of the matrix are what a camera measures."""
  folder = root / category / f"object{index}"
  (folder / "image").mkdir(parents=True)
  arrays = {}
  for i, (image, pose) in enumerate(views(index, 2.7)):
    Image.fromarray(image).save(folder / "image" / f"{i:04d}.png")

    def y_up(v):
      return np.array([v[0], v[2], -v[1]])

    right, up, back, place = map(y_up, camera_axes(pose))
    matrix = np.eye(4)
    matrix[:3, :3] = [right, -up, -back]
    matrix[:3, 3] = -matrix[:3, :3] @ place
    if inverse:
      arrays[f"world_mat_inv_{i}"] = np.linalg.inv(matrix)
    else:
      arrays[f"world_mat_{i}"] = matrix[:3]
    focal = 2 * pixel_rays.FOCAL_PER_WIDTH
    arrays[f"camera_mat_{i}"] = np.diag([focal, focal, 1, 1])
  np.savez(folder / "cameras.npz", **arrays)
  return folder


def write_zero123(folder: pathlib.Path, index: int):
  """Rows are the camera's right, up and back; RGBA."""
  folder.mkdir(parents=True)
  for i, (image, pose) in enumerate(views(index, 1.6 + 0.2 * index)):
    alpha = np.where((image < 255).any(-1), 255, 0).astype(np.uint8)
    Image.fromarray(np.dstack([image, alpha])).save(folder / f"{i:03d}.png")
    right, up, back, place = camera_axes(pose)
    rotation = np.array([right, up, back])
    matrix = np.concatenate([rotation, (-rotation @ place)[:, None]], 1)
    np.save(folder / f"{i:03d}.npy", matrix)


def check(folder: scenes.SceneFolder, index: int, distance: float, focal=None):
  scene = scenes.read_scene(folder)
  expected = list(views(index, distance))
  assert len(scene.images) == VIEWS
  focal = (focal or pixel_rays.FOCAL_PER_WIDTH) * SIZE
  point = np.array([[0.1, -0.2, 0.05], [0.3, 0.1, 0.2]], np.float32)
  for i, (image, pose) in enumerate(expected):
    np.testing.assert_allclose(scene.poses[i], pose, atol=1e-5)
    np.testing.assert_allclose(
      scene.intrinsics[i], [focal, focal, SIZE / 2, SIZE / 2], rtol=1e-5
    )
    # A point is seen where it should be, by our own projection.
    seen, depth = cameras.project(point, scene.poses[i], scene.intrinsics[i])
    local = (point - pose[:3, 3]) @ pose[:3, :3]
    np.testing.assert_allclose(depth, local[:, 2], atol=1e-5)
    np.testing.assert_allclose(
      seen, local[:, :2] / local[:, 2:] * focal + SIZE / 2, atol=1e-3
    )
    stored = np.array(Image.open(io.BytesIO(scene.images[i])).convert("RGBA"))[
      ..., :3
    ]
    np.testing.assert_array_equal(stored, image)
  return scene


def test_nerf_scenes_have_the_cameras_of_their_frames(tmp_path):
  for index in range(3):
    write_nerf(tmp_path / "scenes" / f"car{index}", index)
  result = splits.find_scenes(str(tmp_path / "scenes"), nerf.NerfScene)
  # Nothing is said of splits: the reference's cut.
  assert {k: len(v) for k, v in result.items()} == {"train": 2, "validation": 1}
  for folder in [*result["train"], *result["validation"]]:
    check(folder, int(folder.scene_id[-1]), 1.3)
  # Lists of several splits of one scene are taken together; one scene alone.
  scene = tmp_path / "scenes" / "car0"
  shutil.copy(scene / "transforms_train.json", scene / "transforms_test.json")
  (alone,) = splits.find_scenes(str(scene), nerf.NerfScene)["train"]
  assert alone.scene_id == "car0"
  assert len(scenes.read_scene(alone).images) == 2 * VIEWS
  # One list of all is enough, and leftovers are none.
  shutil.copy(scene / "transforms_train.json", scene / "transforms_old.json")
  assert len(scenes.read_scene(alone).images) == 2 * VIEWS
  shutil.copy(scene / "transforms_train.json", scene / "transforms.json")
  assert len(scenes.read_scene(alone).images) == VIEWS


def test_zipped_nerf_scenes_may_have_pictures_beside_their_list(tmp_path):
  folder = tmp_path / "scene"
  write_nerf(folder, 0)
  text = (folder / "transforms_train.json").read_text()
  (folder / "transforms_train.json").write_text(text.replace("/train/", "/"))
  path = tmp_path / "scenes.zip"
  with zipfile.ZipFile(path, "w") as out:
    out.write(folder / "transforms_train.json", "car/transforms_train.json")
    for picture in (folder / "train").iterdir():
      out.write(picture, f"car/{picture.name}")
  (scene,) = splits.find_scenes(str(path), nerf.NerfScene)["train"]
  check(scene, 0, 1.3)


def test_frames_may_have_cameras_and_sizes_of_their_own(tmp_path):
  scene = tmp_path / "scene"
  write_nerf(scene, 0, fl_x=30.0, fl_y=28.0, cx=11.0, cy=13.0, w=SIZE, h=SIZE)
  content = json.loads((scene / "transforms_train.json").read_text())
  # The second is twice as large as it says, and the third wide, a JPEG.
  second = Image.open(scene / "train" / "r_1.png")
  second.resize((2 * SIZE, 2 * SIZE)).save(scene / "train" / "r_1.png")
  Image.new("RGB", (40, 20)).save(scene / "train" / "third.jpg")
  content["frames"][2] |= {
    "file_path": "train/third.jpg",
    "fl_x": 50.0,
    "cx": 18.0,
    "cy": 9.0,
    "w": 40,
    "h": 20,
  }
  (scene / "transforms.json").write_text(json.dumps(content))
  (scene / "transforms_train.json").unlink()
  (folder,) = splits.find_scenes(str(scene), nerf.NerfScene)["train"]
  result = scenes.read_scene(folder)
  np.testing.assert_allclose(
    result.intrinsics, [[30, 28, 11, 13], [60, 56, 22, 26], [50, 28, 18, 9]]
  )
  assert result.image_sizes.tolist() == [[24, 24], [48, 48], [20, 40]]


def test_nmr_scenes_have_their_class_their_splits_and_pixelnerfs_cameras(
  tmp_path,
):
  root = tmp_path / "NMR_Dataset"
  for category, index, inverse in (("02958343", 0, 0), ("02958343", 1, 1)):
    write_nmr(root, category, index, inverse)
  write_nmr(root, "03001627", 2)
  for name, lines in (
    ("02958343/softras_train.lst", "object0\n"),
    ("02958343/softras_test.lst", "object1\n\n"),
    ("03001627/softras_train.lst", "object2\n"),
  ):
    (root / name).write_text(lines)
  for source in (tmp_path, root):  # with and without the folder around them
    result = splits.find_scenes(str(source), nmr.NmrScene)
    names = {k: [f.scene_id for f in v] for k, v in result.items()}
    assert names["test"] == ["02958343_object1"]
    assert sorted(names["train"] + names.get("validation", [])) == [
      "02958343_object0",
      "03001627_object2",
    ]
    for folder in (f for group in result.values() for f in group):
      scene = check(folder, int(folder.scene_id[-1]), 2.7)
      assert scene.category == folder.scene_id[:8]


def test_a_missing_picture_of_nmr_moves_no_camera(tmp_path):
  folder = write_nmr(tmp_path, "c", 0)
  (folder / "image" / "0001.png").unlink()
  tree = next(iter(srn.splits.trees.open_trees(str(tmp_path))))
  scene = scenes.read_scene(nmr.NmrScene(tree, "c/object0"))
  expected = [pose for _, pose in views(0, 2.7)]
  np.testing.assert_allclose(scene.poses, expected[::2], atol=1e-5)


def test_zero123_scenes_are_seen_through_blenders_lens(tmp_path):
  for index in range(2):
    write_zero123(tmp_path / "views_release" / f"id{index}", index)
  result = splits.find_scenes(
    str(tmp_path / "views_release"), zero123.Zero123Scene
  )
  for folder in [*result["train"], *result["validation"]]:
    index = int(folder.scene_id[-1])
    check(folder, index, 1.6 + 0.2 * index, focal=35 / 32)


@pytest.mark.parametrize("layout", ["nerf", "nmr", "zero123"])
def test_datasets_of_layouts_are_what_was_read(tmp_path, layout):
  source = tmp_path / "source"
  for index in range(2):
    if layout == "nerf":
      write_nerf(source / f"a{index}", index)
    elif layout == "nmr":
      write_nmr(source, "02958343", index)
    else:
      write_zero123(source / f"a{index}", index)
  if layout == "nmr":
    (source / "02958343" / "softras_train.lst").write_text("object0\nobject1")
  builder = tfds_srn.Builder(
    config=layout, data_dir=tmp_path / "tfds", source=str(source)
  )
  builder.download_and_prepare(download_dir=tmp_path / "downloads")
  records = builder.as_data_source(split="train")
  record = records[0]
  distance = np.linalg.norm(record["poses"][:, :3, 3], axis=-1)
  config = srn.CONFIGS[layout]
  near, far = config.near or 8 / 13 * 1.3, config.far or 18 / 13 * 1.3
  assert record["near"] == pytest.approx(near, rel=1e-4)
  assert record["far"] == pytest.approx(far, rel=1e-4)
  assert (distance > record["near"]).all() and (distance < record["far"]).all()
  decoded = decoding.decode_views(record, range(VIEWS), 32, "area")
  assert decoded["images"].shape == (VIEWS, 32, 32, 3)
  # Transparent is white.
  assert (decoded["images"][:, 0, 0] == 255).all()
  assert record["category"] == (b"02958343" if layout == "nmr" else b"")


def test_large_pictures_can_be_stored_small(tmp_path):
  """Each pixel the mean of what it covers, transparent ones without colour."""
  scene = tmp_path / "scenes" / "a"
  write_nerf(scene, 0)
  pixels = np.zeros((4, 8, 4), np.uint8)
  pixels[:2, :2] = 200, 100, 0, 255
  pixels[2:, 2:4, :3] = 255  # white, and transparent
  pixels[2:, :2] = 0, 0, 80, 255
  Image.fromarray(pixels).save(scene / "train" / "r_1.png")
  (folder,) = splits.find_scenes(str(scene), nerf.NerfScene)["train"]
  whole = scenes.read_scene(folder)
  small = scenes.shrink(whole, 4)
  assert small.image_sizes.tolist() == [[4, 4], [2, 4], [4, 4]]
  np.testing.assert_allclose(small.intrinsics[1], whole.intrinsics[1] / 2)
  np.testing.assert_allclose(small.intrinsics[0], whole.intrinsics[0] / 6)
  stored = np.array(Image.open(io.BytesIO(small.images[1])))
  assert stored[0, 0].tolist() == [200, 100, 0, 255]
  assert stored[1, 0].tolist() == [0, 0, 80, 255]
  assert stored[1, 1, 3] == 0
  # Half covered: the colour of the covered half.
  pixels[:2, 1] = 0
  Image.fromarray(pixels).save(scene / "train" / "r_1.png")
  half = scenes.shrink(scenes.read_scene(folder), 4)
  stored = np.array(Image.open(io.BytesIO(half.images[1])))
  np.testing.assert_allclose(stored[0, 0], [200, 100, 0, 128], atol=2)
  assert scenes.shrink(whole, 24).images == whole.images

  config = debug.get_config()
  config.data.dataset, config.data.source = "nerf", str(tmp_path / "scenes")
  config.data.data_dir, config.data.stored_size = str(tmp_path / "tfds"), 4
  datasets.prepare(config, "")
  record = datasets.load_split(config, "", "train")[0]
  assert record["image_size"].max() == 4
  config.data.stored_size = 0  # another dataset, which is not there
  with pytest.raises(datasets.DatasetMissingError):
    datasets.load_split(config, "", "train")


def test_sixteen_bits_are_stored_small_as_eight():
  grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
  file = io.BytesIO()
  Image.fromarray(grey).save(file, "PNG")
  scene = scenes.Scene(
    scene_id="a",
    images=[file.getvalue()],
    poses=np.eye(4, dtype=np.float32)[None],
    intrinsics=np.ones((1, 4), np.float32),
    image_sizes=np.array([[8, 8]], np.int32),
    depths=[],
    category="",
  )
  small = scenes.shrink(scene, 4).images[0]
  stored = np.array(Image.open(io.BytesIO(small)).convert("L"), float)
  blocks = grey.reshape(4, 2, 4, 2).mean((1, 3)) / 257
  np.testing.assert_allclose(stored, blocks, atol=1)


def test_intrinsics_of_another_shape_are_refused():
  """Of a photograph that was turned after its cameras were found."""
  values = {"fl_x": 30.0, "w": 40, "h": 30}
  result, _ = nerf.intrinsics_of(values, (15, 20))
  np.testing.assert_allclose(result, [15, 15, 10, 7.5])
  _, problem = nerf.intrinsics_of(values, (40, 30))
  assert "w and h are 40 and 30, expected the shape of the picture" in problem


def broken_nerf(scene):
  write_nerf(scene, 0)
  content = json.loads((scene / "transforms_train.json").read_text())
  content["frames"][0]["file_path"] = "../outside.png"
  content["frames"][1]["transform_matrix"][0] = [2, 0, 0, 0]
  del content["frames"][2]["transform_matrix"]
  (scene / "transforms_train.json").write_text(json.dumps(content))


def test_all_that_is_wrong_is_named_at_once(tmp_path):
  def problems(layout, folder):
    tree = next(iter(srn.splits.trees.open_trees(str(folder.parent))))
    scene, lines = layout(tree, folder.name).inspect()
    assert scene is None
    return "\n".join(lines)

  broken_nerf(tmp_path / "nerf")
  text = problems(nerf.NerfScene, tmp_path / "nerf")
  assert "names ../outside.png, which is not there" in text
  assert "frame ./train/r_1: transform_matrix is no rigid motion" in text
  assert "has a frame without 'transform_matrix'" in text
  (tmp_path / "no").mkdir()
  (tmp_path / "no" / "transforms.json").write_text("{}")
  assert "holds no list of frames" in problems(nerf.NerfScene, tmp_path / "no")

  folder = write_nmr(tmp_path, "c", 0)
  (folder / "image" / "0002.png").write_bytes(b"cut")
  np.savez(
    folder / "cameras.npz", world_mat_0=np.eye(3), camera_mat_0=np.eye(4)
  )
  tree = next(iter(srn.splits.trees.open_trees(str(tmp_path))))
  _, lines = nmr.NmrScene(tree, "c/object0").inspect()
  text = "\n".join(lines)
  assert "0002.png is no whole PNG or JPEG" in text
  assert "world_mat_0 of shape (3, 3), expected [4,4]" in text
  assert "lacks world_mat_1 or camera_mat_1" in text

  write_zero123(tmp_path / "zero", 0)
  np.save(tmp_path / "zero" / "000.npy", np.zeros(5))
  np.save(tmp_path / "zero" / "001.npy", np.array([{}], object))
  (tmp_path / "zero" / "002.png").unlink()
  text = problems(zero123.Zero123Scene, tmp_path / "zero")
  assert "000.npy cannot be read" in text and "expected an array [3,4]" in text
  assert "001.npy cannot be read" in text  # no pickle is loaded
  assert "002.png" in text


@pytest.mark.parametrize("layout", srn.LAYOUTS)
def test_a_source_without_scenes_says_what_is_expected(tmp_path, layout):
  kind = srn.LAYOUTS[layout]
  with pytest.raises(ValueError, match=rf"no scenes in .*{kind.EXPECTED[:20]}"):
    splits.find_scenes(str(tmp_path), kind)
