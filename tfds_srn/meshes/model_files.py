"""Finds model files, gives them ids, and shares them out to the splits."""

import difflib
import hashlib
import pathlib
import random
import re
import shutil
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

from tfds_srn import splits
from tfds_srn.meshes import models

_MAX_BYTES = 1 << 30  # of one file in a zip


class ModelFile(NamedTuple):
  """A model to render.

  Attributes:
    object_id: from its path, unique in the source.
    path: of its file.
    name: path inside the source, for messages and lists.
  """

  object_id: str
  path: pathlib.Path
  name: str


def find_models(source: str, unpacked: pathlib.Path) -> list[ModelFile]:
  """All models of a source, sorted by id.

  Args:
    source: a folder, searched to its ground, zip files in it included; a zip
      file or a model file; or several of these, separated by commas.
    unpacked: folder for what is in zip files.

  Raises:
    ValueError: if there are none, or the source is missing.
  """
  by_id: dict[str, ModelFile] = {}
  for part in source.split(","):
    root = pathlib.Path(part.strip()).expanduser()
    if not root.exists():
      raise ValueError(f"data.source {root}: there is no such folder or file")
    for name, path in _model_paths(root, unpacked):
      object_id = _id_of(name)
      # Two formats of one model are two objects.
      if object_id in by_id:
        object_id += path.suffix.lower().replace(".", "_")
      if object_id in by_id:
        raise ValueError(
          f"{by_id[object_id].path} and {path} would both be called"
          f" {object_id}: rename one of them"
        )
      by_id[object_id] = ModelFile(object_id, path, name)
  if not by_id:
    raise ValueError(
      f"no models in {source}: expected {', '.join(models.SUFFIXES)}, in any"
      " depth of folders, or zip files of them"
    )
  return [by_id[key] for key in sorted(by_id)]


def share_out(
  files: list[ModelFile], list_file: str, held_out: float, seed: int
) -> dict[str, list[ModelFile]]:
  """Models by split, each in one of them alone.

  Args:
    files: all models.
    list_file: lines of a split and an id, or a path inside the source; models
      that it does not name are left out. "" for none.
    held_out: without a list, the share of the models for validation, and again
      for test.
    seed: of that choice.

  Raises:
    ValueError: for a list that names something unknown, or too few models.
  """
  if list_file:
    return _by_list(files, pathlib.Path(list_file).expanduser())
  count = round(held_out * len(files))
  if held_out:
    count = max(count, 1)
  if len(files) - 2 * count < 1:
    raise ValueError(
      f"{len(files)} model(s) cannot be shared out to train, validation and"
      f" test with data.meshes.held_out {held_out:g}: add models, or set it to"
      " 0"
    )
  order = list(files)
  random.Random(seed).shuffle(order)
  shares = {
    "test": order[:count],
    "validation": order[count : 2 * count],
    "train": order[2 * count :],
  }
  return {split: sorted(shares[split]) for split in splits.SPLITS}


def _by_list(
  files: list[ModelFile], path: pathlib.Path
) -> dict[str, list[ModelFile]]:
  by_name = {file.name: file for file in files}
  by_name |= {file.object_id: file for file in files}
  shares: dict[str, list[ModelFile]] = {split: [] for split in splits.SPLITS}
  split_of: dict[ModelFile, str] = {}
  for number, line in enumerate(path.read_text().splitlines(), 1):
    if not line.strip():
      continue
    split, _, name = line.strip().partition(" ")
    split, name = splits.NAMES.get(split, split), name.strip()
    if split not in shares:
      raise ValueError(
        f"{path}, line {number}: found {line.strip()!r}, expected train,"
        " validation or test, a space, and a model's id or path, such as"
        f" {'train ' + files[0].object_id!r}"
      )
    if name not in by_name:
      object_ids = [file.object_id for file in files]
      holding = [known for known in object_ids if name and name in known]
      close = holding or difflib.get_close_matches(name, object_ids, 1)
      hint = f"; did you mean {close[0]!r}?" if close else ""
      raise ValueError(
        f"{path}, line {number}: found {name!r}, which is neither the id nor"
        f" the path of a model in data.source{hint}"
      )
    file = by_name[name]
    if split_of.setdefault(file, split) != split:
      raise ValueError(
        f"{path}, line {number}: {name} is in {split_of[file]} already,"
        f" expected each model in one split, found it in {split} too"
      )
    shares[split].append(file)
  return {split: sorted(set(group)) for split, group in shares.items()}


def _model_paths(
  root: pathlib.Path, unpacked: pathlib.Path
) -> Iterator[tuple[str, pathlib.Path]]:
  """(path inside the source, path) of all models in a folder or file."""
  if root.is_dir():
    paths = [p for p in sorted(root.rglob("*")) if p.is_file()]
  else:
    root, paths = root.parent, [root]
  for path in paths:
    inside = path.relative_to(root)
    if any(part.startswith(".") for part in inside.parts):
      continue
    if path.suffix.lower() in models.SUFFIXES:
      yield inside.as_posix(), path
    elif zipfile.is_zipfile(path):
      # Files of one name lie in different folders or zip files.
      digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
      folder = unpacked / f"{path.stem}_{digest[:8]}"
      _unpack(path, folder)
      for name, below in _model_paths(folder, unpacked):
        yield (inside.with_suffix("") / name).as_posix(), below


def _unpack(path: pathlib.Path, folder: pathlib.Path) -> None:
  """Unpacks a zip file, unless that was done before."""
  stat = path.stat()
  digest = f"{stat.st_size} {stat.st_mtime_ns}"
  marker = folder / ".unpacked"
  if marker.exists() and marker.read_text() == digest:
    return
  shutil.rmtree(folder, ignore_errors=True)  # of an older file of the name
  folder.mkdir(parents=True)
  with zipfile.ZipFile(path) as archive:
    for member in archive.infolist():
      if member.file_size > _MAX_BYTES:
        raise ValueError(
          f"{path}: {member.filename} is larger than {_MAX_BYTES >> 20} MiB"
        )
      # Names that lead out of the folder are led back into it.
      archive.extract(member, folder)
  marker.write_text(digest)


def _id_of(name: str) -> str:
  """chairs/oak/oak.obj -> chairs_oak."""
  parts = list(pathlib.PurePosixPath(name).with_suffix("").parts)
  if len(parts) > 1 and parts[-1] == parts[-2]:
    parts.pop()
  return re.sub(r"[^\w.-]", "_", "_".join(parts))
