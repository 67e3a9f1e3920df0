"""Which published weights the metrics need, and where they are kept.

Each file becomes NAME.npz in one folder by `launch.py --mode=convert`, which
verifies that it is the published one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from genvs_jax.runtime import files


class Published(NamedTuple):
  """A file as its authors publish it.

  Attributes:
    name: of the weights here.
    sha256: of the file; for those that carry it in their name, the first
      digits, as PyTorch's own loader checks them.
    url: where it is.
  """

  name: str
  sha256: str
  url: str


_TORCHVISION = "https://download.pytorch.org/models/"
_LPIPS = (
  "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/"
)
PUBLISHED = (
  Published("vgg16", "397923af", f"{_TORCHVISION}vgg16-397923af.pth"),
  Published("alexnet", "7be5be79", f"{_TORCHVISION}alexnet-owt-7be5be79.pth"),
  Published(
    "lpips_vgg",
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    f"{_LPIPS}v0.1/vgg.pth",
  ),
  Published(
    "lpips_alex",
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    f"{_LPIPS}v0.1/alex.pth",
  ),
  Published(
    "dists",
    "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
    "https://github.com/dingkeyan93/DISTS/raw/master/DISTS_pytorch/weights.pt",
  ),
  Published(
    "inception",
    "6726825d",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
  ),
)
BY_NAME = {published.name: published for published in PUBLISHED}


def folder(path: str) -> epath.Path:
  """Where weights are kept; "auto" is in the user's cache folder."""
  if path == "auto":
    return files.user_cache("metrics")
  return epath.Path(path).expanduser()


def missing(path: str, names: Sequence[str]) -> list[str]:
  """Which of some weights are not in a folder."""
  return [n for n in names if not (folder(path) / f"{n}.npz").exists()]


def save(path: str, name: str, arrays: dict[str, np.ndarray]) -> epath.Path:
  """Writes NAME.npz."""
  return files.write_arrays(folder(path) / f"{name}.npz", arrays)


def load(path: str, name: str) -> dict[str, np.ndarray]:
  """Reads NAME.npz, {name of the array: f32}."""
  return files.read_arrays(folder(path) / f"{name}.npz")
