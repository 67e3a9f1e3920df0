"""Checkpoints in the layout of the PyTorch reference, made from a config."""

import jax
import numpy as np

from genvs_jax.convert import names
from genvs_jax.convert import tensors_to_variables
from genvs_jax.models import builders

DENOISER = "ddpm_pipeline.inner_model.inner_model."


def make_variables(config, seed: int = 0):
  """Variables with random values in every leaf, running statistics too."""
  model = builders.build_model(config)
  abstract = jax.eval_shape(
    lambda: builders.init_variables(model, jax.random.key(0))
  )
  rng = np.random.default_rng(seed)
  return model, jax.tree.map(
    lambda x: (0.5 + rng.random(x.shape)).astype(np.float32), abstract
  )


def part_tensors(model, variables, part: str, translate, prefix: str) -> dict:
  """{key: tensor} of one part in PyTorch's layout."""
  sources = translate(tensors_to_variables.leaf_shapes(model)[part])
  tensors = {}
  for path, source in sources.items():
    value = variables[part]
    for name in path:
      value = value[name]
    tensors[prefix + source.key] = source.layout.to_torch(np.asarray(value))
  return tensors


def reference(config, seed: int = 0) -> tuple[dict, dict]:
  """(content of a checkpoint file, the variables behind it)."""
  model, variables = make_variables(config, seed)
  encoders = {
    "resnet34_unet": names.resnet_unet,
    "deeplabv3plus": names.deeplabv3plus,
  }
  channels = config.model.volume_channels
  encoder = encoders[config.model.encoder.name]
  tensors = part_tensors(
    model, variables, "encoder", lambda s: encoder(s, channels), "input_unet."
  )
  if config.model.encoder.norm == "batch":
    counters = {
      key.replace("running_mean", "num_batches_tracked"): np.array(7)
      for key in tensors
      if key.endswith("running_mean")
    }
    tensors |= counters
  tensors |= part_tensors(
    model, variables, "field", names.radiance_field, "nerf."
  )
  cube = np.array([-1, -1, -1, 1, 1, 1], np.float32)
  tensors |= {"nerf.aabb_train": cube, "nerf.aabb_infer": cube}
  tensors |= denoiser(config, model, variables, DENOISER)
  aliases = {
    key.replace("ddpm_pipeline.", "ddpm_pipeline.model.", 1): value
    for key, value in tensors.items()
    if key.startswith("ddpm_pipeline.")
  }
  content = {"model": tensors | aliases, "step": 1600, "epoch": 5}
  return content, variables


def denoiser(config, model, variables, prefix: str) -> dict:
  """image_v1's tensors with its constant filters."""
  tensors = part_tensors(model, variables, "denoiser", names.image_v1, prefix)
  levels = len(config.model.denoiser.channels)
  for i in range(1, levels):
    down = np.array([1, 3, 3, 1], np.float32) / 8
    tensors[f"{prefix}u_net.d_blocks.{i}.0.kernel"] = np.outer(down, down)
    last = _blocks(config, levels - i)
    up = np.outer(2 * down, 2 * down)
    tensors[f"{prefix}u_net.u_blocks.{i - 1}.{last}.kernel"] = up
  return tensors


def _blocks(config, level: int) -> int:
  options = config.model.denoiser
  return options.depths[level] * (1 + options.attention[level])


def optimizer(content: dict, seed: int = 1) -> tuple[dict, dict[str, int]]:
  """torch.optim.AdamW's state_dict for `content`, and each key's number."""
  rng = np.random.default_rng(seed)
  buffers = ("running_", "num_batches", ".kernel", "timestep_embed", "aabb")
  frozen = not any("num_batches" in key for key in content["model"])

  def is_parameter(key: str) -> bool:
    norm = key.startswith("input_unet.encoder.") and (
      "bn" in key or "downsample.1" in key
    )
    return not (
      any(b in key for b in buffers)
      or key.startswith("ddpm_pipeline.model.")
      or (frozen and norm)
    )

  keys = [key for key in content["model"] if is_parameter(key)]
  state = {
    i: {
      "step": np.float32(100),
      "exp_avg": rng.normal(size=content["model"][key].shape).astype("f4"),
      "exp_avg_sq": rng.random(content["model"][key].shape).astype("f4"),
    }
    for i, key in enumerate(keys)
  }
  numbers = {key: i for i, key in enumerate(keys)}
  return {"state": state, "param_groups": []}, numbers
