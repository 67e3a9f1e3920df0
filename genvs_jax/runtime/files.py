"""Small files that appear whole or not at all, on disk and in buckets."""

import hashlib
import io
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath


def write_whole(path: os.PathLike | str, content: bytes) -> epath.Path:
  """Writes a file, making its folder if missing.

  On a disk it is written beside its place and moved there; an object in a
  bucket appears at once when its upload is complete.
  """
  target = epath.Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  if is_remote(target):
    target.write_bytes(content)
    return target
  # Another process may be writing the same file.
  part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
  try:
    part.write_bytes(content)
    return part.replace(target)
  except OSError:  # a full disk: leave it no fuller
    part.unlink(missing_ok=True)
    raise


def write_arrays(
  path: os.PathLike | str,
  arrays: Mapping[str, np.ndarray],
  compressed: bool = False,
) -> epath.Path:
  """Writes a .npz file whole, see `write_whole`."""
  buffer = io.BytesIO()
  save: Callable[..., None] = np.savez_compressed if compressed else np.savez
  save(buffer, **arrays)
  return write_whole(path, buffer.getvalue())


def read_arrays(path: os.PathLike | str) -> dict[str, np.ndarray]:
  """The arrays of a .npz file by name.

  Raises:
    OSError: if there is no such file.
    ValueError: if it is damaged or holds anything but arrays.
  """
  content = epath.Path(path).read_bytes()
  try:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except (
    *(ValueError, AttributeError, EOFError),
    *(zipfile.BadZipFile, zlib.error),
  ) as error:
    raise ValueError(
      f"{path} is no .npz file of arrays, or is damaged ({error})"
    ) from error


def digest(value: Any) -> str:
  """Sixteen digits that tell values apart: JSON, with NumPy arrays in it."""

  def encode(array):
    array = np.ascontiguousarray(array)
    content = hashlib.sha256(array.tobytes()).hexdigest()
    return [str(array.dtype), list(array.shape), content]

  text = json.dumps(value, sort_keys=True, default=encode)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(variables: Any) -> str:
  """Sixteen digits that tell variables apart, from the first values of every
  leaf of a tree."""
  leaves = jax.tree.leaves(variables)
  first = jax.jit(lambda xs: jnp.concatenate([x.ravel()[:16] for x in xs]))
  values = np.asarray(first(leaves), np.float32)
  return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def user_cache(name: str) -> epath.Path:
  """A folder of this project in the user's cache folder."""
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return epath.Path(base).expanduser() / "genvs_jax" / name


def is_remote(path: os.PathLike | str) -> bool:
  """Whether a path is in a bucket, such as gs://NAME/..."""
  return "://" in os.fspath(path)
