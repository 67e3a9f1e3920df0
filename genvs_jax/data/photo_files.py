"""Pictures and their cameras as files hold them, in the layouts of others."""

import json
import math
from typing import Any
from typing import NamedTuple

import numpy as np
from absl import logging
from etils import epath
from PIL import Image
from PIL import ImageOps

from genvs_jax.geometry import camera_paths
from tfds_srn import parsing
from tfds_srn.layouts import nerf

SUFFIXES = nerf.SUFFIXES
AXES = ("opencv", "opengl")
POSES = ("camera_to_world", "world_to_camera")
_TRANSFORMS = ("transforms.json", "transforms_train.json")


class Photo(NamedTuple):
  """A picture and its camera.

  Attributes:
    path: of its file.
    image: as stored; if its camera is not known, upright.
    pose: f64 [4,4], as stored.
    intrinsics: [4], fx, fy, cx, cy in pixels of the picture.
  """

  path: epath.Path
  image: Image.Image
  pose: np.ndarray
  intrinsics: np.ndarray


def scenes(path: str) -> list[str]:
  """The scenes of a folder or a picture: a folder of pictures without cameras
  has one for each of them, all else is one."""
  root = epath.Path(path).expanduser()
  has_cameras = any((root / name).exists() for name in (*_TRANSFORMS, "rgb"))
  if has_cameras or not root.is_dir():
    return [path]
  pictures = sorted(
    str(p) for p in root.iterdir() if p.suffix.lower() in SUFFIXES
  )
  return pictures or [path]


def read(
  path: str, elevation: float, distance: float, fov: float
) -> tuple[list[Photo], str, str]:
  """The photos, and the axes and the direction of their poses."""
  root = epath.Path(path).expanduser()
  if not root.exists():
    raise ValueError(f"{path}: there is no such folder or picture")
  if not root.is_dir():
    if distance <= 0 or not 0 < fov < 180:
      raise ValueError(
        f"{path} is one picture, whose camera is not known: give"
        " photos.elevation (degrees), photos.distance (world units) and"
        " photos.fov (degrees)"
      )
    # Phones store pictures as the sensor lies, and say how to turn them.
    image = ImageOps.exif_transpose(_open(root))
    photo = single(root, image, elevation, distance, fov)
    return [photo], "opencv", "camera_to_world"
  for name in _TRANSFORMS:
    if (root / name).exists():
      return _from_transforms(root / name), "opengl", "camera_to_world"
  if (root / "rgb").exists():
    photos, is_world_to_camera = _from_srn(root)
    return photos, "opencv", POSES[is_world_to_camera]
  if scenes(path) != [path]:
    raise ValueError(
      f"{path} holds pictures without cameras: name one of them, or add"
      f" {' or '.join(_TRANSFORMS)}, or SRN's layout"
    )
  content = "no pictures" if any(root.iterdir()) else "nothing"
  raise ValueError(
    f"{path} holds {content}, expected {' or '.join(_TRANSFORMS)}; rgb/, pose/"
    f" and intrinsics.txt; or pictures ({', '.join(SUFFIXES)})"
  )


def _open(path: epath.Path) -> Image.Image:
  try:
    with path.open("rb") as file:
      image = Image.open(file)
      image.load()
      return image
  except Image.UnidentifiedImageError as error:
    raise ValueError(
      f"{path} is not a picture, expected one of {', '.join(SUFFIXES)}"
    ) from error
  except (OSError, Image.DecompressionBombError) as error:
    raise ValueError(f"{path}: {error}") from error


def single(
  path, image: Image.Image, elevation: float, distance: float, fov: float
) -> Photo:
  """A picture whose camera looks at the origin; degrees and world units."""
  pose = np.array(camera_paths.orbit(1, elevation, distance)[0])
  focal = image.width / 2 / math.tan(math.radians(fov) / 2)
  centre = (image.width / 2, image.height / 2)
  return Photo(path, image, pose, np.array([focal, focal, *centre]))


def _from_srn(folder: epath.Path) -> tuple[list[Photo], bool]:
  """Its pictures, and whether its poses are world-to-camera."""
  names = sorted(
    p for p in (folder / "rgb").iterdir() if p.suffix.lower() in SUFFIXES
  )
  if not names:
    raise ValueError(f"{folder / 'rgb'}: expected pictures, found none")
  text = _read_text(folder / "intrinsics.txt").encode()
  photos, is_world_to_camera = [], False
  for path in names:
    image = _open(path)
    intrinsics, is_world_to_camera, problem = (
      parsing.parse_pixelnerf_intrinsics(text, (image.height, image.width))
    )
    if intrinsics is None:
      raise ValueError(f"{folder / 'intrinsics.txt'} {problem}")
    pose = folder / "pose" / f"{path.stem}.txt"
    values = parse_pose(_read_text(pose).split(), pose)
    photos.append(Photo(path, image, values, intrinsics))
  return photos, is_world_to_camera


def _from_transforms(path: epath.Path) -> list[Photo]:
  try:
    content = json.loads(_read_text(path))
    frames = content["frames"]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path}: expected JSON with a list `frames` ({error})"
    ) from error
  photos = []
  for frame in frames:
    try:
      name, matrix = frame["file_path"], frame["transform_matrix"]
    except (KeyError, TypeError) as error:
      raise ValueError(
        f"{path}: a frame lacks file_path or transform_matrix"
      ) from error
    file = _find_picture(path.parent / name, path)
    image = _open(file)
    photos.append(
      Photo(
        file,
        image,
        parse_pose(np.ravel(matrix), path),
        _intrinsics_of({**content, **frame}, image, path),
      )
    )
  if not photos:
    raise ValueError(f"{path}: `frames` is empty")
  return photos


def _find_picture(stem: epath.Path, source: epath.Path) -> epath.Path:
  """Blender's files leave the suffix out."""
  for path in (stem, *(stem.with_name(stem.name + s) for s in SUFFIXES)):
    if path.exists() and not path.is_dir():
      return path
  raise ValueError(f"{source} names {stem}, which does not exist")


def _intrinsics_of(
  values: dict[str, Any], image: Image.Image, path: epath.Path
) -> np.ndarray:
  """fx, fy, cx, cy in pixels of the image."""
  distortion = [values.get(k, 0.0) for k in ("k1", "k2", "k3", "p1", "p2")]
  if any(abs(k) > 1e-3 for k in distortion):
    logging.warning(
      "%s describes lens distortion %s, which is ignored: undistort the"
      " pictures first",
      path,
      distortion,
    )
  intrinsics, problem = nerf.intrinsics_of(values, (image.height, image.width))
  if intrinsics is None:
    raise ValueError(f"{path}: {problem}")
  return intrinsics


def parse_pose(values, path: epath.Path) -> np.ndarray:
  """A rigid motion f64 [4,4] of 12 or 16 numbers; `path` is their source."""
  try:
    matrix = np.array([float(v) for v in values]).reshape(-1, 4)
  except ValueError as error:
    raise ValueError(f"{path}: expected 16 numbers of a pose") from error
  if matrix.shape == (3, 4):
    matrix = np.concatenate([matrix, [[0, 0, 0, 1]]])
  if matrix.shape != (4, 4):
    raise ValueError(f"{path}: expected 16 numbers of a pose")
  # Structure from motion writes fewer digits than a renderer.
  problem = parsing.rigid_problem(matrix, tolerance=1e-2)
  if problem:
    raise ValueError(f"{path}: a pose {problem}")
  return matrix


def _read_text(path: epath.Path) -> str:
  try:
    return path.read_text()
  except OSError as error:
    raise ValueError(f"{path} cannot be read: {error.strerror}") from error
