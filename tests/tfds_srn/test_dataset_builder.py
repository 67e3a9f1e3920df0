"""The TFDS builder: real ArrayRecord files, and builds that go wrong."""

import contextlib
import functools
import http.server
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import threading
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

import tfds_srn
from configs import debug
from genvs_jax.data import datasets
from genvs_jax.data import decoding
from tfds_srn import download
from tfds_srn import scenes
from tfds_srn import splits
from tfds_srn import tfds_srn_dataset_builder as srn
from tfds_srn.synthetic_cars import car_scenes

ROOT = pathlib.Path(__file__).parents[2]


def build(tmp_path, config="cars", **kwargs) -> tfds_srn.Builder:
  builder = tfds_srn.Builder(
    config=config, data_dir=tmp_path / "tfds", **kwargs
  )
  builder.download_and_prepare(download_dir=tmp_path / "downloads")
  return builder


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> pathlib.Path:
  return car_scenes.write_scenes(
    tmp_path_factory.mktemp("scenes"),
    counts={"train": 3, "val": 2, "test": 1},
    size=32,
    views=3,
    processes=1,
  )


def test_records_are_the_scenes(source, tmp_path):
  builder = build(tmp_path, source=str(source))
  result = splits.find_scenes(str(source))
  for split, group in result.items():
    records = builder.as_data_source(split=split)
    assert len(records) == len(group)
    for record, folder in zip(records, group, strict=True):
      scene = scenes.read_scene(folder)
      assert record["scene_id"].decode() == scene.scene_id
      assert list(record["images"]) == scene.images
      assert list(record["depths"]) == scene.depths
      np.testing.assert_array_equal(record["poses"], scene.poses)
      np.testing.assert_array_equal(record["intrinsics"], scene.intrinsics)
      assert (record["image_size"] == 32).all()
      assert record["image_size"].shape == (len(scene.images), 2)
      assert record["category"] == b""
      assert (record["near"], record["far"]) == (
        np.float32(0.8),
        np.float32(1.8),
      )
  assert len(builder.as_data_source(split="test")[0]["poses"]) == 251
  files = [p.name for p in pathlib.Path(builder.data_dir).iterdir()]
  assert any(".array_record-" in name for name in files)


def test_tfds_finds_the_dataset_by_name(source, tmp_path):
  build(tmp_path, source=str(source))
  records = tfds.data_source(
    "tfds_srn/cars",
    split="validation",
    data_dir=tmp_path / "tfds",
    download=False,
  )
  assert len(records) == 2
  assert "tensorflow" not in sys.modules


def test_published_configs():
  assert set(srn.CONFIGS) == {
    "cars",
    "chairs",
    "synthetic_cars",
    "meshes",
    "folder",
    "nerf",
    "nmr",
    "zero123",
  }
  chairs = srn.CONFIGS["chairs"]
  assert (chairs.near, chairs.far) == (1.25, 2.75)


def test_near_and_far_follow_the_camera_distance_of_a_folder(source, tmp_path):
  """At SRN cars' distance of 1.3 the derived planes are SRN cars'."""
  builder = build(tmp_path, "folder", source=str(source))
  record = builder.as_data_source(split="train")[0]
  np.testing.assert_allclose(
    [record["near"], record["far"]], [0.8, 1.8], rtol=1e-5
  )


def test_one_of_near_and_far_can_be_set_alone(source, tmp_path):
  config = srn.SrnConfig(name="mine", layout="folder", near=0.5)
  bounds = srn.Builder._bounds
  asked = types.SimpleNamespace(builder_config=config)
  np.testing.assert_allclose(bounds(asked, (1.3, 1.3)), (0.5, 1.8), rtol=1e-5)


def test_bad_scenes_stop_the_build_or_are_left_out(source, tmp_path, caplog):
  broken = tmp_path / "broken"
  shutil.copytree(source, broken)
  first, second, _ = sorted((broken / "cars_train").iterdir())
  (first / "pose" / "000000.txt").unlink()
  picture = second / "rgb" / "000001.png"
  picture.write_bytes(picture.read_bytes()[:100])
  with pytest.raises(scenes.BadScenesError) as caught:
    build(tmp_path, source=str(broken))
  message = str(caught.value)
  assert "2 problem(s)" in message and "--skip_bad_scenes" in message
  assert first.name in message and second.name in message
  assert not list((tmp_path / "tfds").rglob("*.array_record*"))

  builder = build(tmp_path, source=str(broken), skip_bad_scenes=True)
  assert len(builder.as_data_source(split="train")) == 1
  assert first.name in caplog.text and "left out" in caplog.text


def test_missing_source_says_where_the_data_are(tmp_path):
  with pytest.raises(
    ValueError,
    match=r"(?s)drive\.google.*non-commercial|non-"
    r"commercial.*drive\.google",
  ):
    build(tmp_path)


