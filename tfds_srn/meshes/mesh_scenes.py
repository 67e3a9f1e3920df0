"""Renders the scenes of a folder of models, all cores at it.

What is written does not depend on the number of processes, nor on which other
models there are; an interrupted run goes on with the models that are left, and
scenes whose model changed, or went to another split, are written anew.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import zlib
from typing import NamedTuple

import numpy as np

from tfds_srn import camera_poses
from tfds_srn import pixel_rays
from tfds_srn import progress_of
from tfds_srn import splits
from tfds_srn import srn_writer
from tfds_srn.meshes import model_files
from tfds_srn.meshes import models
from tfds_srn.meshes import rendering

_MARKER = "meshes.json"
_NOTES = "object.json"  # of a scene


@dataclasses.dataclass(frozen=True)
class Options:
  """How models become scenes; see `data.meshes` in `configs/base.py`.

  Attributes:
    image_size: width and height in pixels; the focal length is SRN's for it.
    views: of training and validation scenes; test scenes have SRN's spiral.
    region: of the sphere where cameras stand, one of `camera_poses.REGIONS`.
    distance: of the cameras from the origin, world units.
    up: see `models.load`.
    crease: see `models.load`.
    lights: see `rendering.Lighting`.
    ambient: see `rendering.Lighting`.
    occlusion_rays: see `rendering.Lighting`.
    splits: see `model_files.share_out`.
    held_out: see `model_files.share_out`.
    seed: of cameras and splits.
  """

  image_size: int = 128
  views: int = 50
  region: str = "sphere"
  distance: float = 1.3
  up: str = "auto"
  crease: float = 35.0
  lights: tuple = rendering.Lighting.lights
  ambient: float = rendering.Lighting.ambient
  occlusion_rays: int = 0
  splits: str = ""
  held_out: float = 0.1
  seed: int = 0


class _Spec(NamedTuple):
  """One scene folder to write."""

  folder: str
  file: model_files.ModelFile
  split: str
  options: Options


def write_scenes(
  root: str | pathlib.Path,
  source: str,
  options: Options,
  *,
  replace: bool = False,
  processes: int | None = None,
  progress: progress_of.Progress = progress_of.silent,
) -> tuple[pathlib.Path, list[str]]:
  """Writes `root/meshes_{train,val,test}/ID/...` for the models of a source.

  Args:
    root: folder to write.
    source: see `model_files.find_models`.
    options: see `Options`.
    replace: scenes that were rendered with others, instead of an error.
    processes: worker processes; None uses every core.
    progress: what scenes pass through as they are written.

  Returns:
    root, and a line for each model that could not be rendered.

  Raises:
    ValueError: for options that make no sense, or a root that was written with
      others.
  """
  root = pathlib.Path(root)
  _check(options)
  # As JSON gives it back, with lists for tuples.
  arguments = json.loads(
    json.dumps({"source": source, **dataclasses.asdict(options)})
  )
  root.mkdir(parents=True, exist_ok=True)
  files = model_files.find_models(source, root / "unpacked")
  shares = model_files.share_out(
    files, options.splits, options.held_out, options.seed
  )
  if replace and srn_writer.made_with(root, _MARKER) != arguments:
    for folder in root.glob("meshes_*"):
      shutil.rmtree(folder)
    (root / _MARKER).unlink(missing_ok=True)
  srn_writer.claim(root, _MARKER, arguments)
  specs = [
    _Spec(
      str(root / f"meshes_{_FOLDERS[split]}" / file.object_id),
      file,
      split,
      options,
    )
    for split, group in shares.items()
    for file in group
  ]
  missing = _missing(root, specs)
  results = srn_writer.run_in_processes(
    _write, missing, "rendering models", processes, progress
  )
  return root, [problem for problem in results if problem]


def _missing(root: pathlib.Path, specs: list[_Spec]) -> list[_Spec]:
  """The scenes to write; removes those that nothing asks for any more."""
  for folder in {pathlib.Path(spec.folder).parent for spec in specs}:
    folder.mkdir(exist_ok=True)
  missing = {spec.folder: spec for spec in specs}
  for folder in root.glob("meshes_*/[!.]*"):
    spec, notes = missing.get(str(folder)), folder / _NOTES
    known = json.loads(notes.read_text()) if notes.exists() else {}
    if spec and known.get("digest") == _digest(spec.file.path):
      del missing[str(folder)]
    else:
      shutil.rmtree(folder)
  return list(missing.values())


def _digest(path: pathlib.Path) -> str:
  """Sixteen digits of the content of a model's files."""
  digest = hashlib.sha256(path.read_bytes())
  try:
    files = [file for file in models.side_files(path) if file.exists()]
  except models.ModelError:
    files = []
  for file in files:
    digest.update(file.read_bytes())
  return digest.hexdigest()[:16]


_FOLDERS = dict(zip(splits.SPLITS, ("train", "val", "test"), strict=True))


def _check(options: Options) -> None:
  for name, value, choices in (
    ("up", options.up, models.UP_AXES),
    ("region", options.region, camera_poses.REGIONS),
  ):
    if value not in choices:
      raise ValueError(
        f"data.meshes.{name} is {value!r}, expected one of {', '.join(choices)}"
      )
  farthest = srn_writer.LARGEST_DEPTH - 0.5
  if not 0.5 < options.distance <= farthest:
    raise ValueError(
      f"data.meshes.distance is {options.distance:g}, expected more than 0.5,"
      " the radius of the sphere that holds the objects, and at most"
      f" {farthest:g}, so that depth fits into 16 bits"
    )
  if not 0 <= options.held_out < 0.5:
    raise ValueError(
      f"data.meshes.held_out is {options.held_out:g}, expected a share from 0"
      " to 0.5, of which validation and test get one each"
    )


def _write(spec: _Spec) -> str:
  """Renders one model; what is wrong with it, or ""."""
  options = spec.options
  try:
    model = models.load(spec.file.path, options.up, options.crease)
  except models.ModelError as error:
    return f"{spec.file.name} {error}"
  lighting = rendering.Lighting(
    options.lights, options.ambient, options.occlusion_rays
  )
  renderer = rendering.Renderer(model, lighting)
  if spec.split == "test":
    poses = camera_poses.spiral_poses(options.distance)
  else:
    name = zlib.crc32(spec.file.object_id.encode())
    rng = np.random.default_rng([options.seed, name])
    poses = camera_poses.random_poses(
      rng, options.views, options.distance, options.region
    )
  size = options.image_size
  focal = pixel_rays.FOCAL_PER_WIDTH * size
  srn_writer.write_scene(
    spec.folder,
    (renderer.view(pose, size, focal) for pose in poses),
    poses,
    size=size,
    focal=focal,
    notes={
      "file": spec.file.name,
      "digest": _digest(spec.file.path),
      "triangles": len(model.triangles),
      **model.normalization,
    },
  )
  return ""
