"""Encoders and denoisers against the reference's outputs and gradients."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rule

from genvs_jax.convert import names
from genvs_jax.diffusion import edm
from genvs_jax.models import ddpmpp
from genvs_jax.models import deeplabv3plus
from genvs_jax.models import image_v1
from genvs_jax.models import layers
from genvs_jax.models import resnet

FILES = (
  "denoiser",
  "denoiser_rule",
  "songunet",
  "encoder_main",
  "encoder_dlv3",
)
ENCODER = "input_unet."
DENOISER = "ddpm_pipeline.inner_model."


def image_v1_from(config: dict) -> image_v1.ImageV1:
  return image_v1.ImageV1(
    channels=tuple(config["channels"]),
    depths=tuple(config["depths"]),
    attention=tuple(config["self_attn_depths"]),
    embedding=config["mapping_out"],
    dropout=config["dropout_rate"],
  )


def denoiser_inputs(arrays, x: str, *rest: str):
  """x [B,H,W,c] and the conditioning features beside it."""
  return [jnp.asarray(rule.nhwc(arrays[key])) for key in (x, *rest)]


def denoiser_leaves(network, x, features) -> names.Leaves:
  return rule.leaves(
    jax.eval_shape(
      lambda: network.init(
        jax.random.key(0),
        x,
        jnp.ones(len(x)),
        features,
        jnp.zeros((len(x), 9)),
        train=False,
      )
    )
  )


def spied(network, variables, *args, **kwargs):
  spy = rule.Spy()
  with nn.intercept_methods(spy):
    result = network.apply(variables, *args, **kwargs)
  return result, spy


@pytest.fixture(scope="module")
def small_denoiser(golden):
  arrays = golden("denoiser")
  config = arrays.json("config_json")
  network = image_v1_from(config)
  x, cond = denoiser_inputs(arrays, "x", "cond")
  sources = names.image_v1(denoiser_leaves(network, x, cond))
  weights = arrays.starting("w/inner_model.")
  variables = rule.fill(sources, weights.__getitem__)
  # Everything but the constant resampling filters was used.
  unused = set(weights) - {source.key for source in sources.values()}
  assert all(key.endswith(".kernel") for key in unused)
  return arrays, config, network, variables, sources


def test_image_v1_outputs(small_denoiser):
  arrays, _, network, variables, _ = small_denoiser
  x, cond = denoiser_inputs(arrays, "x", "cond")
  sigma, labels = jnp.asarray(arrays["sigma"]), jnp.asarray(arrays["aug_cond"])
  (output, log_variance), spy = spied(
    network, variables, x, sigma, cond, labels, train=False
  )
  arrays.check("model_out", rule.nchw(output), "network")
  arrays.check("logvar", log_variance, "network")
  plain, _ = network.apply(
    variables, x, sigma, cond, jnp.zeros_like(labels), train=False
  )
  arrays.check("model_out_noaug", rule.nchw(plain), "network")

  frequencies = variables["constants"]["frequencies"]
  features = image_v1.fourier_features(sigma, frequencies)
  arrays.check("h/timestep_embed", features, "network")
  size = x.shape[2]
  vector = spy.inputs[f"down_{size}_block0"][1]
  arrays.check("h/mapping_out", vector, "network")

  def hidden(key, value):
    arrays.check(f"h/{key}", rule.nchw(value)[:1, ::2], "network")

  hidden("proj_in", spy.outputs["input"])
  levels = len(network.channels)
  for i in range(levels):
    last = network.depths[i] - 1
    kind = "attention" if network.attention[i] else "block"
    name = f"_{size >> i}_{kind}{last}"
    hidden(f"d_block{i}", spy.outputs[f"down{name}"])
    up = spy.outputs[f"up{name}"]
    hidden(
      f"u_block{levels - 1 - i}", layers.blur_upsample(up) if i > 0 else up
    )


def test_image_v1_denoising_loss_and_gradients(small_denoiser):
  arrays, config, network, variables, sources = small_denoiser
  clean, noise, cond = denoiser_inputs(arrays, "reals", "noise", "cond")
  sigma, labels = jnp.asarray(arrays["sigma"]), jnp.asarray(arrays["aug_cond"])
  data = config["sigma_data"]
  noisy = clean + sigma[:, None, None, None] * noise
  arrays.check("noised", rule.nchw(noisy), "sampler")
  for name, value in edm.scalings(sigma, data)._asdict().items():
    key = {"skip": "c_skip", "out": "c_out", "inp": "c_in"}[name]
    arrays.check(key, value, "sampler")

  def run(variables, cond):
    scaled = noisy * edm.scalings(sigma, data).inp[:, None, None, None]
    output, log_variance = network.apply(
      variables, scaled, sigma, cond, labels, train=False
    )
    target = edm.network_target(clean, noisy, sigma, data)
    each = [
      edm.learned_variance_loss(
        output[i : i + 1], target[i : i + 1], log_variance[i]
      )
      for i in range(len(clean))
    ]
    return jnp.stack(each), output

  each, output = jax.jit(run)(variables, cond)
  denoised = edm.denoised(noisy, output, sigma, data)
  arrays.check("denoised", rule.nchw(denoised), "network")
  arrays.check("losses", each, "network")

  def mean_loss(params, cond):
    return jnp.mean(run({**variables, "params": params}, cond)[0])

  gradients = jax.jit(jax.grad(mean_loss, (0, 1)))
  by_params, by_cond = gradients(variables["params"], cond)
  arrays.check("grad_cond", rule.nchw(by_cond), "network")
  norm = np.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(by_params)))
  arrays.check("grad_global_norm", norm, "network")
  paths = {source.key: (path, source) for path, source in sources.items()}
  for key in arrays.starting("grad/inner_model."):
    path, source = paths[key]
    gradient = by_params
    for name in path[1:]:
      gradient = gradient[name]
    arrays.check(
      f"grad/inner_model.{key}",
      source.layout.to_torch(np.asarray(gradient)),
      "network",
    )


def test_image_v1_at_a_real_configuration(golden):
  arrays = golden("denoiser_rule")
  config = arrays.json("config_json")
  salt, gain = int(arrays["rule_salt"]), float(arrays["rule_gain"])
  network = image_v1_from(config)
  x, cond = denoiser_inputs(arrays, "x", "cond")
  sigma, labels = jnp.asarray(arrays["sigma"]), jnp.asarray(arrays["aug_cond"])
  shapes = denoiser_leaves(network, x, cond)
  variables, tensors = rule.fill_by_rule(
    names.image_v1(shapes), shapes, DENOISER + "inner_model.", salt, gain
  )
  for key in arrays.starting("probe/inner_model."):
    arrays.check(f"probe/inner_model.{key}", tensors[key].flat[:16], "pose")

  def run(x):
    return network.apply(variables, x, sigma, cond, labels, train=False)

  output, log_variance = run(x)
  arrays.check("model_out", rule.nchw(output), "network")
  arrays.check("logvar", log_variance, "network")
  data = config["sigma_data"]
  scaled, _ = run(x * edm.scalings(sigma, data).inp[:, None, None, None])
  denoised = edm.denoised(x, scaled, sigma, data)
  arrays.check("denoised", rule.nchw(denoised), "network")


def test_ddpmpp(golden):
  arrays = golden("songunet")
  config = arrays.json("config_json")
  multiples = config["channel_mult"]
  width, outer = config["model_channels"], config["img_resolution"]
  network = ddpmpp.DDPMpp(
    channels=tuple(width * m for m in multiples),
    depths=(config["num_blocks"],) * len(multiples),
    attention=tuple(
      outer >> i in config["attn_resolutions"] for i in range(len(multiples))
    ),
    embedding=4 * width,
    augmentation=config["augment_dim"] > 0,
  )
  (everything,) = denoiser_inputs(arrays, "x")
  x, cond = everything[..., :3], everything[..., 3:]
  shapes = denoiser_leaves(network, x, cond)
  sources = names.ddpmpp(shapes)
  weights = arrays.starting("w/")
  variables = rule.fill(sources, weights.__getitem__)
  unused = set(weights) - {source.key for source in sources.values()}
  assert all(key.endswith("resample_filter") for key in unused)

  sigma = jnp.exp(4 * jnp.asarray(arrays["noise_labels"]))
  labels = jnp.asarray(arrays["augment_labels"])
  output, _ = network.apply(variables, x, sigma, cond, labels, train=False)
  arrays.check("out", rule.nchw(output), "network")
  # The hidden values were kept of this pass, without the augmentation vector.
  (plain, _), spy = spied(
    network, variables, x, sigma, cond, jnp.zeros_like(labels), train=False
  )
  arrays.check("out_noaug", rule.nchw(plain), "network")
  arrays.check("h/map_layer1", spy.outputs["mapping1"], "network")
  for key in arrays.starting("h/"):
    block = re.fullmatch(r"(\d+)x\d+_(down|up|in\d)", key)
    if block:
      size, kind = block.groups()
      side = "encoder" if kind == "down" else "decoder"
      value = spy.outputs[f"{side}_{size}_{kind}"]
      arrays.check(f"h/{key}", rule.nchw(value)[:1], "network")

  sigma = jnp.asarray(arrays["sigma"])
  c = edm.scalings(sigma[:, None, None, None], 0.5)
  output, _ = network.apply(
    variables, x * c.inp, sigma, cond, labels, train=False
  )
  denoised = rule.nchw(edm.denoised(x, output, sigma, 0.5))
  arrays.check("denoised_cond", denoised, "network")


def check_volume(arrays, prefix: str, volume: jax.Array) -> None:
  """The statistics and excerpts that the files keep of an encoder's output.

  Args:
    arrays: the golden file.
    prefix: of the keys, "eval/" for example.
    volume: [n,H,W,D,C].
  """
  n, h, w, planes, channels = volume.shape
  # The reference's channel c * D + k is plane k of channel c here.
  y = np.asarray(volume).transpose(0, 4, 3, 1, 2)
  y = y.reshape(n, channels * planes, h, w)
  arrays.check(f"{prefix}shape", y.shape, "network")
  wide = y.astype(np.float64)
  whole = [wide.mean(), wide.std(ddof=1), y.min(), y.max()]

  def check(key, value):
    arrays.check(prefix + key, value, "network")

  check("mean_std_min_max", np.array(whole))
  check("channel_mean", wide.mean((0, 2, 3)))
  check("channel_std", wide.std((0, 2, 3), ddof=1))
  check("slice", y[:, ::64, 21:31, 16:28])
  check("corner", y[0, 5::101, :4, :4])
  check("row", y[0, ::128, h // 2, :])
  signs = rule.hash_uniform("checksum", y.size, 0)
  # A sum of random signs cancels: its error is measured by what it would be
  # without cancelling.
  arrays.check(
    f"{prefix}checksum",
    np.sum(wide.ravel() * signs),
    "network",
    scale=np.sqrt(np.sum(wide**2)),
  )


def check_stage(arrays, key: str, value: jax.Array, step: int) -> None:
  """Mean and deviation, and one row of every `step`-th channel."""
  y = rule.nchw(value)
  wide = y.astype(np.float64)
  arrays.check(f"{key}_mean_std", [wide.mean(), wide.std(ddof=1)], "network")
  arrays.check(f"{key}_slice", y[0, ::step, y.shape[2] // 2, :], "network")


def encoder_by_rule(arrays, network, translate):
  salt, gain = int(arrays["rule_salt"]), float(arrays["rule_gain"])
  x = jnp.asarray(rule.nhwc(arrays["x"]))
  shapes = rule.leaves(
    jax.eval_shape(lambda: network.init(jax.random.key(0), x, train=False))
  )
  sources = translate(shapes, network.channels)
  variables, tensors = rule.fill_by_rule(sources, shapes, ENCODER, salt, gain)
  for key in arrays.starting("probe/"):
    arrays.check(f"probe/{key}", tensors[key].flat[:16], "pose")
  return x, variables


def test_resnet_unet_with_running_batch_and_frozen_statistics(golden):
  arrays = golden("encoder_main")
  network = resnet.ResNetUNet()
  x, variables = encoder_by_rule(arrays, network, names.resnet_unet)

  volume, spy = spied(network, variables, x, train=False)
  check_volume(arrays, "eval/", volume)
  stages = {
    0: spy.outputs["trunk"][-1],
    3: nn.relu(spy.outputs["middle2"]),
    **{4 + i: spy.outputs[f"up{i}"] for i in range(4)},
    8: layers.pixel_shuffle(nn.relu(spy.outputs["last_shuffle"])),
    11: spy.inputs["head"][0],
  }
  for stage, value in stages.items():
    check_stage(arrays, f"eval/stage{stage}", value, 32)

  trained, updated = network.apply(
    variables, x, train=True, mutable=["batch_stats"]
  )
  check_volume(arrays, "train/", trained)
  stem = updated["batch_stats"]["trunk"]["stem_norm"]
  arrays.check("train/bn1_running_mean_after", stem["mean"], "network")
  arrays.check("train/bn1_running_var_after", stem["var"], "network")

  frozen = resnet.ResNetUNet(norm="frozen")
  x, variables = encoder_by_rule(arrays, frozen, names.resnet_unet)
  volume, updated = frozen.apply(
    variables, x, train=True, mutable=["batch_stats"]
  )
  check_volume(arrays, "eval/", volume)
  assert jax.tree.all(
    jax.tree.map(
      lambda a, b: bool((a == b).all()),
      updated["batch_stats"],
      variables["batch_stats"],
    )
  )


def test_deeplabv3plus(golden):
  arrays = golden("encoder_dlv3")
  network = deeplabv3plus.DeepLabV3Plus()
  x, variables = encoder_by_rule(arrays, network, names.deeplabv3plus)
  volume, spy = spied(network, variables, x, train=True, mutable=False)
  check_volume(arrays, "out/", volume)

  features = [x, *spy.outputs["trunk"]]
  shapes = [(f.shape[3], f.shape[1], f.shape[2]) for f in features]
  arrays.check("feature_shapes", np.array(shapes), "network")
  for i, feature in enumerate(features[1:], 1):
    check_stage(arrays, f"feat{i}", feature, 16)
  stages = {
    "layer4": features[-1],
    "aspp_project": spy.inputs["pyramid/smooth"][0],
    "aspp": spy.outputs["pyramid"],
    "up_block1b": nn.relu(spy.outputs["up8"]),
    "block1": nn.relu(spy.outputs["skip4"]),
    "block2": spy.inputs["up2"][0],
    "up_block2": nn.relu(spy.outputs["up2"]),
  }
  for key, value in stages.items():
    check_stage(arrays, key, value, 32)

  # Wide enough for the outer taps of the atrous filters to matter.
  wide = rule.image(
    "encoder_dlv3/aspp_wide", (1, 512, 26, 26), int(arrays["rule_salt"]), 0, 1
  )
  arrays.check("aspp_wide/in_slice", wide[0, ::64, ::5, ::5], "pose")
  pyramid = deeplabv3plus.AtrousPyramid(
    network.depth_planes * network.channels, jnp.float32
  )
  y = pyramid.apply(
    {"params": variables["params"]["pyramid"]}, jnp.asarray(rule.nhwc(wide))
  )
  y = rule.nchw(y)
  moments = [y.mean(dtype=np.float64), y.std(dtype=np.float64, ddof=1)]
  arrays.check("aspp_wide/mean_std", moments, "network")
  arrays.check("aspp_wide/slice", y[0, ::64, 2::6, 1::5], "network")


def test_rule_images_are_the_stored_ones(golden):
  arrays = golden("denoiser_rule")
  salt = int(arrays["rule_salt"])
  x = rule.image("denoiser_rule/x", arrays["x"].shape, salt, -1, 1)
  arrays.check("x", x, "pose")


def test_z_every_array_was_read(check_all_read):
  check_all_read(FILES)
