"""Perceptual metrics in JAX, on the weights that their authors publish.

  scores, left_out = perceptual.build_metrics("auto")
  scores["lpips_vgg"](images, truth)   # [n] of pictures [n,H,W,3] in [0,1]

A metric whose weights are not there is left out; what stands in for FID has a
name of its own.
"""

import functools
from collections.abc import Callable

import jax

from genvs_jax.perceptual import distances
from genvs_jax.perceptual import networks
from genvs_jax.perceptual import weights
from genvs_jax.runtime import messages

# What each needs; "fid" is a function of many pictures' features.
NEEDS = {
  "lpips_vgg": ("vgg16", "lpips_vgg"),
  "lpips_alex": ("alexnet", "lpips_alex"),
  "dists": ("vgg16", "dists"),
  "fid": ("inception",),
}
# Frechet distances, the first whose weights are there: FID, else a distance of
# its own name, which says the same of VGG16's features and is no FID.
FLAVOURS = {
  "fid": (
    "FID",
    "Inception 2015-12-05 as in pytorch-fid, pictures enlarged bilinearly to"
    " 299",
  ),
  "frechet_vgg16": (
    "Frechet distance (VGG16)",
    "512 features, the means over pixels after VGG16's last ReLU; not a FID",
  ),
}
_DISTANCES = {
  "lpips_vgg": distances.lpips_vgg,
  "lpips_alex": distances.lpips_alex,
  "dists": distances.dists,
}
_LEAST_SIZE = 64  # pixels; smaller pictures are enlarged


def build_metrics(
  folder: str, placement: jax.sharding.Sharding | None = None
) -> tuple[dict[str, Callable], dict[str, list[str]]]:
  """The metrics whose weights are in a folder.

  Args:
    folder: of converted weights; "auto" for the user's cache folder.
    placement: of the weights on devices, by default whole on the first.

  Returns:
    {name: jitted function}: lpips_vgg, lpips_alex and dists take (images,
    truth) and give [n]; fid takes images and gives features [n,2048] for
    `distances.FeatureStatistics`, and frechet_vgg16 [n,512] where fid's
    weights are missing. And {name: missing weights} of the rest.
  """
  left_out = {
    metric: names
    for metric, needed in NEEDS.items()
    if (names := weights.missing(folder, needed))
  }
  available = [metric for metric in NEEDS if metric not in left_out]
  # Converted weights are arguments of the jitted functions, not constants.
  arrays = {
    name: jax.device_put(weights.load(folder, name), placement)
    for name in sorted({name for metric in available for name in NEEDS[metric]})
  }
  functions: dict[str, Callable] = {
    metric: functools.partial(jax.jit(distance), arrays)
    for metric, distance in _DISTANCES.items()
    if metric in available
  }
  if "fid" in available:
    functions["fid"] = functools.partial(
      jax.jit(networks.inception), arrays["inception"]
    )
  elif "vgg16" in arrays:
    functions["frechet_vgg16"] = functools.partial(
      jax.jit(distances.vgg16_features), arrays["vgg16"]
    )
  return functions, left_out


def build_distance(folder: str, field: str, metric: str) -> Callable:
  """(images, truth) [n,H,W,3] in [0,1] -> [n], to be trained with.

  Args:
    folder: of converted weights; "auto" for the user's cache folder.
    field: of the config that asks for it.
    metric: lpips_vgg, lpips_alex or dists.

  Raises:
    ValueError: for another metric, or if its weights are not there.
  """
  messages.check_choice(field, metric, tuple(_DISTANCES))
  if names := weights.missing(folder, NEEDS[metric]):
    raise ValueError(
      f"{field} is {metric}, but {weights.folder(folder)} has no"
      f" {' and no '.join(f'{name}.npz' for name in names)}: fetch them as"
      " docs/evaluation.md says, or set evaluate.metric_weights to their folder"
    )
  arrays = {name: weights.load(folder, name) for name in NEEDS[metric]}
  return enlarged(functools.partial(_DISTANCES[metric], arrays))


def enlarged(distance: Callable) -> Callable:
  """The distance of pictures enlarged to 64 pixels, if they are smaller."""

  def enlarge(images):
    size = max(images.shape[1], _LEAST_SIZE)
    shape = (len(images), size, size, 3)
    return jax.image.resize(images, shape, "bilinear")

  return lambda images, truth: distance(enlarge(images), enlarge(truth))
