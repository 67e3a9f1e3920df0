"""LPIPS, DISTS and FID against their authors' PyTorch code.

The arrays are our own, by `make_perceptual.py`; a folder given with --golden
need not have them.
"""

import jax
import numpy as np
import pytest
import rule

from genvs_jax.convert import metric_weights
from genvs_jax.perceptual import distances
from genvs_jax.perceptual import networks

SALT, GAIN = 5, 2**0.5
VGG_WIDTHS = {
  **dict.fromkeys((0, 2), 64),
  **dict.fromkeys((5, 7), 128),
  **dict.fromkeys((10, 12, 14), 256),
  **dict.fromkeys((17, 19, 21, 24, 26, 28), 512),
}
ALEX_KERNELS = {
  0: (64, 3, 11),
  3: (192, 64, 5),
  6: (384, 192, 3),
  8: (256, 384, 3),
  10: (256, 256, 3),
}


@pytest.fixture(scope="module")
def arrays(golden):
  if not (golden.folder / "perceptual.npz").exists():
    pytest.skip(f"{golden.folder} has no perceptual.npz")
  return golden("perceptual")


@pytest.fixture(scope="module")
def pictures():
  x = rule.image("perceptual/x", (3, 3, 64, 80), SALT, 0, 1)
  noise = rule.image("perceptual/y", (3, 3, 64, 80), SALT, -1, 1)
  return rule.nhwc(x), rule.nhwc(np.clip(x + 0.3 * noise, 0, 1))


def made_up(shapes: dict[str, tuple]) -> dict[str, np.ndarray]:
  return {key: rule.weight(key, s, SALT, GAIN) for key, s in shapes.items()}


def convolutions(kernels: dict[int, tuple]) -> dict[str, tuple]:
  shapes = {}
  for number, (wide, narrow, side) in kernels.items():
    shapes[f"features.{number}.weight"] = (wide, narrow, side, side)
    shapes[f"features.{number}.bias"] = (wide,)
  return shapes


def heads(net: str, widths) -> dict[str, np.ndarray]:
  keys = {f"lin{i}.model.1.weight": (1, w, 1, 1) for i, w in enumerate(widths)}
  return {
    key: np.abs(rule.weight(f"{net}/{key}", shape, SALT, GAIN))
    for key, shape in keys.items()
  }


@pytest.fixture(scope="module")
def vgg16():
  before = [3, *VGG_WIDTHS.values()]
  kernels = {
    number: (wide, narrow, 3)
    for (number, wide), narrow in zip(VGG_WIDTHS.items(), before, strict=False)
  }
  return metric_weights.to_arrays("vgg16", made_up(convolutions(kernels)))


def test_lpips_on_vgg(arrays, pictures, vgg16):
  loaded = {
    "vgg16": vgg16,
    "lpips_vgg": metric_weights.to_arrays(
      "lpips_vgg", heads("vgg", (64, 128, 256, 512, 512))
    ),
  }
  actual = jax.jit(distances.lpips_vgg)(loaded, *pictures)
  arrays.check("lpips_vgg", actual, "metric")


def test_lpips_on_alexnet(arrays, pictures):
  loaded = {
    "alexnet": metric_weights.to_arrays(
      "alexnet", made_up(convolutions(ALEX_KERNELS))
    ),
    "lpips_alex": metric_weights.to_arrays(
      "lpips_alex", heads("alex", (64, 192, 384, 256, 256))
    ),
  }
  actual = jax.jit(distances.lpips_alex)(loaded, *pictures)
  arrays.check("lpips_alex", actual, "metric")


def test_dists(arrays, pictures, vgg16):
  count = sum(distances.DISTS_CHANNELS)
  tensors = {
    key: (0.5 + 0.5 * rule.hash_uniform(key, count, SALT))
    .astype(np.float32)
    .reshape(1, -1, 1, 1)
    for key in ("alpha", "beta")
  }
  loaded = {"vgg16": vgg16, "dists": metric_weights.to_arrays("dists", tensors)}
  actual = jax.jit(distances.dists)(loaded, *pictures)
  arrays.check("dists", actual, "metric")


def test_inception_features(arrays, pictures):
  tensors = made_up(inception_shapes())
  weights = metric_weights.to_arrays("inception", tensors)
  features = jax.jit(networks.inception)(weights, pictures[0])
  arrays.check("inception", features, "metric")


