"""Pixels: ranges and sizes."""

import jax
import jax.numpy as jnp
import numpy as np

from genvs_jax.models import deeplabv3plus
from genvs_jax.models import layers
from genvs_jax.models import pipeline


def test_doubling_with_aligned_corners_keeps_corners_and_planes():
  y, x = jnp.meshgrid(jnp.arange(4.0), jnp.arange(6.0), indexing="ij")
  plane = (2 * x - 3 * y)[None, ..., None]
  doubled = deeplabv3plus.double_aligned(plane)[0, ..., 0]
  assert doubled.shape == (8, 12)
  rows, columns = np.linspace(0, 3, 8), np.linspace(0, 5, 12)
  np.testing.assert_allclose(
    doubled, 2 * columns - 3 * rows[:, None], atol=1e-5
  )


def test_ranges_go_there_and_back():
  u8 = jnp.arange(256, dtype=jnp.uint8)
  for image_range in ((0.0, 1.0), (-1.0, 1.0)):
    values = pipeline.from_uint8(u8, image_range)
    assert (float(values.min()), float(values.max())) == image_range
    unit = pipeline.to_unit(values, image_range)
    np.testing.assert_array_equal(jnp.round(unit * 255), u8)


def test_nearest_enlargement_repeats_pixels():
  x = jax.random.normal(jax.random.key(0), (1, 3, 3, 2))
  np.testing.assert_array_equal(
    layers.resize(x, (6, 6), "nearest"), jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
  )
