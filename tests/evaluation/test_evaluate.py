"""The evaluation: its protocol, its files, and that it can be stopped."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest
import skimage.metrics
from PIL import Image

from genvs_jax import perceptual
from genvs_jax.data import datasets
from genvs_jax.data import decoding
from genvs_jax.evaluation import consistency
from genvs_jax.evaluation import evaluate
from genvs_jax.evaluation import prediction
from genvs_jax.evaluation import protocol
from genvs_jax.evaluation import report
from genvs_jax.evaluation import scene_scores
from genvs_jax.evaluation import summary
from genvs_jax.geometry import camera_paths
from genvs_jax.perceptual import distances
from genvs_jax.perceptual import weights

SPIRAL = np.asarray(camera_paths.srn_spiral())


@pytest.fixture
def scored(drawing):
  """(config, model, variables) that score the validation split quickly."""
  config, model, variables = drawing
  config = config.copy_and_resolve_references()
  config.evaluate.metric_weights = "no weights here"
  config.sampler.steps = 1
  return config, model, variables


def folder_of(results) -> pathlib.Path:
  return pathlib.Path(results["folder"])


def read_lines(results) -> list[dict]:
  """A line per scene; the last one is of the dataset."""
  files = folder_of(results).glob("scores*.jsonl")
  path = max(files, key=lambda file: file.stat().st_mtime_ns)
  text = path.read_text()
  *lines, last = [json.loads(line) for line in text.splitlines()]
  assert last == {"dataset": results}
  return lines


def test_targets_of_the_published_protocols():
  choose = protocol.choose_targets
  one = choose(SPIRAL, (64,), "others", 0, 0.0)
  assert len(one) == 250 and 64 not in one
  two = choose(SPIRAL, (64, 104), "others", 0, 0.0)
  assert len(two) == 249 and not {64, 104} & set(two)
  subset = choose(SPIRAL, (64,), "pixelnerf", 0, 0.0)
  published = [0, 24, 49, 74, 99, 124, 149, 174, 199, 224, 249]
  assert subset.tolist() == published
  assert 24 not in choose(SPIRAL, (24,), "pixelnerf", 0, 0.0)
  assert len(choose(SPIRAL, (64,), "spread", 8, 30.0)) == 8


def test_views_that_do_not_exist_are_refused():
  with pytest.raises(ValueError, match=r"input_views is \(64,\), .* 0 to 23"):
    protocol.choose_targets(SPIRAL[:24], (64,), "others", 0, 0.0)
  with pytest.raises(ValueError, match="up to 249, but a scene has 24"):
    protocol.choose_targets(SPIRAL[:24], (3,), "pixelnerf", 0, 0.0)
  with pytest.raises(ValueError, match="leaves no view to score of a scene"):
    protocol.choose_targets(SPIRAL[:1], (0,), "others", 0, 0.0)
  with pytest.raises(ValueError, match="'all', expected one of others"):
    protocol.choose_targets(SPIRAL, (64,), "all", 0, 0.0)


def test_a_list_names_the_input_view_of_each_scene(scored, tmp_path):
  """As pixelNeRF's does for NMR: class, object, view."""
  config, _, _ = scored
  records = datasets.load_split(config, "", "validation")
  ids = [record["scene_id"].decode() for record in records]
  config.evaluate.targets = "others"
  path = tmp_path / "views.txt"
  path.write_text(f"{ids[0]} 5\n\n{ids[1]} 2\n")
  config.evaluate.view_list = str(path)
  for i, view in enumerate((5, 2)):
    scene = protocol.load_scene(config, records, i)
    assert scene.views.tolist() == [v for v in range(8) if v != view]
    np.testing.assert_array_equal(
      scene.inputs["poses"][0], records[i]["poses"][view]
    )
  with pytest.raises(ValueError, match=f"has no line for scene {ids[2]}"):
    protocol.load_scene(config, records, 2)
  # Class and object make the id of a scene of NMR's.
  (tmp_path / "b.txt").write_text("02958343 a1b2 7\n02958343 a1b2 9\n")
  views = protocol._read_view_list(str(tmp_path / "b.txt"))
  assert views == {"02958343_a1b2": (7, 9)}
  config.evaluate.view_list = str(tmp_path / "e.txt")
  (tmp_path / "e.txt").write_text(f"{ids[0]} 8\n")
  with pytest.raises(ValueError, match=r"names view 8 of .* from 0 to 7"):
    protocol.load_scene(config, records, 0)
  config.evaluate.view_list = str(path)
  (tmp_path / "c.txt").write_text("02958343 a1b2\n")
  with pytest.raises(ValueError, match=r"line 1: found '02958343 a1b2', expe"):
    protocol._read_view_list(str(tmp_path / "c.txt"))
  (tmp_path / "d.txt").write_text("a 7\nb 1\nb 9\n")
  with pytest.raises(ValueError, match="1 input views of a and 2 of b, expec"):
    protocol._read_view_list(str(tmp_path / "d.txt"))
  # Scores of one list are not those of another of the name.
  digest = protocol.view_list_digest(str(path))
  path.write_text(path.read_text().replace("5", "6"))
  assert protocol.view_list_digest(str(path)) != digest


