"""Which PyTorch tensor fills which Flax leaf, for every network.

Each function takes the leaves of one network, {path: shape} with paths like
("params", "trunk", "stem", "kernel"), and returns {path: `Source`}: so every
leaf has exactly one source by construction, whatever the widths and depths.
Keys are those of the PyTorch modules alone, without a checkpoint's prefix.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from genvs_jax.convert import layouts

Path = tuple[str, ...]
Leaves = dict[Path, tuple[int, ...]]

_LEAF = {
  "kernel": "weight",
  "bias": "bias",
  "scale": "weight",
  "mean": "running_mean",
  "var": "running_var",
}
_BY_RANK = {1: layouts.SAME, 2: layouts.LINEAR, 4: layouts.CONV}
_BASIC_BLOCK = {
  "conv1": "conv1",
  "norm1": "bn1",
  "conv2": "conv2",
  "norm2": "bn2",
  "shortcut": "downsample.0",
  "shortcut_norm": "downsample.1",
}


class Source(NamedTuple):
  """A tensor's key and the way from its layout to the leaf's."""

  key: str
  layout: layouts.Layout


def resnet34(leaves: Leaves) -> dict[Path, Source]:
  """torchvision's and timm's ResNet34 (`models.resnet.ResNet34`)."""
  stages = {f"stage{i}": f"layer{i}" for i in range(1, 5)}
  return _translate(leaves, lambda p: _trunk(p, "conv1", "bn1", stages))


def resnet_unet(leaves: Leaves, channels: int) -> dict[Path, Source]:
  """The reference's first encoder (`models.resnet`), C = `channels`."""
  stages = {f"stage{i}": f"layers.0.{3 + i}" for i in range(1, 5)}
  fixed = {
    "middle_norm": "layers.1",
    "middle1": "layers.3.0.0",
    "middle2": "layers.3.1.0",
    "last_shuffle": "layers.8.0.0",
    "residual1": "layers.11.convpath.0.0",
    "residual2": "layers.11.convpath.1.0",
    "head": "layers.12.0",
  }
  inside = {
    "shuffle": "shuf.0.0",
    "skip_norm": "bn",
    "conv1": "conv1.0",
    "conv2": "conv2.0",
  }

  def module(path: Path) -> str:
    if path[0] == "trunk":
      return _trunk(path[1:], "layers.0.0", "layers.0.1", stages)
    if path[0] in fixed:
      return fixed[path[0]]
    return f"layers.{4 + int(path[0].removeprefix('up'))}.{inside[path[1]]}"

  return _translate(leaves, module, regroup={("head",): channels})


def deeplabv3plus(leaves: Leaves, channels: int) -> dict[Path, Source]:
  """The reference's later encoder (`models.deeplabv3plus`)."""
  stages = {f"stage{i}": f"encoder.layer{i}" for i in range(1, 5)}
  modules = {
    "pyramid.point": "aspp.0.convs.0.0",
    "pyramid.rate12": "aspp.0.convs.1.0",
    "pyramid.rate24": "aspp.0.convs.2.0",
    "pyramid.rate36": "aspp.0.convs.3.0",
    "pyramid.pooled": "aspp.0.convs.4.1",
    "pyramid.project": "aspp.0.project.0",
    "pyramid.smooth": "aspp.1",
    "up8": "up_block1b",
    "skip4": "block1.0",
    "merge4": "block2.0",
    "up2": "up_block2",
    "up1": "up_block3",
  }
  inside = {"depthwise": "0", "pointwise": "1", "up": "up", "conv": "conv"}

  def module(path: Path) -> str:
    if path[0] == "trunk":
      return _trunk(path[1:], "encoder.conv1", "encoder.bn1", stages)
    count = 2 if path[0] == "pyramid" else 1
    parts = [modules[".".join(path[:count])]]
    parts += [inside[name] for name in path[count:]]
    return "decoder." + ".".join(parts)

  return _translate(leaves, module, regroup={("up1", "conv"): channels})


def radiance_field(leaves: Leaves) -> dict[Path, Source]:
  """The reference's `sigma_color_net`."""
  modules = {
    "hidden0": "sigma_color_net.net.0.dense",
    "out": "sigma_color_net.net.1",
  }
  return _translate(leaves, lambda path: modules[path[0]])


