"""Eight simulated devices: the same curve, less memory on each, no detours."""

import math
import re

import jax
import numpy as np
import pytest

from configs import cars64
from configs import debug
from genvs_jax.checkpointing import checkpoints
from genvs_jax.models import builders
from genvs_jax.runtime import sharding
from genvs_jax.training import loop
from genvs_jax.training import startup
from genvs_jax.training import train_step
from tests.training.test_loop import read_metrics

LOSSES = ("loss", "loss_denoising", "loss_rgb", "loss_opacity", "gradient_norm")


def assert_same_curve(workdir, other, steps: int):
  for name in LOSSES:
    ours, theirs = read_metrics(workdir, name), read_metrics(other, name)
    assert sorted(ours) == list(range(1, steps + 1))
    np.testing.assert_allclose(
      [ours[i] for i in ours], [theirs[i] for i in ours], rtol=5e-5
    )


def bytes_of(tree) -> int:
  return sum(x.nbytes for x in jax.tree.leaves(tree))


def bytes_on_one_device(tree) -> int:
  return sum(
    np.prod(x.sharding.shard_shape(x.shape), dtype=int) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


# Eight copies of the state, one spread over all devices, and in between.
@pytest.mark.parametrize(
  "shards",
  [
    pytest.param(1, marks=pytest.mark.slow),
    2,
    pytest.param(8, marks=pytest.mark.slow),
  ],
)
def test_eight_devices_and_then_one(
  shards, debug_config, trained_workdir, tmp_path
):
  debug_config.mesh.shards = shards
  debug_config.train.steps = 4
  state = loop.train_and_evaluate(debug_config, str(tmp_path))
  kernel = state.params["encoder"]["head"]["kernel"]
  assert len(kernel.devices()) == 8
  assert bytes_on_one_device(kernel) == kernel.nbytes / shards
  assert len({str(s.index) for s in kernel.addressable_shards}) == shards
  assert_same_curve(str(tmp_path), trained_workdir, 4)
  debug_config.mesh.shards = 1
  debug_config.train.steps = 8
  loop.train_and_evaluate(debug_config, str(tmp_path), jax.devices()[:1])
  assert_same_curve(str(tmp_path), trained_workdir, 8)


@pytest.mark.parametrize("count", [2, 8])
def test_bytes_on_each_device_of_cars64(count):
  config = cars64.get_config()
  model = builders.build_model(config)
  mesh = sharding.make_mesh(jax.devices()[:count], shards=count)
  state = jax.eval_shape(lambda: startup.init_state(config, model))
  placed = checkpoints.abstract_like(state, sharding.split_state(mesh, state))
  for part in ("params", "ema", "opt_state"):
    tree = getattr(placed, part)
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
    assert bytes_on_one_device(tree) <= 1.25 / count * total
  # What has no axis that divides is listed, and nothing else stays whole.
  listed = set(sharding.whole_leaves(mesh, placed.params))
  for path, leaf in jax.tree.leaves_with_path(placed.params):
    whole = jax.tree_util.keystr(path) in listed
    assert whole == all(n % count for n in leaf.shape)


def collectives(config) -> list[tuple[str, int]]:
  """(kind, bytes) of each array that the compiled step sends."""
  model = builders.build_model(config)
  mesh = sharding.make_mesh(shards=config.mesh.shards)
  state = jax.eval_shape(lambda: startup.init_state(config, model))
  placed = checkpoints.abstract_like(state, sharding.split_state(mesh, state))
  compiled, _ = train_step.compile_step(config, model, mesh, placed)
  kinds = (
    "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    "|collective-broadcast|ragged-all-to-all"
  )
  result = re.findall(
    rf"^.*? = (.*?) ({kinds})(?:-start)?\(", compiled.as_text(), re.MULTILINE
  )
  sizes = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1}
  # XLA may send several arrays in one go, and differently each time.
  return sorted(
    (kind, sizes[dtype] * math.prod(int(n) for n in dims.split(",") if n))
    for shapes, kind in result
    for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
  )


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 8])
def test_communication_does_not_grow_with_the_data(shards):
  """Twice the batch on each device, twice the image, four times the rays."""
  small = debug.get_config()
  small.train.batch_size, small.mesh.shards = 8, shards
  large = debug.get_config()
  large.train.batch_size, large.mesh.shards = 16, shards
  large.model.image_size = 2 * small.model.image_size
  large.rendering.size = 2 * small.rendering.size
  large.rendering.rays_per_chunk = 4 * small.rendering.rays_per_chunk
  ours = collectives(small)
  if shards > 1:
    assert {kind for kind, _ in ours} >= {"all-gather"}
  assert sum(size for _, size in ours) > 0
  assert ours == collectives(large)
