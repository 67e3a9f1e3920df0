"""Full-size checkpoint files, made by the rule, converted and compared."""

import json
import pathlib
import re
import resource
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
import rule
import test_golden_networks

from genvs_jax.checkpointing import pretrained
from genvs_jax.diffusion import edm
from genvs_jax.models import denoising

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def tensors_of(inventory: str, starts: tuple[str, ...], salt, gain) -> dict:
  """{key: torch tensor} of the entries that start so; aliases share memory."""
  torch = pytest.importorskip("torch")
  path = ROOT / "tests" / "golden" / f"state_dict_{inventory}.json"
  tensors = {}
  for entry in json.loads(path.read_text())["model"]:
    key, shape = entry["key"], tuple(entry["shape"])
    if not key.startswith(starts):
      continue
    if "alias_of" in entry:
      tensors[key] = tensors[entry["alias_of"]]
    elif key.endswith(".kernel"):
      taps = np.array([1, 3, 3, 1], np.float32) / (
        8 if "d_blocks" in key else 4
      )
      tensors[key] = torch.tensor(np.outer(taps, taps))
    elif "aabb" in key:
      tensors[key] = torch.tensor([-1.0, -1, -1, 1, 1, 1])
    else:
      tensors[key] = torch.from_numpy(
        np.asarray(rule.weight(key, shape, salt, gain))
      )
  return tensors


def converted(content: dict, folder: pathlib.Path) -> pretrained.Pretrained:
  """Saves, runs the command and loads; prints its time and peak memory."""
  torch = pytest.importorskip("torch")
  source, output = folder / "file.pt", folder / "out"
  torch.save(content, source)
  started = time.monotonic()
  done = subprocess.run(
    [
      sys.executable,
      str(ROOT / "launch.py"),
      "--mode=convert",
      f"--source={source}",
      f"--output={output}",
    ],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
  )
  seconds = time.monotonic() - started
  peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
  print(done.stdout, f"{seconds:.1f} s, peak {peak:.2f} GB")
  assert done.returncode == 0, done.stderr[-2000:]
  source.unlink()
  return pretrained.load(str(output))


@pytest.mark.parametrize(
  "branch, prefix", [("main", "eval/"), ("dlv3", "out/")]
)
def test_a_full_checkpoint_encodes_as_the_reference(
  golden, tmp_path, branch, prefix
):
  arrays = golden(f"encoder_{branch}")
  salt, gain = int(arrays["rule_salt"]), float(arrays["rule_gain"])
  starts = ("input_unet.", "nerf.", "ddpm_pipeline.")
  model = tensors_of(branch, starts, salt, gain)
  loaded = converted({"model": model, "step": 16, "epoch": 0}, tmp_path)
  assert loaded.config.model.image_size == 128
  x = jnp.asarray(rule.nhwc(arrays["x"]))
  volume = loaded.model.encoder.apply(
    loaded.variables["encoder"], x, train=False
  )
  test_golden_networks.check_volume(arrays, prefix, volume)


def test_a_denoiser_of_the_64_setting_denoises_as_the_reference(
  golden, tmp_path
):
  torch = pytest.importorskip("torch")
  arrays = golden("denoiser_rule")
  salt, gain = int(arrays["rule_salt"]), float(arrays["rule_gain"])
  network = test_golden_networks.image_v1_from(arrays.json("config_json"))
  x, cond = test_golden_networks.denoiser_inputs(arrays, "x", "cond")
  shapes = test_golden_networks.denoiser_leaves(network, x, cond)
  start = test_golden_networks.DENOISER + "inner_model."
  _, tensors = rule.fill_by_rule(
    test_golden_networks.names.image_v1(shapes), shapes, start, salt, gain
  )
  content = {f"inner_model.{k}": torch.tensor(v) for k, v in tensors.items()}
  loaded = converted(content, tmp_path)
  assert loaded.config.model.image_size == 64
  sigma, labels = jnp.asarray(arrays["sigma"]), jnp.asarray(arrays["aug_cond"])
  # Blocks are named by resolution, and the file's pictures are smaller.
  variables = dict(loaded.variables["denoiser"])
  variables["params"] = {
    re.sub(
      r"(?<=_)\d+(?=_)",
      lambda size: str(int(size[0]) * x.shape[2] // 64),
      name,
    ): value
    for name, value in variables["params"].items()
  }
  output, _ = denoising.predict(
    loaded.model, {"denoiser": variables}, x, sigma, cond, labels
  )
  denoised = edm.denoised(x, output, sigma, loaded.model.sigma_data)
  arrays.check("denoised", rule.nchw(denoised), "network")