def test_killed_build_is_not_taken_for_a_dataset(source, tmp_path):
  """SIGKILL between two records; a second build then starts afresh."""
  script = textwrap.dedent(f"""
    import time
    import tfds_srn
    from tfds_srn import tfds_srn_dataset_builder as srn
    whole = srn.Builder._generate_examples
    def slow(self, folders):
      for i, item in enumerate(whole(self, folders)):
        print("record", i, flush=True)
        time.sleep(30 if i == 1 else 0)
        yield item
    srn.Builder._generate_examples = slow
    tfds_srn.Builder(
      config="cars", source={str(source)!r},
      data_dir={str(tmp_path / "tfds")!r},
    ).download_and_prepare(download_dir={str(tmp_path / "downloads")!r})
  """)
  process = subprocess.Popen(
    [sys.executable, "-c", script],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )
  for line in process.stdout:
    if line.startswith("record 1"):
      process.send_signal(signal.SIGKILL)
      break
  process.wait()
  builder = tfds_srn.Builder(config="cars", data_dir=tmp_path / "tfds")
  assert not builder.is_prepared()
  assert build(tmp_path, source=str(source)).is_prepared()


class _Server(http.server.SimpleHTTPRequestHandler):
  """Serves a folder, cuts off the first answer, and honours ranges."""

  cut_after = 0
  requests: list = []  # noqa: RUF012
  etag = '"1"'

  def do_GET(self):
    path = pathlib.Path(self.translate_path(self.path.split("?")[0]))
    type(self).requests.append(self.headers.get("Range"))
    if not path.exists():
      self.send_error(404)
      return
    content = path.read_bytes()
    start, asked = 0, self.headers.get("Range")
    if self.headers.get("If-Range", self.etag) != self.etag:
      asked = None
    if asked:
      start = int(asked.split("=")[1].split("-")[0])
    if start >= len(content):
      self.send_response(416)
      self.send_header("Content-Range", f"bytes */{len(content)}")
      self.send_header("Content-Length", "0")
      self.end_headers()
      return
    self.send_response(206 if asked else 200)
    if asked:
      total = f"{start}-{len(content) - 1}/{len(content)}"
      self.send_header("Content-Range", f"bytes {total}")
    self.send_header("ETag", self.etag)
    kind = "text/html" if path.suffix == ".html" else "application/zip"
    self.send_header("Content-Type", kind)
    self.send_header("Content-Length", str(len(content) - start))
    self.end_headers()
    end = len(content)
    if type(self).cut_after:
      end, type(self).cut_after = type(self).cut_after, 0
    self.wfile.write(content[start:end])

  def log_message(self, *args):
    del args


@contextlib.contextmanager
def serve(folder: pathlib.Path, cut_after: int = 0):
  handler = type(
    "Handler", (_Server,), {"cut_after": cut_after, "requests": []}
  )
  server = http.server.ThreadingHTTPServer(
    ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
  )
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    yield f"http://127.0.0.1:{server.server_port}", handler
  finally:
    server.shutdown()
    server.server_close()


@pytest.fixture
def zipped(source, tmp_path) -> pathlib.Path:
  folder = tmp_path / "www"
  folder.mkdir()
  shutil.make_archive(str(folder / "srn_cars"), "zip", source)
  (folder / "quota.html").write_text("<html>quota exceeded</html>")
  return folder


def test_build_from_a_url(zipped, tmp_path):
  with serve(zipped) as (address, handler):
    builder = build(tmp_path, url=f"{address}/srn_cars.zip")
    assert len(builder.as_data_source(split="train")) == 3
    assert handler.requests == [None]
    download.fetch(f"{address}/srn_cars.zip", tmp_path / "downloads")
    assert len(handler.requests) == 1  # the whole file is reused


def test_a_download_goes_on_where_it_was_cut_off(zipped, tmp_path):
  whole = (zipped / "srn_cars.zip").read_bytes()
  with serve(zipped, cut_after=300_000) as (address, handler):
    url = f"{address}/srn_cars.zip"
    with pytest.raises(OSError, match=r"run the same|second try"):
      download.fetch(url, tmp_path)
    assert not list(tmp_path.glob("*.zip"))
    assert download.fetch(url, tmp_path).read_bytes() == whole
    first, second = handler.requests
    assert first is None
    assert int(second.removeprefix("bytes=").removesuffix("-")) > 200_000


def test_refused_downloads(zipped, tmp_path):
  with serve(zipped) as (address, _):
    with pytest.raises(OSError, match="sent a web page, expected a file"):
      download.fetch(f"{address}/quota.html", tmp_path)
    with pytest.raises(OSError, match="404"):
      download.fetch(f"{address}/nothing.zip", tmp_path)
  with pytest.raises(ValueError, match="expected an http"):
    download.fetch("ftp://somewhere/cars.zip", tmp_path)
  assert not list(tmp_path.glob("*.zip"))


