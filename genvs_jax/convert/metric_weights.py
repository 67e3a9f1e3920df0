"""Published weights of LPIPS, DISTS and FID -> arrays for `perceptual`."""

import hashlib
from typing import Any

import numpy as np

from genvs_jax.convert import layouts
from genvs_jax.convert import torch_file
from genvs_jax.evaluation.perceptual import weights

_NORM_EPSILON = 1e-3  # of Inception's norms


def recognize(content: Any) -> str | None:
  """Which weights the content of a file is, a name of `weights`, or None."""
  if not isinstance(content, dict):
    return None
  heads = content.get("lin4.model.1.weight")
  if heads is not None:
    return "lpips_vgg" if heads.shape[1] == 512 else "lpips_alex"
  for key, name in (
    ("features.28.weight", "vgg16"),
    ("features.10.weight", "alexnet"),
    ("Mixed_7c.branch_pool.conv.weight", "inception"),
  ):
    if key in content:
      return name
  return "dists" if set(content) == {"alpha", "beta"} else None


def convert(
  content: dict[str, np.ndarray], path: str, output: str
) -> list[str]:
  """Writes what `recognize` named, if the file is the published one.

  Args:
    content: of the file.
    path: of the file.
    output: folder, or "auto" for the one where evaluation looks.

  Returns:
    lines that say what was written.

  Raises:
    ConvertError: if the file is not the one that the authors publish; nothing
      is written then.
  """
  name = recognize(content)
  assert name is not None, "`recognize` comes first"
  published = weights.BY_NAME[name]
  with open(path, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  if not digest.startswith(published.sha256):
    raise torch_file.ConvertError(
      f"{path} looks like {name}, but its SHA-256 is {digest}, expected"
      f" {published.sha256}{'' if len(published.sha256) == 64 else '...'}:"
      f" download it again from {published.url}"
    )
  target = weights.save(output, name, to_arrays(name, content))
  return [
    f"{path}: {name}, SHA-256 as published",
    f"weights      {target}",
  ]


def to_arrays(
  name: str, tensors: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Arrays as `perceptual.networks` and `.distances` take them."""
  if name == "dists":
    return {key: tensors[key].reshape(-1) for key in ("alpha", "beta")}
  if name.startswith("lpips"):
    return {
      f"lin{i}": tensors[f"lin{i}.model.1.weight"].reshape(-1) for i in range(5)
    }
  if name == "inception":
    return _fold_norms(tensors)
  arrays = {}
  for key, tensor in tensors.items():
    layer, leaf = key.rsplit(".", 1)
    if layer.startswith("features."):  # the classifier is not needed
      kernel = leaf == "weight"
      arrays[f"{layer}.{'kernel' if kernel else 'bias'}"] = (
        layouts.CONV.to_flax(tensor) if kernel else tensor
      )
  return arrays


def _fold_norms(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Kernels and biases that do what convolution and norm did."""
  arrays = {}
  for key, tensor in tensors.items():
    layer = key.removesuffix(".conv.weight")
    if layer == key:
      continue

    def norm(leaf, layer=layer):
      return tensors[f"{layer}.bn.{leaf}"].astype(np.float64)

    scale = norm("weight") / np.sqrt(norm("running_var") + _NORM_EPSILON)
    bias = norm("bias") - norm("running_mean") * scale
    kernel = layouts.CONV.to_flax(tensor) * scale
    arrays[f"{layer}.kernel"] = kernel.astype(np.float32)
    arrays[f"{layer}.bias"] = bias.astype(np.float32)
  return arrays