def test_distances_are_those_of_scenes_with_planes_of_their_own(scored):
  config, _, _ = scored
  records = datasets.load_split(config, "", "validation")
  common = protocol.load_scene(config, records, 0)
  config.frustum.bounds = "scene"
  own = protocol.load_scene(config, records, 0)
  assert own.intrinsics.shape[-1] == 6
  np.testing.assert_allclose(own.distances, common.distances, rtol=1e-6)


@pytest.mark.parametrize("field", ["samples", "rollouts"])
def test_counts_below_zero_are_refused(scored, tmp_path, field):
  config, model, variables = scored
  config.evaluate[field] = -1
  with pytest.raises(ValueError, match=f"{field} is -1, expected 0 or more"):
    evaluate.evaluate(config, model, variables, str(tmp_path))


def test_scores_by_category_are_means_over_its_scenes():
  def line(category, psnr):
    row = {"psnr": psnr, "ssim": psnr / 50}
    return {"category": category, "means": {"render": row, "sample": row}}

  lines = [line("car", 20.0), line("car", 22.0), line("boat", 30.0)]
  categories = summary.by_category(lines)
  assert categories["car"]["sample"]["psnr"] == 21
  table = summary.category_table(categories).splitlines()
  assert table[2].startswith("| boat | 1 | 30.00 | 0.600 | 30.00")
  assert table[3].startswith("| car | 2 | 21.00 | 0.420")
  # Every category counts the same, however many its scenes.
  assert table[4].startswith("| mean of the categories |  | 25.50 | 0.510")
  assert summary.by_category(lines[:2]) == {}


def test_the_table_is_that_of_the_pictures_on_disk(scored, tmp_path):
  """Pictures in pixelNeRF's layout, scored again from disk by scikit-image."""
  config, model, variables = scored
  config.evaluate.targets = "others"
  config.evaluate.pictures = True
  results = evaluate.evaluate(config, model, variables, str(tmp_path))
  records = datasets.load_split(config, "", "validation")
  lines = read_lines(results)
  assert [line["scene"] for line in lines] == [0, 1, 2]
  means = []
  for line, record in zip(lines, records, strict=True):
    assert line["name"] == record["scene_id"].decode()
    assert line["views"] == [1, 2, 3, 4, 5, 6, 7]
    truth = decoding.decode_views(record, line["views"], 32, "area")["images"]
    psnr, ssim = [], []
    for view, true in zip(line["views"], truth, strict=True):
      name = f"pictures/sample/{line['name']}/{view:06d}.png"
      drawn = np.asarray(Image.open(folder_of(results) / name))
      psnr.append(skimage.metrics.peak_signal_noise_ratio(true, drawn))
      ssim.append(
        skimage.metrics.structural_similarity(true, drawn, channel_axis=-1)
      )
    result = line["scores"]["sample"]
    np.testing.assert_allclose(result["psnr"], psnr, atol=1e-4)
    np.testing.assert_allclose(result["ssim"], ssim, atol=1e-4)
    means.append([np.mean(psnr), np.mean(ssim)])
  row = results["rows"]["sample"]
  np.testing.assert_allclose(
    [row["psnr"], row["ssim"]], np.mean(means, 0), atol=1e-4
  )
  assert "one sample" in (folder_of(results) / "table.md").read_text()


