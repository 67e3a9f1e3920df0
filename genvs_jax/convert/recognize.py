"""What a PyTorch checkpoint is, told by its keys and shapes alone."""

import re
from typing import Any
from typing import NamedTuple

from genvs_jax.convert import torch_file

Tensors = torch_file.Tensors

_BRANCHES = {"input_unet.layers.": "main", "input_unet.encoder.": "dlv3"}
_PIPELINE = "ddpm_pipeline.inner_model.inner_model."
_SMALLEST_MAP = 8  # pixels, in all of the reference's denoisers
# What the reference's weights mean beyond their shapes.
_REFERENCE_MEANING = {
  "model.image_range": (0.0, 1.0),
  "model.field.depth": 1,
  "model.field.skip": False,
  "model.field.aggregate": "after",
  "model.field.activation": "softplus",
  "model.field.density_activation": "softplus",
  "model.field.feature_activation": "sigmoid",
  "frustum.kind": "unit_cube",
  "frustum.min_near": 0.5,
  "frustum.flip_input": True,
  "rendering.upsampling": "nearest",
  "model.denoiser.geometry": (),
  "diffusion.target": "image",
  "diffusion.sigma_data": 0.5,
  "diffusion.feature_mean": 0.0,
  "diffusion.feature_std": 1.0,
  "diffusion.null_noise": "uniform",
}
_ENCODERS = {
  "main": {
    "model.encoder.name": "resnet34_unet",
    "model.encoder.norm": "batch",
  },
  "dlv3": {
    "model.encoder.name": "deeplabv3plus",
    "model.encoder.norm": "frozen",
  },
}


class Identity(NamedTuple):
  """A recognised file.

  Attributes:
    kind: "main" or "dlv3" (whole models of the reference's branches),
      "image_v1" or "ddpmpp" (a denoiser alone), "resnet34" (ImageNet).
    prefixes: {part: what stands before its keys}.
    fields: fields of the config that follow from what the file is and from
      its shapes.
    image_size: in pixels, guessed from the number of levels; None if the file
      has no denoiser.
  """

  kind: str
  prefixes: dict[str, str]
  fields: dict[str, Any]
  image_size: int | None


# Recipes that describe what is recognised, by kind and image size.
_RECIPES = {
  ("main", 64): "reference64",
  ("main", 128): "reference128",
  ("dlv3", 128): "reference128_dlv3",
  ("image_v1", 64): "reference64",
  ("image_v1", 128): "reference128",
  ("ddpmpp", 128): "paper128",
  ("resnet34", None): "reference128_dlv3",
}


def recipe(identity: Identity, path: str) -> str:
  """The recipe in `configs/` that describes a recognised file.

  Raises:
    ConvertError: if there is none.
  """
  name = _RECIPES.get((identity.kind, identity.image_size))
  if name is None:
    raise torch_file.ConvertError(
      f"{path} is a {identity.kind} for {identity.image_size} pixels, which no"
      " config here describes: name one with --config"
    )
  return name


def recognize(tensors: Tensors, path: str) -> Identity:
  """Tells what the tensors of the file at `path` belong to.

  Raises:
    ConvertError: if they belong to nothing known, or keys that are known have
      shapes that no such network has.
  """
  try:
    return _recognize(tensors, path)
  except (IndexError, KeyError, ValueError, ZeroDivisionError) as error:
    if isinstance(error, torch_file.ConvertError):
      raise
    raise torch_file.ConvertError(
      f"{path} has keys of a known network, but tensors are missing or have"
      f" shapes that it never has ({type(error).__name__}: {error})"
    ) from error


def _recognize(tensors: Tensors, path: str) -> Identity:
  for start, branch in _BRANCHES.items():
    if any(key.startswith(start) for key in tensors):
      return _reference(tensors, branch, path)
  denoiser = _prefix(tensors, "timestep_embed.weight")
  if denoiser is not None:
    fields = _image_v1_fields(tensors, denoiser)
    size = _guess_size(fields)
    return Identity("image_v1", {"denoiser": denoiser}, fields, size)
  denoiser = _prefix(tensors, "map_layer0.weight")
  if denoiser is not None:
    fields, size = _ddpmpp_fields(tensors, denoiser)
    return Identity("ddpmpp", {"denoiser": denoiser}, fields, size)
  trunk = _prefix(tensors, "layer1.0.conv1.weight")
  if trunk is not None:
    return _resnet34(tensors, trunk, path)
  some = ", ".join(list(tensors)[:3]) or "none"
  raise torch_file.ConvertError(
    f"{path} holds {len(tensors)} tensors of no known network ({some}, ...):"
    " expected a checkpoint of nvs_test main, of its dlv3 branch or"
    " genvs_unofficial, a k-diffusion image_v1 denoiser, an EDM SongUNet, or a"
    " ResNet34"
  )


def _prefix(tensors: Tensors, ending: str) -> str | None:
  """What stands before the one key with this ending, else None."""
  keys = [key for key in tensors if ("." + key).endswith("." + ending)]
  return keys[0].removesuffix(ending) if keys else None


