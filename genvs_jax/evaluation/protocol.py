"""Which views of a scene are inputs, and which are drawn and scored.

The protocol of SRN cars, as pixelNeRF and its successors use it: view 64 of
251 is the input (two views: 64 and 104 there, 64 and 128 in Splatter Image),
and all others are scored.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
import numpy as np
from etils import epath

from genvs_jax.data import datasets
from genvs_jax.data import decoding
from genvs_jax.geometry import camera_paths
from genvs_jax.geometry import cameras
from genvs_jax.runtime import files
from genvs_jax.runtime import messages

# pixelNeRF's quick look, its viewlist/srn_eval_views.txt.
PIXELNERF_SUBSET = (0, *range(24, 250, 25))
TARGETS = ("others", "pixelnerf", "spread")


class SceneViews(NamedTuple):
  """A scene as evaluation uses it, on the host.

  Attributes:
    scene: its number in the split.
    name: its id.
    category: of the object; "" if it is not known.
    inputs: images u8 [V,H,W,3], poses [V,4,4] and intrinsics [V,4].
    views: indices [T] of the targets.
    images: u8 [T,H,W,3] of the targets.
    poses: f32 [T,4,4] of the targets.
    intrinsics: f32 [T,4] of the targets, pixels.
    distances: f32 [T,H,W] to the surface along the ray, world units, 0 where
      there is none; None if the record has no depth.
  """

  scene: int
  name: str
  category: str
  inputs: dict[str, np.ndarray]
  views: np.ndarray
  images: np.ndarray
  poses: np.ndarray
  intrinsics: np.ndarray
  distances: np.ndarray | None


def choose_targets(
  poses: np.ndarray,
  inputs: Sequence[int],
  targets: str,
  count: int,
  min_angle: float,
) -> np.ndarray:
  """Indices of the views to score.

  Args:
    poses: [views,4,4] of the scene.
    inputs: indices of the input views.
    targets: "others", "pixelnerf" or "spread".
    count: of "spread", chosen far from the inputs and from each other.
    min_angle: of "spread", degrees from every input.

  Raises:
    ValueError: if a view does not exist, or none is left.
  """
  messages.check_choice("evaluate.targets", targets, TARGETS)
  total = len(poses)
  _check_views(inputs, total)
  if targets == "spread":
    return camera_paths.spread_targets(poses, inputs, count, min_angle)
  indices = PIXELNERF_SUBSET if targets == "pixelnerf" else range(total)
  if max(indices) >= total:
    raise ValueError(
      f"evaluate.targets is 'pixelnerf', views up to {max(indices)}, but a"
      f" scene has {total}: choose 'others' or 'spread'"
    )
  left = [i for i in indices if i not in inputs]
  if not left:
    raise ValueError(
      f"evaluate.input_views is {tuple(inputs)}, which leaves no view to score"
      f" of a scene with {total}: leave such scenes out of the split"
    )
  return np.array(left)


def input_views(
  config: ml_collections.ConfigDict, record: datasets.Record
) -> list[int]:
  """Indices of a scene's input views.

  Raises:
    ValueError: if `evaluate.view_list` does not name the scene, or a view that
      it does not have.
  """
  path = config.evaluate.view_list
  if not path:
    return list(config.evaluate.input_views)
  name, views = record["scene_id"].decode(), _read_view_list(path)
  if name not in views:
    raise ValueError(
      f"evaluate.view_list {path} has no line for scene {name}, expected one"
      " like 'CLASS OBJECT VIEW' for each: add it, or leave the field out"
    )
  total = len(record["poses"])
  if max(views[name]) >= total:
    raise ValueError(
      f"evaluate.view_list {path} names view {max(views[name])} of scene"
      f" {name}, expected one from 0 to {total - 1}"
    )
  return list(views[name])


def view_list_digest(path: str) -> str:
  """Of the content of a file of input views; "" without one."""
  return files.digest(epath.Path(path).read_text()) if path else ""


@functools.lru_cache(maxsize=1)
def _read_view_list(path: str) -> dict[str, tuple[int, ...]]:
  """{id of a scene: its input views}."""
  views: dict[str, tuple[int, ...]] = {}
  for number, line in enumerate(epath.Path(path).read_text().splitlines(), 1):
    *names, view = line.split() or ["", "0"]
    if not names or not view.isdecimal():
      raise ValueError(
        f"{path}, line {number}: found {line!r}, expected CLASS OBJECT VIEW"
      )
    if any(names):
      name = "_".join(names)
      views[name] = (*views.get(name, ()), int(view))
  counts = {len(of_object): name for name, of_object in views.items()}
  if len(counts) > 1:
    (few, one), (many, other) = sorted(counts.items())[:2]
    raise ValueError(
      f"{path} names {few} input views of {one} and {many} of {other}, expected"
      " as many of each object"
    )
  return views


def decode_inputs(
  config: ml_collections.ConfigDict, record: datasets.Record
) -> dict[str, np.ndarray]:
  """Images u8 [V,H,W,3], poses [V,4,4] and intrinsics [V,4] of a scene."""
  indices = input_views(config, record)
  _check_views(indices, len(record["poses"]))
  return decoding.decode_for(config, record, indices)


def load_scene(
  config: ml_collections.ConfigDict,
  records: Sequence[datasets.Record],
  scene: int,
) -> SceneViews:
  """Decodes one scene's inputs and targets."""
  options, size = config.evaluate, config.model.image_size
  record = records[scene]
  views = choose_targets(
    np.array(record["poses"]),
    input_views(config, record),
    options.targets,
    options.spread_views,
    options.min_angle,
  )
  targets = decoding.decode_for(config, record, views.tolist())
  depths = decoding.decode_depths(record, views.tolist(), size)
  return SceneViews(
    scene=scene,
    name=record["scene_id"].decode(),
    category=record.get("category", b"").decode(),
    inputs=decode_inputs(config, record),
    views=views,
    images=targets["images"],
    poses=targets["poses"],
    intrinsics=targets["intrinsics"],
    distances=None
    if depths is None
    else depths * _ray_lengths(targets["intrinsics"], size),
  )


def _check_views(inputs: Sequence[int], total: int) -> None:
  if not inputs or min(inputs) < 0 or max(inputs) >= total:
    raise ValueError(
      f"evaluate.input_views is {tuple(inputs)}, expected one or more from 0"
      f" to {total - 1} (SRN's test scenes have 251 views, others fewer)"
    )


def _ray_lengths(intrinsics: np.ndarray, size: int) -> np.ndarray:
  """Distance along each pixel's ray per depth along the axis, [T,H,W]."""
  identity = np.broadcast_to(
    np.eye(4, dtype=np.float32), (len(intrinsics), 4, 4)
  )
  _, directions = cameras.pixel_rays(
    identity, intrinsics, cameras.pixel_centres(size, size)
  )
  return 1 / np.asarray(directions)[..., 2].reshape(-1, size, size)
