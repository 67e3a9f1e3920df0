"""The TFDS builder: SRN scenes -> ArrayRecord files, one record per scene.

A record holds the views' PNG bytes undecoded, so that training decodes only
the views it uses. Building and reading need no TensorFlow:

    import tfds_srn
    builder = tfds_srn.Builder(config="cars")
    builder.download_and_prepare(download_config=...)  # see README
    scene = builder.as_data_source(split="train")[0]
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from tfds_srn import download
from tfds_srn import progress_of
from tfds_srn import scenes
from tfds_srn import splits
from tfds_srn.layouts import nerf
from tfds_srn.layouts import nmr
from tfds_srn.layouts import srn
from tfds_srn.layouts import zero123
from tfds_srn.meshes import mesh_scenes
from tfds_srn.synthetic_cars import car_scenes

WHERE_TO_FIND = """\
SRN scenes are published by two groups, for non-commercial research under \
ShapeNet's terms (https://shapenet.org/terms):
  SRN's authors: https://drive.google.com/drive/folders/1OkYgeRcIcLOFu1ft5mRODWNQaPJ0ps90
    (cars_train.zip is file id 1bThUNtIHx4xEQyffVBSf82ABDDh2HlFn)
  pixelNeRF's authors: https://drive.google.com/drive/folders/1PsT3uKwqHHD2bEEHkIXB99AlIjtmrEiR
    (srn_cars.zip, srn_chairs.zip)
Download the zip files, unpacked or not, and name them:
  python launch.py --mode=prepare --config=configs/cars64.py \
