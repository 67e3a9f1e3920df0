"""One file per scene, so that an evaluation goes on where it stopped.

A folder holds what one checkpoint scored by one protocol:

  settings.json              what the scores depend on
  scenes/000012.json         scores of a scene; .npz features of its pictures
  rollouts_DIGEST/000012.json  consistency scores of a scene
  strips/000012.jpg          pictures of a scene: inputs; truth, render, sample
  pictures/ROW/ID/000065.png  what was scored, in the layout of pixelNeRF's
                             eval.py, for its calc_metrics.py
  scores.jsonl, table.md     all scenes line by line, and the summary

Each file appears whole, and a folder of other settings has another name:
nothing is ever deleted.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from genvs_jax.images import encoding
from genvs_jax.runtime import files

EXAMPLE_SCENES = 4  # whose pictures are stored for the grid


class Store:
  """Reads and writes such a folder.

  Args:
    root: that it goes into.
    name: of the protocol, for people.
    settings: what the scores depend on; decides the folder.

  Attributes:
    folder: its path.
    digest: of the settings.
  """

  def __init__(self, root: epath.Path, name: str, settings: dict[str, Any]):
    self.digest = files.digest(settings)
    self.folder = root / f"{name}_{self.digest[:8]}"
    self._settings = json.dumps(settings, sort_keys=True, indent=1)

  def start(self) -> None:
    """Makes the folder, with its settings in it; one process is enough."""
    path = self.folder / "settings.json"
    files.write_whole(path, self._settings.encode())

  def started(self) -> bool:
    """Whether the folder is there."""
    return (self.folder / "settings.json").exists()

  def has(self, kind: str, scene: int) -> bool:
    """Whether a scene is done; `kind` is a folder of scenes or rollouts. One
    whose file is damaged is not, and is scored again."""
    path = self._path(kind, scene, "json")
    if not path.exists():
      return False
    try:
      json.loads(path.read_text())
      self.features(scene)
    except ValueError:
      logging.warning("%s is damaged: the scene is scored again", path)
      return False
    return True

  def write(
    self,
    kind: str,
    scene: int,
    line: dict[str, Any],
    features: dict[str, np.ndarray] | None = None,
  ) -> None:
    """Writes a scene; its line comes last and marks it done."""
    if features:
      files.write_arrays(self._path(kind, scene, "npz"), features)
    text = json.dumps(line) + "\n"
    files.write_whole(self._path(kind, scene, "json"), text.encode())

  def read(self, kind: str, scenes: Sequence[int]) -> list[dict[str, Any]]:
    """The lines of some scenes."""
    paths = [self._path(kind, scene, "json") for scene in scenes]
    return [json.loads(path.read_text()) for path in paths]

  def features(self, scene: int) -> dict[str, np.ndarray]:
    """Features of a scene's pictures by row, for a Frechet distance."""
    path = self._path("scenes", scene, "npz")
    return files.read_arrays(path) if path.exists() else {}

  def write_pictures(
    self, row: str, name: str, views: Sequence[int], images: np.ndarray
  ) -> None:
    """Writes u8 [T,H,W,3] as ROW/SCENE_ID/VIEW.png."""
    folder = self.folder / "pictures" / row / name
    for view, image in zip(views, images, strict=True):
      path = folder / f"{view:06d}.png"
      files.write_whole(path, encoding.png(image))

  def write_strip(
    self, scene: int, inputs: np.ndarray, rows: Sequence[np.ndarray]
  ) -> None:
    """Stores some pictures of a scene small: inputs [V,H,W,3] down the first
    column, rows [T,H,W,3] beside them."""
    columns = [np.concatenate(list(row), 1) for row in rows]
    right = np.concatenate(columns, 0)
    left = np.full((len(right), inputs.shape[2], 3), 255, np.uint8)
    column = np.concatenate(list(inputs), 0)[: len(left)]
    left[: len(column)] = column
    strip = encoding.jpeg(np.concatenate([left, right], 1))
    files.write_whole(self._path("strips", scene, "jpg"), strip)

  def read_strips(self, scenes: Sequence[int]) -> dict[int, bytes]:
    """The JPEG pictures of some scenes, of those that have one."""
    paths = {scene: self._path("strips", scene, "jpg") for scene in scenes}
    return {k: path.read_bytes() for k, path in paths.items() if path.exists()}

  def write_film(self, kind: str, scene: int, film: bytes) -> None:
    """Stores the MP4 film of a rollout."""
    files.write_whole(self._path(kind, scene, "mp4"), film)

  def read_film(self, kind: str, scenes: Sequence[int]) -> bytes | None:
    """The first film of some rollouts; None if there is none."""
    paths = [self._path(kind, scene, "mp4") for scene in scenes]
    return next((p.read_bytes() for p in paths if p.exists()), None)

  def write_examples(self, scene: int, arrays: dict[str, np.ndarray]) -> None:
    """Stores pictures of one of the first scenes for the grid."""
    files.write_arrays(self._path("grid", scene, "npz"), arrays)

  def read_examples(self) -> list[dict[str, np.ndarray]]:
    """What `write_examples` stored, as far as it can be read."""
    examples = []
    for i in range(EXAMPLE_SCENES):
      path = self._path("grid", i, "npz")
      try:
        examples += [files.read_arrays(path)] if path.exists() else []
      except ValueError as error:
        logging.warning("left out of the grid: %s", error)
    return examples

  def _path(self, kind: str, scene: int, suffix: str) -> epath.Path:
    return self.folder / kind / f"{scene:06d}.{suffix}"
