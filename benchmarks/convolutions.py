"""Rates of XLA's convolutions and of those in `runtime.platforms`.

  python -m benchmarks.convolutions

One image, the layers that take most of the time at `reference128`, and below
them those of `cars64_small`. A row has
GFLOP/s (medians) of the forward pass, and of the gradients by the image and by
the kernel; beside them those of a large matrix product.
"""

import statistics

import jax
import jax.numpy as jnp
from absl import app
from absl import flags

from benchmarks import measuring
from genvs_jax.runtime import platforms

_REPEATS = flags.DEFINE_integer("repeats", 7, "Runs of each, after one more.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Or bfloat16.")

# (pixels along a side, kernel size, input and output channels)
LAYERS = (
  (128, 3, 515, 515),
  (128, 1, 515, 1024),
  (64, 3, 576, 512),
  (64, 1, 512, 2048),
  (32, 3, 576, 512),
  (128, 3, 128, 128),
  (64, 3, 128, 128),
  (32, 3, 256, 256),
  (16, 3, 512, 512),
  (8, 3, 512, 512),
  (64, 3, 67, 67),
  (64, 1, 67, 512),
  (64, 3, 32, 32),
  (32, 3, 64, 64),
)


def main(argv):
  del argv
  device = jax.devices()[0]
  x = jnp.ones((4096, 4096), _DTYPE.value)
  rate = 2 * 4096**3 / seconds(lambda x: x @ x, x) / 1e9
  print(f"{device.device_kind}, jax {jax.__version__}, {_DTYPE.value}")
  print(f"product of two 4096x4096 matrices: {rate:.0f} GFLOP/s\n")
  print("| layer | XLA: forward, by image, by kernel | ours |")
  print("|---|---|---|")
  for layer in LAYERS:
    side, size, inputs, outputs = layer
    ours = platforms.pointwise if size == 1 else platforms.same
    cells = [cell(function, layer) for function in (plain, ours)]
    name = f"{size}x{size}, {inputs} to {outputs}, {side}x{side} pixels"
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def plain(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def cell(function, layer) -> str:
  side, size, inputs, outputs = layer
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (1, side, side, inputs), _DTYPE.value)
  kernel = jax.random.normal(
    keys[1], (size, size, inputs, outputs), _DTYPE.value
  )
  g = jax.random.normal(keys[2], (1, side, side, outputs), _DTYPE.value)

  def by_image(x, kernel, g):
    return jax.vjp(lambda x: function(x, kernel), x)[1](g)

  def by_kernel(x, kernel, g):
    return jax.vjp(lambda kernel: function(x, kernel), kernel)[1](g)

  operations = 2 * (side * size) ** 2 * inputs * outputs
  times = [
    seconds(function, x, kernel),
    seconds(by_image, x, kernel, g),
    seconds(by_kernel, x, kernel, g),
  ]
  return ", ".join(f"{operations / t / 1e9:.0f}" for t in times)


def seconds(function, *arguments) -> float:
  """Median of the runs of a compiled function."""
  compiled = jax.jit(function).lower(*arguments).compile()
  times = measuring.time_runs(
    lambda: jax.block_until_ready(compiled(*arguments)), _REPEATS.value
  )
  return statistics.median(times)


if __name__ == "__main__":
  app.run(main)
