"""Prepared datasets and random access to their records; uses `tfds_srn`."""

import contextlib
import dataclasses
import io
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from absl import logging

import tfds_srn
from genvs_jax.data import dataset_builders

Record = dict[str, Any]


class DatasetMissingError(ValueError):
  """The dataset, or a split of it, has not been prepared."""


def prepare(
  config: ml_collections.ConfigDict,
  workdir: str,
  skip_bad_scenes: bool = False,
  rebuild: bool = False,
) -> str:
  """Builds the dataset unless it is there; returns its folder.

  Args:
    config: data is read from it.
    workdir: where a data_dir of WORKDIR lies.
    skip_bad_scenes: leave unreadable scenes out.
    rebuild: build it anew although it is there.

  Raises:
    ValueError: if a dataset of that name was made from something else, or
      scenes cannot be read.
  """
  options = (config, workdir, skip_bad_scenes, rebuild)
  builder = dataset_builders.build_builder(*options)
  folder = pathlib.Path(os.fspath(builder.data_dir))
  before, old = folder.with_name(f"{folder.name}.before"), folder
  if builder.is_prepared():
    if not rebuild:
      _check_source(config, builder, listing=True)
      return str(folder)
    # The old one stays until the new one is whole.
    if before.exists():
      shutil.rmtree(before)
    folder.rename(before)
    builder = dataset_builders.build_builder(*options, newest_only=True)
    folder = pathlib.Path(os.fspath(builder.data_dir))
  try:
    # TFDS has bars and lines of its own, of steps that nobody waits for.
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(download_dir=folder.parents[2] / "downloads")
  except BaseException:
    if before.exists() and not old.exists():
      before.rename(old)
    raise
  if before.exists():
    shutil.rmtree(before)
  return str(folder)


def describe(config: ml_collections.ConfigDict, workdir: str) -> list[str]:
  """Lines on what a prepared dataset holds: scenes, views, size, bounds."""
  builder = dataset_builders.build_builder(config, workdir)
  ranges = dict((builder.info.metadata or {}).get("scenes", {}))
  counts = [
    f"{split} {info.num_examples:,}"
    for split, info in builder.info.splits.items()
  ]
  split = next(iter(builder.info.splits))
  sizes = np.atleast_2d(load_split(config, workdir, split)[0]["image_size"])
  height, width = map(int, sizes[0])
  lines = [f"scenes       {', '.join(counts)}"]
  if ranges:
    views, near, far = (
      (
        min(r[k][0] for r in ranges.values()),
        max(r[k][1] for r in ranges.values()),
      )
      for k in ("views", "near", "far")
    )
    lines += [
      f"views        {_span(*views)} a scene, {width} x {height} pixels",
      f"depth        from near {_span(*near)} to far {_span(*far)}",
    ]
  return lines


def _span(low: float, high: float) -> str:
  """Two numbers that may be the same."""
  first, last = f"{low:.3g}", f"{high:.3g}"
  return first if first == last else f"{first} to {last}"


def _check_source(
  config: ml_collections.ConfigDict, builder: tfds_srn.Builder, listing: bool
) -> None:
  """Refuses a dataset that was made from other scenes than those named.

  Args:
    config: data is read from it.
    builder: of a prepared dataset.
    listing: compare the files of the source, too.
  """
  data = config.data
  recorded_source = dict((builder.info.metadata or {}).get("made_from", {}))
  if data.dataset == "synthetic_cars":  # its numbers are in its name
    return
  if not recorded_source:  # by an older version
    logging.warning(
      "%s does not say what it was made from: --rebuild makes it anew",
      builder.data_dir,
    )
    return
  ours: dict[str, Any] = builder.description_of_source()
  if not (data.source or data.url):  # it is enough to name the dataset
    del ours["source"]
  if listing and data.source:
    try:
      ours["listing"] = builder.listing_digest(builder.source)
    except ValueError as error:
      logging.warning(
        "%s is used without a look at what it was made from: %s",
        builder.data_dir,
        error,
      )
  differing = [
    "its files have changed"
    if name == "listing"
    else f"{name} {recorded_source.get(name)!r}, now {value!r}"
    for name, value in ours.items()
    if recorded_source.get(name) != value
  ]
  if differing:
    raise ValueError(
      f"dataset {builder.data_dir} was made from something else:"
      f" {'; '.join(differing)}. Give the new one a name of its own"
      " (--config.data.name=NAME), or replace it (--mode=prepare --rebuild)"
    )


