"""Losses, optimizer and the data reader against the reference's numbers."""

import io

import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from PIL import Image

from configs import reference128
from genvs_jax.data import decoding
from genvs_jax.geometry import camera_paths
from genvs_jax.geometry import cameras
from genvs_jax.geometry import unit_cube
from genvs_jax.models import layers
from genvs_jax.models import pipeline
from genvs_jax.training import objectives
from genvs_jax.training import optimizers
from genvs_jax.training import regularizers
from tfds_srn import parsing

FILES = ("losses_main", "losses_dlv3", "optimiser", "srn_poses")
SIZE = 128
FIRST_WEIGHT = 0.01  # of the RGB loss on the first view, in both files


def blocks(x: np.ndarray) -> jnp.ndarray:
  """Pictures of 64 pixels [B,Q,64,64,c] from their constant squares.

  The files keep one number per square, [B,Q,c,n,n].
  """
  x = np.moveaxis(x, 2, -1)
  times = 64 // x.shape[2]
  return jnp.asarray(x.repeat(times, 2).repeat(times, 3))


def enlarged(x) -> jnp.ndarray:
  return layers.resize(x, (SIZE, SIZE), "nearest")


@pytest.fixture(params=["losses_main", "losses_dlv3"])
def rendered(request, golden):
  """The arrays, and features, opacity and pictures as the losses take them."""
  arrays = golden(request.param)
  features = enlarged(blocks(arrays["render_4x4"]))
  opacity = enlarged(blocks(arrays["opacity_4x4"]))[..., 0]
  # Of the four views the first and the last are rendered, in [0,1].
  pictures = (blocks(arrays["imgs_8x8"])[:, jnp.array([0, -1])] + 1) / 2
  return arrays, features, opacity, enlarged(pictures)


def test_rgb_loss_meets_each_picture_with_its_own_render(rendered):
  arrays, features, _, pictures = rendered
  first = objectives.rgb_error(features[:, :1], pictures[:, :1])
  last = objectives.rgb_error(features[:, 1:], pictures[:, 1:])
  arrays.check("loss_rgb_intended", FIRST_WEIGHT * first + last, "loss")


def test_rgb_loss_as_the_reference_computes_it_is_recorded(rendered):
  """[B,..] against [B,1,..] broadcasts: every render meets every target."""
  arrays, features, _, pictures = rendered
  items = range(len(pictures))
  mixed = [
    np.mean(
      [
        objectives.rgb_error(features[b, i], pictures[t, i])
        for b in items
        for t in items
      ]
    )
    for i in (0, 1)
  ]
  arrays.check("loss_rgb", FIRST_WEIGHT * mixed[0] + mixed[1], "loss")
  opacity = 0.001 * float(np.mean(arrays["opacity_4x4"]))
  if "loss_depth" not in arrays:
    total = FIRST_WEIGHT * mixed[0] + mixed[1] + opacity
    arrays.check("loss", total, "loss")


def test_opacity_loss(rendered):
  arrays, _, opacity, _ = rendered
  arrays.check("loss_opacity", 0.001 * np.mean(opacity), "loss")


def test_depth_prior_and_consistency(golden):
  arrays = golden("losses_dlv3")
  depth, opacity, depth_second, opacity_second = (
    enlarged(blocks(arrays[f"{key}_4x4"]))[..., 0]
    for key in ("depth", "opacity", "depth_second", "opacity_second")
  )
  distance = jnp.asarray(arrays["camera_d"])[:, None, None, None]
  prior = regularizers.depth_prior(depth, opacity, distance)
  arrays.check("loss_depth", prior, "loss")
  by_depth = regularizers.consistency(depth, depth_second)
  arrays.check("loss_depth_consistency", by_depth, "loss")
  by_opacity = regularizers.consistency(opacity, opacity_second)
  arrays.check("loss_opacity_consistency", by_opacity, "loss")
  total = (
    arrays["loss_rgb"]
    + 0.001 * np.mean(opacity)
    + prior
    + by_depth
    + by_opacity
  )
  arrays.check("loss", np.reshape(total, 1), "loss")


def optimizer_config(**rates) -> ml_collections.ConfigDict:
  """The reference's settings."""
  options = {
    "b1": 0.9,
    "b2": 0.99,
    "eps": 1e-8,
    "weight_decay": 1e-2,
    "clip_norm": 1.0,
    "warmup": 0,
    "schedule": "cosine_restarts",
    "period": 400,
    "final_rate": 1e-8,
  }
  return ml_collections.ConfigDict({"optimizer": {**options, **rates}})


