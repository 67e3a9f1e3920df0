"""Finds scenes and tells their splits by the names of folders.

Scenes lie in folders named by split (`cars_train/ID/..`, perhaps one level
deeper as in chairs), on disk or inside zip files.
"""

import collections
import hashlib
import pathlib
import posixpath
import random
import re
import zipfile
from collections.abc import Iterator

from tfds_srn import scenes
from tfds_srn import trees
from tfds_srn.layouts import srn

SPLITS = ("train", "validation", "test")
NAMES = {
  "train": "train",
  "val": "validation",
  "validation": "validation",
  "test": "test",
}


def find_scenes(
  source: str, layout: type[scenes.SceneFolder] = srn.SrnScene
) -> dict[str, list[scenes.SceneFolder]]:
  """Scene folders by split, sorted by id.

  Args:
    source: a folder that holds split folders, a split folder, a folder of
      scenes, a folder of zip files, or zip files separated by commas.
    layout: of the scenes.

  Returns:
    {split: folders} for the splits that are there. Where training scenes come
    without validation scenes, a tenth of them is cut off by the reference's
    rule: ids sorted, shuffled by `random` with seed 1, the first 90 % stay.

  Raises:
    ValueError: if the source is missing or holds no scenes.
  """
  splits: dict[str, list[scenes.SceneFolder]] = {}
  trees.warn_of_zips(source)
  for tree in trees.open_trees(source):
    for split, folders in _split_folders(tree, layout):
      splits.setdefault(split, []).extend(folders)
  if not any(splits.values()):
    raise ValueError(
      f"no scenes in {source}: expected {layout.EXPECTED}, or zip files of them"
    )
  splits = {
    split: sorted(folders, key=lambda f: f.scene_id)
    for split, folders in splits.items()
  }
  for split, folders in splits.items():
    counts = collections.Counter(f.scene_id for f in folders)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
      raise ValueError(
        f"{source} holds scene {repeated[0]} twice in split {split}: name only"
        " one packaging of each split"
      )
  # One scene is trained on, and nothing is left to validate with.
  if len(splits.get("train", ())) > 1 and "validation" not in splits:
    train, validation = cut_validation(splits["train"])
    splits["train"], splits["validation"] = train, validation
  return {split: splits[split] for split in SPLITS if split in splits}


def cut_validation(folders: list) -> tuple[list, list]:
  """The reference's 90/10 cut of sorted scenes, each part sorted again."""
  order = list(range(len(folders)))
  random.Random(1).shuffle(order)
  count = max(int(0.9 * len(folders)), 1)
  return (
    [folders[i] for i in sorted(order[:count])],
    [folders[i] for i in sorted(order[count:])],
  )


def listing_digest(source: str, of_models: bool = False) -> str:
  """Sixteen digits that change when files are added, removed or changed.

  Args:
    source: as of `find_scenes`, or a file.
    of_models: 3D models, which may lie in a folder beside zip files of others.
  """
  digest = hashlib.sha256()
  for item in source.split(","):
    path = pathlib.Path(item.strip()).expanduser()
    if of_models and path.is_dir():
      lines = list(trees.FolderTree(path).listing())
    elif path.is_file() and not zipfile.is_zipfile(path):  # a 3D model
      stat = path.stat()
      lines = [f"{path.name} {stat.st_size} {stat.st_mtime_ns}"]
    else:
      lines = [x for tree in trees.open_trees(item) for x in tree.listing()]
    for line in lines:
      digest.update(f"{line}\n".encode())
  return digest.hexdigest()[:16]


def _split_folders(
  tree: trees.Tree, layout: type[scenes.SceneFolder]
) -> Iterator[tuple[str, list[scenes.SceneFolder]]]:
  """(split, scenes) for each split folder of a tree, searching two levels."""
  if lists := layout.lists(tree):
    yield from lists.items()
    return
  if layout.is_scene(tree, ""):
    yield "train", [layout(tree, "")]
    return
  own = _split_of(pathlib.PurePath(tree.name).name.removesuffix(".zip"))
  top, _ = tree.children("")
  # A scene may be called ferrari_test.
  named = [
    (name, None if layout.is_scene(tree, name) else _split_of(name))
    for name in top
  ]
  if not any(split for _, split in named):
    nested = [
      (f"{outer}/{name}", _split_of(name))
      for outer in top
      if not layout.is_scene(tree, outer)
      for name in tree.children(outer)[0]
      if not layout.is_scene(tree, f"{outer}/{name}")
    ]
    if any(split for _, split in nested):
      named = nested
    else:  # the tree itself is a split, or a plain folder of scenes
      yield own or "train", list(_scenes_below(tree, "", layout))
      return
  for path, split in named:
    if split:
      yield split, list(_scenes_below(tree, path, layout))


def _split_of(name: str) -> str | None:
  return NAMES.get(re.split(r"[_\-]", name)[-1].lower())


def _scenes_below(
  tree: trees.Tree, path: str, layout: type[scenes.SceneFolder]
) -> Iterator[scenes.SceneFolder]:
  """Scenes in a split folder, through one extra level where there is one."""
  for name in tree.children(path)[0]:
    child = posixpath.join(path, name)
    below = [posixpath.join(child, n) for n in tree.children(child)[0]]
    if not layout.is_scene(tree, child) and any(
      layout.is_scene(tree, b) for b in below
    ):
      yield from (layout(tree, b) for b in below)
    else:
      yield layout(tree, child)
