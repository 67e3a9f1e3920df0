"""Writes rendered scenes in SRN layout, several at a time."""

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import random
import shutil
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import TypeVar

import numpy as np
from PIL import Image

from tfds_srn import progress_of

DEPTH_UNITS = 10_000  # depth PNGs hold round(depth * DEPTH_UNITS), 0 = empty
LARGEST_DEPTH = 6.5  # that 16 bits of these hold
PACKAGINGS = ("pixelnerf", "srn")
_SRN_SIZE = 512  # pixels of the render that SRN's matrices belong to

Spec = TypeVar("Spec")
Result = TypeVar("Result")


def claim(root: pathlib.Path, name: str, arguments: dict) -> None:
  """Notes in a folder what its scenes are made with.

  Args:
    root: the folder, which is made.
    name: of the file that says it.
    arguments: JSON.

  Raises:
    ValueError: if the folder was made with others.
  """
  text, earlier = json.dumps(arguments), made_with(root, name)
  if earlier is None:
    root.mkdir(parents=True, exist_ok=True)
    # Whole or not at all; two commands may start at once.
    part = root / f".{name}.{os.getpid()}"
    part.write_text(text)
    part.replace(root / name)
  elif earlier != json.loads(text):
    raise ValueError(
      f"{root} holds scenes made with {earlier}, expected {arguments}: remove"
      " it, or give the dataset a name of its own (--config.data.name=NAME)"
    )


def made_with(root: pathlib.Path, name: str) -> dict | None:
  """What `claim` noted in a folder; None if nobody did.

  Raises:
    ValueError: if the note is damaged.
  """
  note = root / name
  if not note.exists():
    return None
  try:
    return json.loads(note.read_text())
  except ValueError as error:
    raise ValueError(f"{note} is damaged ({error}): remove {root}") from error


def write_scene(
  folder: str | pathlib.Path,
  views: Iterable[tuple[np.ndarray, np.ndarray]],
  poses: np.ndarray,
  *,
  size: int,
  focal: float,
  packaging: str = "pixelnerf",
  notes: dict[str, Any] | None = None,
) -> None:
  """Writes one scene, replacing what is there; it appears when it is whole.

  Args:
    folder: of the scene.
    views: image f32 [size,size,3] in [0,1] and depth f32 [size,size] in world
      units, 0 where empty, for each pose.
    poses: f32 [views,4,4] OpenCV camera-to-world.
    size: width and height in pixels.
    focal: in pixels; the principal point is the middle.
    packaging: "pixelnerf" (one intrinsics.txt) or "srn" (one 3x3 matrix per
      view).
    notes: what else is known of the object, for object.json.
  """
  folder = pathlib.Path(folder)
  # Two commands that write the same scene do not meet.
  unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
  shutil.rmtree(unfinished, ignore_errors=True)
  for name in ("rgb", "pose", "depth"):
    (unfinished / name).mkdir(parents=True)
  for i, (pose, (image, depth)) in enumerate(zip(poses, views, strict=True)):
    Image.fromarray((image * 255 + 0.5).astype(np.uint8)).save(
      unfinished / "rgb" / f"{i:06d}.png"
    )
    (unfinished / "pose" / f"{i:06d}.txt").write_text(
      " ".join(repr(float(v)) for v in pose.ravel()) + "\n"
    )
    Image.fromarray((depth * DEPTH_UNITS + 0.5).astype(np.uint16)).save(
      unfinished / "depth" / f"{i:06d}.png"
    )
  _write_intrinsics(unfinished, size, focal, len(poses), packaging)
  if notes is not None:
    (unfinished / "object.json").write_text(f"{json.dumps(notes, indent=1)}\n")
  shutil.rmtree(folder, ignore_errors=True)
  try:
    unfinished.rename(folder)
  except OSError:  # the other one was faster
    shutil.rmtree(unfinished)


def run_in_processes(
  function: Callable[[Spec], Result],
  specs: Sequence[Spec],
  what: str,
  processes: int | None,
  progress: progress_of.Progress,
) -> list[Result]:
  """Results of a function of a module, in order.

  Args:
    function: to call.
    specs: what with, picklable.
    what: it does, for the progress.
    processes: to share the work; None for one per core.
    progress: see `progress_of`.
  """
  if not specs:
    return []
  if processes == 1:
    return list(progress(map(function, specs), len(specs), what))
  # Long and short ones mixed, so that the first tell how long the rest takes.
  order = random.Random(0).sample(range(len(specs)), len(specs))
  # Spawned, not forked: the caller may have threads, as JAX does.
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
    try:
      done = pool.map(function, [specs[i] for i in order])
      results = dict(zip(order, progress(done, len(specs), what), strict=True))
      return [results[i] for i in range(len(specs))]
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise


def _write_intrinsics(
  folder: pathlib.Path, size: int, focal: float, views: int, packaging: str
) -> None:
  if packaging == "pixelnerf":
    (folder / "intrinsics.txt").write_text(
      f"{focal:.6f} {size / 2:.6f} {size / 2:.6f} 0.\n"
      f"0. 0. 0.\n1.\n{size} {size}\n"
    )
    return
  focal = focal * _SRN_SIZE / size
  centre = _SRN_SIZE / 2
  matrix = f"{focal!r} 0.0 {centre} 0.0 {focal!r} {centre} 0.0 0.0 1.0\n"
  (folder / "intrinsics").mkdir()
  for i in range(views):
    (folder / "intrinsics" / f"{i:06d}.txt").write_text(matrix)
