"""Films from Python."""

import numpy as np
import pytest
from PIL import Image

from genvs_jax.checkpointing import pretrained
from genvs_jax.data import photos
from genvs_jax.geometry import camera_paths

CAMERA = {"elevation": 10.0, "distance": 1.2, "fov": 50.0}


@pytest.fixture(scope="module")
def genvs(trained_workdir):
  return pretrained.load(trained_workdir)


@pytest.fixture(scope="module")
def picture():
  image = np.full((48, 40, 3), 255, np.uint8)
  image[10:30, 8:30] = np.random.default_rng(0).integers(0, 200, (20, 22, 3))
  return image


@pytest.fixture(scope="module")
def views(genvs, picture):
  return genvs.turntable(picture, frames=3, policy="input", **CAMERA)


def test_shapes_and_ranges(views):
  assert views.images.shape == views.renders.shape == (3, 32, 32, 3)
  assert views.images.dtype == views.inputs.dtype == np.uint8
  assert views.depth.shape == views.opacity.shape == (3, 32, 32)
  assert views.poses.shape == (3, 4, 4) and views.inputs.shape == (1, 32, 32, 3)
  assert views.opacity.min() >= 0 and views.opacity.max() <= 1
  # The camera's picture was 40 pixels wide on a square of 48, 32 of the model.
  focal = 40 / 2 / np.tan(np.radians(25)) * 32 / 48
  np.testing.assert_allclose(
    views.intrinsics, [focal, focal, 16, 16], rtol=1e-5
  )
  expected = camera_paths.orbit(3, 10.0, 1.2)
  np.testing.assert_allclose(views.poses, expected, atol=1e-5)


def test_a_file_an_array_and_a_known_camera_are_the_same(
  genvs, picture, views, tmp_path
):
  path = tmp_path / "car.png"
  Image.fromarray(picture).save(path)
  from_file = genvs.turntable(path, frames=3, policy="input", **CAMERA)
  np.testing.assert_array_equal(from_file.images, views.images)
  focal = 40 / 2 / np.tan(np.radians(25))
  known = genvs.turntable(
    [picture / 255],
    poses=views.poses[:1],
    intrinsics=[focal, focal, 20, 24],
    path=views.poses,
    policy="input",
  )
  difference = np.abs(known.images.astype(int) - views.images)
  assert difference.max() <= 1
  other = genvs.turntable(picture, frames=3, policy="input", seed=1, **CAMERA)
  assert np.abs(other.images.astype(int) - views.images).max() > 10


def test_a_transparent_background_is_white(genvs, picture, views):
  alpha = np.any(picture != 255, -1)[..., None] * np.uint8(255)
  cut_out = np.concatenate([picture * (alpha > 0), alpha], -1)
  drawn = genvs.turntable(cut_out, frames=1, policy="input", **CAMERA)
  np.testing.assert_array_equal(drawn.inputs, views.inputs)


def test_the_camera_of_training_is_the_default(genvs, picture):
  drawn = genvs.turntable(picture, frames=1)
  away = np.linalg.norm(drawn.poses[0, :3, 3])
  assert away == pytest.approx(1.3)  # between near and far
  assert drawn.intrinsics[0] / 32 == pytest.approx(
    525 / 512 * 40 / 48, rel=1e-5
  )


def test_files_of_every_kind(views, tmp_path):
  for name in ("a.mp4", "a.gif", "a.png", "a.npz"):
    views.save(str(tmp_path / name))
  assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"
  with Image.open(tmp_path / "a.gif") as film:
    assert film.n_frames == 3
  with np.load(tmp_path / "a.npz") as arrays:
    np.testing.assert_array_equal(arrays["depth"], views.depth)
  with pytest.raises(ValueError, match=r"ends in '\.avi', expected \.mp4"):
    views.save(str(tmp_path / "a.avi"))


def test_what_does_not_fit_is_said(genvs, picture):
  with pytest.raises(ValueError, match=r"shape \[48, 40\], expected \[H,W,3\]"):
    genvs.turntable(picture[..., 0])
  with pytest.raises(ValueError, match=r"photos\.background is 'fload'"):
    genvs.turntable(
      [picture], poses=[np.eye(4)], intrinsics=[1] * 4, background="fload"
    )
  with pytest.raises(ValueError, match="1 pictures came with 2 poses"):
    genvs.turntable(
      [picture], poses=np.stack([np.eye(4)] * 2), intrinsics=[1] * 4
    )
  assert pytest.approx(52.0, abs=0.05) == photos.SRN_FOV