def _reference(tensors: Tensors, branch: str, path: str) -> Identity:
  hidden = tensors.get("nerf.sigma_color_net.net.0.dense.weight")
  out = tensors.get("nerf.sigma_color_net.net.1.weight")
  if branch == "main":
    names = ("layers.0.0.weight", "layers.12.0.weight")
  else:
    names = ("encoder.conv1.weight", "decoder.up_block3.conv.weight")
  stem, head = (tensors.get(f"input_unet.{name}") for name in names)
  if hidden is None or out is None or stem is None or head is None:
    raise torch_file.ConvertError(
      f"{path} looks like the reference's {branch} branch but lacks its"
      " radiance field or part of its encoder: expected a whole checkpoint"
    )
  channels = hidden.shape[1]
  fields = {
    **_REFERENCE_MEANING,
    **_ENCODERS[branch],
    "model.volume_channels": channels,
    "model.depth_planes": head.shape[0] // channels,
    "model.feature_channels": out.shape[0] - 1,
    "model.field.width": hidden.shape[0],
    "model.encoder.trunk_width": stem.shape[0],
  }
  if branch == "main":
    pattern = r"input_unet\.layers\.0\.(?P<stage>[4-7])\.\d+\.conv1\.weight"
    width = tensors["input_unet.layers.4.conv2.0.weight"].shape[0]
    fields["model.encoder.decoder_width"] = width
  else:
    pattern = r"input_unet\.encoder\.layer(?P<stage>\d)\.\d+\.conv1\.weight"
  fields["model.encoder.stage_sizes"] = _stage_sizes(tensors, pattern)
  fields |= _image_v1_fields(tensors, _PIPELINE)
  prefixes = {
    "encoder": "input_unet.",
    "field": "nerf.",
    "denoiser": _PIPELINE,
  }
  return Identity(branch, prefixes, fields, _guess_size(fields))


def _stage_sizes(tensors: Tensors, pattern: str) -> tuple[int, ...]:
  matches = [re.fullmatch(pattern, key) for key in tensors]
  stages = [match["stage"] for match in matches if match]
  return tuple(stages.count(stage) for stage in sorted(set(stages)))


def _image_v1_fields(tensors: Tensors, prefix: str) -> dict[str, Any]:
  channels: list[int] = []
  depths: list[int] = []
  attention: list[bool] = []
  while True:
    level = f"{prefix}u_net.d_blocks.{len(channels)}."
    convs = [
      tensors[key]
      for key in tensors
      if key.startswith(level) and key.endswith("main.2.weight")
    ]
    if not convs:
      break
    channels.append(convs[0].shape[0])
    depths.append(len(convs))
    attention.append(
      any(k.startswith(level) and "qkv_proj" in k for k in tensors)
    )
  if not channels:
    raise ValueError("the denoiser has no levels")
  frequencies = tensors[f"{prefix}timestep_embed.weight"]
  return {
    "model.denoiser.name": "image_v1",
    "model.denoiser.channels": tuple(channels),
    "model.denoiser.depths": tuple(depths),
    "model.denoiser.attention": tuple(attention),
    "model.denoiser.embedding": 2 * frequencies.shape[0],
  }


def _guess_size(fields: dict[str, Any]) -> int:
  return _SMALLEST_MAP * 2 ** (len(fields["model.denoiser.channels"]) - 1)


def _ddpmpp_fields(tensors: Tensors, prefix: str) -> tuple[dict[str, Any], int]:
  pattern = re.compile(
    re.escape(prefix) + r"enc\.(\d+)x\d+_block(\d+)\.(conv1|qkv)\.weight"
  )
  levels: dict[int, dict[str, Any]] = {}
  for key, tensor in tensors.items():
    match = pattern.fullmatch(key)
    if not match:
      continue
    level = levels.setdefault(int(match[1]), {"depth": 0, "attention": False})
    if match[3] == "qkv":
      level["attention"] = True
    else:
      level["depth"] += 1
      level["width"] = tensor.shape[0]
  ordered = [levels[size] for size in sorted(levels, reverse=True)]
  fields = {
    "model.denoiser.name": "ddpmpp",
    "model.denoiser.channels": tuple(level["width"] for level in ordered),
    "model.denoiser.depths": tuple(level["depth"] for level in ordered),
    "model.denoiser.attention": tuple(l["attention"] for l in ordered),
    "model.denoiser.embedding": tensors[f"{prefix}map_layer0.weight"].shape[0],
    "model.denoiser.augmentation": f"{prefix}map_augment.weight" in tensors,
  }
  return fields, max(levels)


def _resnet34(tensors: Tensors, prefix: str, path: str) -> Identity:
  pattern = re.escape(prefix) + r"layer(?P<stage>\d)\.\d+\.conv1\.weight"
  sizes = _stage_sizes(tensors, pattern)
  deeper = f"{prefix}layer1.0.conv3.weight" in tensors
  if len(sizes) != 4 or deeper:
    blocks = "bottleneck" if deeper else "basic"
    raise torch_file.ConvertError(
      f"{path} is a ResNet with {sizes} {blocks} blocks, expected ResNet34's:"
      " four stages of basic blocks, (3, 4, 6, 3)"
    )
  fields = {
    "model.encoder.stage_sizes": sizes,
    "model.encoder.trunk_width": tensors[f"{prefix}conv1.weight"].shape[0],
  }
  return Identity("resnet34", {"encoder": prefix}, fields, None)
