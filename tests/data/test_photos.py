"""Your own pictures: three layouts and every convention give one camera."""

import json
import math
import shutil
import sys
import types

import numpy as np
import pytest
from absl import logging
from PIL import Image

from configs import debug
from genvs_jax.data import backgrounds
from genvs_jax.data import photos
from genvs_jax.geometry import camera_paths
from genvs_jax.models import builders
from genvs_jax.sampling import scene_inputs

SIZE = 32
POSES = np.asarray(camera_paths.orbit(3, 20.0, 1.3))
FOCAL = 1.025


@pytest.fixture
def warnings(monkeypatch):
  """What is logged as a warning."""
  result = []
  monkeypatch.setattr(logging, "warning", lambda m, *a: result.append(m % a))
  return result


def picture(width=64, height=64, mode="RGB") -> Image.Image:
  rng = np.random.default_rng(0)
  image = np.full((height, width, len(mode)), 255, np.uint8)
  inside = image[4:-4, 4:-4]
  inside[:] = rng.integers(0, 255, inside.shape, np.uint8)
  return Image.fromarray(image, mode)


def srn(folder):
  (folder / "rgb").mkdir(parents=True)
  (folder / "pose").mkdir()
  for i, pose in enumerate(POSES):
    picture().save(folder / "rgb" / f"{i:06d}.png")
    text = " ".join(map(str, pose.ravel()))
    (folder / "pose" / f"{i:06d}.txt").write_text(text)
  # Written for pictures of twice the size, as SRN's own are.
  (folder / "intrinsics.txt").write_text(
    f"{FOCAL * 128} 64 64 0.\n0. 0. 0.\n1.\n128 128\n"
  )


# OpenGL cameras have y up and look along -z.
OPENGL = np.array([1.0, -1.0, -1.0, 1.0])


def transforms(folder, names, poses, **fields):
  for i in range(len(poses)):
    picture().save(folder / f"r_{i}.png")
  frames = [
    {"file_path": name, "transform_matrix": pose.tolist()}
    for name, pose in zip(names, poses, strict=True)
  ]
  text = json.dumps({**fields, "frames": frames})
  (folder / "transforms.json").write_text(text)


def blender(folder):
  folder.mkdir()
  poses = POSES * OPENGL
  names = [f"./r_{i}" for i in range(3)]
  angle = 2 * math.atan(0.5 / FOCAL)
  transforms(folder, names, poses, camera_angle_x=angle)


def nerfstudio(folder):
  folder.mkdir()
  poses = POSES * OPENGL
  names = [f"r_{i}.png" for i in range(3)]
  fields = {"fl_x": FOCAL * 256, "fl_y": FOCAL * 256, "cx": 128, "cy": 128}
  transforms(folder, names, poses, w=256, h=256, **fields)


def opencv_world_to_camera(folder):
  folder.mkdir()
  names = [f"r_{i}.png" for i in range(3)]
  poses = np.linalg.inv(POSES)
  transforms(folder, names, poses, camera_angle_x=2 * math.atan(0.5 / FOCAL))


@pytest.mark.parametrize(
  "write, options",
  [
    (srn, {}),
    (blender, {}),
    (nerfstudio, {}),
    (
      opencv_world_to_camera,
      {"axes": "opencv", "poses": "world_to_camera"},
    ),
  ],
)
def test_every_layout_gives_the_same_cameras(
  write, options, tmp_path, warnings
):
  write(tmp_path / "scene")
  scene = photos.load(str(tmp_path / "scene"), size=SIZE, **options)
  np.testing.assert_allclose(scene["poses"], POSES, atol=1e-5)
  np.testing.assert_allclose(
    scene["intrinsics"], [FOCAL * SIZE, FOCAL * SIZE, 16, 16], rtol=1e-5
  )
  expected = picture().resize((SIZE, SIZE), Image.Resampling.BOX)
  np.testing.assert_array_equal(scene["images"], [np.asarray(expected)] * 3)
  photos.warn_of_odd_cameras(scene["poses"], 0.8, 1.8)
  assert not warnings


