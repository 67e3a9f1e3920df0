"""The PyTorch layers that ours are timed against do the reference's work."""

import json

import numpy as np
import pytest
import rule

torch = pytest.importorskip("torch")
from benchmarks import torch_layers  # noqa: E402

ENCODER = "input_unet."
DENOISER = "ddpm_pipeline.inner_model."


def build():
  return {
    ENCODER: torch_layers.Encoder(),
    "nerf.": torch_layers.Renderer(),
    DENOISER + "inner_model.": torch_layers.Denoiser(),
  }


def fill_by_rule(module, prefix, arrays):
  """Weights by the rule; the resampling filters stay."""
  salt, gain = int(arrays["rule_salt"]), float(arrays["rule_gain"])
  state = {
    key: torch.as_tensor(rule.weight(prefix + key, value.shape, salt, gain))
    for key, value in module.state_dict().items()
    if not key.endswith(".kernel")
  }
  module.load_state_dict(state, strict=False)


def test_entries_and_counts_are_the_references(golden):
  inventory = json.loads((golden.folder / "state_dict_main.json").read_text())
  expected = {
    entry["key"]: entry["shape"]
    for entry in inventory["model"]
    if "alias_of" not in entry and not entry["key"].startswith("nerf.aabb")
  }
  modules = build()
  result = {
    prefix + key: list(value.shape)
    for prefix, module in modules.items()
    for key, value in module.state_dict().items()
  }
  assert result == expected
  counts = [
    sum(p.numel() for p in module.parameters()) for module in modules.values()
  ]
  assert counts == [62_519_784, 2_193, 115_033_220]


def test_encoder(golden):
  arrays = golden("encoder_main")
  encoder = torch_layers.Encoder()
  fill_by_rule(encoder, ENCODER, arrays)
  with torch.no_grad():
    for name in ("eval", "train"):  # training moves the running statistics
      encoder.train(name == "train")
      y = encoder(torch.as_tensor(arrays["x"])).numpy()
      arrays.check(f"{name}/slice", y[:, ::64, 21:31, 16:28], "network")
      arrays.check(f"{name}/row", y[0, ::128, y.shape[2] // 2], "network")


def denoiser_from(arrays):
  config = arrays.json("config_json")
  return torch_layers.Denoiser(
    config["channels"],
    config["depths"],
    config["self_attn_depths"],
    arrays["cond"].shape[1],
    config["mapping_out"],
  )


def test_denoisers(golden):
  arrays = golden("denoiser")
  small = denoiser_from(arrays)
  weights = arrays.starting("w/inner_model.")
  small.load_state_dict({k: torch.as_tensor(v) for k, v in weights.items()})
  check_denoiser(arrays, small)
  arrays = golden("denoiser_rule")
  large = denoiser_from(arrays)
  fill_by_rule(large, DENOISER + "inner_model.", arrays)
  check_denoiser(arrays, large)


def check_denoiser(arrays, denoiser):
  inputs = [
    torch.as_tensor(arrays[k]) for k in ("x", "sigma", "cond", "aug_cond")
  ]
  with torch.no_grad():
    output, log_variance = denoiser.eval()(*inputs)
  arrays.check("model_out", output, "network")
  arrays.check("logvar", log_variance, "network")


@pytest.mark.parametrize(
  "stem", ["render_v1", "render_v2", "render_v3", "render_train"]
)
def test_renderer(golden, stem):
  arrays = golden(stem)
  renderer = torch_layers.Renderer(
    int(arrays["num_steps"]), int(arrays["upsample_steps"])
  )
  weights = arrays.starting("w/")
  renderer.load_state_dict(
    {k.removeprefix("nerf."): torch.as_tensor(v) for k, v in weights.items()}
  )
  features = torch.as_tensor(arrays["features"])
  batch, views, _, height, width = features.shape
  volumes = features.reshape(batch, views, 16, -1, height, width)
  origins, directions = (
    torch.as_tensor(np.array(arrays[key])) for key in ("rays_o", "rays_d")
  )
  origins = origins.expand_as(directions)
  targets = directions.shape[1]
  poses = torch.as_tensor(arrays["source_poses"])
  shape = directions.shape[:3]
  uniforms = None
  if "u_jitter" in arrays:
    uniforms = [
      torch.as_tensor(arrays[key]).reshape(*shape, -1)
      for key in ("u_jitter", "u_pdf")
    ]
  result = [
    renderer(
      origins[b, q],
      directions[b, q],
      volumes[b],
      poses[b],
      float(np.ravel(arrays["camera_k"])[b % arrays["camera_k"].size]),
      None if uniforms is None else [u[b, q] for u in uniforms],
    )
    for b in range(batch)
    for q in range(targets)
  ]
  for key, values in zip(
    ("image", "depth", "weights_sum"), zip(*result, strict=True), strict=True
  ):
    value = torch.stack(values).detach().numpy()
    arrays.check(key, value.reshape(arrays[key].shape), "render")