def image_v1(leaves: Leaves) -> dict[Path, Source]:
  """k-diffusion's U-Net (`models.image_v1`)."""
  fixed = {
    "augmentation": "mapping_cond",
    "mapping0": "mapping.0",
    "mapping1": "mapping.2",
    "input": "proj_in",
    "output": "proj_out",
  }
  residual = {
    "norm1.mapper": "main.0.mapper",
    "conv1": "main.2",
    "norm2.mapper": "main.4.mapper",
    "conv2": "main.6",
    "skip": "skip",
  }
  attention = {
    "norm.mapper": "norm_in.mapper",
    "qkv": "qkv_proj",
    "out": "out_proj",
  }
  pattern = re.compile(r"(down|up)_(\d+)_(block|attention)(\d+)")
  matches = [pattern.fullmatch(path[1]) for path in leaves]
  blocks = {match.groups() for match in matches if match}
  sizes = sorted({int(size) for _, size, _, _ in blocks}, reverse=True)
  attentive = {int(s) for _, s, kind, _ in blocks if kind == "attention"}

  def module(path: Path) -> str:
    if path[0] in fixed:
      return fixed[path[0]]
    match = pattern.fullmatch(path[0])
    assert match, path
    direction, size, kind, index = match.groups()
    # Blocks and attentions of a level stand in one list, behind the
    # down-sampler; levels of the way up count from the deepest.
    level, per_block = sizes.index(int(size)), 1 + (int(size) in attentive)
    position = per_block * int(index) + (kind == "attention")
    name = ".".join(path[1:])
    inner = residual[name] if kind == "block" else attention[name]
    if direction == "down":
      return f"u_net.d_blocks.{level}.{position + 1}.{inner}"
    return f"u_net.u_blocks.{len(sizes) - 1 - level}.{position}.{inner}"

  frequencies = ("constants", "frequencies")
  rest = {path: shape for path, shape in leaves.items() if path != frequencies}
  return {
    frequencies: Source("timestep_embed.weight", layouts.COLUMN),
    **_translate(rest, module),
  }


def ddpmpp(leaves: Leaves) -> dict[Path, Source]:
  """EDM's SongUNet in the DDPM++ configuration (`models.ddpmpp`)."""
  pattern = re.compile(r"(encoder|decoder)_(\d+)_(\w+)")
  matches = [pattern.fullmatch(path[1]) for path in leaves]
  largest = max(int(match.group(2)) for match in matches if match)
  fixed = {
    "augmentation": "map_augment",
    "mapping0": "map_layer0",
    "mapping1": "map_layer1",
    "input": f"enc.{largest}x{largest}_conv",
    "output_norm": f"dec.{largest}x{largest}_aux_norm",
    "output": f"dec.{largest}x{largest}_aux_conv",
  }

  def module(path: Path) -> str:
    if path[0] in fixed:
      return fixed[path[0]]
    match = pattern.fullmatch(path[0])
    assert match, path
    side, size, name = match.groups()
    inner = "affine" if path[1] == "shift" else path[1]
    return f"{side[:3]}.{size}x{size}_{name}.{inner}"

  width = {
    path[1:-1]: shape[-1] // 3
    for path, shape in leaves.items()
    if path[-2] == "qkv"
  }
  return _translate(leaves, module, regroup=width)


def _trunk(path: Path, stem: str, norm: str, stages: dict[str, str]) -> str:
  if path[0] in ("stem", "stem_norm"):
    return stem if path[0] == "stem" else norm
  stage, block = path[0].split("_block")
  return f"{stages[stage]}.{block}.{_BASIC_BLOCK[path[1]]}"


def _translate(
  leaves: Leaves,
  module: Callable[[Path], str],
  regroup: dict[Path, int] | None = None,
) -> dict[Path, Source]:
  """Sources of all leaves, from the key of each module.

  Args:
    leaves: of one network.
    module: from a module's path, without collection and leaf, to its key.
    regroup: modules whose output channels are interleaved there, with the
      number of groups.
  """
  sources = {}
  for path, shape in leaves.items():
    *inner, leaf = path[1:]
    layout = _BY_RANK[len(shape)]
    if tuple(inner[-1:]) == ("up",) and leaf == "kernel":
      layout = layouts.UPSAMPLE
    if regroup and tuple(inner) in regroup:
      layout = layouts.regrouped(layout, regroup[tuple(inner)])
    sources[path] = Source(f"{module(tuple(inner))}.{_LEAF[leaf]}", layout)
  return sources
