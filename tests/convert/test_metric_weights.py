"""Published weights are taken as they are, and nothing else is."""

import hashlib
import io
import pathlib

import numpy as np
import pytest

from genvs_jax import perceptual
from genvs_jax.convert import metric_weights
from genvs_jax.convert import torch_file
from genvs_jax.perceptual import weights

RNG = np.random.default_rng(0)
HEADS = {
  f"lin{i}.model.1.weight": RNG.random((1, width, 1, 1), np.float32)
  for i, width in enumerate((64, 128, 256, 512, 512))
}


@pytest.fixture
def file(tmp_path):
  """A file and its content, as `torch_file.read` would give it."""
  buffer = io.BytesIO()
  np.savez(buffer, **HEADS)
  path = tmp_path / "vgg.pth"
  path.write_bytes(buffer.getvalue())
  return str(path)


def test_a_file_is_known_by_what_it_holds():
  recognize = metric_weights.recognize
  assert recognize(HEADS) == "lpips_vgg"
  alex = {**HEADS, "lin4.model.1.weight": np.zeros((1, 256, 1, 1))}
  assert recognize(alex) == "lpips_alex"
  assert recognize({"alpha": 0, "beta": 0}) == "dists"
  assert (
    recognize({"features.28.weight": 0, "features.10.weight": 0}) == "vgg16"
  )
  assert recognize({"features.10.weight": 0}) == "alexnet"
  assert recognize({"input_unet.layers.0.weight": 0}) is None
  assert recognize([1, 2]) is None
  assert {n for needs in perceptual.NEEDS.values() for n in needs} == set(
    weights.BY_NAME
  )


def test_a_file_that_is_not_the_published_one_is_refused(file, tmp_path):
  with pytest.raises(
    torch_file.ConvertError,
    match=r"looks like lpips_vgg, .* expected a78928a0.* again from https://",
  ):
    metric_weights.convert(HEADS, file, str(tmp_path / "out"))
  assert not (tmp_path / "out").exists()


def test_the_published_file_becomes_arrays(file, tmp_path, monkeypatch):
  """Whole checksums, and those cut short in a file's name."""
  digest = hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()
  for known in (digest, digest[:8]):
    published = weights.BY_NAME["lpips_vgg"]._replace(sha256=known)
    monkeypatch.setitem(weights.BY_NAME, "lpips_vgg", published)
    lines = metric_weights.convert(HEADS, file, str(tmp_path / known))
    assert str(tmp_path / known / "lpips_vgg.npz") in lines[1]
    loaded = weights.load(str(tmp_path / known), "lpips_vgg")
    assert loaded["lin3"].shape == (512,)
    np.testing.assert_array_equal(
      loaded["lin3"], HEADS["lin3.model.1.weight"].ravel()
    )
    missing = weights.missing(str(tmp_path / known), ["vgg16", "lpips_vgg"])
    assert missing == ["vgg16"]


def test_weights_are_looked_for_in_the_users_cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  weights.save("auto", "dists", {"alpha": np.zeros(3)})
  assert (tmp_path / "genvs_jax" / "metrics" / "dists.npz").exists()
  assert weights.missing("auto", ["dists"]) == []


def test_folded_norms_do_what_the_norms_did():
  """A 1x1 convolution and its norm, by hand."""
  x = RNG.normal(size=(5, 3))
  tensors = {"a.conv.weight": RNG.normal(size=(4, 3, 1, 1))}
  for leaf in ("weight", "bias", "running_mean", "running_var"):
    tensors[f"a.bn.{leaf}"] = RNG.random(4) + 0.1
  tensors["fc.weight"] = np.zeros((2, 2))
  arrays = metric_weights.to_arrays("inception", tensors)
  assert set(arrays) == {"a.kernel", "a.bias"}
  y = x @ tensors["a.conv.weight"][:, :, 0, 0].T - tensors["a.bn.running_mean"]
  y /= np.sqrt(tensors["a.bn.running_var"] + 1e-3)
  y = y * tensors["a.bn.weight"] + tensors["a.bn.bias"]
  result = x @ arrays["a.kernel"][0, 0] + arrays["a.bias"]
  np.testing.assert_allclose(result, y, rtol=1e-5)
