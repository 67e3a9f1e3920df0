"""From records to batches.

The order of the data is a function of (seed, step): batch n holds the records
n B .. n B + B - 1 of one endless shuffled sequence, whatever the number of
devices, processes or workers, so a run resumes by counting.
"""

import dataclasses
import os
import sys
from collections.abc import Iterator
from collections.abc import Sequence

import grain
import ml_collections
import numpy as np

from genvs_jax.data import datasets
from genvs_jax.data import decoding
from genvs_jax.data import scene_augmentation
from genvs_jax.images import squares
from genvs_jax.runtime import messages


def train_batches(
  config: ml_collections.ConfigDict,
  records: datasets.Records,
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

  Raises:
    ValueError: if a scene has fewer views than an example needs.

  Yields:
    batches as in `genvs_jax`, with as many scenes as rows.
  """
  messages.check_choice("model.resize", config.model.resize, squares.RESIZES)
  views = config.model.input_views + config.train.target_views
  # Known of all scenes, or looked up in the first eight of an older dataset.
  fewest = records.ranges.get("views", [0])[0] or min(
    len(records[i]["poses"]) for i in range(min(len(records), 8))
  )
  if fewest < views:
    raise ValueError(
      f"a scene of {records.place} has {fewest:g} views, expected {views} or"
      " more (model.input_views + train.target_views): lower them, or leave the"
      " scene out"
    )
  endless = (
    grain.MapDataset.source(records)
    # The index runs on through the epochs.
    .map_with_index(lambda i, record: {"scene": i % len(records), **record})
    .seed(config.seed)
    .shuffle()
    .repeat()
    .random_map(
      _PickViews(
        views,
        config.model.input_views,
        config.model.image_size,
        config.model.resize,
        scene_augmentation.build_options(config),
        config.frustum.bounds == "scene",
      )
    )
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
  """Decodes `count` distinct random views of a record, the input views first,
  and changes them as `augment` says."""

  count: int
  inputs: int
  image_size: int
  resize: str
  augment: scene_augmentation.Options
  with_bounds: bool

  def random_map(
    self, record: datasets.Record, rng: np.random.Generator
  ) -> datasets.Record:
    available = len(record["poses"])
    if available < self.count:
      raise ValueError(
        f"scene {record['scene_id'].decode()} has {available} views, expected"
        f" {self.count} or more (model.input_views + train.target_views)"
      )
    views = rng.choice(available, self.count, replace=False).tolist()
    colour = scene_augmentation.background(self.augment, rng) or "white"
    behind = [colour] * self.inputs
    decoded = decoding.decode_views(
      record,
      views,
      self.image_size,
      self.resize,
      behind,
      with_bounds=self.with_bounds,
    )
    decoded = scene_augmentation.augment(decoded, self.augment, rng)
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
