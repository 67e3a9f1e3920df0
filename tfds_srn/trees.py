"""Folders, on disk or inside zip files, behind three methods."""

import lzma
import pathlib
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from typing import Protocol

from absl import logging

MAX_BYTES = 1 << 27  # of one file of a scene; more is an error or an attack


class Tree(Protocol):
  """A folder, on disk or inside zip files; paths use "/"."""

  name: str

  def children(self, path: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in `path`, sorted."""

  def read(self, path: str) -> bytes:
    """The bytes of a file.

    Raises:
      OSError: if it cannot be read, whatever the reason.
    """

  def listing(self) -> Iterator[str]:
    """A line for each file that changes when the file does."""


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
    file = self._root / path
    if file.stat().st_size > MAX_BYTES:
      raise OSError(f"is larger than {MAX_BYTES >> 20} MiB")
    return file.read_bytes()

  def listing(self) -> Iterator[str]:
    for file in sorted(self._root.rglob("*")):
      name = file.relative_to(self._root)
      if file.is_file() and all(map(_visible, name.parts)):
        stat = file.stat()
        yield f"{name} {stat.st_size} {stat.st_mtime_ns}"


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
    path = "" if path == "." else path.rstrip("/")
    return (
      sorted(self._folders.get(path, ())),
      sorted(self._files.get(path, ())),
    )

  def read(self, path: str) -> bytes:
    name = posixpath.normpath(path)
    try:
      # As the zip says it; reading stops at that size.
      if self._zip.getinfo(name).file_size > MAX_BYTES:
        raise OSError(f"is larger than {MAX_BYTES >> 20} MiB")
      return self._zip.read(name)
    # Damaged, encrypted, or compressed in a way that Python does not know.
    except (
      *(zipfile.BadZipFile, EOFError, KeyError, zlib.error),
      *(RuntimeError, NotImplementedError, lzma.LZMAError),
    ) as e:
      raise OSError(f"cannot be read from the zip file ({e})") from e

  def listing(self) -> Iterator[str]:
    for info in sorted(self._zip.infolist(), key=lambda i: i.filename):
      yield f"{info.filename} {info.file_size} {info.CRC:08x}"


def open_trees(source: str) -> Iterator[Tree]:
  """The trees of a source, see `splits.find_scenes`."""
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


def warn_of_zips(source: str) -> None:
  """Warns of zip files that `open_trees` passes over, for folders are there."""
  for item in source.split(","):
    path = pathlib.Path(item.strip()).expanduser()
    if not path.is_dir():
      continue
    folders, files = FolderTree(path).children("")
    others = [
      name
      for name in files
      if name.endswith(".zip") and name.removesuffix(".zip") not in folders
    ]
    if folders and others:
      logging.warning(
        "%s holds folders, and so its zip files are not read: %s; if they"
        " belong to it, name them too, separated by commas",
        path,
        ", ".join(others),
      )


def _visible(name: str) -> bool:
  return not name.startswith((".", "__MACOSX"))