--config.data.source=FOLDER_OR_ZIP
or let them be fetched with --config.data.url=URL_OR_DRIVE_FILE_ID."""

# near and far of the published sets, as shares of the camera distance: cars
# 0.8 and 1.8 at 1.3, chairs 1.25 and 2.75 at 2.0, agree within 2 %.
_NEAR_SHARE, _FAR_SHARE = 8 / 13, 18 / 13


@dataclasses.dataclass
class SrnConfig(tfds.core.BuilderConfig):
  """What a dataset is.

  Attributes:
    near: nearest depth of interest in world units; 0 derives it from each
      scene's camera distance.
    far: farthest depth of interest; 0 likewise.
    synthetic: arguments of `car_scenes.write_scenes`; None for real scenes.
    meshes: how 3D models are rendered; None for scenes that are pictures.
    layout: of the scenes, a name of `LAYOUTS`.
    stored_size: most pixels a side of stored pictures; 0 for any number.
  """

  near: float = 0.0
  far: float = 0.0
  synthetic: dict | None = None
  meshes: mesh_scenes.Options | None = None
  layout: str = "srn"
  stored_size: int = 0

  def variant(self, name: str, **fields) -> "SrnConfig":
    """The same with another name and some other fields."""
    return dataclasses.replace(self, **{"name": name, **fields})


LAYOUTS: dict[str, type[scenes.SceneFolder]] = {
  "srn": srn.SrnScene,
  "nerf": nerf.NerfScene,
  "nmr": nmr.NmrScene,
  "zero123": zero123.Zero123Scene,
}

DEFAULT_SYNTHETIC = {
  "counts": {"train": 500, "val": 24, "test": 24},
  "views": 50,
  "size": 128,
  "seed": 0,
  "markings": True,
}

CONFIGS = {
  "cars": SrnConfig(
    name="cars", near=0.8, far=1.8, description="ShapeNet SRN cars."
  ),
  "chairs": SrnConfig(
    name="chairs", near=1.25, far=2.75, description="ShapeNet SRN chairs."
  ),
  "synthetic_cars": SrnConfig(
    name="synthetic_cars",
    near=0.8,
    far=1.8,
    description="Procedural cars with depth.",
    synthetic=DEFAULT_SYNTHETIC,
  ),
  "meshes": SrnConfig(
    name="meshes",
    description="Anybody's 3D models, rendered.",
    meshes=mesh_scenes.Options(),
  ),
  "folder": SrnConfig(
    name="folder", description="Anybody's scenes in SRN layout."
  ),
  "nerf": SrnConfig(
    name="nerf",
    description="Scenes with transforms.json, of NeRF and nerfstudio.",
    layout="nerf",
  ),
  "nmr": SrnConfig(
    name="nmr",
    near=1.2,
    far=4.0,
    description="13 classes of ShapeNet as NMR rendered and DVR packed them.",
    layout="nmr",
  ),
  "zero123": SrnConfig(
    name="zero123",
    near=0.6,
    far=3.1,
    description="Objaverse as Zero-1-to-3 rendered it.",
    layout="zero123",
  ),
}


class _Info(tfds.core.DatasetInfo):
  """TFDS's, which looks for no description in a bucket and so leaves no
  temporary folder behind."""

  def initialize_from_bucket(self) -> None:
    pass


class Builder(tfds.core.GeneratorBasedBuilder):
  """Scenes in SRN layout."""

  VERSION = tfds.core.Version("2.0.0")
  SUPPORTED_VERSIONS: ClassVar[list] = [tfds.core.Version("1.0.0")]
  RELEASE_NOTES: ClassVar[dict] = {
    "1.0.0": "One record per scene.",
    "2.0.0": "Intrinsics and size of each view; category of the object.",
  }
  BUILDER_CONFIGS: ClassVar[list] = list(CONFIGS.values())
  MANUAL_DOWNLOAD_INSTRUCTIONS = WHERE_TO_FIND

  def __init__(
    self,
    *,
    source: str = "",
    url: str = "",
    skip_bad_scenes: bool = False,
    rebuild: bool = False,
    file_format: str = "array_record",
    progress: progress_of.Progress = progress_of.silent,
    **kwargs,
  ):
    """Makes a builder; its arguments say where scenes come from.

    Args:
      source: folder or zip files, see `splits.find_scenes`; "" means TFDS's
        manual_dir. Synthetic scenes are written there, or, where it is "",
        into TFDS's download folder.
      url: http(s) address or Google Drive file id of a zip to fetch.
      skip_bad_scenes: leave unreadable scenes out with a warning.
      rebuild: render 3D models anew if it was done with other options.
      file_format: of the records; array_record needs no TensorFlow.
      progress: what scenes pass through as they are written and read.
      **kwargs: of `tfds.core.GeneratorBasedBuilder`: config, data_dir.
    """
    super().__init__(file_format=file_format, **kwargs)
    self._scene_source = source
    self._url = url
    self._skip_bad_scenes = skip_bad_scenes
    self._rebuild = rebuild
    self._progress = progress

  def _info(self) -> tfds.core.DatasetInfo:
    encoded = tfds.features.Tensor(shape=(), dtype=np.object_)
    # Before version 2 the views of a scene had one camera and one size.
    by_view = () if self.version < "2.0.0" else (None,)
    return _Info(
      builder=self,
      description=__doc__,
      disable_shuffling=True,
      # scene_ids by split in the order of the records, so that a damaged record
      # can be named; made_from, what the scenes were read from; scenes, ranges
      # of what is known of them, by split.
      metadata=tfds.core.MetadataDict(),
      features=tfds.features.FeaturesDict(
        {
          # PNG bytes; as plain bytes because TFDS can skip the decoding of an
          # image sequence only with TensorFlow.
          "images": tfds.features.Sequence(encoded),
          "depths": tfds.features.Sequence(encoded),
          "poses": tfds.features.Tensor(shape=(None, 4, 4), dtype=np.float32),
          "intrinsics": tfds.features.Tensor(
            shape=(*by_view, 4), dtype=np.float32
          ),
          "image_size": tfds.features.Tensor(
            shape=(*by_view, 2), dtype=np.int32
          ),
          "scene_id": encoded,
          "near": tfds.features.Tensor(shape=(), dtype=np.float32),
          "far": tfds.features.Tensor(shape=(), dtype=np.float32),
          **({"category": encoded} if by_view else {}),
        }
      ),
      homepage="https://github.com/vsitzmann/scene-representation-networks",
    )

  def _split_generators(self, dl_manager):
    source, unrendered = self._find_source(dl_manager)
    config: SrnConfig = self.builder_config
    layout = srn.SrnScene if config.meshes else LAYOUTS[config.layout]
    folders = splits.find_scenes(source, layout)
    every_folder = [folder for group in folders.values() for folder in group]
    summaries, problems = scenes.survey(
      self._progress(every_folder, len(every_folder), "checking scenes")
    )
    every = [line for lines in problems.values() for line in lines]
    every += unrendered
    if every:
      if not self._skip_bad_scenes:
        raise scenes.BadScenesError(every)
      for line in every:
        logging.warning("scene left out: %s", line)
    good = {
      split: [f for f in group if f not in problems]
      for split, group in folders.items()
    }
    for split, group in good.items():
      if not group:
        hint = ", or list others for it in data.meshes.splits"
        raise ValueError(
          f"no readable scene is left in split {split} of {source}, expected"
          f" one: mend what was left out{hint if config.meshes else ''}"
        )
    for split in splits.SPLITS:
      if split not in good:
        logging.warning(
          "split %s is missing in %s: the dataset is built without it",
          split,
          source,
        )
    self.info.metadata["scene_ids"] = {
      split: [folder.scene_id for folder in group]
      for split, group in good.items()
    }
    self.info.metadata["made_from"] = {
      **self.description_of_source(),
      "listing": self.listing_digest(source),
    }
    self.info.metadata["scenes"] = {
      split: self._ranges([summaries[folder] for folder in group])
      for split, group in good.items()
    }
    return {
      split: self._generate_examples(
        self._progress(group, len(group), f"building split {split}")
      )
      for split, group in good.items()
    }

  @property
  def source(self) -> str:
    """Folder or zip files that the scenes are read from; "" if not named."""
    return self._scene_source

  def listing_digest(self, pictures: str) -> str:
    """Changes with the files that the scenes in `pictures` come from."""
    meshes = self.builder_config.meshes
    if meshes is None:
      return splits.listing_digest(pictures)
    # Rendered scenes are as old as their models, and the list of splits.
    lists = f",{meshes.splits}" if meshes.splits else ""
    return splits.listing_digest(self._scene_source + lists, of_models=True)

  def description_of_source(self) -> dict[str, str | float]:
    """What the dataset is, or would be, made from; cheap to tell."""
    config: SrnConfig = self.builder_config
    source = self._scene_source or self._url
    if self._scene_source:
      paths = [pathlib.Path(p.strip()) for p in source.split(",")]
      source = ",".join(str(p.expanduser().resolve()) for p in paths)
    options = dataclasses.asdict(config.meshes) if config.meshes else {}
    return {
      "source": source,
      "near": config.near,
      "far": config.far,
      "version": str(self.version),
      **({"meshes": json.dumps(options)} if options else {}),
      **({"stored_size": config.stored_size} if config.stored_size else {}),
    }

  def _ranges(self, summaries: list[scenes.Summary]) -> dict[str, list[float]]:
    """The smallest and the largest value of each thing over some scenes."""
    bounds = [self._bounds(summary.distance) for summary in summaries]
    columns: dict[str, list[float]] = {
      "views": [s.views for s in summaries],
      "near": [near for near, _ in bounds],
      "far": [far for _, far in bounds],
      "off_centre": [s.off_centre for s in summaries],
      "has_depth": [float(s.has_depth) for s in summaries],
    }
    return {k: [float(min(v)), float(max(v))] for k, v in columns.items()}

  def _generate_examples(
    self, folders: Iterable[scenes.SceneFolder]
  ) -> Iterator[tuple[str, dict]]:
    for folder in folders:
      scene = scenes.read_scene(folder)
      if self.builder_config.stored_size:
        scene = scenes.shrink(scene, self.builder_config.stored_size)
      near, far = self._bounds(scenes.summary_of(scene).distance)
      yield (
        scene.scene_id,
        {
          "images": scene.images,
          "depths": scene.depths,
          "poses": scene.poses,
          "intrinsics": scene.intrinsics,
          "image_size": scene.image_sizes,
          "category": scene.category.encode(),
          "scene_id": scene.scene_id.encode(),
          "near": np.float32(near),
          "far": np.float32(far),
        },
      )

  def _bounds(self, distance: tuple[float, float]) -> tuple[float, float]:
    """Near and far of a scene whose cameras stand so far from the origin."""
    config: SrnConfig = self.builder_config
    near = config.near or _NEAR_SHARE * distance[0]
    return near, config.far or _FAR_SHARE * distance[1]

  def _find_source(self, dl_manager) -> tuple[str, list[str]]:
    """Where the scenes lie, after rendering or fetching them if need be, and
    what could not be rendered."""
    config: SrnConfig = self.builder_config
    downloads = pathlib.Path(os.fspath(dl_manager.download_dir))
    if config.meshes is not None:
      if not self._scene_source:
        raise ValueError(
          "data.dataset = 'meshes' needs the folder of the 3D models: set"
          " --config.data.source=FOLDER"
        )
      folder, problems = mesh_scenes.write_scenes(
        downloads / f"{config.name}_scenes",
        self._scene_source,
        config.meshes,
        replace=self._rebuild,
        progress=self._progress,
      )
      return str(folder), problems
    return self._find_pictures(downloads, dl_manager), []

  def _find_pictures(self, downloads: pathlib.Path, dl_manager) -> str:
    config: SrnConfig = self.builder_config
    if config.synthetic is not None:
      folder = self._scene_source or downloads / f"{config.name}_scenes"
      logging.info("writing synthetic scenes to %s", folder)
      return str(
        car_scenes.write_scenes(
          folder, **config.synthetic, progress=self._progress
        )
      )
    if self._scene_source:
      return self._scene_source
    if self._url:
      return str(download.fetch(self._url, downloads))
    try:
      return os.fspath(dl_manager.manual_dir)
    except AssertionError as e:
      raise ValueError(
        f"no scenes to build {self.name}/{config.name} from.\n{WHERE_TO_FIND}"
      ) from e
