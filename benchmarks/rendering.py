"""Ways of rendering, side by side: what each choice in it is worth.

  python -m benchmarks.rendering
  python -m benchmarks.rendering --parts=lookup --dtypes=float32

  lookup    the trilinear lookup of as many points as two passes over 64x64 rays
            take, with its gradient, read and scattered in several ways
  passes    two passes that share their samples, as we have them; the same with
            the samples sorted; and two of which the second evaluates all
            samples anew, as the reference does
  chunks    rays at a time: time, and memory of the compiled program
  storing   what the gradient takes if a chunk's values are kept instead of
            computed again

Each part runs its variants in turns; medians of --repeats. `cars64`, one scene,
one input view, one rendered view.
"""

import functools
import itertools
import statistics
import time
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from absl import flags

from benchmarks import measuring
from benchmarks import programs
from configs import cars64
from genvs_jax.geometry import rendering
from genvs_jax.geometry import volume_lookup
from genvs_jax.runtime import memory
from genvs_jax.runtime import platforms

PARTS = ("lookup", "passes", "chunks", "storing")
_PARTS = flags.DEFINE_list("parts", list(PARTS), "What to measure.")
_DTYPES = flags.DEFINE_list("dtypes", list(measuring.DTYPES), "Of volumes.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Runs of each, after one more.")
_POINTS = flags.DEFINE_integer("points", 2 * 64 * 64 * 64, "Of the lookup.")
_CHUNKS = flags.DEFINE_list(
  "chunks", [256, 512, 1024, 2048, 4096], "Rays at a time."
)
SIZE, CHANNELS = 64, 16


def main(argv):
  del argv
  platforms.keep_freed_memory()
  print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n")
  measure = {
    "lookup": measure_lookup,
    "passes": measure_passes,
    "chunks": measure_chunks,
    "storing": measure_storing,
  }
  for part in _PARTS.value:
    print(f"{measure[part]()}\n", flush=True)


