"""Image scores against scikit-image's, on 8-bit pictures."""

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.metrics

from genvs_jax import perceptual
from genvs_jax.evaluation import image_scores
from genvs_jax.evaluation import summary
from genvs_jax.images import metrics


@pytest.fixture
def pictures():
  """u8 [4,40,32,3]: smooth ones, and the same with more and more noise."""
  rng = np.random.default_rng(0)
  x, y = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 40))
  smooth = np.stack([x, y, x * y], -1)[None] * 200 + 30
  noise = rng.normal(0, 1, (4, 40, 32, 3))
  noise *= np.array([0, 2, 20, 80]).reshape(4, 1, 1, 1)
  truth = np.broadcast_to(smooth, (4, 40, 32, 3)).astype(np.uint8)
  return np.clip(smooth + noise, 0, 255).astype(np.uint8), truth


def test_psnr_and_ssim_are_those_of_scikit_image(pictures):
  images, truth = (x.astype(np.float32) / 255 for x in pictures)
  psnr, ssim = metrics.psnr(images, truth), metrics.ssim(images, truth)
  for i, (image, true) in enumerate(zip(*pictures, strict=True)):
    expected = skimage.metrics.structural_similarity(
      true, image, channel_axis=-1, data_range=255
    )
    assert ssim[i] == pytest.approx(expected, abs=1e-4)
    if i:  # scikit-image's is infinite for equal pictures
      expected = skimage.metrics.peak_signal_noise_ratio(true, image)
      assert psnr[i] == pytest.approx(expected, abs=1e-4)
  assert psnr[0] == pytest.approx(100) and ssim[0] == pytest.approx(1)


def test_ssim_keeps_its_precision_on_flat_pictures():
  """Nearly all of an SRN picture is white, where variances cancel."""
  truth = np.full((1, 64, 64, 3), 255, np.uint8)
  truth[:, 20:40, 20:40] = 254
  image = truth.copy()
  image[:, 30, 30] = 250
  expected = skimage.metrics.structural_similarity(
    truth[0], image[0], channel_axis=-1, data_range=255
  )
  actual = metrics.ssim(image / np.float32(255), truth / np.float32(255))
  assert actual[0] == pytest.approx(expected, abs=1e-4)


def test_masked_psnr_looks_at_the_mask_alone(pictures):
  images, truth = (x.astype(np.float32) / 255 for x in pictures)
  mask = np.zeros((4, 40, 32), bool)
  mask[:, :, 16:] = True
  images[:, :, :16] = 0
  inside = metrics.psnr(images[:, :, 16:], truth[:, :, 16:])
  np.testing.assert_allclose(
    metrics.psnr(images, truth, mask), inside, rtol=1e-5
  )
  assert np.isnan(metrics.psnr(images, truth, np.zeros_like(mask))).all()


def test_scores_do_not_depend_on_how_many_there_are(pictures):
  """Seven pictures are scored in a padded batch, twenty in two."""
  scores = image_scores.Scorer("no weights here")
  images, truth = (np.concatenate([x] * 5) for x in pictures)
  many = scores.score(images, truth, None)
  few = scores.score(images[:7], truth[:7], None)
  assert scores.names == ["psnr", "ssim", "sharpness"]
  assert set(scores.left_out) == {"lpips_vgg", "lpips_alex", "dists", "fid"}
  for name in scores.names:
    assert many[name].shape == (20,)
    np.testing.assert_allclose(many[name][:7], few[name], rtol=1e-6)