def test_a_single_picture_and_its_camera_by_hand(tmp_path):
  path = tmp_path / "one.png"
  picture().save(path)
  fov = 2 * math.degrees(math.atan(0.5 / FOCAL))
  scene = photos.load(
    str(path), size=SIZE, elevation=20.0, distance=1.3, fov=fov
  )
  np.testing.assert_allclose(scene["poses"][0], POSES[0], atol=1e-5)
  np.testing.assert_allclose(scene["intrinsics"][0], FOCAL * SIZE, rtol=1e-5)
  with pytest.raises(ValueError, match=r"whose camera is not known: give"):
    photos.load(str(path), size=SIZE)


@pytest.mark.parametrize("fit, side", [("pad", 96), ("crop", 64)])
def test_squares_keep_rays_and_pixels_together(fit, side, tmp_path):
  """A marked pixel is seen along the same ray before and after."""
  image = np.full((64, 96, 3), 255, np.uint8)
  image[20:24, 60:64] = [255, 0, 0]
  Image.fromarray(image).save(tmp_path / "one.png")
  scene = photos.load(
    str(tmp_path / "one.png"), size=side, fit=fit, distance=1.0, fov=60.0
  )
  (y, x) = np.argwhere(scene["images"][0][..., 1] == 0).mean(0) + 0.5
  focal = 48 / math.tan(math.radians(30))
  fx, fy, cx, cy = scene["intrinsics"]
  np.testing.assert_allclose((x - cx) / fx, (62 - 48) / focal, rtol=1e-5)
  np.testing.assert_allclose((y - cy) / fy, (22 - 32) / focal, rtol=1e-5)


def test_transparent_pixels_are_white(tmp_path):
  image = np.zeros((64, 64, 4), np.uint8)
  image[:32, :, 3] = 255
  Image.fromarray(image).save(tmp_path / "one.png")
  scene = photos.load(
    str(tmp_path / "one.png"), size=64, distance=1.0, fov=60.0
  )
  assert (scene["images"][0, :32] == 0).all()
  assert (scene["images"][0, 32:] == 255).all()


def test_wrong_conventions_and_scales_are_warned_of(tmp_path, warnings):
  blender(tmp_path / "scene")
  wrong = photos.load(str(tmp_path / "scene"), size=SIZE, axes="opencv")
  photos.warn_of_odd_cameras(wrong["poses"], 0.8, 1.8)
  assert "3 of 3 cameras do not look at the world's origin" in warnings[0]
  assert "turned away by 180 degrees" in warnings[0]
  far = photos.load(str(tmp_path / "scene"), size=SIZE, scale=3.0)
  photos.warn_of_odd_cameras(far["poses"], 0.8, 1.8)
  assert "stand 3.9 to 3.9 from the origin" in warnings[1]
  assert "try photos.scale=0.333" in warnings[1]


def test_what_cannot_be_understood_is_named(tmp_path):
  def refused(message, **options):
    with pytest.raises(ValueError, match=message):
      photos.load(str(tmp_path / "scene"), size=SIZE, **options)

  refused("there is no such folder")
  (tmp_path / "scene").mkdir()
  refused("expected transforms.json or transforms_train.json; rgb/")
  refused("photos.axes is 'blender', expected one of auto", axes="blender")
  path = tmp_path / "scene" / "transforms.json"
  path.write_text("{")
  refused("expected JSON with a list `frames`")
  transforms(tmp_path / "scene", ["r_9"], POSES[:1], camera_angle_x=1.0)
  refused("names .*r_9, which does not exist")
  transforms(tmp_path / "scene", ["r_0"], POSES[:1])
  refused("expected camera_angle_x .* or fl_x")
  transforms(tmp_path / "scene", ["r_0"], 2 * POSES[:1], camera_angle_x=1.0)
  refused("is no rigid motion")
  shutil.rmtree(tmp_path / "scene")
  srn(tmp_path / "scene")
  (tmp_path / "scene" / "pose" / "000001.txt").unlink()
  refused("000001.txt cannot be read")


