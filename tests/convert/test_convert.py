"""PyTorch weights become an ordinary checkpoint, or a list of what is wrong."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch_checkpoints

from configs import cars64
from configs import debug
from configs import reference64
from configs import reference128_dlv3
from genvs_jax.checkpointing import checkpoints
from genvs_jax.checkpointing import pretrained
from genvs_jax.checkpointing import warm_start
from genvs_jax.convert import checkpoint
from genvs_jax.convert import layouts
from genvs_jax.convert import names
from genvs_jax.convert import tensors_to_variables
from genvs_jax.convert import torch_file
from genvs_jax.models import builders
from genvs_jax.models import denoising
from genvs_jax.training import startup

DENOISER = torch_checkpoints.DENOISER


def tiny(config):
  """A reference config with small numbers."""
  small = debug.get_config()
  config.model.image_size = 32
  config.model.volume_channels = 4
  config.model.feature_channels = 5
  config.model.depth_planes = 3
  config.model.field.width = 6
  config.model.encoder.trunk_width = 8
  config.model.encoder.stage_sizes = (1, 2, 1, 1)
  config.model.encoder.decoder_width = 16
  config.model.denoiser.channels = (8, 16, 24)
  config.model.denoiser.depths = (1, 2, 2)
  config.model.denoiser.attention = (False, False, True)
  config.model.denoiser.embedding = 10
  for name in ("size", "coarse_samples", "fine_samples", "rays_per_chunk"):
    config.rendering[name] = small.rendering[name]
  return config


@pytest.fixture(params=[reference64, reference128_dlv3])
def reference(request):
  """(config, content of a checkpoint, the variables behind it)."""
  config = tiny(request.param.get_config())
  return config, *torch_checkpoints.reference(config)


def assert_trees_equal(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_a_whole_checkpoint_arrives_unchanged(reference, tmp_path):
  config, content, variables = reference
  file = checkpoint.from_content(content, "FILE.pt")
  lines = checkpoint.convert(file, config, str(tmp_path))
  assert not any("freshly" in line for line in lines)
  loaded = pretrained.load(str(tmp_path))
  assert loaded.step == 0
  assert_trees_equal(loaded.variables, variables)
  assert loaded.config.to_dict() == config.to_dict()
  raw = pretrained.load(str(tmp_path), params="raw")
  assert_trees_equal(raw.variables, variables)
  # And a run can start from every part of it.
  for part, stored in loaded.variables.items():
    fresh = jax.tree.map(jnp.zeros_like, stored)
    merged, report = warm_start.merge(fresh, stored)
    assert not (report.fresh or report.unused or report.widened)
    assert_trees_equal(merged, variables[part])


def test_the_fields_of_the_config_follow_from_the_tensors(reference):
  config, content, _ = reference
  fields = checkpoint.from_content(content, "FILE.pt").identity.fields
  assert fields["model.encoder.stage_sizes"] == (1, 2, 1, 1)
  for name, value in fields.items():
    node = config
    for part in name.split("."):
      node = node[part]
    assert node == value, name


def test_adams_moments_follow_their_parameters(reference, tmp_path):
  config, content, _ = reference
  content["optim"], numbers = torch_checkpoints.optimizer(content)
  file = checkpoint.from_content(content, "FILE.pt")
  checkpoint.convert(file, config, str(tmp_path), keep_optimizer=True)
  model = builders.build_model(config)
  reader, step = checkpoints.open_existing(str(tmp_path), None)
  state = reader.restore(
    step, jax.eval_shape(lambda: startup.init_state(config, model))
  )
  reader.close()

  def is_adam(node):
    return isinstance(node, optax.ScaleByAdamState)

  leaves = jax.tree.leaves(state.opt_state, is_leaf=is_adam)
  adams = [leaf for leaf in leaves if is_adam(leaf)]
  assert len(adams) == 3 and {int(adam.count) for adam in adams} == {100}
  for part, leaf, key in (
    ("field", ("hidden0", "kernel"), "nerf.sigma_color_net.net.0.dense.weight"),
    ("denoiser", ("mapping0", "kernel"), f"{DENOISER}mapping.0.weight"),
  ):
    (adam,) = (a for a in adams if not isinstance(a.mu[part], optax.MaskedNode))
    entry = content["optim"]["state"][numbers[key]]
    # The reference sums the gradients of 16 micro-batches.
    for tree, name, unit in (
      (adam.mu, "exp_avg", 16),
      (adam.nu, "exp_avg_sq", 256),
    ):
      value = tree[part][leaf[0]][leaf[1]]
      np.testing.assert_allclose(value, entry[name].T / unit, rtol=1e-6)


def test_moments_that_are_not_there_are_refused(reference, tmp_path):
  config, content, _ = reference
  file = checkpoint.from_content(content, "FILE.pt")
  with pytest.raises(torch_file.ConvertError, match="holds no optimizer state"):
    checkpoint.convert(file, config, str(tmp_path), keep_optimizer=True)
  assert not (tmp_path / "checkpoints").exists()


def test_everything_wrong_is_listed_and_nothing_written(reference, tmp_path):
  config, content, _ = reference
  tensors = content["model"]
  kernel = "nerf.sigma_color_net.net.1.weight"
  tensors[kernel] = tensors[kernel][:, :-1]
  tensors.pop("nerf.sigma_color_net.net.1.bias")
  tensors["input_unet.surprise"] = np.zeros(3, np.float32)
  tensors["nerf.aabb_train"] = np.full(6, 2.0, np.float32)
  second = "ddpm_pipeline.model.inner_model.inner_model.proj_in.bias"
  tensors[second] = tensors[second] + 1
  file = checkpoint.from_content(content, "FILE.pt")
  with pytest.raises(torch_file.ConvertError) as caught:
    checkpoint.convert(file, config, str(tmp_path))
  message = str(caught.value)
  for expected in (
    "FILE.pt does not fit",
    "nothing was written",
    f"{kernel} is float32 [6, 5], expected float32 [6, 6]",
    "nerf.sigma_color_net.net.1.bias is missing",
    "input_unet.surprise belongs to no leaf",
    "nerf.aabb_train is not what it is taken for",
    f"{second} is not what it is taken for",
  ):
    assert expected in message
  assert not (tmp_path / "checkpoints").exists()


def test_shapes_of_no_network_are_one_sentence(reference, tmp_path):
  """Tensors of every kind flattened, one at a time: only ConvertError."""
  config, content, _ = reference
  others = ("ddpm_pipeline.model", "num_batches")  # aliases; counters, unread
  own = [
    key for key in content["model"] if not any(other in key for other in others)
  ]
  kinds = (".kernel", "aabb_train", "mapping.0.weight", "running_var")
  keys = [next(key for key in own if kind in key) for kind in kinds]
  for key in [*keys, *own[:: len(own) // 12]]:
    tensors = dict(content["model"])
    tensors[key] = np.concatenate([tensors[key].reshape(-1)] * 2)
    with pytest.raises(torch_file.ConvertError, match=r"FILE\.pt"):
      file = checkpoint.from_content({"model": tensors}, "FILE.pt")
      broken = config.copy_and_resolve_references()
      broken.update_from_flattened_dict(file.identity.fields)
      checkpoint.convert(file, broken, str(tmp_path))
  assert not (tmp_path / "checkpoints").exists()


def test_what_the_weights_mean_overrides_another_config(reference):
  """A config of our own has the same shapes, but another frustum and field."""
  config, content, _ = reference
  wrong = tiny(cars64.get_config())
  fields = checkpoint.from_content(content, "FILE.pt").identity.fields
  wrong.update_from_flattened_dict(fields)
  for section in ("frustum", "model"):
    ours, theirs = wrong[section].to_dict(), config[section].to_dict()
    for value in (ours, theirs):
      value.pop("near", None), value.pop("far", None), value.pop("resize", None)
    assert ours == theirs


def test_a_folder_with_checkpoints_is_left_alone(reference, tmp_path):
  config, content, variables = reference
  file = checkpoint.from_content(content, "FILE.pt")
  checkpoint.convert(file, config, str(tmp_path))
  with pytest.raises(
    torch_file.ConvertError, match="already holds checkpoints"
  ):
    checkpoint.convert(file, config, str(tmp_path))
  assert_trees_equal(pretrained.load(str(tmp_path)).variables, variables)


@pytest.fixture
def fresh_sevens(monkeypatch):
  """What is freshly initialised is 7 everywhere, and soon there."""

  def init(config, model):
    shapes = jax.eval_shape(lambda: startup.init_state(config, model))
    return jax.tree.map(lambda x: jnp.full(x.shape, 7, x.dtype), shapes)

  monkeypatch.setattr(startup, "init_on_devices", init)


def test_a_denoiser_alone_is_widened_by_zeros(tmp_path, fresh_sevens):
  """k-diffusion's own checkpoints: 3 channels in, raw and averaged weights."""
  config = tiny(reference64.get_config())
  model = builders.build_model(config)

  def narrow(seed):
    _, values = torch_checkpoints.make_variables(config, seed)
    tensors = torch_checkpoints.denoiser(config, model, values, "inner_model.")
    kernel = tensors["inner_model.proj_in.weight"]
    tensors["inner_model.proj_in.weight"] = kernel[:, :3]
    return tensors, values

  (raw, values), (averaged, averaged_values) = narrow(0), narrow(1)
  content = {"model": raw, "model_ema": averaged, "config": {}, "step": 3}
  file = checkpoint.from_content(content, "FILE.pt")
  assert file.identity.kind == "image_v1"
  lines = checkpoint.convert(file, config, str(tmp_path))
  assert any("freshly initialised: encoder, field" in line for line in lines)
  for params, expected in (("raw", values), ("ema", averaged_values)):
    loaded = pretrained.load(str(tmp_path), params=params)
    kernel = loaded.variables["denoiser"]["params"]["input"]["kernel"]
    target = expected["denoiser"]["params"]["input"]["kernel"]
    np.testing.assert_array_equal(kernel[:, :, :3], target[:, :, :3])
    np.testing.assert_array_equal(kernel[:, :, 3:], 0)
    fresh = loaded.variables["encoder"]["params"]["head"]["kernel"]
    np.testing.assert_array_equal(fresh, 7)
  # So features do not matter yet.
  denoise = jax.jit(functools.partial(denoising.denoise, loaded.model))
  x = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
  features = jax.random.normal(jax.random.key(1), (1, 32, 32, 5))
  with_features, without = (
    denoise(loaded.variables, x, jnp.ones(1), f)
    for f in (features, jnp.zeros_like(features))
  )
  np.testing.assert_array_equal(with_features, without)


