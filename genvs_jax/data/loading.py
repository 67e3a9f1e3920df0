"""From prepared datasets to batches; the only user of `tfds_srn`.

The order of the data is a function of (seed, step): batch n holds the records
n B .. n B + B - 1 of one endless shuffled sequence, whatever the number of
devices, processes or workers, so a run resumes by counting.
"""

import dataclasses
import io
import os
import pathlib
import sys
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from absl import logging
from PIL import Image

import tfds_srn
from tfds_srn import synthetic
from tfds_srn import tfds_srn_dataset_builder as srn

Record = dict[str, Any]


class DatasetMissingError(ValueError):
  """The dataset, or a split of it, has not been prepared."""


def build_builder(
  config, workdir: str, skip_bad_scenes: bool = False
) -> tfds_srn.Builder:
  """The TFDS builder that `config.data` names.

  Synthetic scenes with numbers of their own, and folders, get names of their
  own, so that two of them can share a data_dir.
  """
  data = config.data
  if data.dataset not in srn.CONFIGS:
    raise ValueError(
      f"data.dataset is {data.dataset!r}, expected one of"
      f" {', '.join(srn.CONFIGS)}"
    )
  dataset: str | tfds_srn.SrnConfig = data.dataset
  if data.dataset == "synthetic_cars":
    s = data.synthetic
    wanted = {
      "counts": {
        "train": s.train_scenes,
        "val": s.validation_scenes,
        "test": s.test_scenes,
      },
      "views": s.views,
      "size": s.image_size,
      "seed": s.seed,
    }
    if wanted != srn.DEFAULT_SYNTHETIC:
      counts = "_".join(str(n) for n in wanted["counts"].values())
      dataset = dataclasses.replace(
        srn.CONFIGS[data.dataset],
        name=f"synthetic_cars_{counts}x{s.views}_{s.image_size}px_seed{s.seed}",
        synthetic=wanted,
      )
  elif data.dataset == "folder" and data.source:
    stem = pathlib.PurePath(data.source.split(",")[0]).stem
    dataset = dataclasses.replace(
      srn.CONFIGS["folder"],
      name=f"folder_{stem}",
      near=data.near,
      far=data.far,
    )
  return tfds_srn.Builder(
    config=dataset,
    data_dir=_expand(data.data_dir, workdir) or None,
    source=_expand(data.source, workdir),
    url=data.url,
    skip_bad_scenes=skip_bad_scenes,
  )


def prepare(config, workdir: str, skip_bad_scenes: bool = False) -> str:
  """Builds the dataset unless it is there; returns its folder."""
  builder = build_builder(config, workdir, skip_bad_scenes)
  if not builder.is_prepared():
    root = pathlib.Path(os.fspath(builder.data_dir)).parents[2]
    builder.download_and_prepare(download_dir=root / "downloads")
  return os.fspath(builder.data_dir)


def load_split(config, workdir: str, split: str) -> Sequence[Record]:
  """Random access to the records of a split, images undecoded.

  Raises:
    DatasetMissingError: with a sentence on how to prepare it.
  """
  builder = build_builder(config, workdir)
  if not builder.is_prepared():
    raise DatasetMissingError(
      f"dataset {config.data.dataset} is not in {builder.data_dir}: prepare it"
      " with --mode=prepare --config.data.source=FOLDER_OR_ZIP (and the same"
      " --config), or run on made-up cars with"
      " --config.data.dataset=synthetic_cars after --mode=prepare with that"
      " flag"
    )
  if split not in builder.info.splits:
    raise DatasetMissingError(
      f"dataset {config.data.dataset} in {builder.data_dir} has no split"
      f" {split!r}, only {', '.join(builder.info.splits)}: its source held no"
      f" {split} scenes; prepare it from a source that does"
    )
  ids = (builder.info.metadata or {}).get("scene_ids", {}).get(split, ())
  return _Records(
    builder.as_data_source(split=split),
    tuple(ids),
    f"split {split} of {os.fspath(builder.data_dir)}",
  )


