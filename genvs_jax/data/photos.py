"""Your own pictures as input views: folders in three layouts, or one picture.

  SRN       rgb/*.png, pose/*.txt, intrinsics.txt
  NeRF      transforms.json with camera_angle_x (Blender), or with fl_x, fl_y,
            cx, cy, w, h (nerfstudio)
  one       a picture, and its camera by elevation, distance and field of view

Pictures become squares of the model's size and their intrinsics follow; poses
become OpenCV camera-to-world around an object at the world's origin, up +z.
"""

import math
from collections.abc import Sequence

import ml_collections
import numpy as np
from absl import logging
from etils import epath
from PIL import Image

from genvs_jax.data import backgrounds
from genvs_jax.data import photo_files
from genvs_jax.geometry import camera_paths
from genvs_jax.images import squares
from genvs_jax.runtime import messages

# Mean of a picture's border, 0 to 255, below which it is no white background.
_MIN_WHITE = 230
FITS = ("pad", "crop")
# Of the picture's width: intrinsics that differ by less are one camera's.
_SAME_CAMERA = 1e-3
# Of SRN's cameras: 256 pixels on either side at a focal length of 525, and how
# far they stand from a car, world units.
SRN_FOV = math.degrees(2 * math.atan(256 / 525))
SRN_DISTANCE = 1.3


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
  background: str = "alpha",
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
    background: how it is made white, see `backgrounds.whiten`.
    views: indices of the pictures to take, in the order of their names; all
      by default.

  Returns:
    images u8 [V,size,size,3], poses f32 [V,4,4] and intrinsics f32 [4], or
    [V,4] if the pictures differ in theirs.

  Raises:
    ValueError: for a file that cannot be understood; it is named.
  """
  messages.check_choice("photos.fit", fit, FITS)
  messages.check_choice("photos.axes", axes, ("auto", *photo_files.AXES))
  messages.check_choice("photos.poses", poses, ("auto", *photo_files.POSES))
  photos, *conventions = photo_files.read(path, elevation, distance, fov)
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
  photos = [
    photo._replace(image=backgrounds.whiten(photo.image, background))
    for photo in photos
  ]
  _warn_of_background(photos, path)
  results = [_prepare(p, size, fit, axes, poses, scale) for p in photos]
  images, camera_poses, intrinsics = (
    np.stack(x) for x in zip(*results, strict=True)
  )
  return _scene(images, camera_poses, intrinsics)


def with_bounds(
  config: ml_collections.ConfigDict, views: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Views with near and far after their intrinsics, if the model takes them:
  as far before and behind the origin as the config's are from their middle."""
  frustum = config.frustum
  if frustum.bounds != "scene":
    return views
  half = (frustum.far - frustum.near) / 2
  distances = np.linalg.norm(views["poses"][:, :3, 3], axis=-1, keepdims=True)
  intrinsics = np.broadcast_to(views["intrinsics"], (len(distances), 4))
  bounds = [np.maximum(distances - half, 1e-3), distances + half]
  return {
    **views,
    "intrinsics": np.concatenate([intrinsics, *bounds], 1).astype(np.float32),
  }


def training_distance(frustum: ml_collections.ConfigDict) -> float:
  """Of cameras from the object, where the training data's stood."""
  is_near_far = frustum.kind == "near_far"
  return (frustum.near + frustum.far) / 2 if is_near_far else SRN_DISTANCE


def from_picture(
  image: Image.Image,
  *,
  size: int,
  elevation: float,
  distance: float,
  fov: float,
  background: str = "alpha",
) -> dict[str, np.ndarray]:
  """One picture as a scene of one input view; arguments as of `load`."""
  image = backgrounds.whiten(image, background)
  photo = photo_files.single(
    epath.Path("the picture"), image, elevation, distance, fov
  )
  return _as_scene([photo], size)


def from_pictures(
  images: Sequence[Image.Image],
  poses,
  intrinsics,
  *,
  size: int,
  background: str = "alpha",
) -> dict[str, np.ndarray]:
  """Pictures with their cameras as a scene.

  Args:
    images: V of them, of one size.
    poses: [V,4,4] OpenCV camera-to-world.
    intrinsics: [4] in pixels of the pictures, or [V,4].
    size: H = W of the result in pixels.
    background: how it is made white, see `backgrounds.whiten`.

  Raises:
    ValueError: for cameras that do not fit.
  """
  if intrinsics is None or len(poses) != len(images):
    raise ValueError(
      f"{len(images)} pictures came with {len(poses)} poses, expected a pose"
      " for each and the intrinsics of all"
    )
  path = epath.Path("the pictures")
  each = np.broadcast_to(np.asarray(intrinsics), (len(images), 4))
  white = [backgrounds.whiten(image, background) for image in images]
  photos = [
    photo_files.Photo(
      path, image, photo_files.parse_pose(np.ravel(pose), path), camera
    )
    for image, pose, camera in zip(white, poses, each, strict=True)
  ]
  return _as_scene(photos, size)


def _as_scene(
  photos: list[photo_files.Photo], size: int
) -> dict[str, np.ndarray]:
  """Photos with OpenCV camera-to-world poses, padded to squares."""
  _warn_of_background(photos, str(photos[0].path))
  results = [
    _prepare(p, size, "pad", "opencv", "camera_to_world", 1.0) for p in photos
  ]
  return _scene(*(np.stack(x) for x in zip(*results, strict=True)))


def _scene(images, poses, intrinsics) -> dict[str, np.ndarray]:
  """Views of one camera share its intrinsics [4]; others have their own."""
  is_one = np.ptp(intrinsics, 0).max() <= _SAME_CAMERA * images.shape[1]
  return {
    "images": images,
    "poses": poses,
    "intrinsics": intrinsics[0] if is_one else intrinsics,
  }


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


def _warn_of_background(photos: list[photo_files.Photo], path: str) -> None:
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
      " object out (an alpha channel will do), or try photos.background=flood",
      path,
      ", ".join(dark[:5]),
    )


def _prepare(photo: photo_files.Photo, size, fit, axes, poses, scale):
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
