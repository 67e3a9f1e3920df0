"""Batches: their order, their content, and what is said when data lack."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from configs import debug
from genvs_jax.data import dataset_builders
from genvs_jax.data import datasets
from genvs_jax.data import decoding
from genvs_jax.data import loading
from tfds_srn.synthetic_cars import car_scenes
from tfds_srn.synthetic_cars import cars
from tfds_srn.synthetic_cars import ray_caster


def take(config, records, count, **kwargs):
  batches = loading.train_batches(
    config, records, **{"start_step": 0, **kwargs}
  )
  return [next(batches) for _ in range(count)]


def assert_equal(a: dict, b: dict):
  assert a.keys() == b.keys()
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])


@pytest.fixture
def records(debug_config):
  return datasets.load_split(debug_config, "", "train")


def test_batches_hold_distinct_views_of_their_scene(debug_config, records):
  for batch in take(debug_config, records, 4):
    assert batch["images"].shape == (8, 3, 32, 32, 3)
    assert batch["images"].dtype == np.uint8
    for i, scene in enumerate(batch["scene"]):
      record = records[int(scene)]
      np.testing.assert_allclose(
        batch["intrinsics"][i], record["intrinsics"][:3], rtol=1e-6
      )
      result = [
        int(np.abs(record["poses"] - pose).sum((1, 2)).argmin())
        for pose in batch["poses"][i]
      ]
      assert len(set(result)) == len(result)
      for image, view in zip(batch["images"][i], result, strict=True):
        truth = np.array(Image.open(io.BytesIO(record["images"][view])))
        np.testing.assert_array_equal(image, truth)


def test_starting_later_gives_the_same_batches(debug_config, records):
  straight = take(debug_config, records, 6)
  later = take(debug_config, records, 2, start_step=4)
  for a, b in zip(straight[4:], later, strict=True):
    assert_equal(a, b)


def test_another_seed_gives_another_order(debug_config, records):
  first = take(debug_config, records, 1)[0]
  debug_config.seed = 1
  second = take(debug_config, records, 1)[0]
  assert (first["poses"] != second["poses"]).any()


def test_every_scene_comes_once_per_epoch_in_a_new_order(debug_config, records):
  debug_config.train.batch_size = 6
  epochs = [b["scene"].tolist() for b in take(debug_config, records, 4)]
  assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batch_of_one(debug_config, records, processes):
  whole = take(debug_config, records, 3)
  shares = [
    take(debug_config, records, 3, rows=rows)
    for rows in np.split(np.arange(8), processes)
  ]
  for n, batch in enumerate(whole):
    joined = {
      key: np.concatenate([share[n][key] for share in shares]) for key in batch
    }
    assert_equal(joined, batch)


def test_a_process_reads_only_its_share(debug_config, records):
  class Counting(Sequence):
    def __init__(self):
      self.read = 0

    def __len__(self):
      return len(records)

    def __getitem__(self, index):
      self.read += 1
      return records[index]

  debug_config.data.prefetch = debug_config.data.threads = 1
  counts = []
  for rows in (range(8), range(4, 6)):
    counting = Counting()
    batches = loading.train_batches(
      debug_config,
      dataclasses.replace(records, source=counting),
      start_step=0,
      rows=rows,
    )
    before = counting.read
    for _ in range(10):
      next(batches)
    # At most the batches that were asked for and those made ahead.
    assert counting.read - before <= 13 * len(rows)
    counts.append(counting.read - before)
  assert counts[1] <= counts[0] * 2 / 8 * 1.3


def test_worker_processes_change_nothing(debug_config, records):
  threads = take(debug_config, records, 3)
  debug_config.data.workers = 2
  for a, b in zip(threads, take(debug_config, records, 3), strict=True):
    assert_equal(a, b)


def make_record(size: tuple[int, int], mode: str = "RGB") -> dict:
  height, width = size
  image = Image.new(mode, (width, height), (255, 0, 0, 0)[: len(mode)])
  file = io.BytesIO()
  image.save(file, "PNG")
  return {
    "images": [file.getvalue()],
    "depths": [],
    "poses": np.eye(4, dtype=np.float32)[None],
    "intrinsics": np.array([100, 90, width / 2, height / 2], np.float32),
    "image_size": np.array(size),
    "scene_id": b"made_up",
  }


def test_resizing_scales_the_intrinsics():
  decoded = decoding.decode_views(make_record((128, 128)), [0], 32, "area")
  assert decoded["images"].shape == (1, 32, 32, 3)
  np.testing.assert_allclose(decoded["intrinsics"], [[25, 22.5, 16, 16]])


def test_downsampling_averages_areas():
  car = cars.sample_car(0, "train", 0)
  pose = car_scenes.train_poses(0, "train", 0, 1)[0]
  image, _ = ray_caster.render_view(car, pose, 64)
  file = io.BytesIO()
  image = (image * 255 + 0.5).astype(np.uint8)
  Image.fromarray(image).save(file, "PNG")
  record = {**make_record((64, 64)), "images": [file.getvalue()]}
  small = decoding.decode_views(record, [0], 32, "area")["images"][0]
  expected = image.reshape(32, 2, 32, 2, 3).mean((1, 3))
  assert np.abs(small - expected).max() <= 1.0  # rounded once per axis


def test_wide_images_are_padded_with_white():
  decoded = decoding.decode_views(make_record((16, 32)), [0], 32, "area")
  image = decoded["images"][0]
  assert (image[:8] == 255).all() and (image[-8:] == 255).all()
  assert (image[8:24] == [255, 0, 0]).all()
  np.testing.assert_allclose(decoded["intrinsics"], [[100, 90, 16, 16]])


def test_views_of_any_size_keep_their_own_intrinsics():
  records = [make_record(size) for size in ((16, 32), (64, 64), (32, 8))]
  record = {
    key: [item for r in records for item in r[key]]
    for key in ("images", "depths", "poses")
  }
  record["poses"] = np.stack(record["poses"])
  record["intrinsics"] = np.stack([r["intrinsics"] for r in records])
  record["image_size"] = np.stack([r["image_size"] for r in records])
  decoded = decoding.decode_views(record, [2, 0, 1], 32, "area")
  for i, view in enumerate((2, 0, 1)):
    alone = decoding.decode_views(records[view], [0], 32, "area")
    for key in ("images", "intrinsics"):
      np.testing.assert_array_equal(decoded[key][i], alone[key][0])
  np.testing.assert_allclose(decoded["intrinsics"][2], [50, 45, 16, 16])


def test_scenes_change_as_the_config_says_and_the_views_stay(
  debug_config, records
):
  (plain,) = take(debug_config, records, 1)
  debug_config.augment.mirror = 1.0
  (mirrored,) = take(debug_config, records, 1)
  np.testing.assert_array_equal(
    mirrored["images"], plain["images"][..., ::-1, :]
  )
  np.testing.assert_array_equal(mirrored["scene"], plain["scene"])


def test_views_bring_the_bounds_of_their_scene_if_asked(debug_config, records):
  debug_config.frustum.bounds = "scene"
  (batch,) = take(debug_config, records, 1)
  assert batch["intrinsics"].shape == (8, 3, 6)
  for scene, intrinsics in zip(
    batch["scene"], batch["intrinsics"], strict=True
  ):
    record = records[int(scene)]
    expected = [record["near"], record["far"]]
    np.testing.assert_allclose(intrinsics[:, 4:], [expected] * 3, rtol=1e-6)


def test_a_colour_stands_behind_transparent_input_views_alone():
  record = make_record((32, 32), "RGBA")
  record["images"] *= 2
  record["poses"] = np.tile(record["poses"], (2, 1, 1))
  decoded = decoding.decode_views(record, [0, 1], 32, "area", [(9, 8, 7)])
  assert (decoded["images"][0] == [9, 8, 7]).all()
  assert (decoded["images"][1] == 255).all()


def test_transparent_images_are_composited_onto_white():
  decoded = decoding.decode_views(
    make_record((32, 32), "RGBA"), [0], 32, "area"
  )
  assert (decoded["images"] == 255).all()


def test_missing_dataset_says_how_to_prepare_it(tmp_path):
  config = debug.get_config()
  config.data.dataset = "cars"
  config.data.data_dir = str(tmp_path)
  with pytest.raises(datasets.DatasetMissingError) as caught:
    datasets.load_split(config, "", "train")
  message = str(caught.value)
  assert "--mode=prepare" in message and "synthetic_cars" in message


def test_missing_split_is_named(tmp_path):
  car_scenes.write_scenes(
    tmp_path / "scenes",
    counts={"train": 10},
    size=32,
    views=2,
    processes=1,
  )
  config = debug.get_config()
  config.data.dataset = "folder"
  config.data.source = str(tmp_path / "scenes")
  config.data.data_dir = str(tmp_path / "tfds")
  datasets.prepare(config, "")
  assert len(datasets.load_split(config, "", "train")) == 9
  assert len(datasets.load_split(config, "", "validation")) == 1
  with pytest.raises(datasets.DatasetMissingError, match="has no split 'test'"):
    datasets.load_split(config, "", "test")


def test_synthetic_sets_with_other_numbers_do_not_collide(tmp_path):
  config = debug.get_config()
  config.data.data_dir = str(tmp_path)
  first = dataset_builders.build_builder(config, "").data_dir
  config.data.synthetic.seed = 7
  assert dataset_builders.build_builder(config, "").data_dir != first


def test_too_few_views_are_refused(debug_config, records):
  debug_config.model.input_views = 8
  with pytest.raises(ValueError, match="has 8 views, expected 9 or more"):
    take(debug_config, records, 1)


def test_depths_are_those_that_were_written(records):
  record = records[0]
  depths = decoding.decode_depths(record, [0, 1], 32)
  stored = np.array(Image.open(io.BytesIO(record["depths"][1])))
  np.testing.assert_allclose(depths[1], stored / 10_000, rtol=1e-6)
  assert decoding.decode_depths({**record, "depths": []}, [0], 32) is None


def test_smaller_depths_are_means_over_the_object(records):
  """The left half of a made-up map is empty, the right half 1 and 2 deep."""
  stored = np.zeros((32, 32), np.uint16)
  stored[:, 16:] = 10_000
  stored[1::2, 16:] = 20_000
  stored[0, 16:18] = 0  # half of a pixel of the smaller picture
  stored[3, 16] = 0  # a quarter of one
  buffer = io.BytesIO()
  Image.fromarray(stored).save(buffer, format="PNG")
  record = {**records[0], "depths": [buffer.getvalue()]}
  depth = decoding.decode_depths(record, [0], 16)[0]
  expected = np.zeros((16, 16))
  expected[:, 8:] = 1.5
  expected[0, 8] = 0
  expected[1, 8] = 4 / 3
  np.testing.assert_allclose(depth, expected, rtol=1e-6)


def test_frustum_that_does_not_fit_the_scenes_is_warned_of(
  debug_config, records, caplog
):
  datasets.check_cameras(debug_config, records)
  assert not caplog.text
  debug_config.frustum.far = 2.75
  datasets.check_cameras(debug_config, records)
  assert "--config.frustum.far=1.8" in caplog.text