@dataclasses.dataclass(frozen=True)
class _Records(Sequence):
  """The records of a split; a damaged one is named.

  Attributes:
    source: TFDS's random access.
    scene_ids: by record; empty for a dataset prepared without them.
    place: where they are, for messages.
  """

  source: Sequence[Record]
  scene_ids: tuple[str, ...]
  place: str

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Record:
    try:
      return self.source[index]
    except IndexError:
      raise
    # TFDS and ArrayRecord stumble over damaged bytes in many ways.
    except Exception as error:
      scene = self.scene_ids[index] if self.scene_ids else "unknown"
      raise ValueError(
        f"record {index} (scene {scene}) in {self.place} cannot be read:"
        f" {str(error).rstrip('.')}. The file is damaged: copy it again, or"
        " delete the folder and prepare the dataset anew"
      ) from error


def check_bounds(config, records: Sequence[Record]) -> None:
  """Warns if the scenes were recorded for another near and far."""
  frustum, record = config.frustum, records[0]
  near, far = float(record["near"]), float(record["far"])
  if frustum.kind == "near_far" and not np.allclose(
    [near, far], [frustum.near, frustum.far], rtol=0.05
  ):
    logging.warning(
      "scenes of %s lie between %.3g and %.3g, but the frustum of the config"
      " between %.3g and %.3g: set --config.frustum.near=%.3g"
      " --config.frustum.far=%.3g",
      config.data.dataset,
      near,
      far,
      frustum.near,
      frustum.far,
      near,
      far,
    )


