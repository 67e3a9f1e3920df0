"""One file per scene, so that an evaluation goes on where it stopped.

A folder holds what one checkpoint scored by one protocol:

  settings.json              what the scores depend on
  scenes/000012.json         scores of a scene; .npz its features for FID
  rollouts_1a2b3c4d/000012.json  consistency scores of a scene
  pictures/KIND/ID/000065.png  what was scored, in the layout of pixelNeRF's
                             eval.py, for its calc_metrics.py
  scores.jsonl, table.md     all scenes line by line, and the summary

Each file appears whole, so several processes can share the folder, and a
folder of other settings has another name: nothing is ever deleted.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from genvs_jax import files
from genvs_jax import pictures

SHOWN_SCENES = 4  # whose pictures are kept for a sheet


def digest(settings: dict[str, Any]) -> str:
  """Eight digits that tell settings apart."""
  text = json.dumps(settings, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


class Store:
  """Reads and writes such a folder.

  Args:
    root: that it goes into.
    name: of the protocol, for people.
    settings: what the scores depend on; decides the folder.

  Attributes:
    folder: its path.
  """

  def __init__(self, root: epath.Path, name: str, settings: dict[str, Any]):
    self.folder = root / f"{name}_{digest(settings)}"
    text = json.dumps(settings, sort_keys=True, indent=1)
    files.write_whole(self.folder / "settings.json", text.encode())

  def has(self, kind: str, scene: int) -> bool:
    """Whether a scene is done; `kind` is a folder of scenes or rollouts."""
    return self._path(kind, scene, "json").exists()

  def write(
    self,
    kind: str,
    scene: int,
    line: dict[str, Any],
    features: dict[str, np.ndarray] | None = None,
  ) -> None:
    """Writes a scene; its line comes last and marks it done."""
    if features:
      self._write_arrays(self._path(kind, scene, "npz"), features)
    text = json.dumps(line) + "\n"
    files.write_whole(self._path(kind, scene, "json"), text.encode())

  def read(self, kind: str, scenes: Sequence[int]) -> list[dict[str, Any]]:
    """The lines of some scenes."""
    paths = [self._path(kind, scene, "json") for scene in scenes]
    return [json.loads(path.read_text()) for path in paths]

  def features(self, scenes: Sequence[int], row: str) -> np.ndarray | None:
    """Features [n,2048] of a row's pictures, None if it has none."""
    found = []
    for scene in scenes:
      path = self._path("scenes", scene, "npz")
      if not path.exists():
        return None
      with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
        if row not in arrays.files:
          return None
        found.append(arrays[row])
    return np.concatenate(found)

  def write_pictures(
    self, row: str, name: str, views: Sequence[int], images: np.ndarray
  ) -> None:
    """Writes u8 [T,H,W,3] as ROW/SCENE_ID/VIEW.png."""
    folder = self.folder / "pictures" / row / name
    for view, image in zip(views, images, strict=True):
      pictures.save_png(folder / f"{view:06d}.png", image)

  def write_shown(self, scene: int, arrays: dict[str, np.ndarray]) -> None:
    """Keeps pictures of one of the first scenes for a sheet."""
    self._write_arrays(self._path("shown", scene, "npz"), arrays)

  def read_shown(self) -> list[dict[str, np.ndarray]]:
    """What `write_shown` kept."""
    shown = []
    for scene in range(SHOWN_SCENES):
      path = self._path("shown", scene, "npz")
      if path.exists():
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as f:
          shown.append({key: f[key] for key in f.files})
    return shown

  def _path(self, kind: str, scene: int, suffix: str) -> epath.Path:
    return self.folder / kind / f"{scene:06d}.{suffix}"

  def _write_arrays(self, path: epath.Path, arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    files.write_whole(path, buffer.getvalue())
