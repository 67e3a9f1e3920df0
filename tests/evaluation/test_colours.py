"""Colour scores against closed forms."""

import numpy as np
import skimage.color

from genvs_jax.evaluation import colours

RED, BLUE, GREY = (200, 30, 30), (30, 30, 200), (90, 90, 90)


def car(colour) -> np.ndarray:
  """u8 [1,8,8,3]: a square of one colour on white."""
  image = np.full((1, 8, 8, 3), 255, np.uint8)
  image[:, 2:6, 2:6] = colour
  return image


def test_the_object_is_what_is_not_white():
  mask = colours.object_mask(car(RED))
  assert mask.sum() == 16 and mask[0, 2:6, 2:6].all()


def test_mean_colours_are_compared_inside_the_object():
  truth, drawn = car(RED), car(BLUE)
  mask = colours.object_mask(truth)
  expected = skimage.color.deltaE_ciede2000(
    *(skimage.color.rgb2lab(np.array(c) / 255) for c in (BLUE, RED))
  )
  error = colours.mean_colour_error(drawn, truth, mask)
  np.testing.assert_allclose(error, expected)
  assert expected > 40
  # Neither the background nor the order of the pixels counts.
  drawn[0, 0] = 0
  drawn[0, 2:4, 2:6] = (10, 30, 200)
  drawn[0, 4:6, 2:6] = (50, 30, 200)
  np.testing.assert_allclose(
    colours.mean_colour_error(drawn, truth, mask), expected
  )
  empty = np.zeros_like(mask)
  assert np.isnan(colours.mean_colour_error(drawn, truth, empty))


def test_colours_correlate_without_their_grey():
  mask = colours.object_mask(car(RED))

  def correlation(images, others):
    products = colours.chroma_products(images, others, mask)
    return colours.correlation(*(float(v.sum()) for v in products.values()))

  brighter = np.where(car(RED) == 255, 255, car(RED) + 40).astype(np.uint8)
  np.testing.assert_allclose(correlation(car(RED), brighter), 1)
  # Red and blue without grey: (2, -1, -1) and (-1, -1, 2).
  np.testing.assert_allclose(correlation(car(RED), car(BLUE)), -0.5)
  np.testing.assert_allclose(correlation(car(RED), car(GREY)), 0)


def test_correlation_is_that_of_all_views_together():
  """A grey view adds nothing, however many there are."""
  first = np.concatenate([car(RED), car(GREY)])
  second = np.concatenate([car(RED), car(GREY)])
  products = colours.chroma_products(first, second, colours.object_mask(first))
  means = [float(v.mean()) for v in products.values()]
  np.testing.assert_allclose(colours.correlation(*means), 1)