@pytest.mark.parametrize(
  "counters", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_imagenet_weights_fill_the_trunk(tmp_path, counters, fresh_sevens):
  """torchvision's and timm's ResNet34, with its classifier, old files too."""
  config = tiny(reference128_dlv3.get_config())
  content, variables = torch_checkpoints.reference(config)
  start = "input_unet.encoder."
  tensors = {
    key.removeprefix(start): value
    for key, value in content["model"].items()
    if key.startswith(start)
  }
  tensors |= {
    "fc.weight": np.zeros((9, 64), "f4"),
    "fc.bias": np.zeros(9, "f4"),
  }
  if counters:
    tensors["bn1.num_batches_tracked"] = np.array(0)
  file = checkpoint.from_content(tensors, "FILE.pth")
  assert file.identity.kind == "resnet34"
  lines = checkpoint.convert(file, config, str(tmp_path))
  assert any("freshly initialised" in line for line in lines)
  encoder = pretrained.load(str(tmp_path)).variables["encoder"]
  for collection in ("params", "batch_stats"):
    assert_trees_equal(
      encoder[collection]["trunk"], variables["encoder"][collection]["trunk"]
    )


def test_files_of_other_networks_are_refused():
  resnet50 = {
    f"layer{i}.0.conv{j}.weight": np.zeros((1, 1, 1, 1), "f4")
    for i in range(1, 5)
    for j in range(1, 4)
  } | {"conv1.weight": np.zeros((4, 3, 7, 7), "f4")}
  for content, expected in (
    ({"a.weight": np.zeros(3)}, "holds 1 tensors of no known network"),
    (resnet50, "bottleneck blocks, expected ResNet34's"),
    ([1, 2], "holds a list, expected a state_dict"),
    ({"a": np.zeros(3), "b": "text"}, "mixes tensors with other values"),
    ({"input_unet.layers.0.0.weight": np.zeros(3)}, "lacks its radiance"),
    ({"timestep_embed.weight": np.zeros(3)}, "the denoiser has no levels"),
    ({"map_layer0.weight": np.zeros(3)}, "shapes that it never has"),
  ):
    with pytest.raises(torch_file.ConvertError, match=expected):
      checkpoint.from_content(content, "FILE.pt")


@pytest.mark.parametrize(
  "layout, shape",
  [
    (layouts.CONV, (3, 4, 5, 6)),
    (layouts.UPSAMPLE, (3, 4, 2, 2)),
    (layouts.LINEAR, (3, 4)),
    (layouts.COLUMN, (5, 1)),
    (layouts.regrouped(layouts.CONV, 4), (12, 2, 3, 3)),
  ],
)
def test_layouts_have_inverses(layout, shape):
  x = np.arange(np.prod(shape)).reshape(shape)
  np.testing.assert_array_equal(layout.to_torch(layout.to_flax(x)), x)


def test_regrouping_turns_channel_major_into_depth_major():
  # Three channels of two planes: c * 2 + k there, k * 3 + c here.
  x = np.array(["c0k0", "c0k1", "c1k0", "c1k1", "c2k0", "c2k1"])
  y = layouts.regrouped(layouts.SAME, 3).to_flax(x)
  assert list(y) == ["c0k0", "c1k0", "c2k0", "c0k1", "c1k1", "c2k1"]


def test_every_leaf_has_a_source_of_its_own(reference):
  config, _, _ = reference
  model = builders.build_model(config)
  leaves = tensors_to_variables.leaf_shapes(model)["denoiser"]
  sources = names.image_v1(leaves)
  assert set(sources) == set(leaves)
  assert len({source.key for source in sources.values()}) == len(leaves)


def test_without_pytorch_one_sentence_says_what_to_install(tmp_path):
  (tmp_path / "x.pt").write_bytes(b"weights")
  script = (
    "import sys; sys.modules['torch'] = None;"
    "sys.argv = ['launch.py', '--mode=convert',"
    f" '--source={tmp_path}/x.pt', '--output={tmp_path}'];"
    "import runpy; runpy.run_path('launch.py', run_name='__main__')"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert "needs PyTorch, which is not installed: pip install" in done.stderr
  assert "Traceback" not in done.stderr


class Payload:
  """Runs code when it is unpickled."""

  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return open, (str(self.marker), "w")


def test_hostile_and_damaged_files_do_no_harm(tmp_path):
  torch = pytest.importorskip("torch")
  marker = tmp_path / "executed"
  hostile = tmp_path / "hostile.pt"
  torch.save({"model": Payload(marker)}, hostile)
  with pytest.raises(torch_file.ConvertError, match="nothing in it was run"):
    checkpoint.open_file(str(hostile))
  assert not marker.exists()

  whole = tmp_path / "whole.pt"
  torch.save({"a.weight": torch.zeros(1000)}, whole)
  for name, data in (
    ("truncated.pt", whole.read_bytes()[:2000]),
    ("text.pt", b"not a checkpoint"),
    ("tuple.pt", b"this is no checkpoint"),
    ("stop.pt", b"."),
    ("empty.pt", b""),
  ):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(torch_file.ConvertError, match=f"{name}.*damaged"):
      checkpoint.open_file(str(tmp_path / name))
  cyclic: dict = {"a": torch.zeros(1)}
  cyclic["self"] = cyclic
  for name, content in (
    ("cyclic.pt", cyclic),
    ("float8.pt", {"a": torch.zeros(2).to(torch.float8_e4m3fn)}),
  ):
    torch.save(content, tmp_path / name)
    with pytest.raises(torch_file.ConvertError, match=name):
      checkpoint.open_file(str(tmp_path / name))
  with pytest.raises(torch_file.ConvertError, match="is no file"):
    checkpoint.open_file(str(tmp_path / "missing.pt"))


@pytest.mark.parametrize("legacy", [False, True])
def test_half_precision_and_old_files_are_read_as_float32(tmp_path, legacy):
  torch = pytest.importorskip("torch")
  path = str(tmp_path / "file.pt")
  values = {"half": torch.arange(3).half(), "nested": [torch.ones(2).double()]}
  torch.save(values, path, _use_new_zipfile_serialization=not legacy)
  content = torch_file.read(path)
  assert content["half"].dtype == content["nested"][0].dtype == np.float32
  np.testing.assert_array_equal(content["half"], [0, 1, 2])
