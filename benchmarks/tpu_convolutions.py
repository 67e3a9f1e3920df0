"""Two blocks of the denoiser compiled for a TPU, convolutions apart or joined.

  pip install 'jax[tpu]'
  python -m benchmarks.tpu_convolutions --topology=v5e:2x2

Forward and gradient in bfloat16 on one device, 32x32 pixels, 512 and 256
channels, for two batches. Nothing runs. Apart is the form of
`genvs_jax/runtime/platforms.py`; GB moved is `genvs_jax/aot/traffic.py`'s.
"""

import contextlib
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import app
from absl import flags

from genvs_jax.aot import topologies
from genvs_jax.aot import traffic
from genvs_jax.models import image_v1
from genvs_jax.runtime import platforms

_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "See docs/tpu.md.")
_BATCHES = flags.DEFINE_list("batches", ["4", "8"], "Pictures.")
_PIXELS, _INPUTS, _WIDTHS = 32, 512, (256, 128)


class Blocks(nn.Module):
  """Two residual blocks, with dropout."""

  @nn.compact
  def __call__(self, x: jax.Array, vector: jax.Array) -> jax.Array:
    for width in _WIDTHS:
      x = image_v1.ResBlock(_WIDTHS[0], width, 0.05, jnp.bfloat16)(
        x, vector, True
      )
    return x


def main(argv):
  del argv
  topology = topologies.load(_TOPOLOGY.value)
  place = jax.sharding.SingleDeviceSharding(topology.devices[0])
  print(
    f"one {topology.name} device, jax {jax.__version__}\n\n"
    "| batch | convolutions | compiled in, s | GB moved |\n|---|---|---|---|"
  )
  for batch in map(int, _BATCHES.value):
    for name, form in (
      ("joined", contextlib.nullcontext),
      ("apart", platforms.convolutions),
    ):
      arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        jax.eval_shape(lambda batch=batch: values(batch)),
      )
      with platforms.programs_for("tpu"):
        traced = jax.jit(gradient(form)).trace(*arguments)
      lowered = traced.lower(lowering_platforms=("tpu",))
      begin = time.perf_counter()
      compiled = lowered.compile()
      seconds = time.perf_counter() - begin
      moved = sum(traffic.by_kind(compiled.as_text()).values())
      print(
        f"| {batch} | {name} | {seconds:.0f} | {moved / 1e9:.3f} |", flush=True
      )


def values(batch: int) -> tuple:
  """Variables, pictures, conditioning vectors and a key for dropout."""
  x = jnp.zeros((batch, _PIXELS, _PIXELS, _INPUTS), jnp.bfloat16)
  vector = jnp.zeros((batch, 256))
  keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  return Blocks().init(keys, x, vector), x, vector, jax.random.key(2)


def gradient(form):
  """Of the sum of squares, by weights and pictures."""

  def loss(variables, x, vector, key):
    with form():
      y = Blocks().apply(variables, x, vector, rngs={"dropout": key})
    return jnp.sum(y.astype(jnp.float32) ** 2)

  return jax.grad(loss, (0, 1))


if __name__ == "__main__":
  app.run(main)
