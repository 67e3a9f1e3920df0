"""Folders, on disk or inside zip files, behind two methods."""

import pathlib
import posixpath
import zipfile
from collections.abc import Iterator
from typing import Protocol


class Tree(Protocol):
  """A folder, on disk or inside zip files; paths use "/"."""

  name: str

  def children(self, path: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in `path`, sorted."""

  def read(self, path: str) -> bytes:
    """The bytes of a file."""


class FolderTree:
  """A folder on disk."""

  def __init__(self, root: pathlib.Path):
    self.name = str(root)
    self._root = root

  def children(self, path: str) -> tuple[list[str], list[str]]:
    entries = [p for p in (self._root / path).iterdir() if _visible(p.name)]
    folders = sorted(p.name for p in entries if p.is_dir())
    return folders, sorted(p.name for p in entries if not p.is_dir())

  def read(self, path: str) -> bytes:
    return (self._root / path).read_bytes()


class ZipTree:
  """A zip file, read in place."""

  def __init__(self, path: pathlib.Path):
    self.name = str(path)
    try:
      self._zip = zipfile.ZipFile(path)
    except zipfile.BadZipFile as e:
      raise ValueError(
        f"{path} is no readable zip file ({e}): fetch it again"
      ) from e
    self._folders: dict[str, set[str]] = {"": set()}
    self._files: dict[str, set[str]] = {"": set()}
    for info in self._zip.infolist():
      parts = info.filename.rstrip("/").split("/")
      if not all(map(_visible, parts)):
        continue
      for i in range(len(parts)):
        parent, is_file = "/".join(parts[:i]), i == len(parts) - 1
        kind = self._files if is_file and not info.is_dir() else self._folders
        kind.setdefault(parent, set()).add(parts[i])

  def children(self, path: str) -> tuple[list[str], list[str]]:
    path = "" if path == "." else path
    return (
      sorted(self._folders.get(path, ())),
      sorted(self._files.get(path, ())),
    )

  def read(self, path: str) -> bytes:
    try:
      return self._zip.read(posixpath.normpath(path))
    except (zipfile.BadZipFile, EOFError) as e:
      raise OSError(f"{path} is damaged in {self.name} ({e})") from e


def open_trees(source: str) -> Iterator[Tree]:
  """The trees of a source, see `scenes.find_scenes`."""
  for item in source.split(","):
    path = pathlib.Path(item.strip()).expanduser()
    if not path.exists():
      raise ValueError(
        f"source {path} does not exist: name a folder of scenes in SRN layout"
        " or its zip files, separated by commas"
      )
    if path.is_file():
      yield ZipTree(path)
      continue
    folder = FolderTree(path)
    zips = [name for name in folder.children("")[1] if name.endswith(".zip")]
    if zips and not folder.children("")[0]:
      yield from (ZipTree(path / name) for name in zips)
    else:
      yield folder


def _visible(name: str) -> bool:
  return not name.startswith((".", "__MACOSX"))
