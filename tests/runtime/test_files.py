"""Writing into a bucket: fsspec's memory stands for Google's storage."""

import json
import resource

import fsspec
import numpy as np
import pytest
from etils import epath
from fsspec.implementations import memory
from PIL import Image

from genvs_jax.images import encoding
from genvs_jax.runtime import files
from genvs_jax.runtime import run_folder
from genvs_jax.runtime import writers


class Bucket(memory.MemoryFileSystem):
  protocol = ("gcs", "gs")


@pytest.fixture
def bucket():
  fsspec.register_implementation("gcs", Bucket, clobber=True)
  yield "gs://bucket/run"
  Bucket.store.clear()


def test_files_appear_whole_on_disk(tmp_path, monkeypatch):
  path = files.write_whole(tmp_path / "folder" / "file", b"first")
  assert path.read_bytes() == b"first"
  files.write_whole(path, b"second")
  assert path.read_bytes() == b"second"
  assert [p.name for p in (tmp_path / "folder").iterdir()] == ["file"]


def test_metrics_go_to_the_bucket_and_on_from_there(bucket):
  for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
    writer = writers.Writer(bucket, start)
    for step in steps:
      writer.write_scalars(step, {"loss": start + step})
    writer.write_images(step, {"sheet": np.zeros((4, 4, 3), np.uint8)})
    writer.flush()
    lines = (epath.Path(bucket) / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == steps[-1]
    writer.close()
  assert [json.loads(line)["loss"] for line in lines] == [1, 2, 5, 6]
  names = [p.name for p in epath.Path(bucket).iterdir()]
  assert any(name.startswith("events.out.tfevents") for name in names)


def test_pictures_and_descriptions_go_to_the_bucket(bucket):
  folder = epath.Path(bucket)
  frames = [np.full((32, 32, 3), i, np.uint8) for i in (0, 128, 255)]
  files.write_whole(folder / "a.png", encoding.png(frames[1]))
  files.write_whole(folder / "a.gif", encoding.gif(frames, 10))
  files.write_whole(folder / "a.mp4", encoding.mp4(frames, 10))
  with (folder / "a.png").open("rb") as file:
    np.testing.assert_array_equal(np.array(Image.open(file)), frames[1])
  assert (folder / "a.gif").read_bytes()[:4] == b"GIF8"
  assert b"ftyp" in (folder / "a.mp4").read_bytes()[:16]
  run_folder.describe(bucket, {"a": 1}, {"encoder": {"w": np.zeros((2, 3))}})
  assert json.loads((folder / "config.json").read_text()) == {"a": 1}
  assert "encoder/w" in (folder / "parameters.txt").read_text()


def test_uploads_are_a_small_multiple_of_what_is_written(bucket, monkeypatch):
  """Two thousand flushes; every file as a whole each time would be a thousand
  times as much."""
  sent = 0
  write_whole = files.write_whole

  def count(path, content):
    nonlocal sent
    if files.is_remote(path):
      sent += len(content)
    return write_whole(path, content)

  monkeypatch.setattr(files, "write_whole", count)
  monkeypatch.setattr(writers, "_SEGMENT_BYTES", 50_000)
  writer = writers.Writer(bucket, 0)
  for step in range(1, 2001):
    writer.write_scalars(step, {"loss": 0.5, "loss_rgb": 0.25})
    writer.flush()
  writer.close()
  paths = list(epath.Path(bucket).iterdir())
  written = sum(p.stat().length for p in paths)
  assert written < sent < 15 * written
  lines = (epath.Path(bucket) / "metrics.jsonl").read_text().splitlines()
  assert len(lines) == 2000
  assert len(paths) > 3  # events in several files


def test_arrays_come_back_or_the_file_is_named(tmp_path):
  arrays = {"a": np.arange(3), "b": np.eye(2)}
  for compressed in (False, True):
    path = files.write_arrays(tmp_path / "x.npz", arrays, compressed)
    back = files.read_arrays(path)
    assert back.keys() == arrays.keys()
    np.testing.assert_array_equal(back["b"], arrays["b"])
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(ValueError, match=r"x\.npz is no \.npz file of arrays"):
    files.read_arrays(path)


def test_a_full_disk_leaves_no_part_behind(tmp_path):
  files.write_whole(tmp_path / "x", b"old")
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
  try:
    with pytest.raises(OSError):
      files.write_whole(tmp_path / "x", bytes(20_000))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert [p.name for p in tmp_path.iterdir()] == ["x"]
  assert (tmp_path / "x").read_bytes() == b"old"
