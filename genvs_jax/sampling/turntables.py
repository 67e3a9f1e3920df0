"""Films from Python: a picture in, views along a path out.

genvs = pretrained.load("WORKDIR")
views = genvs.turntable("car.png", elevation=20)
views.save("car.mp4")
"""

from typing import Any
from typing import NamedTuple

import ml_collections
import numpy as np
from etils import epath
from PIL import Image

from genvs_jax.data import paths
from genvs_jax.data import photos
from genvs_jax.geometry import rendering
from genvs_jax.images import encoding
from genvs_jax.images import grids
from genvs_jax.models import pipeline
from genvs_jax.runtime import files
from genvs_jax.sampling import rollouts

_COLUMNS = 8  # of a grid


class Turntable(NamedTuple):
  """Views along a path, F of them.

  Attributes:
    images: u8 [F,H,W,3], samples; renders of a model without a denoiser.
    renders: u8 [F,H,W,3], the RGB renders that they were drawn from.
    depth: f32 [F,H,W], expected distance along each ray, world units.
    opacity: f32 [F,H,W] in [0,1].
    poses: f32 [F,4,4] camera-to-world.
    intrinsics: f32 [4] fx, fy, cx, cy in pixels, the first input view's.
    inputs: u8 [V,H,W,3], the input views as the model sees them.
  """

  images: np.ndarray
  renders: np.ndarray
  depth: np.ndarray
  opacity: np.ndarray
  poses: np.ndarray
  intrinsics: np.ndarray
  inputs: np.ndarray

  def save(self, path: str, fps: float = 12) -> None:
    """Writes a file of the kind that its name ends in.

    Args:
      path: .mp4 or .gif for a film, .png for a grid of some views, .npz for
        all arrays.
      fps: frames per second of a film.

    Raises:
      ValueError: for another ending.
    """
    target = epath.Path(path).expanduser()
    frames = list(self.images)
    if target.suffix == ".npz":
      files.write_arrays(target, self._asdict(), compressed=True)
    elif target.suffix == ".mp4":
      files.write_whole(target, encoding.mp4(frames, fps))
    elif target.suffix == ".gif":
      files.write_whole(target, encoding.gif(frames, fps))
    elif target.suffix == ".png":
      some = [frames[i] for i in grids.evenly_spaced(len(frames), _COLUMNS)]
      rows = [("input", list(self.inputs)), ("views", some)]
      files.write_whole(target, encoding.png(grids.image_grid(rows)))
    else:
      raise ValueError(
        f"{path} ends in {target.suffix!r}, expected .mp4, .gif, .png or .npz"
      )


def draw(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  variables: pipeline.Variables,
  images: Any,
  *,
  poses: Any = None,
  intrinsics: Any = None,
  elevation: float = 20.0,
  distance: float | None = None,
  fov: float | None = None,
  background: str = "alpha",
  path: Any = "orbit",
  frames: int = 40,
  policy: str | None = None,
  seed: int = 0,
) -> Turntable:
  """Draws views along a path from one or several pictures.

  Args:
    config: of the checkpoint.
    model: of it.
    variables: of it.
    images: a file or folder as `--images` takes them; or a picture [H,W,3] or
      [H,W,4], or several [V,H,W,..] with their cameras, u8 or floats in [0,1].
      An object on white, or on a transparent background.
    poses: f32 [V,4,4] OpenCV camera-to-world around an object at the origin;
      only with arrays. Without them there is one picture, seen from:
    intrinsics: f32 [4], or [V,4], fx, fy, cx, cy in their pixels; only with
      `poses`.
    elevation: of its camera, degrees above the horizon.
    distance: of its camera from the object; by default that of training.
    fov: of its camera, horizontal, degrees; by default SRN's, 52.
    background: how it is made white: "alpha", "flood" or "rembg"; see
      `backgrounds.whiten`.
    path: "orbit" at the camera's elevation, another name of `sample.path`, or
      poses f32 [F,4,4].
    frames: F.
    policy: as `rollout.policy`; by default the checkpoint's.
    seed: of the samples.

  Raises:
    ValueError: for pictures or cameras that do not fit.
  """
  config = config.copy_and_resolve_references()
  if distance is None:
    distance = photos.training_distance(config.frustum)
  camera: dict[str, Any] = {
    "elevation": elevation,
    "distance": distance,
    "fov": photos.SRN_FOV if fov is None else fov,
    "background": background,
  }
  inputs = _read(images, poses, intrinsics, camera, model.image_size)
  inputs = photos.with_bounds(config, inputs)
  config.sample.frames, config.sample.elevation = frames, elevation
  if isinstance(path, str):
    config.sample.path = path
    away = float(np.linalg.norm(inputs["poses"][0, :3, 3]))
    path = paths.build_path(config, away)
  if policy is not None:
    config.rollout.policy = policy
  rollout = rollouts.build_rollout(config, model, "denoiser" in variables)
  scene = {key: value[None] for key, value in inputs.items()}
  views = rollouts.in_path_order(
    rollout, variables, {**scene, "scene": np.zeros(1, int)}, path, seed
  )
  opacity = np.stack([view.opacity[0, 0] for view in views])
  weighted = np.stack([view.weighted_depth[0, 0] for view in views])
  return Turntable(
    images=np.stack([grids.picture(view.picture[0, 0]) for view in views]),
    renders=np.stack([grids.picture(view.rgb[0, 0]) for view in views]),
    depth=rendering.expected_depth(weighted, opacity),
    opacity=opacity,
    poses=np.asarray(path, np.float32),
    intrinsics=np.atleast_2d(inputs["intrinsics"])[0, :4],
    inputs=inputs["images"],
  )


def _read(
  images: Any, poses: Any, intrinsics: Any, camera: dict[str, Any], size: int
) -> dict[str, np.ndarray]:
  """Pictures in any of the forms that `draw` takes, as one scene."""
  if isinstance(images, str) or hasattr(images, "__fspath__"):
    if poses is not None:
      raise ValueError("poses go with arrays; a folder brings its own")
    return photos.load(str(images), size=size, **camera)
  if poses is None:
    return photos.from_picture(_picture(images), size=size, **camera)
  pictures = [_picture(image) for image in images]
  background = camera["background"]
  return photos.from_pictures(
    pictures, poses, intrinsics, size=size, background=background
  )


def _picture(image: Any) -> Image.Image:
  """A PIL picture of an array, or the picture itself."""
  if isinstance(image, Image.Image):
    return image
  values = np.asarray(image)
  if values.ndim != 3 or values.shape[-1] not in (3, 4):
    raise ValueError(
      f"a picture has shape {list(values.shape)}, expected [H,W,3] or [H,W,4]"
      " (several come with poses)"
    )
  if values.dtype != np.uint8:
    values = grids.to_uint8(values)
  return Image.fromarray(values)
