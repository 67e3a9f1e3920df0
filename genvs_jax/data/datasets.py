"""Prepared datasets and random access to their records; uses `tfds_srn`."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

import tfds_srn
from genvs_jax.runtime import messages
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
  messages.check_choice("data.dataset", data.dataset, srn.CONFIGS)
  dataset: str | tfds_srn.SrnConfig = data.dataset
  if data.dataset == "synthetic_cars":
    s = data.synthetic
    arguments = {
      "counts": {
        "train": s.train_scenes,
        "val": s.validation_scenes,
        "test": s.test_scenes,
      },
      "views": s.views,
      "size": s.image_size,
      "seed": s.seed,
    }
    if arguments != srn.DEFAULT_SYNTHETIC:
      counts = f"{s.train_scenes}_{s.validation_scenes}_{s.test_scenes}"
      dataset = srn.CONFIGS[data.dataset].variant(
        f"synthetic_cars_{counts}x{s.views}_{s.image_size}px_seed{s.seed}",
        synthetic=arguments,
      )
  elif data.dataset == "folder" and data.source:
    stem = pathlib.PurePath(data.source.split(",")[0]).stem
    dataset = srn.CONFIGS["folder"].variant(
      f"folder_{stem}", near=data.near, far=data.far
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

  def __getitem__(self, index):
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


def _expand(path: str, workdir: str) -> str:
  """A path in which a leading WORKDIR stands for --workdir."""
  if path == "WORKDIR" or path.startswith("WORKDIR/"):
    return os.path.join(workdir, path[len("WORKDIR/") :])
  return os.path.expanduser(path)