def decode_views(
  record: Record, views: Sequence[int], image_size: int, resize: str
) -> dict[str, np.ndarray]:
  """Decodes some views of a record at the model's size.

  Images are composited onto white and padded to a square with white; the
  intrinsics follow.

  Args:
    record: a scene.
    views: their indices.
    image_size: H = W in pixels.
    resize: how images become that size: "area" averages (and enlarges
      bicubically), "bicubic" is PIL's, "stride" takes every n-th pixel.

  Returns:
    `images` u8 [N,H,W,3], `poses` f32 [N,4,4], `intrinsics` f32 [4].
  """
  images = [_decode_rgb(record, i, image_size, resize) for i in views]
  height, width = (int(v) for v in record["image_size"])
  side = max(height, width)
  fx, fy, cx, cy = (float(v) for v in record["intrinsics"])
  intrinsics = np.array(
    [fx, fy, cx + (side - width) // 2, cy + (side - height) // 2], np.float32
  )
  return {
    "images": np.stack(images),
    "poses": np.asarray(record["poses"])[np.asarray(views)],
    "intrinsics": intrinsics * np.float32(image_size / side),
  }


def decode_depths(
  record: Record, views: Sequence[int], image_size: int
) -> np.ndarray | None:
  """Depth of the object's pixels, or None if the record has none.

  A pixel is the object's if more than half of it is, and has the mean depth
  of that part.

  Returns:
    f32 [N,H,W] along the optical axis in world units, 0 beside the object.
  """
  if not len(record["depths"]):
    return None
  size = (image_size, image_size)
  depths = []
  for i in views:
    stored = np.array(Image.open(io.BytesIO(record["depths"][i])))
    full = _to_square(stored.astype(np.float32) / synthetic.DEPTH_UNITS)
    covered, summed = (
      np.array(Image.fromarray(x).resize(size, Image.Resampling.BOX))
      for x in ((full > 0).astype(np.float32), full)
    )
    mean = summed / np.maximum(covered, 1e-6)
    depths.append(np.where(covered > 0.5, mean, 0).astype(np.float32))
  return np.stack(depths)


def _to_square(depth: np.ndarray) -> np.ndarray:
  """Empty borders where `_decode_rgb` puts white ones."""
  height, width = depth.shape
  side = max(height, width)
  top, left = (side - height) // 2, (side - width) // 2
  square = np.zeros((side, side), depth.dtype)
  square[top : top + height, left : left + width] = depth
  return square


def train_batches(
  config,
  records: Sequence[Record],
  *,
  start_step: int,
  rows: Sequence[int] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Batch `start_step` and all that follow.

  Args:
    config: data, model, train and seed are read from it.
    records: of a split.
    start_step: the first batch.
    rows: examples of each batch that are wanted, by default all; the others
      are not read.

  Yields:
    batches as in `genvs_jax`, with as many scenes as rows.
  """
  views = config.model.input_views + config.train.target_views
  fewest = min(len(records[i]["poses"]) for i in range(min(len(records), 8)))
  if fewest < views:
    raise ValueError(
      f"a scene has {fewest} views, expected {views} or more"
      " (model.input_views + train.target_views)"
    )
  endless = (
    grain.MapDataset.source(records)
    # The index runs on through the epochs.
    .map_with_index(lambda i, record: {"scene": i % len(records), **record})
    .seed(config.seed)
    .shuffle()
    .repeat()
    .random_map(_PickViews(views, config.model.image_size, config.model.resize))
  )
  size = config.train.batch_size
  share = _BatchShare(
    endless, size, tuple(range(size) if rows is None else rows)
  )
  batches = grain.MapDataset.source(share)[start_step:].to_iter_dataset(
    grain.ReadOptions(
      num_threads=config.data.threads or _default_threads(),
      prefetch_buffer_size=config.data.prefetch,
    )
  )
  if config.data.workers:
    batches = batches.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=config.data.workers)
    )
  return iter(batches)


def _default_threads() -> int:
  """Two on two cores: more would only take the core from the loop itself."""
  return min(8, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class _PickViews(grain.transforms.RandomMap):
  """Decodes `count` distinct random views of a record."""

  count: int
  image_size: int
  resize: str

  def random_map(self, record: Record, rng: np.random.Generator) -> Record:
    available = len(record["poses"])
    if available < self.count:
      raise ValueError(
        f"scene {record['scene_id'].decode()} has {available} views, expected"
        f" {self.count} or more (model.input_views + train.target_views)"
      )
    views = rng.choice(available, self.count, replace=False)
    decoded = decode_views(record, views, self.image_size, self.resize)
    return {**decoded, "scene": np.int32(record["scene"])}


@dataclasses.dataclass(frozen=True)
class _BatchShare:
  """Element n is some rows of batch n."""

  records: grain.MapDataset
  batch_size: int
  rows: tuple[int, ...]

  def __len__(self) -> int:
    return sys.maxsize // self.batch_size

  def __getitem__(self, n: int) -> dict[str, np.ndarray]:
    items = [self.records[n * self.batch_size + row] for row in self.rows]
    return {key: np.stack([item[key] for item in items]) for key in items[0]}


def _decode_rgb(
  record: Record, view: int, size: int, resize: str
) -> np.ndarray:
  try:
    image = Image.open(io.BytesIO(record["images"][view]))
    image.load()
  except OSError as error:
    raise ValueError(
      f"scene {record['scene_id'].decode()}, view {view}: {error}; the record"
      " is damaged, prepare the dataset anew"
    ) from error
  if image.mode != "RGB":
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
  side = max(image.size)
  if image.width != image.height:
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    image = square
  if side == size:
    return np.asarray(image)
  if resize == "stride":
    if side % size:
      raise ValueError(
        f"images of {side} pixels cannot become {size} by model.resize ="
        " 'stride', which takes every n-th pixel: choose 'area'"
      )
    return np.asarray(image)[:: side // size, :: side // size]
  if resize not in ("area", "bicubic"):
    raise ValueError(
      f"model.resize is {resize!r}, expected 'area', 'bicubic' or 'stride'"
    )
  shrink = size < side and resize == "area"
  method = Image.Resampling.BOX if shrink else Image.Resampling.BICUBIC
  return np.asarray(image.resize((size, size), method))


def _expand(path: str, workdir: str) -> str:
  """A path in which a leading WORKDIR stands for --workdir."""
  if path == "WORKDIR" or path.startswith("WORKDIR/"):
    return os.path.join(workdir, path[len("WORKDIR/") :])
  return os.path.expanduser(path)
