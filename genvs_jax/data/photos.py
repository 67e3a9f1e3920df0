"""Your own pictures as input views: folders in three layouts, or one picture.

  SRN       rgb/*.png, pose/*.txt, intrinsics.txt
  NeRF      transforms.json with camera_angle_x (Blender), or with fl_x, fl_y,
            cx, cy, w, h (nerfstudio)
  one       a picture, and its camera by elevation, distance and field of view

Pictures become squares of the model's size and their intrinsics follow; poses
become OpenCV camera-to-world around an object at the world's origin, up +z.
"""

import json
import math
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
from absl import logging
from etils import epath
from PIL import Image
from PIL import ImageOps

from genvs_jax.geometry import camera_paths
from genvs_jax.images import squares
from genvs_jax.runtime import messages
from tfds_srn import parsing

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Mean of a picture's border, 0 to 255, below which it is no white background.
_MIN_WHITE = 230
FITS = ("pad", "crop")
AXES = ("opencv", "opengl")
POSES = ("camera_to_world", "world_to_camera")


class Photo(NamedTuple):
  """A picture and its camera.

  Attributes:
    path: of its file.
    image: as stored, upright.
    pose: f64 [4,4], as stored.
    intrinsics: [4], fx, fy, cx, cy in pixels of the picture.
  """

  path: epath.Path
  image: Image.Image
  pose: np.ndarray
  intrinsics: np.ndarray


def load(
  path: str,
  *,
  size: int,
  fit: str = "pad",
  axes: str = "auto",
  poses: str = "auto",
  scale: float = 1.0,
  elevation: float = 0.0,
  distance: float = 0.0,
  fov: float = 0.0,
  views: Sequence[int] = (),
) -> dict[str, np.ndarray]:
  """Reads pictures as one scene of input views.

  Args:
    path: a folder, or one picture.
    size: H = W of the result in pixels.
    fit: "pad" to a square with white, or "crop" to the middle.
    axes: of the cameras, "opencv" (y down, z into the scene), "opengl"
      (y up, z backwards; Blender's too), or "auto": opencv for the SRN layout,
      opengl for transforms.json.
    poses: "camera_to_world" or "world_to_camera"; "auto": as the flag of the
      SRN layout says, the first for transforms.json.
    scale: what positions are multiplied by.
    elevation: degrees above the horizon, of one picture.
    distance: of its camera from the object, world units, above 0.
    fov: horizontal, in degrees, above 0.
    views: indices of the pictures to take, in the order of their names; all
      by default.

  Returns:
    images u8 [V,size,size,3], poses f32 [V,4,4] and intrinsics f32 [4].

  Raises:
    ValueError: for a file that cannot be understood; it is named.
  """
  messages.check_choice("photos.fit", fit, FITS)
  messages.check_choice("photos.axes", axes, ("auto", *AXES))
  messages.check_choice("photos.poses", poses, ("auto", *POSES))
  photos, *conventions = _read(path, elevation, distance, fov)
  axes = conventions[0] if axes == "auto" else axes
  poses = conventions[1] if poses == "auto" else poses
  if views:
    if min(views) < 0 or max(views) >= len(photos):
      raise ValueError(
        f"sample.input_views is {tuple(views)}, but {path} holds"
        f" {len(photos)} pictures: expected indices from 0 to"
        f" {len(photos) - 1}"
      )
    photos = [photos[i] for i in views]
  _warn_of_background(photos, path)
  results = [_prepare(p, size, fit, axes, poses, scale) for p in photos]
  images, camera_poses, intrinsics = (
    np.stack(x) for x in zip(*results, strict=True)
  )
  if np.ptp(intrinsics, 0).max() > 0.01 * size:
    raise ValueError(
      f"{path}: its pictures have different intrinsics, expected one camera"
    )
  return {"images": images, "poses": camera_poses, "intrinsics": intrinsics[0]}


def from_picture(
  image: Image.Image,
  *,
  size: int,
  elevation: float,
  distance: float,
  fov: float,
) -> dict[str, np.ndarray]:
  """One picture as a scene of one input view; arguments as of `load`."""
  photo = _single(epath.Path("the picture"), image, elevation, distance, fov)
  return _as_scene([photo], size)


def from_pictures(
  images: Sequence[Image.Image], poses, intrinsics, *, size: int
) -> dict[str, np.ndarray]:
  """Pictures with their cameras as a scene.

  Args:
    images: V of them, of one size.
    poses: [V,4,4] OpenCV camera-to-world.
    intrinsics: [4] in pixels of the pictures.
    size: H = W of the result in pixels.

  Raises:
    ValueError: for cameras that do not fit.
  """
  if intrinsics is None or len(poses) != len(images):
    raise ValueError(
      f"{len(images)} pictures came with {len(poses)} poses, expected a pose"
      " for each and the intrinsics of all"
    )
  path = epath.Path("the pictures")
  return _as_scene(
    [
      Photo(path, image, _matrix(np.ravel(pose), path), np.asarray(intrinsics))
      for image, pose in zip(images, poses, strict=True)
    ],
    size,
  )


def _as_scene(photos: list[Photo], size: int) -> dict[str, np.ndarray]:
  """Photos with OpenCV camera-to-world poses, padded to squares."""
  _warn_of_background(photos, str(photos[0].path))
  results = [
    _prepare(p, size, "pad", "opencv", "camera_to_world", 1.0) for p in photos
  ]
  images, poses, intrinsics = (np.stack(x) for x in zip(*results, strict=True))
  return {"images": images, "poses": poses, "intrinsics": intrinsics[0]}