def test_pictures_are_turned_as_phones_say(tmp_path):
  image = Image.new("RGB", (64, 32), "white")
  image.paste((255, 0, 0), (0, 0, 16, 32))  # the left of the sensor
  exif = Image.Exif()
  exif[0x0112] = 6  # turn by 90 degrees clockwise
  image.save(tmp_path / "one.jpg", exif=exif, quality=100, subsampling=0)
  views = photos.load(str(tmp_path / "one.jpg"), size=32, distance=1, fov=60)
  picture = views["images"][0].astype(int)
  # 32 wide and 64 high on a square: the red quarter is on top.
  red = (picture[..., 0] > 200) & (picture[..., 1] < 60)
  rows, columns = np.nonzero(red)
  assert rows.max() < 9 and columns.min() >= 8 and columns.max() < 24
  # A camera that is given belongs to the pixels as they are stored.
  transforms(tmp_path, ["one.jpg"], POSES[:1], fl_x=64.0, w=64, h=32)
  picture = photos.load(str(tmp_path), size=32)["images"][0].astype(int)
  rows, columns = np.nonzero((picture[..., 0] > 200) & (picture[..., 1] < 60))
  assert columns.max() < 9 and rows.min() >= 8 and rows.max() < 24


def test_the_flag_of_srn_holds_for_photos_too(tmp_path):
  srn(tmp_path / "plain")
  srn(tmp_path / "inverted")
  path = tmp_path / "inverted" / "intrinsics.txt"
  path.write_text(path.read_text() + "1\n")
  for i, pose in enumerate(POSES):
    text = " ".join(map(str, np.linalg.inv(pose).ravel()))
    (tmp_path / "inverted" / "pose" / f"{i:06d}.txt").write_text(text)
  plain = photos.load(str(tmp_path / "plain"), size=SIZE)
  inverted = photos.load(str(tmp_path / "inverted"), size=SIZE)
  np.testing.assert_allclose(inverted["poses"], plain["poses"], atol=1e-5)


def test_mirrored_poses_are_refused(tmp_path):
  srn(tmp_path / "scene")
  mirrored = POSES[1] * np.array([-1.0, 1.0, 1.0, 1.0])
  path = tmp_path / "scene" / "pose" / "000001.txt"
  path.write_text(" ".join(map(str, mirrored.ravel())))
  with pytest.raises(ValueError, match=r"000001\.txt.*determinant -1.*mirrors"):
    photos.load(str(tmp_path / "scene"), size=SIZE)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
  values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
  Image.fromarray(values).save(tmp_path / "one.png")
  views = photos.load(str(tmp_path / "one.png"), size=64, distance=1, fov=60)
  np.testing.assert_allclose(
    views["images"][0, ..., 0], values / 257, atol=0.51
  )


def test_views_are_chosen_among_the_pictures(tmp_path):
  srn(tmp_path / "scene")
  some = photos.load(str(tmp_path / "scene"), size=SIZE, views=(2, 0))
  np.testing.assert_allclose(some["poses"], POSES[[2, 0]], atol=1e-6)
  with pytest.raises(ValueError, match=r"\(3,\), but .* holds 3 pictures"):
    photos.load(str(tmp_path / "scene"), size=SIZE, views=(3,))


def test_the_config_chooses_among_them_too(tmp_path):
  srn(tmp_path / "scene")
  config = debug.get_config()
  config.sample.input_views = (2,)
  inputs = scene_inputs.load_photos(
    config, builders.build_model(config), str(tmp_path / "scene")
  )
  assert inputs["images"].shape[:2] == (1, 1)
  np.testing.assert_allclose(inputs["poses"][0, 0], POSES[2], atol=1e-6)


def test_the_training_split_of_a_nerf_scene_loads(tmp_path):
  blender(tmp_path / "scene")
  names = ("transforms.json", "transforms_train.json")
  before, after = (tmp_path / "scene" / name for name in names)
  plain = photos.load(str(tmp_path / "scene"), size=SIZE)
  before.rename(after)
  train = photos.load(str(tmp_path / "scene"), size=SIZE)
  np.testing.assert_array_equal(plain["poses"], train["poses"])


def test_a_picture_alone_has_the_camera_of_training(tmp_path, caplog):
  """SRN's distance and field of view, from 20 degrees above; it is said."""
  picture().save(tmp_path / "one.png")
  config = debug.get_config()
  model = builders.build_model(config)
  with caplog.at_level("INFO"):
    inputs = scene_inputs.load_photos(config, model, str(tmp_path / "one.png"))
  position = inputs["poses"][0, 0, :3, 3]
  assert np.linalg.norm(position) == pytest.approx(1.3)
  assert position[2] / 1.3 == pytest.approx(math.sin(math.radians(20)))
  assert inputs["intrinsics"][0, 0] == pytest.approx(525 / 512 * 32, rel=1e-4)
  assert "20 degrees above, 1.3 away" in caplog.text