def test_drive_ids_and_links_name_the_same_file():
  file_id = "1bThUNtIHx4xEQyffVBSf82ABDDh2HlFn"
  links = [
    file_id,
    f"https://drive.google.com/file/d/{file_id}/view?usp=sharing",
    f"https://drive.google.com/uc?export=download&id={file_id}",
  ]
  names = {download._resolve(link) for link in links}
  assert len(names) == 1
  name, address = names.pop()
  assert name == f"{file_id}.zip" and f"id={file_id}" in address


def test_files_of_one_name_are_told_apart(tmp_path):
  folder = tmp_path / "www"
  for name in "ab":
    (folder / name).mkdir(parents=True)
    (folder / name / "cars.zip").write_bytes(name.encode() * 1000)
  with serve(folder) as (address, _):
    paths = [
      download.fetch(f"{address}/{name}/cars.zip", tmp_path / "downloads")
      for name in "ab"
    ]
  assert paths[0] != paths[1]
  assert [path.read_bytes()[:1] for path in paths] == [b"a", b"b"]


@pytest.mark.parametrize("tags", [True, False])
def test_a_part_of_an_older_file_is_not_gone_on_with(tmp_path, tags):
  """The file has changed on the server since the first try was cut off."""
  folder = tmp_path / "www"
  folder.mkdir()
  path = folder / "cars.zip"
  path.write_bytes(b"old" * 200_000)
  with serve(folder, cut_after=300_000) as (address, handler):
    handler.etag = '"old"' if tags else ""
    with pytest.raises(OSError):
      download.fetch(f"{address}/cars.zip", tmp_path / "downloads")
    # The tag alone tells a file of the same size, the size one without a tag.
    path.write_bytes(b"new" * 200_000 if tags else b"new!" * 170_000)
    handler.etag = '"new"' if tags else ""
    fetched = download.fetch(f"{address}/cars.zip", tmp_path / "downloads")
    assert fetched.read_bytes() == path.read_bytes()
  assert [p.name for p in (tmp_path / "downloads").iterdir()] == [fetched.name]


def test_a_part_that_is_too_large_is_not_called_whole(tmp_path):
  folder = tmp_path / "www"
  folder.mkdir()
  (folder / "cars.zip").write_bytes(b"x" * 500_000)
  downloads = tmp_path / "downloads"
  with serve(folder, cut_after=300_000) as (address, _):
    with pytest.raises(OSError):
      download.fetch(f"{address}/cars.zip", downloads)
    (part,) = downloads.glob("*.part")
    part.write_bytes(bytes(600_000))
    fetched = download.fetch(f"{address}/cars.zip", downloads)
  assert fetched.read_bytes() == b"x" * 500_000


def test_a_part_whose_description_is_cut_short_is_fetched_anew(tmp_path):
  folder = tmp_path / "www"
  folder.mkdir()
  (folder / "cars.zip").write_bytes(b"x" * 500_000)
  downloads = tmp_path / "downloads"
  with serve(folder, cut_after=300_000) as (address, handler):
    with pytest.raises(OSError):
      download.fetch(f"{address}/cars.zip", downloads)
    (description,) = downloads.glob("*.part.json")
    description.write_text(description.read_text()[:10])
    fetched = download.fetch(f"{address}/cars.zip", downloads)
    assert handler.requests[-1] is None  # from its beginning
  assert fetched.read_bytes() == b"x" * 500_000


def test_a_builder_leaves_no_temporary_folder(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
  (tmp_path / "tmp").mkdir()
  builder = tfds_srn.Builder(config="cars", data_dir=tmp_path / "data")
  assert not builder.is_prepared()
  assert list((tmp_path / "tmp").iterdir()) == []


def test_datasets_of_the_first_version_still_load(tmp_path):
  """Whose scenes had one camera and one size for all views."""
  with tarfile.open(
    pathlib.Path(__file__).parent / "dataset_of_version_1.tar.xz"
  ) as archive:
    archive.extractall(tmp_path, filter="data")
  config = debug.get_config()
  config.data.dataset, config.data.name = "folder", "old"
  config.data.data_dir = str(tmp_path)
  records = datasets.load_split(config, "", "train")
  assert len(records) == 2 and records[0]["intrinsics"].shape == (4,)
  decoded = decoding.decode_views(records[0], [2, 0], 32, "area")
  focal = 131.25 / 128 * 32
  np.testing.assert_allclose(
    decoded["intrinsics"], [[focal, focal, 16, 16]] * 2, rtol=1e-5
  )
  assert any("train 2" in line for line in datasets.describe(config, ""))
  datasets.check_cameras(config, records)