def _read(
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
    photo = _single(root, _open(root), elevation, distance, fov)
    return [photo], "opencv", "camera_to_world"
  if (root / "transforms.json").exists():
    photos = _from_transforms(root / "transforms.json")
    return photos, "opengl", "camera_to_world"
  if (root / "rgb").exists():
    photos, is_world_to_camera = _from_srn(root)
    return photos, "opencv", POSES[is_world_to_camera]
  raise ValueError(
    f"{path}: expected transforms.json, or rgb/, pose/ and intrinsics.txt"
  )


def warn_of_odd_cameras(poses: np.ndarray, near: float, far: float) -> None:
  """Warns of cameras that suggest a wrong convention or a wrong scale.

  Args:
    poses: [V,4,4] OpenCV camera-to-world.
    near: of the trained frustum, world units.
    far: of the trained frustum.
  """
  positions = poses[:, :3, 3]
  distances = np.linalg.norm(positions, axis=-1)
  towards = -positions / np.maximum(distances, 1e-9)[:, None]
  cosines = np.sum(towards * poses[:, :3, 2], -1)
  away = np.flatnonzero(cosines < math.cos(math.radians(45)))
  if len(away):
    logging.warning(
      "%d of %d cameras do not look at the world's origin, where the object is"
      " expected (camera %d is turned away by %.0f degrees): try other"
      " photos.axes or photos.poses",
      len(away),
      len(poses),
      away[0],
      math.degrees(math.acos(np.clip(cosines[away[0]], -1, 1))),
    )
  training_distance = (near + far) / 2
  off = np.abs(distances / training_distance - 1) > 0.2
  if off.any():
    logging.warning(
      "cameras stand %.3g to %.3g from the origin, those that the model was"
      " trained on about %.3g: try photos.scale=%.3g",
      distances.min(),
      distances.max(),
      training_distance,
      training_distance / np.median(distances),
    )


def _warn_of_background(photos: list[Photo], path: str) -> None:
  """The model has seen objects on white alone."""
  dark = []
  for photo in photos:
    image = np.asarray(squares.flatten_onto_white(photo.image))
    border = [image[0], image[-1], image[:, 0], image[:, -1]]
    if np.concatenate(border).mean() < _MIN_WHITE:
      dark.append(photo.path.name)
  if dark:
    logging.warning(
      "%s: the background of %s is not white, as the model knows it: cut the"
      " object out (an alpha channel will do)",
      path,
      ", ".join(dark[:5]),
    )


def _prepare(photo: Photo, size, fit, axes, poses, scale):
  """(u8 [size,size,3], pose, intrinsics) of one photo."""
  sides = photo.image.size
  side = min(sides) if fit == "crop" else max(sides)
  square, left, top = squares.square(
    squares.flatten_onto_white(photo.image), side
  )
  fx, fy, cx, cy = photo.intrinsics
  intrinsics = np.array([fx, fy, cx + left, cy + top]) * (size / side)
  pose: np.ndarray = np.array(photo.pose, np.float64)
  if poses == "world_to_camera":
    pose = np.linalg.inv(pose)
  if axes == "opengl":
    pose = camera_paths.flip_axes(pose)
  pose[:3, 3] *= scale
  return (
    np.asarray(squares.resize(square, size, "area")),
    pose.astype(np.float32),
    intrinsics.astype(np.float32),
  )


def _open(path: epath.Path) -> Image.Image:
  try:
    with path.open("rb") as file:
      image = Image.open(file)
      image.load()
  except (OSError, Image.DecompressionBombError) as error:
    raise ValueError(f"{path}: {error}") from error
  # Phones store pictures as the sensor lies, and say how to turn them.
  return ImageOps.exif_transpose(image)


def _single(
  path, image: Image.Image, elevation: float, distance: float, fov: float
) -> Photo:
  pose = np.array(camera_paths.orbit(1, elevation, distance)[0])
  focal = image.width / 2 / math.tan(math.radians(fov) / 2)
  centre = (image.width / 2, image.height / 2)
  return Photo(path, image, pose, np.array([focal, focal, *centre]))


def _from_srn(folder: epath.Path) -> tuple[list[Photo], bool]:
  """Its pictures, and whether its poses are world-to-camera."""
  names = sorted(
    p for p in (folder / "rgb").iterdir() if p.suffix.lower() in _SUFFIXES
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
    matrix = _matrix(_read_text(pose).split(), pose)
    photos.append(Photo(path, image, matrix, intrinsics))
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
        _matrix(np.ravel(matrix), path),
        _intrinsics_of({**content, **frame}, image, path),
      )
    )
  if not photos:
    raise ValueError(f"{path}: `frames` is empty")
  return photos


def _find_picture(stem: epath.Path, source: epath.Path) -> epath.Path:
  """Blender's files leave the suffix out."""
  for path in (stem, *(stem.with_name(stem.name + s) for s in _SUFFIXES)):
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
  if "fl_x" in values:
    scale = image.width / values.get("w", image.width)
    fx = values["fl_x"]
    fy = values.get("fl_y", fx)
    cx = values.get("cx", image.width / scale / 2)
    cy = values.get("cy", image.height / scale / 2)
    return np.array([fx, fy, cx, cy]) * scale
  if "camera_angle_x" in values:
    focal = image.width / 2 / math.tan(values["camera_angle_x"] / 2)
    return np.array([focal, focal, image.width / 2, image.height / 2])
  raise ValueError(
    f"{path}: expected camera_angle_x (radians) or fl_x (pixels)"
  )


def _matrix(values, path: epath.Path) -> np.ndarray:
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