def test_sets_of_pictures_are_scored_each_against_the_truth(pictures):
  scores = image_scores.Scorer("no weights here")
  truth, smooth = pictures  # the noisy ones differ from each other
  mask = truth[..., 0] > 100
  sets = [smooth, truth[::-1], truth // 2]
  together = scores.score_sets(sets, truth, mask)
  assert len(together) == 3
  for result, each in zip(together, sets, strict=True):
    alone = scores.score(each, truth, mask)
    assert result.keys() == alone.keys() == {*scores.names, "psnr_masked"}
    for name, values in alone.items():
      np.testing.assert_allclose(result[name], values, rtol=1e-6)


def test_sharpness_is_the_gradient_over_the_truth(pictures):
  _, truth = pictures
  truth = truth / np.float32(255)
  faded = 0.25 * truth + 0.3
  np.testing.assert_allclose(metrics.sharpness(faded, truth), 0.25, rtol=1e-4)
  stripes = np.zeros((8, 8, 3), np.float32)
  stripes[:, ::2] = 1.0  # each neighbour across differs by 1, each below by 0
  ramp = np.broadcast_to(np.linspace(0, 1, 8)[:, None, None], (8, 8, 3))
  np.testing.assert_allclose(metrics.sharpness(stripes, ramp), 7.0, rtol=1e-5)


def test_networks_see_no_picture_below_64_pixels(pictures):
  """Doubling bilinearly keeps the mean; larger pictures are left alone."""
  small, truth = (jnp.asarray(x[:, :32] / np.float32(255)) for x in pictures)
  shapes = []

  def distance(images, truth):
    shapes.append(images.shape[1:3])
    return jnp.mean(images - truth, (1, 2, 3))

  enlarged = perceptual.enlarged(distance)
  np.testing.assert_allclose(
    enlarged(small, truth), distance(small, truth), atol=1e-6
  )
  large = jnp.zeros((1, 80, 80, 3))
  enlarged(large, large)
  assert shapes == [(64, 64), (32, 32), (80, 80)]


def test_the_best_is_chosen_metric_by_metric():
  first = {"psnr": np.array([10.0, 20]), "lpips_vgg": np.array([0.2, 0.5])}
  second = {"psnr": np.array([12.0, 11]), "lpips_vgg": np.array([0.4, 0.1])}
  best = image_scores.best_of([first, second])
  np.testing.assert_array_equal(best["psnr"], [12, 20])
  np.testing.assert_array_equal(best["lpips_vgg"], [0.2, 0.1])


def test_depth_errors_count_opaque_pixels_of_the_object():
  distances = np.zeros((2, 4, 4), np.float32)
  distances[:, 1:3, 1:3] = 1.0
  depth = np.full((2, 4, 4), 5.0, np.float32)  # wrong beside the object
  depth[0, 1:3, 1:3] = [[1.1, 0.9], [1.1, 0.7]]
  opacity = np.ones((2, 4, 4), np.float32)
  opacity[0, 2, 2] = 0.4  # there the error does not count
  opacity[1] = 0
  result = image_scores.depth_scores(depth, opacity, distances)
  np.testing.assert_allclose(result["depth_error"][0], 0.1, rtol=1e-5)
  np.testing.assert_allclose(result["depth_coverage"], [0.75, 0])
  assert np.isnan(result["depth_error"][1])


def test_means_are_over_views_and_then_over_scenes():
  """Scenes with many views weigh no more than others."""
  lines = []
  for values in ([10.0, 20.0], [30.0], [None]):
    scores = {"render": {"psnr": values}}
    lines.append({"means": summary.mean_over_views(scores)})
  rolled = [{"scores": {"render": dict.fromkeys(
    ("reprojection", "reprojection_coverage", "field_fit",
     "field_fit_coverage"), value)}} for value in (20.0, None)]  # fmt: skip
  rows = summary.summarise(lines, rolled, lambda row: 7.25)
  assert rows["render"]["psnr"] == 22.5  # (15 + 30) / 2
  assert rows["render"]["reprojection"] == 20
  rows["render"] |= {"field_fit": None, "field_fit_coverage": 0.1}
  head, _, row = summary.table(rows, 1).splitlines()
  assert head.split(" | ")[1:3] == ["PSNR, dB", "FID"]
  assert row == (
    "| RGB render | 22.50 | 7.2 | 20.0 (20.00, 1 of 2 scenes)"
    " | not scored (0.10, 1 of 2 scenes) |"
  )