def test_frechet_distance(arrays):
  first, second = (
    rule.hash_uniform(f"frechet/{i}", 300 * 24, SALT).reshape(300, 24)
    @ rule.hash_uniform(f"frechet/mix{i}", 24 * 24, SALT).reshape(24, 24)
    for i in range(2)
  )
  statistics = []
  for features in (first, second):
    result = distances.FeatureStatistics()
    for piece in np.split(features, [10, 200]):  # scene by scene
      result.add(piece)
    statistics.append(result)
  arrays.check("frechet", distances.frechet(*statistics), "metric")


def inception_shapes() -> dict[str, tuple]:
  """Of pytorch-fid's file, as far as the features need it."""
  kernels = {
    "Conv2d_1a_3x3": (32, 3, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (64, 32, 3, 3),
    "Conv2d_3b_1x1": (80, 64, 1, 1),
    "Conv2d_4a_3x3": (192, 80, 3, 3),
  }
  for block, width, pooled in (
    ("Mixed_5b", 192, 32),
    ("Mixed_5c", 256, 64),
    ("Mixed_5d", 288, 64),
  ):
    kernels |= {
      f"{block}.branch1x1": (64, width, 1, 1),
      f"{block}.branch5x5_1": (48, width, 1, 1),
      f"{block}.branch5x5_2": (64, 48, 5, 5),
      f"{block}.branch3x3dbl_1": (64, width, 1, 1),
      f"{block}.branch3x3dbl_2": (96, 64, 3, 3),
      f"{block}.branch3x3dbl_3": (96, 96, 3, 3),
      f"{block}.branch_pool": (pooled, width, 1, 1),
    }
  kernels |= {
    "Mixed_6a.branch3x3": (384, 288, 3, 3),
    "Mixed_6a.branch3x3dbl_1": (64, 288, 1, 1),
    "Mixed_6a.branch3x3dbl_2": (96, 64, 3, 3),
    "Mixed_6a.branch3x3dbl_3": (96, 96, 3, 3),
  }
  for block, c in (
    ("Mixed_6b", 128),
    ("Mixed_6c", 160),
    ("Mixed_6d", 160),
    ("Mixed_6e", 192),
  ):
    kernels |= {
      f"{block}.branch1x1": (192, 768, 1, 1),
      f"{block}.branch7x7_1": (c, 768, 1, 1),
      f"{block}.branch7x7_2": (c, c, 1, 7),
      f"{block}.branch7x7_3": (192, c, 7, 1),
      f"{block}.branch7x7dbl_1": (c, 768, 1, 1),
      f"{block}.branch7x7dbl_2": (c, c, 7, 1),
      f"{block}.branch7x7dbl_3": (c, c, 1, 7),
      f"{block}.branch7x7dbl_4": (c, c, 7, 1),
      f"{block}.branch7x7dbl_5": (192, c, 1, 7),
      f"{block}.branch_pool": (192, 768, 1, 1),
    }
  kernels |= {
    "Mixed_7a.branch3x3_1": (192, 768, 1, 1),
    "Mixed_7a.branch3x3_2": (320, 192, 3, 3),
    "Mixed_7a.branch7x7x3_1": (192, 768, 1, 1),
    "Mixed_7a.branch7x7x3_2": (192, 192, 1, 7),
    "Mixed_7a.branch7x7x3_3": (192, 192, 7, 1),
    "Mixed_7a.branch7x7x3_4": (192, 192, 3, 3),
  }
  for block, width in (("Mixed_7b", 1280), ("Mixed_7c", 2048)):
    kernels |= {
      f"{block}.branch1x1": (320, width, 1, 1),
      f"{block}.branch3x3_1": (384, width, 1, 1),
      f"{block}.branch3x3_2a": (384, 384, 1, 3),
      f"{block}.branch3x3_2b": (384, 384, 3, 1),
      f"{block}.branch3x3dbl_1": (448, width, 1, 1),
      f"{block}.branch3x3dbl_2": (384, 448, 3, 3),
      f"{block}.branch3x3dbl_3a": (384, 384, 1, 3),
      f"{block}.branch3x3dbl_3b": (384, 384, 3, 1),
      f"{block}.branch_pool": (192, width, 1, 1),
    }
  shapes = {}
  for layer, kernel in kernels.items():
    shapes[f"{layer}.conv.weight"] = kernel
    for leaf in ("weight", "bias", "running_mean", "running_var"):
      shapes[f"{layer}.bn.{leaf}"] = kernel[:1]
  return shapes
