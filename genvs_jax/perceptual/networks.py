"""VGG16, AlexNet and the Inception of FID, as far as metrics need them.

Functions of fixed weights: {"features.0.kernel": [h,w,in,out], "features.0.
bias": [out], ..}, named as in PyTorch's files and written by `weights`.
Norms are folded into the kernels there. Pictures are NHWC.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Weights = Mapping[str, jax.Array]

# Convolutions of each of VGG16's five stages; all are 3x3.
VGG16_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
# AlexNet's: (number, stride, padding, pool before it).
ALEXNET_LAYERS = (
  (0, 4, 2, False),
  (3, 1, 2, True),
  (6, 1, 1, True),
  (8, 1, 1, False),
  (10, 1, 1, False),
)


def vgg16(weights: Weights, images: jax.Array, pool=None) -> list[jax.Array]:
  """Features after the last ReLU of each stage (Simonyan & Zisserman 2014).

  Args:
    weights: of torchvision's vgg16.
    images: [n,H,W,3], normalised as the metric asks.
    pool: between stages, by default 2x2 maximum.
  """
  features: list[jax.Array] = []
  x = images
  for stage in VGG16_STAGES:
    if features:
      x = (pool or _max_pool)(x)
    for number in stage:
      x = _conv(weights, f"features.{number}", x, padding=(1, 1))
    features.append(x)
  return features


def alexnet(weights: Weights, images: jax.Array) -> list[jax.Array]:
  """Features after each of the five ReLUs (torchvision's alexnet)."""
  features: list[jax.Array] = []
  x = images
  for number, stride, padding, pooled in ALEXNET_LAYERS:
    if pooled:
      x = _max_pool(x, 3)
    x = _conv(weights, f"features.{number}", x, stride, (padding, padding))
    features.append(x)
  return features


def inception(weights: Weights, images: jax.Array) -> jax.Array:
  """The 2048 features of FID [n,2048] of pictures [n,H,W,3] in [0,1].

  InceptionV3 (Szegedy et al. 2015) as TensorFlow's 2015-12-05 graph has it
  and pytorch-fid rebuilds it: averages leave the padding out, and the last
  block pools by maximum. Pictures are enlarged to 299x299, bilinear.
  """
  x = jax.image.resize(
    images, (len(images), 299, 299, 3), "linear", antialias=False
  )
  x = 2 * x - 1
  x = _conv(weights, "Conv2d_1a_3x3", x, 2)
  x = _conv(weights, "Conv2d_2a_3x3", x)
  x = _conv(weights, "Conv2d_2b_3x3", x, padding=(1, 1))
  x = _max_pool(x, 3)
  x = _conv(weights, "Conv2d_3b_1x1", x)
  x = _conv(weights, "Conv2d_4a_3x3", x)
  x = _max_pool(x, 3)
  for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
    x = _inception_a(weights, name, x)
  x = _inception_b(weights, "Mixed_6a", x)
  for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
    x = _inception_c(weights, name, x)
  x = _inception_d(weights, "Mixed_7a", x)
  x = _inception_e(weights, "Mixed_7b", x, _average_pool)
  x = _inception_e(weights, "Mixed_7c", x, _padded_max_pool)
  return jnp.mean(x, (1, 2))


def _inception_a(weights: Weights, block: str, x: jax.Array) -> jax.Array:
  def conv(name, x, padding=(0, 0)):
    return _conv(weights, f"{block}.{name}", x, padding=padding)

  double = conv("branch3x3dbl_1", x)
  double = conv("branch3x3dbl_2", double, (1, 1))
  branches = [
    conv("branch1x1", x),
    conv("branch5x5_2", conv("branch5x5_1", x), (2, 2)),
    conv("branch3x3dbl_3", double, (1, 1)),
    conv("branch_pool", _average_pool(x)),
  ]
  return jnp.concatenate(branches, -1)


def _inception_b(weights: Weights, block: str, x: jax.Array) -> jax.Array:
  double = _conv(weights, f"{block}.branch3x3dbl_1", x)
  double = _conv(weights, f"{block}.branch3x3dbl_2", double, padding=(1, 1))
  branches = [
    _conv(weights, f"{block}.branch3x3", x, 2),
    _conv(weights, f"{block}.branch3x3dbl_3", double, 2),
    _max_pool(x, 3),
  ]
  return jnp.concatenate(branches, -1)


def _inception_c(weights: Weights, block: str, x: jax.Array) -> jax.Array:
  def chain(x, *layers):
    for name, padding in layers:
      x = _conv(weights, f"{block}.{name}", x, padding=padding)
    return x

  flat, tall = (0, 3), (3, 0)  # 1x7 and 7x1
  branches = [
    chain(x, ("branch1x1", (0, 0))),
    chain(
      x, ("branch7x7_1", (0, 0)), ("branch7x7_2", flat), ("branch7x7_3", tall)
    ),
    chain(
      x,
      ("branch7x7dbl_1", (0, 0)),
      ("branch7x7dbl_2", tall),
      ("branch7x7dbl_3", flat),
      ("branch7x7dbl_4", tall),
      ("branch7x7dbl_5", flat),
    ),
    chain(_average_pool(x), ("branch_pool", (0, 0))),
  ]
  return jnp.concatenate(branches, -1)


def _inception_d(weights: Weights, block: str, x: jax.Array) -> jax.Array:
  def conv(name, x, stride=1, padding=(0, 0)):
    return _conv(weights, f"{block}.{name}", x, stride, padding)

  wide = conv("branch7x7x3_2", conv("branch7x7x3_1", x), padding=(0, 3))
  wide = conv("branch7x7x3_3", wide, padding=(3, 0))
  branches = [
    conv("branch3x3_2", conv("branch3x3_1", x), 2),
    conv("branch7x7x3_4", wide, 2),
    _max_pool(x, 3),
  ]
  return jnp.concatenate(branches, -1)


def _inception_e(weights: Weights, block: str, x: jax.Array, pool) -> jax.Array:
  def conv(name, x, padding=(0, 0)):
    return _conv(weights, f"{block}.{name}", x, padding=padding)

  single = conv("branch3x3_1", x)
  double = conv("branch3x3dbl_2", conv("branch3x3dbl_1", x), (1, 1))
  branches = [
    conv("branch1x1", x),
    conv("branch3x3_2a", single, (0, 1)),
    conv("branch3x3_2b", single, (1, 0)),
    conv("branch3x3dbl_3a", double, (0, 1)),
    conv("branch3x3dbl_3b", double, (1, 0)),
    conv("branch_pool", pool(x)),
  ]
  return jnp.concatenate(branches, -1)


def _conv(
  weights: Weights,
  name: str,
  x: jax.Array,
  stride: int = 1,
  padding: tuple[int, int] = (0, 0),
) -> jax.Array:
  """Convolution, bias and ReLU; full precision on every device."""
  x = jax.lax.conv_general_dilated(
    x,
    weights[f"{name}.kernel"],
    (stride, stride),
    [(p, p) for p in padding],
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=jax.lax.Precision.HIGHEST,
  )
  return jax.nn.relu(x + weights[f"{name}.bias"])


def _max_pool(x: jax.Array, size: int = 2) -> jax.Array:
  window = (1, size, size, 1)
  return jax.lax.reduce_window(
    x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID"
  )


def _padded_max_pool(x: jax.Array) -> jax.Array:
  """3x3, stride 1."""
  return jax.lax.reduce_window(
    x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
  )


def _average_pool(x: jax.Array) -> jax.Array:
  """3x3, stride 1, over what lies inside the picture."""

  def total(x):
    return jax.lax.reduce_window(
      x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
    )

  return total(x) / total(jnp.ones((1, *x.shape[1:3], 1)))