def test_adamw_clip_and_cosine_restarts(golden):
  arrays = golden("optimiser")
  used = arrays["lrs_used"]
  parts = ("encoder", "field", "denoiser")
  peaks = {f"{part}_rate": float(used[0, i]) for i, part in enumerate(parts)}
  config = optimizer_config(**peaks)
  o = config.optimizer
  schedule = dict(
    schedule=o.schedule, warmup=o.warmup, period=o.period, final=o.final_rate
  )
  rates = [
    [optimizers.learning_rate(n, p, **schedule) for p in peaks.values()]
    for n in range(len(used))
  ]
  arrays.check("lrs_used", np.array(rates), "rate")
  epochs = np.arange(len(arrays["lr_by_epoch"]))
  curve = optimizers.learning_rate(epochs, 1e-4, **schedule)
  arrays.check("lr_by_epoch", curve, "rate")

  optimizer = optimizers.build_optimizer(config)
  params = {p: jnp.asarray(arrays[f"p{i}_init"]) for i, p in enumerate(parts)}
  state = optimizer.init(params)
  norms, after = [], {part: [] for part in parts}
  for n in range(len(used)):
    # The reference sums the gradients of its micro-batches.
    grads = {p: arrays[f"g{i}"][n].sum(0) for i, p in enumerate(parts)}
    norms.append(optax.global_norm(grads))
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    for part in parts:
      after[part].append(params[part])
  for i, part in enumerate(parts):
    # Each step rounds a parameter of size 1 to 6e-8, whatever its update.
    size = max(1.0, np.abs(arrays[f"p{i}_init"]).max())
    arrays.check(f"p{i}_after", np.stack(after[part]), "parameter", scale=size)
  arrays.check("grad_norms", np.array(norms), "network")


def test_the_mean_of_the_batch_trains_as_the_sum_of_16_micro_batches(golden):
  """`configs/reference128.py` clips and rounds for means, not for sums."""
  arrays = golden("optimiser")
  options = reference128.get_config().optimizer
  summed, mean = optimizer_config(), optimizer_config()
  for config in (summed, mean):
    config.optimizer.update(
      encoder_rate=1e-4, field_rate=2e-4, denoiser_rate=2e-4
    )
  mean.optimizer.clip_norm, mean.optimizer.eps = options.clip_norm, options.eps
  results = []
  for config, scale in ((summed, 1.0), (mean, 1 / 16)):
    optimizer = optimizers.build_optimizer(config)
    params = {"encoder": jnp.asarray(arrays["p0_init"])}
    state = optimizer.init(params)
    for micro in arrays["g0"]:
      grads = {"encoder": micro.sum(0) * scale}
      updates, state = optimizer.update(grads, state, params)
      params = optax.apply_updates(params, updates)
    results.append(params["encoder"])
  np.testing.assert_allclose(results[0], results[1], atol=5e-7)


def test_srn_poses_and_intrinsics(golden):
  arrays = golden("srn_poses")
  raw = jnp.asarray(arrays["raw_poses"])
  arrays.check("poses_plain", camera_paths.flip_axes(raw), "pose")
  relative = unit_cube.relative_to_first(raw)
  arrays.check("poses_normalised", camera_paths.flip_axes(relative), "pose")
  distance = np.linalg.norm(raw[0, :3, 3])
  arrays.check("camera_d", distance, "pose")

  text = " ".join(map(str, arrays["raw_K"].ravel())).encode()
  stored, _ = parsing.parse_srn_intrinsics(text, (SIZE, SIZE))
  render = cameras.scale_intrinsics(jnp.asarray(stored), 64 / SIZE)
  arrays.check("intrinsics", render, "pose")
  arrays.check("intrinsics_img64", render, "pose")
  arrays.check("camera_k", render[0] / render[2], "pose")


def test_srn_images(golden):
  arrays = golden("srn_poses")
  raw = np.moveaxis(arrays["image0_uint8"], 0, -1)
  size = len(raw)
  png = io.BytesIO()
  alpha = np.full((size, size, 1), 255, np.uint8)
  Image.fromarray(np.concatenate([raw, alpha], -1)).save(png, "PNG")

  def read(target: int, resize: str) -> np.ndarray:
    record = {
      "images": [png.getvalue()],
      "poses": np.eye(4, dtype=np.float32)[None],
      "intrinsics": np.ones(4, np.float32),
      "image_size": np.array([size, size]),
    }
    decoded = decoding.decode_views(record, [0], target, resize)["images"][0]
    pictures = pipeline.from_uint8(jnp.asarray(decoded), (-1.0, 1.0))
    return np.moveaxis(np.asarray(pictures), -1, 0)

  full = read(size, "area")
  arrays.check("image0", full[:, ::2, ::2], "pose")
  every_second = read(size // 2, "stride")
  arrays.check("image0", every_second, "pose")
  arrays.check("image0_resized64", read(size // 2, "bicubic"), "pose")


def test_the_first_sampling_spiral(golden):
  arrays = golden("srn_poses")
  expected = arrays["spiral_poses"]
  distance = float(np.linalg.norm(expected[0, :3, 3]))
  ours = camera_paths.reference_spiral(len(expected), 1, (0, 80), distance)
  arrays.check("spiral_poses", camera_paths.flip_axes(ours), "pose", scale=1.0)


def test_z_every_array_was_read(check_all_read):
  check_all_read(FILES)
