"""Writes tests/golden/perceptual.npz with the metrics' own PyTorch code.

  pip install torch torchvision lpips DISTS_pytorch pytorch-fid
  python tests/parity/make_perceptual.py tests/golden/perceptual.npz

The architectures are the published ones, the weights made up by `rule`, so
that a test can make them up again and needs no download.
"""

import contextlib
import os
import sys

import lpips
import numpy as np
import torch
import torchvision
from pytorch_fid import fid_score
from pytorch_fid import inception

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))
from tests.parity import rule

SALT, GAIN = 5, 2**0.5


def fill(module: torch.nn.Module) -> torch.nn.Module:
  values = {
    key: torch.from_numpy(
      np.asarray(rule.weight(key, tuple(v.shape), SALT, GAIN))
    )
    for key, v in module.state_dict().items()
  }
  module.load_state_dict(values)
  return module.eval()


def lpips_distance(net: str, trunk: torch.nn.Module, x, y) -> np.ndarray:
  model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
  # The trunk's slices keep the numbers of torchvision's layers.
  for part in model.net.children():
    for number, layer in part.named_children():
      layer.load_state_dict(trunk.features[int(number)].state_dict())
  for i, head in enumerate(model.lins):
    weight = head.model[-1].weight
    key = f"{net}/lin{i}.model.1.weight"
    weight.data = torch.from_numpy(
      np.abs(rule.weight(key, tuple(weight.shape), SALT, GAIN))
    )
  return model(x, y, normalize=True).reshape(-1).detach().numpy()


def dists_distance(trunk: torch.nn.Module, x, y) -> np.ndarray:
  original = torchvision.models.vgg16
  torchvision.models.vgg16 = lambda pretrained: trunk
  from DISTS_pytorch import DISTS  # noqa: PLC0415

  model = DISTS(load_weights=False)
  torchvision.models.vgg16 = original
  for key in ("alpha", "beta"):
    parameter = getattr(model, key)
    parameter.data = torch.from_numpy(
      positive(key, parameter.numel()).reshape(parameter.shape)
    )
  return model(x, y).numpy()


def positive(key: str, count: int) -> np.ndarray:
  return (0.5 + 0.5 * rule.hash_uniform(key, count, SALT)).astype(np.float32)


def fid_network() -> torch.nn.Module:
  def refuse(*args, **kwargs):
    raise FileNotFoundError

  # The network is built before its weights are asked for.
  built = []
  original = torchvision.models.inception_v3

  def keep(*args, **kwargs):
    built.append(original(*args, **kwargs))
    return built[-1]

  torchvision.models.inception_v3 = keep
  inception.load_state_dict_from_url = refuse
  with contextlib.suppress(FileNotFoundError):
    inception.fid_inception_v3()
  fill(built[-1])
  inception.fid_inception_v3 = lambda: built[-1]
  return inception.InceptionV3().eval()


def main():
  x = rule.image("perceptual/x", (3, 3, 64, 80), SALT, 0, 1)
  y = np.clip(
    x + 0.3 * rule.image("perceptual/y", (3, 3, 64, 80), SALT, -1, 1), 0, 1
  )
  tx, ty = torch.from_numpy(x), torch.from_numpy(y)
  vgg = fill(torchvision.models.vgg16(weights=None))
  alex = fill(torchvision.models.alexnet(weights=None))
  with torch.no_grad():
    features = fid_network()(tx)[0][..., 0, 0].numpy()
    arrays = {
      "lpips_vgg": lpips_distance("vgg", vgg, tx, ty),
      "lpips_alex": lpips_distance("alex", alex, tx, ty),
      "dists": dists_distance(vgg, tx, ty),
      "inception": features,
    }
  first, second = (
    rule.hash_uniform(f"frechet/{i}", 300 * 24, SALT).reshape(300, 24)
    @ rule.hash_uniform(f"frechet/mix{i}", 24 * 24, SALT).reshape(24, 24)
    for i in range(2)
  )
  arrays["frechet"] = np.float64(
    fid_score.calculate_frechet_distance(
      first.mean(0),
      np.cov(first, rowvar=False),
      second.mean(0),
      np.cov(second, rowvar=False),
    )
  )
  np.savez_compressed(sys.argv[1], **arrays)
  for key, value in arrays.items():
    print(key, value.shape, np.asarray(value).reshape(-1)[:4])


if __name__ == "__main__":
  main()