def test_an_evaluation_goes_on_scene_by_scene(scored, tmp_path, monkeypatch):
  """A quick look at one scene, a kill in the second, and the rest."""
  config, model, variables = scored
  config.evaluate.batch_size = 1
  straight = evaluate.evaluate(config, model, variables, str(tmp_path / "a"))
  scored_scenes, score = [], scene_scores.SceneScores.__call__

  def spy(self, group, records):
    scored_scenes.extend(group)
    if len(scored_scenes) == 2:
      raise InterruptedError
    score(self, group, records)

  monkeypatch.setattr(scene_scores.SceneScores, "__call__", spy)
  again = str(tmp_path / "b")
  evaluate.evaluate(config, model, variables, again, limit=1)
  with pytest.raises(InterruptedError):
    evaluate.evaluate(config, model, variables, again)
  results = evaluate.evaluate(config, model, variables, again)
  assert scored_scenes == [0, 1, 1, 2]
  assert read_lines(results) == read_lines(straight)
  assert results["rows"] == straight["rows"]


def test_other_settings_and_weights_do_not_share_files(scored, tmp_path):
  config, model, variables = scored
  config.evaluate.samples = 1
  first = evaluate.evaluate(config, model, variables, str(tmp_path), limit=1)
  config.sampler.sigma_max = 40.0
  second = evaluate.evaluate(config, model, variables, str(tmp_path), limit=1)
  other = jax.tree.map(lambda x: x, variables)
  other["field"] = jax.tree.map(lambda x: x + 0.1, variables["field"])
  third = evaluate.evaluate(config, model, other, str(tmp_path), limit=1)
  folders = {folder_of(r) for r in (first, second, third)}
  assert len(folders) == 3
  rendered = {r["rows"]["render"]["psnr"] for r in (first, second)}
  assert len(rendered) == 1  # the sampler is none of the render's business
  assert third["rows"]["render"]["psnr"] not in rendered


def test_pictures_do_not_depend_on_batch_or_devices(scored):
  """Three scenes on one device each and in pieces, against one by one."""
  config, model, variables = scored
  config.evaluate.targets = "others"
  records = datasets.load_split(config, "", "validation")
  scenes = [protocol.load_scene(config, records, i) for i in range(3)]
  # A scene with fewer views than the others of its group.
  scenes[1] = scenes[1]._replace(
    views=scenes[1].views[:4], poses=scenes[1].poses[:4]
  )
  config.evaluate.batch_views = 4
  together = prediction.build_predictor(config, model, variables, 3)
  drawn = together(scenes, samples=2)
  config.evaluate.batch_views = 7
  alone = prediction.build_predictor(config, model, variables, 1)
  for scene, of_scene in zip(scenes, drawn, strict=True):
    (expected,) = alone([scene], samples=2)
    assert of_scene.samples.shape == (len(scene.views), 2, 32, 32, 3)
    for name in ("render", "samples"):
      a, b = getattr(of_scene, name), getattr(expected, name)
      assert np.abs(a.astype(int) - b).max() <= 1, name
    np.testing.assert_allclose(of_scene.depth, expected.depth, atol=1e-4)
  assert np.abs(
    drawn[0].samples[:, 0].astype(int) - drawn[0].samples[:, 1]
  ).max()