def test_pictures_of_different_cameras_keep_their_own(tmp_path):
  """Two pictures, the second of a longer lens and twice as many pixels."""
  pictures = [picture(), picture().resize((2 * SIZE, 2 * SIZE))]
  given = np.array([[40.0, 40, 20, 18], [160.0, 160, 40, 40]])
  poses = np.asarray(camera_paths.orbit(2, 20.0, 1.3))
  views = photos.from_pictures(pictures, poses, given, size=SIZE)
  sides = np.array([max(p.size) for p in pictures])
  off = np.array([[max(p.size) - s for s in p.size] for p in pictures]) // 2
  expected = given.copy()
  expected[:, 2:] += off
  expected *= (SIZE / sides)[:, None]
  np.testing.assert_allclose(views["intrinsics"], expected, rtol=1e-6)
  same = photos.from_pictures(pictures[:1] * 2, poses, given[0], size=SIZE)
  assert same["intrinsics"].shape == (4,)


def test_pictures_without_cameras_are_scenes_of_their_own(tmp_path):
  for name, size in (("b.png", (48, 48)), ("a.jpg", (64, 40))):
    picture().resize(size).convert("RGB").save(tmp_path / name)
  (tmp_path / "notes.txt").write_text("no picture")
  config = debug.get_config()
  model = builders.build_model(config)
  inputs = scene_inputs.load_photos(config, model, str(tmp_path))
  assert inputs["images"].shape == (2, 1, 32, 32, 3)
  assert inputs["scene"][0] != inputs["scene"][1]
  for i, name in enumerate(("a.jpg", "b.png")):
    alone = scene_inputs.load_photos(config, model, str(tmp_path / name))
    # Its noise too, which the number of the scene decides.
    for key in ("images", "poses", "intrinsics", "scene"):
      np.testing.assert_array_equal(inputs[key][i], alone[key][0])


def test_flood_fill_whitens_what_is_connected_with_the_border():
  rng = np.random.default_rng(0)
  pixels = rng.integers(110, 131, (40, 40, 3)).astype(np.uint8)  # grey, noisy
  pixels[10:30, 10:30] = (200, 20, 20)  # an object,
  pixels[15:20, 15:20] = 120  # with a grey spot of its own
  white = np.array(backgrounds.whiten(Image.fromarray(pixels), "flood"))
  expected = np.full((40, 40, 3), 255)
  expected[10:30, 10:30] = pixels[10:30, 10:30]
  np.testing.assert_array_equal(white, expected)
  plain = backgrounds.whiten(Image.fromarray(pixels), "alpha")
  np.testing.assert_array_equal(np.array(plain), pixels)


def test_other_backgrounds_are_refused(monkeypatch):
  image = Image.new("RGB", (8, 8))
  with pytest.raises(ValueError, match=r"photos\.background is 'none'"):
    backgrounds.whiten(image, "none")
  monkeypatch.setitem(sys.modules, "rembg", None)
  with pytest.raises(ValueError, match="not installed: pip install"):
    backgrounds.whiten(image, "rembg")
  monkeypatch.setitem(
    sys.modules,
    "rembg",
    types.SimpleNamespace(remove=lambda x: Image.new("RGBA", x.size)),
  )
  assert np.array(backgrounds.whiten(image, "rembg")).min() == 255


def test_backgrounds_that_are_not_white_are_warned_of(tmp_path, warnings):
  options = {"size": 32, "distance": 1.0, "fov": 60.0}
  image = Image.new("RGB", (64, 64), "white")
  image.paste((0, 0, 200), (16, 16, 48, 48))
  image.save(tmp_path / "white.png")
  photos.load(str(tmp_path / "white.png"), **options)
  assert warnings == []
  Image.new("RGB", (64, 64), (90, 120, 60)).save(tmp_path / "grass.png")
  photos.load(str(tmp_path / "grass.png"), **options)
  assert "the background of grass.png is not white" in warnings[0]


def test_picture_bombs_are_one_sentence(tmp_path, monkeypatch):
  Image.new("1", (400, 400)).save(tmp_path / "big.png")
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
  with pytest.raises(ValueError, match=r"big\.png: .*decompression bomb"):
    photos.load(str(tmp_path / "big.png"), size=32, distance=1.0, fov=60.0)
