"""The TFDS builder that a config names, and where its dataset lies."""

import os
import pathlib
from collections.abc import Collection
from typing import Any

import ml_collections

import tfds_srn
from genvs_jax.runtime import console
from genvs_jax.runtime import messages
from tfds_srn import splits
from tfds_srn import tfds_srn_dataset_builder as srn
from tfds_srn.meshes import mesh_scenes
from tfds_srn.synthetic_cars import car_scenes

_MADE_AT_A_TIME = 8  # scenes


def build_builder(
  config: ml_collections.ConfigDict,
  workdir: str,
  skip_bad_scenes: bool = False,
  rebuild: bool = False,
  newest_only: bool = False,
) -> tfds_srn.Builder:
  """The TFDS builder that `config.data` names.

  Scenes that are made with numbers of their own, and folders, get names of
  their own, so that two of them can share a data_dir.

  Args:
    config: data is read from it.
    workdir: where a data_dir of WORKDIR lies.
    skip_bad_scenes: leave unreadable scenes out.
    rebuild: render 3D models anew if it was done with other options.
    newest_only: pass over what an older version of this package prepared.
  """
  data = config.data
  messages.check_choice("data.dataset", data.dataset, srn.CONFIGS)
  name, fields = _name_and_fields(data)
  if data.stored_size:
    name += f"_stored{data.stored_size}px"
    fields["stored_size"] = data.stored_size
  dataset = srn.CONFIGS[data.dataset]
  if fields or name != data.dataset:
    dataset = dataset.variant(name, **fields)

  def build(version: str | None) -> tfds_srn.Builder:
    return tfds_srn.Builder(
      config=dataset if dataset.name != data.dataset else data.dataset,
      version=version,
      data_dir=expand(data.data_dir, workdir) or None,
      source=expand(data.source, workdir),
      url=data.url,
      skip_bad_scenes=skip_bad_scenes,
      rebuild=rebuild,
      progress=console.progress,
    )

  newest = build(None)
  if newest.is_prepared() or newest_only:
    return newest
  # What an older version of this package prepared is still good.
  older = (build(str(v)) for v in tfds_srn.Builder.SUPPORTED_VERSIONS)
  return next((b for b in older if b.is_prepared()), newest)


def _name_and_fields(data: Any) -> tuple[str, dict[str, Any]]:
  """Name of a dataset, and what of its `SrnConfig` is not as usual."""
  suffix = f"_{data.name}" if data.name else ""
  stem = data.name or pathlib.PurePath(data.source.split(",")[0]).stem
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
      "markings": s.markings,
    }
    counts = f"{s.train_scenes}_{s.validation_scenes}_{s.test_scenes}"
    kind = f"synthetic_cars{car_scenes.GENERATION}"
    kind += "" if s.markings else "_plain"
    name = f"{kind}_{counts}x{s.views}_{s.image_size}px_seed{s.seed}{suffix}"
    return name, {"synthetic": arguments}
  if data.dataset == "meshes":
    options = mesh_scenes.Options(**data.meshes.to_dict())
    name = f"meshes_{stem}_{options.image_size}px_seed{options.seed}"
    return name, {"meshes": options}
  if data.dataset in ("folder", "nerf"):
    name = f"{data.dataset}_{stem}" if stem else data.dataset
    return name, {"near": data.near, "far": data.far}
  return f"{data.dataset}{suffix}", {}


def are_made(config: ml_collections.ConfigDict) -> bool:
  """Whether the scenes come from a generator, and so can be had anywhere."""
  return config.data.dataset == "synthetic_cars"


def lies_in(config: ml_collections.ConfigDict, workdir: str) -> bool:
  """Whether a workdir holds the dataset that its run was trained on."""
  is_inside = config.data.data_dir.split("/")[0] == "WORKDIR"
  is_local = is_inside and os.path.isdir(workdir)
  return is_local and build_builder(config, workdir).is_prepared()


def with_one_split(
  config: ml_collections.ConfigDict,
  section: str,
  number: int = 0,
  overrides: Collection[str] = (),
) -> ml_collections.ConfigDict:
  """A config whose generated dataset is soon made: one split has its scenes,
  the same as before, the others one each.

  Args:
    config: data is read from it.
    section: "evaluate" or "sample", whose split is made.
    number: how many of them, if not all; a few more are made for the next time,
      and so that some are not taken for all.
    overrides: fields that the user has set, which stay as they are.

  Raises:
    ValueError: for an unknown split, or for baselines, which need the training
      scenes.
  """
  config = config.copy_and_resolve_references()
  if "data.data_dir" not in overrides:
    config.data.data_dir = "WORKDIR/data"
  if config.evaluate.baselines and "evaluate.baselines" in overrides:
    raise ValueError(
      "evaluate.baselines is True, but of training scenes, whose mean is one of"
      " them, none are made here: give --config and --workdir too, after"
      " --mode=prepare"
    )
  split = config[section].split
  messages.check_choice(f"{section}.split", split, splits.SPLITS)
  for other in splits.SPLITS:
    if other != split:
      config.data.synthetic[f"{other}_scenes"] = 1
  scenes = config.data.synthetic[f"{split}_scenes"]
  if number:
    dozen = (number // _MADE_AT_A_TIME + 1) * _MADE_AT_A_TIME
    config.data.synthetic[f"{split}_scenes"] = min(scenes, dozen)
  config.evaluate.baselines = False  # the mean of all training views is one
  return config


def expand(path: str, workdir: str) -> str:
  """A path in which a leading WORKDIR stands for --workdir.

  Raises:
    ValueError: if it does and there is none.
  """
  if path.split("/")[0] == "WORKDIR" and not workdir:
    raise ValueError(
      f"{path} lies in the workdir, but --workdir is not given: give it, or set"
      " --config.data.data_dir to another folder"
    )
  if path == "WORKDIR" or path.startswith("WORKDIR/"):
    return os.path.join(workdir, path[len("WORKDIR/") :])
  return os.path.expanduser(path)