def test_noise_is_of_scene_view_and_sample(scored):
  """The same pictures in, under another number of the scene or of the view."""
  config, model, variables = scored
  records = datasets.load_split(config, "", "validation")
  scene = protocol.load_scene(config, records, 0)
  draw = prediction.build_predictor(config, model, variables, 1)

  def samples(**changes):
    return draw([scene._replace(**changes)], samples=2)[0].samples

  plain = samples()
  np.testing.assert_array_equal(plain, samples(images=0 * scene.images))
  assert (plain[:, 0] != plain[:, 1]).any()
  assert (plain != samples(scene=7)).any((2, 3, 4)).all()
  assert (plain != samples(views=scene.views + 1)).any((2, 3, 4)).all()


def test_rows_hold_what_their_names_say(scored, tmp_path, monkeypatch):
  config, model, variables = scored
  quick = functools.partial(
    consistency.FitOptions, resolutions=(8,), steps=4, rays=64, samples=8
  )
  monkeypatch.setattr(consistency, "FitOptions", quick)
  config.evaluate.input_views = (0, 3)
  config.evaluate.rollouts = 1
  config.sample.frames = 6
  results = evaluate.evaluate(config, model, variables, str(tmp_path), limit=1)
  rows = results["rows"]
  (line,) = read_lines(results)
  one, mean, best = (
    np.array(line["scores"][row]["psnr"])
    for row in ("sample", "sample_mean", "sample_best")
  )
  assert (best >= one).all() and (mean != one).any()
  assert rows["render"]["depth_error"] > 0
  assert "depth_error" not in rows["sample"]
  for row in ("render", "sample"):
    result = line["rollout"]["scores"][row]
    assert 0 <= result["reprojection_coverage"] <= 1
    assert rows[row]["field_fit"] == result["field_fit"]
    assert results[f"reprojection_{row}"] == result["reprojection"]
    for name in ("psnr", "sharpness", "mean_colour"):
      assert results[f"{name}_{row}"] == rows[row][name]
  assert -1 <= results["colour_correlation_sample"] <= 1
  assert results["lpips_vgg_render"] is None  # no weights here
  report = (tmp_path / "report_limit1.html").read_text()
  # The scene is the best and the worst; the rollout's film is there.
  assert report.count("data:image/jpeg;base64,") == 1
  assert report.count("data:video/mp4;base64,") == 1
  # Without field fits the rest is the same.
  config.evaluate.field_fit = False
  again = evaluate.evaluate(config, model, variables, str(tmp_path), limit=1)
  assert "field_fit" not in again["rows"]["sample"]
  assert again["reprojection_sample"] == results["reprojection_sample"]
  # The input copy is the nearer of the two views, seen from the origin.
  records = datasets.load_split(config, "", "validation")
  scene = protocol.load_scene(config, records, 0)
  positions = np.array(records[0]["poses"])[:, :3, 3]
  for i, view in enumerate(scene.views):
    apart = np.linalg.norm(positions[[0, 3]] - positions[view], axis=-1)
    copied = scene.inputs["images"][np.argmin(apart)]
    expected = skimage.metrics.peak_signal_noise_ratio(scene.images[i], copied)
    result = line["scores"]["input_copy"]["psnr"][i]
    assert result == pytest.approx(expected, abs=1e-4)


