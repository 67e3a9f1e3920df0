"""Scenes to choose from in the viewer: of a dataset, made up, or a picture."""

import io
from collections.abc import Callable
from typing import NamedTuple

import ml_collections
import numpy as np
from absl import logging
from PIL import Image
from PIL import ImageOps

from genvs_jax.data import dataset_builders
from genvs_jax.data import datasets
from genvs_jax.data import decoding
from genvs_jax.data import made_scenes
from genvs_jax.data import photos
from genvs_jax.models import pipeline

_MADE_SCENES = 1_000


class Scenes(NamedTuple):
  """Where input views come from.

  Attributes:
    label: what they are, for the page.
    number: of scenes.
    load: (scene, view) -> images u8 [1,H,W,3], poses f32 [1,4,4], intrinsics
      f32 [4] and the number of the scene. Raises ValueError for a view that a
      scene does not have.
    view: number of the first input view.
  """

  label: str
  number: int
  load: Callable[[int, int], dict[str, np.ndarray]]
  view: int = 0


def build_scenes(
  config: ml_collections.ConfigDict, model: pipeline.Model, workdir: str
) -> Scenes:
  """The scenes of the dataset, or synthetic cars where it is not prepared.

  Args:
    config: data and sample are read from it.
    model: whose image size is used.
    workdir: where a data_dir of WORKDIR lies.
  """
  split, size = config.sample.split, model.image_size
  try:
    records = datasets.load_split(config, workdir, split)
  except ValueError as error:
    if not dataset_builders.are_made(config):
      logging.warning("synthetic cars are shown instead of scenes: %s", error)
    return _made(config, size)

  def load(scene: int, view: int) -> dict[str, np.ndarray]:
    record = records[scene]
    _check_view(view, len(record["poses"]))
    views = decoding.decode_for(config, record, [view])
    return {**views, "scene": np.array(scene)}

  return Scenes(f"{config.data.dataset}, {split}", len(records), load)


def _made(config: ml_collections.ConfigDict, size: int) -> Scenes:
  synthetic = config.data.synthetic

  def load(scene: int, view: int) -> dict[str, np.ndarray]:
    _check_view(view, made_scenes.VIEWS)
    views = made_scenes.input_view(
      synthetic.seed, scene, view, size, synthetic.markings
    )
    return {**photos.with_bounds(config, views), "scene": np.array(scene)}

  return Scenes("synthetic cars", _MADE_SCENES, load, view=64)


def _check_view(view: int, count: int) -> None:
  if not 0 <= view < count:
    raise ValueError(
      f"the input view is {view}, but the scene has views 0 to {count - 1}"
    )


def from_upload(
  content: bytes,
  config: ml_collections.ConfigDict,
  size: int,
  elevation: float,
) -> dict[str, np.ndarray]:
  """The bytes of a picture as a scene, seen from the training distance.

  Args:
    content: of a PNG, JPEG or WEBP file.
    config: frustum and photos are read from it.
    size: H = W in pixels.
    elevation: of its camera, degrees above the horizon.

  Raises:
    ValueError: if it is no picture.
  """
  try:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
  except OSError as error:
    raise ValueError(
      "the file is no picture: expected PNG, JPEG or WEBP"
    ) from (error)
  views = photos.from_picture(
    image,
    size=size,
    elevation=elevation,
    distance=config.photos.distance or photos.training_distance(config.frustum),
    fov=config.photos.fov or photos.SRN_FOV,
    background=config.photos.background,
  )
  return {**photos.with_bounds(config, views), "scene": np.array(0)}