def identity(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """What tells a dataset from others of its name: scenes and their origin."""
  builder = dataset_builders.build_builder(config, workdir)
  metadata = dict(builder.info.metadata or {})
  return {
    "name": builder.builder_config.name,
    "made_from": dict(metadata.get("made_from", {})),
    "scenes": {
      split: {
        "ids": list(metadata.get("scene_ids", {}).get(split, ())),
        "bytes": info.num_bytes,
      }
      for split, info in builder.info.splits.items()
    },
  }


def load_split(
  config: ml_collections.ConfigDict, workdir: str, split: str
) -> "Records":
  """Random access to the records of a split, images undecoded.

  Raises:
    DatasetMissingError: with a sentence on how to prepare it.
    ValueError: if it was made from other scenes than the config names.
  """
  builder = dataset_builders.build_builder(config, workdir)
  if not builder.is_prepared():
    raise DatasetMissingError(
      f"dataset {config.data.dataset} is not in {builder.data_dir}: prepare it"
      " with --mode=prepare --config.data.source=FOLDER_OR_ZIP (and the same"
      " --config), or run on made-up cars with"
      " --config.data.dataset=synthetic_cars after --mode=prepare with that"
      " flag"
    )
  _check_source(config, builder, listing=False)
  if split not in builder.info.splits:
    raise DatasetMissingError(
      f"dataset {config.data.dataset} in {builder.data_dir} has no split"
      f" {split!r}, only {', '.join(builder.info.splits)}: its source held no"
      f" {split} scenes; prepare it from a source that does"
    )
  metadata = dict(builder.info.metadata or {})
  return Records(
    builder.as_data_source(split=split),
    tuple(metadata.get("scene_ids", {}).get(split, ())),
    f"split {split} of {os.fspath(builder.data_dir)}",
    dict(metadata.get("scenes", {}).get(split, {})),
  )


@dataclasses.dataclass(frozen=True)
class Records(Sequence):
  """The records of a split; a damaged one is named.

  Attributes:
    source: TFDS's random access.
    scene_ids: by record; empty for a dataset prepared without them.
    place: where they are, for messages.
    ranges: smallest and largest number of views, near, far and so on over all
      scenes; empty for a dataset prepared without them.
  """

  source: Sequence[Record]
  scene_ids: tuple[str, ...]
  place: str
  ranges: dict[str, list[float]]

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


def _check_extent(
  config: ml_collections.ConfigDict, near: Sequence[float], far: Sequence[float]
) -> None:
  """Warns where scenes bring near and far, (least, most) each, of their own
  and the config's, which then say how large a scene is, are quite others."""
  frustum = config.frustum
  if frustum.kind != "near_far" or frustum.bounds != "scene":
    return
  half = (frustum.far - frustum.near) / 2
  least, most = sorted((far[i] - near[i]) / 2 for i in range(2))
  if not least / 2 <= half <= most * 2:
    logging.warning(
      "scenes of %s reach from %.3g to %.3g around the origin, but half of"
      " frustum.far - frustum.near is %.3g: meshes, shades of depth and the"
      " field that is fitted to a rollout would have that size; train with"
      " --config.frustum.near=%.3g --config.frustum.far=%.3g",
      config.data.dataset,
      least,
      most,
      half,
      sum(near) / 2,
      sum(far) / 2,
    )


def check_cameras(config: ml_collections.ConfigDict, records: Records) -> None:
  """Compares the scenes' cameras with the frustum of the config.

  Scenes that were recorded for another near and far are warned of.

  Args:
    config: frustum and model are read from it.
    records: of a split; where nothing is known of all of them, the first is
      looked at.

  Raises:
    ValueError: if `unit_cube` meets a principal point off the centre.
  """
  frustum, first = config.frustum, records[0]
  near = records.ranges.get("near", [float(first["near"])] * 2)
  far = records.ranges.get("far", [float(first["far"])] * 2)
  is_common = frustum.kind == "near_far" and frustum.bounds == "config"
  if is_common and not np.allclose(
    [*near, *far],
    [frustum.near, frustum.near, frustum.far, frustum.far],
    rtol=0.05,
  ):
    logging.warning(
      "scenes of %s lie between %.3g and %.3g (near from %.3g to %.3g, far from"
      " %.3g to %.3g), but the frustum of the config between %.3g and %.3g:"
      " train with --config.frustum.near=%.3g --config.frustum.far=%.3g",
      config.data.dataset,
      near[0],
      far[1],
      *near,
      *far,
      frustum.near,
      frustum.far,
      near[0],
      far[1],
    )
  _check_extent(config, near, far)
  off_centre = _off_centre(first["intrinsics"], first["image_size"])
  largest = records.ranges.get("off_centre", [0.0, off_centre])[1]
  _refuse_off_centre(config, f"a scene of {records.place}", largest)


def check_principal_point(
  config: ml_collections.ConfigDict,
  name: str,
  intrinsics: np.ndarray,
  image_size: Sequence[int],
) -> None:
  """Refuses pictures whose camera the config's frustum cannot describe.

  Args:
    config: frustum is read from it.
    name: of the pictures, for the message.
    intrinsics: [4] fx, fy, cx, cy in pixels.
    image_size: (height, width) in pixels.

  Raises:
    ValueError: if `unit_cube` meets a principal point off the centre.
  """
  _refuse_off_centre(config, name, _off_centre(intrinsics, image_size))


def _off_centre(intrinsics: np.ndarray, image_size: Sequence[int]) -> float:
  """The largest of principal points from the centre, in shares of the width."""
  sizes = np.atleast_2d(image_size)
  offset = np.atleast_2d(intrinsics)[:, 2:] - sizes[:, ::-1] / 2
  return float((np.abs(offset).max(-1) / sizes[:, 1]).max())


def _refuse_off_centre(
  config: ml_collections.ConfigDict, name: str, share: float
) -> None:
  if config.frustum.kind == "unit_cube" and share > 0.01:
    raise ValueError(
      f"{name} has its principal point {100 * share:.1f} % of the image's width"
      " off the centre, but frustum.kind = 'unit_cube' takes it for the centre:"
      " set frustum.kind=near_far, or crop around the principal point"
    )