def test_perceptual_metrics_come_with_their_weights(
  scored, tmp_path, monkeypatch
):
  """Made-up networks instead of VGG16 and Inception, which are tested apart."""
  config, model, variables = scored
  for name in ("vgg16", "lpips_vgg", "inception"):
    weights.save(str(tmp_path / "weights"), name, {"x": np.float32([2.0])})
  config.evaluate.metric_weights = str(tmp_path / "weights")
  monkeypatch.setattr(perceptual, "_LEAST_SIZE", 32)  # nothing is enlarged

  def lpips(loaded, images, truth):
    apart = ((images - truth) ** 2).mean((1, 2, 3))
    return loaded["vgg16"]["x"] * apart

  def features(loaded, images):
    return images[:, 8:24:4, 8:24:8].reshape(len(images), -1) * loaded["x"]

  monkeypatch.setitem(perceptual._DISTANCES, "lpips_vgg", lpips)
  monkeypatch.setattr(perceptual.networks, "inception", features)
  results = evaluate.evaluate(config, model, variables, str(tmp_path))
  assert set(results["left_out"]) == {"lpips_alex", "dists"}
  (first, *_) = read_lines(results)
  result = first["scores"]["render"]
  expected = 2 * 10 ** (-np.array(result["psnr"]) / 10)
  np.testing.assert_allclose(result["lpips_vgg"], expected, rtol=1e-4)
  stored = [
    np.load(folder_of(results) / f"scenes/{i:06d}.npz") for i in range(3)
  ]
  drawn, truth = (
    np.concatenate([f[row] for f in stored]) for row in ("render", "truth")
  )
  assert drawn.shape == (6, 4 * 2 * 3)
  statistics = [distances.FeatureStatistics() for _ in range(2)]
  for result, features in zip(statistics, (drawn, truth), strict=True):
    result.add(features)
  expected = distances.frechet(*statistics)
  assert results["rows"]["render"]["fid"] == pytest.approx(expected)
  assert results["frechet"]["images"] == 6
  text = report.table(results)
  assert "FID over 6 pictures" in text and "pytorch-fid" in text
  assert "because their weights are missing: lpips_alex, dists" in text


def test_a_quick_look_stands_beside_the_whole(scored, tmp_path):
  config, model, variables = scored
  whole = evaluate.evaluate(config, model, variables, str(tmp_path))
  evaluate.write_results(str(tmp_path), whole, 8, 0.0)
  names = ("scores.jsonl", "table.md", "grid.png")
  before = [(folder_of(whole) / name).read_bytes() for name in names]
  results = (tmp_path / "results.json").read_bytes()
  quick = evaluate.evaluate(config, model, variables, str(tmp_path), limit=1)
  evaluate.write_results(str(tmp_path), quick, 8, 0.0)
  assert folder_of(quick) == folder_of(whole)
  assert [(folder_of(whole) / name).read_bytes() for name in names] == before
  assert (tmp_path / "results.json").read_bytes() == results
  assert (tmp_path / "results_limit1.json").exists()
  assert (folder_of(whole) / "table_limit1.md").exists()


def test_a_scene_cut_short_is_scored_again(scored, tmp_path):
  config, model, variables = scored
  first = evaluate.evaluate(config, model, variables, str(tmp_path))
  path = folder_of(first) / "scenes" / "000001.json"
  path.write_text(path.read_text()[:50])
  again = evaluate.evaluate(config, model, variables, str(tmp_path))
  # In another batch than before, a sum may end in another last digit.
  for row, scores in first["rows"].items():
    assert again["rows"][row] == pytest.approx(scores, rel=1e-6)


def test_another_dataset_of_the_name_is_another_evaluation(
  scored, tmp_path, monkeypatch
):
  config, model, variables = scored
  first = evaluate.evaluate(config, model, variables, str(tmp_path), limit=1)
  identity = datasets.identity

  def other(*args):
    return {**identity(*args), "made_from": {"listing": "0" * 16}}

  monkeypatch.setattr(datasets, "identity", other)
  second = evaluate.evaluate(config, model, variables, str(tmp_path), limit=1)
  assert first["folder"] != second["folder"]


def test_scenes_without_depth_are_averaged_with_the_others():
  lines = [
    {"means": {"render": {"psnr": 10.0, "psnr_masked": 4.0}}},
    {"means": {"render": {"psnr": 20.0}}},
  ]
  for order in (lines, lines[::-1]):
    rows = summary.summarise(order, [], lambda row: None)
    assert rows == {"render": {"psnr": 15.0, "psnr_masked": 4.0}}
