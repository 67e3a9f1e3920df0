"""Input views of the scenes to draw: of a dataset, or the user's pictures."""

import zlib

import ml_collections
import numpy as np
from absl import logging
from etils import epath

from genvs_jax.data import datasets
from genvs_jax.data import decoding
from genvs_jax.data import photo_files
from genvs_jax.data import photos
from genvs_jax.models import pipeline


def load_inputs(
  config: ml_collections.ConfigDict, model: pipeline.Model, workdir: str
) -> dict[str, np.ndarray]:
  """The input views of the scenes to draw, as `rollouts` takes them.

  Raises:
    ValueError: if a scene or a view does not exist.
  """
  options = config.sample
  records = datasets.load_split(config, workdir, options.split)
  datasets.check_cameras(config, records)
  scenes = range(options.scene, options.scene + options.scenes)
  if not scenes or scenes[0] < 0 or scenes[-1] >= len(records):
    raise ValueError(
      f"sample.scene is {options.scene} and sample.scenes {options.scenes},"
      f" expected scenes from 0 to {len(records) - 1} (split {options.split})"
    )
  indices = list(options.input_views) or [0]
  items = []
  for scene in scenes:
    views = len(records[scene]["poses"])
    if min(indices) < 0 or max(indices) >= views:
      raise ValueError(
        f"sample.input_views is {tuple(indices)}, expected one or more from 0"
        f" to {views - 1}"
      )
    items.append(decoding.decode_for(config, records[scene], indices))
  batch = {k: np.stack([item[k] for item in items]) for k in items[0]}
  return {**batch, "scene": np.array(scenes)}


def load_photos(
  config: ml_collections.ConfigDict, model: pipeline.Model, path: str
) -> dict[str, np.ndarray]:
  """Pictures of the user's own, as `rollouts` takes them.

  Args:
    config: frustum, photos and sample are read from it.
    model: whose image size is used.
    path: a folder with cameras, which is one scene; a picture, or a folder of
      pictures without cameras, each of which is a scene.

  Raises:
    ValueError: for files that cannot be understood.
  """
  options = dict(config.photos)
  # The camera of a picture, where it is not given: that of training.
  options["distance"] = options["distance"] or photos.training_distance(
    config.frustum
  )
  options["fov"] = options["fov"] or photos.SRN_FOV
  paths = photo_files.scenes(path)
  scenes = [_load_scene(config, model, name, options) for name in paths]
  if not epath.Path(paths[0]).expanduser().is_dir():
    logging.info(
      "%s is taken to be seen from %.3g degrees above, %.3g away, with a field"
      " of view of %.3g degrees; photos.elevation, .distance and .fov set that",
      path if len(paths) == 1 else f"each of the {len(paths)} pictures",
      options["elevation"],
      options["distance"],
      options["fov"],
    )
  batch = {key: np.stack([s[key] for s in scenes]) for key in scenes[0]}
  # A picture has its noise, whatever is drawn beside it.
  numbers = [zlib.crc32(s["images"].tobytes()) >> 1 for s in scenes]
  return {**batch, "scene": np.array(numbers)}


def _load_scene(
  config: ml_collections.ConfigDict, model: pipeline.Model, path: str, options
) -> dict[str, np.ndarray]:
  """One scene, whose cameras are compared with those of training."""
  chosen_views = config.sample.input_views
  size = model.image_size
  views = photos.load(path, size=size, views=chosen_views, **options)
  count = len(views["images"])
  if count > config.model.input_views:
    logging.warning(
      "%s gives %d input views, but the model was trained with at most %d:"
      " choose some with sample.input_views",
      path,
      count,
      config.model.input_views,
    )
  for intrinsics in np.atleast_2d(views["intrinsics"]):
    datasets.check_principal_point(config, path, intrinsics, (size, size))
  frustum = config.frustum
  photos.warn_of_odd_cameras(views["poses"], frustum.near, frustum.far)
  return photos.with_bounds(config, views)