def in_turns(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
  """Median seconds of each, measured alternately, in an order that changes."""
  times = {name: [] for name in runs}
  rng = np.random.default_rng(0)
  for repeat in range(_REPEATS.value + 1):
    for name in rng.permutation(list(runs)):
      begin = time.perf_counter()
      jax.block_until_ready(runs[name]())
      if repeat:
        times[name].append(time.perf_counter() - begin)
  return {name: statistics.median(values) for name, values in times.items()}


def program(function, *arguments) -> Callable[[], object]:
  options = platforms.gradient_options(jax.default_backend())
  jitted = jax.jit(function, compiler_options=options)
  compiled = jitted.lower(*arguments).compile()
  return lambda: compiled(*arguments)


# ------------------------------------------------------------------- lookup


def measure_lookup() -> str:
  """Milliseconds of each way of reading."""
  keys = jax.random.split(jax.random.key(0), 3)
  shape = (SIZE, SIZE, SIZE, CHANNELS)
  # Points of neighbouring samples are near each other, as along rays.
  rays = jax.random.uniform(keys[0], (_POINTS.value // SIZE, 1, 3), minval=-1)
  steps = jnp.linspace(-1, 1, SIZE)[:, None] * jnp.array([0.1, 0.1, 1.0])
  uvw = jnp.clip(0.9 * rays * jnp.array([1, 1, 0]) + steps, -1, 1)
  uvw = uvw.reshape(-1, 3)
  weight = jax.random.normal(keys[2], (len(uvw), CHANNELS))
  runs = {}
  for dtype, (name, lookup) in itertools.product(_DTYPES.value, WAYS.items()):
    volume = jax.random.normal(keys[1], shape).astype(dtype)

    def gradient(volume, uvw, lookup=lookup):
      def loss(volume):
        return jnp.sum(lookup(volume, uvw).astype(jnp.float32) * weight)

      return jax.grad(loss)(volume)

    runs[f"{name} | {dtype} | forward"] = program(lookup, volume, uvw)
    runs[f"{name} | {dtype} | gradient"] = program(gradient, volume, uvw)
  lines = [
    f"{len(uvw)} points of {CHANNELS} channels\n",
    "| | dtype | | ms |",
    "|---|---|---|---|",
  ]
  for name, seconds in in_turns(runs).items():
    lines.append(f"| {name} | {1e3 * seconds:.1f} |")
  return "\n".join(lines)


def corners(volume, uvw):
  """Base corner [P,3] and fractions [P,3] of points."""
  size = jnp.array(volume.shape[:3], jnp.float32)
  index = (uvw[:, jnp.array([1, 0, 2])] + 1) / 2 * (size - 1)
  base = jnp.clip(jnp.floor(index), 0, size - 2).astype(jnp.int32)
  return base, (index - base).astype(volume.dtype)


def read(volume, at, lengths):
  """Blocks [P,*lengths,C] that begin at corners [P,3]."""
  return jax.lax.gather(
    volume,
    at,
    jax.lax.GatherDimensionNumbers(
      offset_dims=(1, 2, 3, 4),
      collapsed_slice_dims=(),
      start_index_map=(0, 1, 2),
    ),
    (*lengths, volume.shape[-1]),
    mode=jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS,
  )


def in_blocks(volume, uvw, lengths):
  """Reads blocks of `lengths` (1 or 2 along each axis) corners at a time."""
  base, fraction = corners(volume, uvw)
  sides = jnp.stack([1 - fraction, fraction], -1)  # [P,3,2]
  total = 0
  starts = [(0,) if n == 2 else (0, 1) for n in lengths]
  for start in itertools.product(*starts):
    block = read(volume, base + jnp.array(start), lengths)
    weights = [
      sides[:, axis, first : first + n]
      for axis, (first, n) in enumerate(zip(start, lengths, strict=True))
    ]
    total += jnp.einsum("pijkc,pi,pj,pk->pc", block, *weights)
  return total


def by_flat_index(volume, uvw):
  """All eight corners in one read of rows of a [HWD,C] table."""
  base, fraction = corners(volume, uvw)
  _, width, depth, channels = volume.shape
  offsets = jnp.array(list(itertools.product((0, 1), repeat=3)))
  at = base[:, None] + offsets  # [P,8,3]
  flat = (at[..., 0] * width + at[..., 1]) * depth + at[..., 2]
  values = volume.reshape(-1, channels).at[flat].get(mode="promise_in_bounds")
  sides = jnp.where(offsets == 1, fraction[:, None], 1 - fraction[:, None])
  return jnp.einsum("pec,pe->pc", values, jnp.prod(sides, -1))


WAYS = {
  "ours: 8 reads, summed in float32": functools.partial(
    volume_lookup.trilinear_lookup, align_corners=True
  ),
  "8 reads": functools.partial(in_blocks, lengths=(1, 1, 1)),
  "4 reads of 2 in depth": functools.partial(in_blocks, lengths=(1, 1, 2)),
  "4 reads of 2 in a row": functools.partial(in_blocks, lengths=(1, 2, 1)),
  "2 reads of 4": functools.partial(in_blocks, lengths=(1, 2, 2)),
  "1 read of 8": functools.partial(in_blocks, lengths=(2, 2, 2)),
  "1 read of 8 rows by flat index": by_flat_index,
}


# ------------------------------------------------------- passes and chunks


def config_for(chunk: int = 1024):
  config = cars64.get_config()
  config.train.batch_size = config.model.input_views = 1
  config.rendering.rays_per_chunk = chunk
  return config


def evaluate_twice(field, origins, directions, near, far, counts, uniforms):
  """`rendering.render_rays`, whose second pass shares nothing."""

  def evaluate(distances):
    return field(
      origins[..., None, :] + distances[..., None] * directions[..., None, :]
    )

  last = (far - near) / counts.coarse
  coarse = rendering.coarse_distances(near, far, counts.coarse, uniforms.coarse)
  density, _ = evaluate(coarse)
  weights = rendering.compositing_weights(density, coarse, last)
  fine = rendering.fine_distances(coarse, weights, counts.fine, uniforms.fine)
  distances = jnp.sort(jnp.concatenate([coarse, fine], -1), -1)
  density, features = evaluate(distances)
  weights = rendering.compositing_weights(density, distances, last)
  opacity = jnp.sum(weights, -1)
  seen = jnp.einsum("...s,...sf->...f", weights, features)
  return rendering.Render(
    seen + (1 - opacity)[..., None],
    jnp.sum(weights * distances, -1),
    opacity,
  )


def weigh_sorted(first_density, first, second_density, second, last_interval):
  """`rendering.merged_compositing_weights` by sorting, there and back."""
  distances = jnp.concatenate([first, second], -1)
  density = jnp.concatenate([first_density, second_density], -1)
  order = jnp.argsort(distances, -1)
  weights = rendering.compositing_weights(
    jnp.take_along_axis(density, order, -1),
    jnp.take_along_axis(distances, order, -1),
    last_interval,
  )
  weights = jnp.take_along_axis(weights, jnp.argsort(order, -1), -1)
  return jnp.split(weights, [first.shape[-1]], -1)


def measure_passes() -> str:
  """Milliseconds, forward and with gradient."""
  runs = {}
  patches = {
    "ours: samples shared, counted": {"render_rays": rendering.render_rays},
    "samples shared, sorted": {"merged_compositing_weights": weigh_sorted},
    "all samples anew": {"render_rays": evaluate_twice},
  }
  for name, label in (("render", "forward"), ("render_gradient", "gradient")):
    for way, changes in patches.items():
      with mock.patch.multiple(rendering, **changes):
        runs[f"{way} | {label}"] = programs.build(config_for(), name).run
  lines = ["| second pass | | ms |", "|---|---|---|"]
  for name, seconds in in_turns(runs).items():
    lines.append(f"| {name} | {1e3 * seconds:.0f} |")
  return "\n".join(lines)


def measure_chunks() -> str:
  """Milliseconds and memory by rays at a time."""
  built = {
    f"{chunk} | {name}": programs.build(config_for(int(chunk)), name)
    for chunk in _CHUNKS.value
    for name in ("render", "render_gradient")
  }
  return _table("rays at a time", built)


def measure_storing() -> str:
  """Milliseconds and memory of the gradient."""
  built = {"computed again | 1024 rays": _gradient(1024)}
  with mock.patch.object(jax, "checkpoint", lambda function: function):
    built["kept | 1024 rays"] = _gradient(1024)
    built["kept | all rays at once"] = _gradient(0)
  return _table("a chunk's values are", built)


def _gradient(chunk: int) -> programs.Program:
  return programs.build(config_for(chunk), "render_gradient")


def _table(title: str, built: dict[str, programs.Program]) -> str:
  lines = [
    f"| {title} | | ms | compiled program, MiB |",
    "|---|---|---|---|",
  ]
  seconds = in_turns({name: p.run for name, p in built.items()})
  for name, one in built.items():
    mib = memory.of_program(one.compiled) / 2**20
    lines.append(f"| {name} | {1e3 * seconds[name]:.0f} | {mib:.0f} |")
  return "\n".join(lines)


if __name__ == "__main__":
  app.run(main)
