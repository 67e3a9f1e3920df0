"""`--mode=compile`: the programs of a run, compiled for a TPU slice.

Says what each device holds, what is sent, which buffers are large and how they
are laid out; nothing runs.
"""

import functools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging
from etils import epath

from genvs_jax.aot import program_text
from genvs_jax.aot import topologies
from genvs_jax.aot import traffic
from genvs_jax.checkpointing import checkpoints
from genvs_jax.models import builders
from genvs_jax.runtime import compilation
from genvs_jax.runtime import files
from genvs_jax.runtime import flops
from genvs_jax.runtime import memory
from genvs_jax.runtime import platforms
from genvs_jax.runtime import sharding
from genvs_jax.sampling import view_synthesis
from genvs_jax.training import stages
from genvs_jax.training import startup
from genvs_jax.training import train_step

_GIB = 2**30
FILE = "compile.json"


def run(
  config: ml_collections.ConfigDict,
  topology_name: str,
  workdir: str,
  finds_largest: bool,
) -> list[str]:
  """Compiles the train step and the frame program; the lines to print.

  Of a recipe in stages it is the step of the last, the denoiser's.

  Args:
    config: see `configs/base.py`.
    topology_name: see `topologies.load`.
    workdir: that receives compile.json; "" for none.
    finds_largest: also find the largest batch whose step fits.

  Raises:
    ValueError: for a topology that is not known, or a batch that it cannot
      share.
  """
  topology = topologies.load(topology_name)
  config = config.copy_and_resolve_references()
  if config.train.render_steps:
    config = stages.denoiser_stage(config, "")
  # Where it is measured, any value gives the same program.
  config.diffusion.sigma_data = config.diffusion.sigma_data or 0.5
  # A slice each has a whole copy: what is sent often stays inside of it.
  mesh = sharding.make_mesh(
    topology.devices,
    replicas=config.mesh.replicas,
    shards=config.mesh.shards,
  )
  sharding.check_batch_size(
    config.train.batch_size, config.train.accumulation, mesh
  )
  result: dict[str, Any] = {
    "topology": topology.name,
    "devices": len(topology.devices),
    "device_kind": topology.devices[0].device_kind,
    "memory_bytes": topology.memory,
    "batch_size": config.train.batch_size,
  }
  for name, build in (("step", _step), ("frame", _frame)):
    compile_program = functools.partial(build, config, mesh)
    result[name] = _measured(compile_program, mesh, topology.memory)
  if finds_largest:
    result["largest_batch_size"] = largest_batch(
      config, mesh, topology.memory, result["step"]
    )
  lines = _lines(result)
  if workdir:
    path = epath.Path(workdir) / FILE
    files.write_whole(path, f"{json.dumps(result, indent=1)}\n".encode())
    lines.append(f"all of it    {path}")
  return lines


def _step(
  config: ml_collections.ConfigDict, mesh
) -> tuple[jax.stages.Compiled, int]:
  """The train step, by the code that a run starts with, and its operations."""
  model = builders.build_model(config)
  state = jax.eval_shape(lambda: startup.init_state(config, model))
  state = checkpoints.abstract_like(state, sharding.split_state(mesh, state))
  return train_step.compile_step(config, model, mesh, state)


def _frame(
  config: ml_collections.ConfigDict, mesh
) -> tuple[jax.stages.Compiled, int]:
  """A view of a scene on each device, from pictures to a picture."""
  model = builders.build_model(config)
  count, size = mesh.size, model.image_size
  views = config.model.input_views
  parts = builders.parts_of(config.objective.name)
  variables = jax.eval_shape(
    lambda: builders.init_variables(model, jax.random.key(0), parts)
  )
  arguments = (
    {
      "images": jax.ShapeDtypeStruct((count, views, size, size, 3), jnp.uint8),
      "poses": jax.ShapeDtypeStruct((count, views, 4, 4), jnp.float32),
      "intrinsics": jax.ShapeDtypeStruct(
        (count, views, builders.intrinsics_width(config)), jnp.float32
      ),
    },
    jax.ShapeDtypeStruct((count, 1, 4, 4), jnp.float32),
    jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (count, 1))),
  )
  everywhere, split = sharding.replicated(mesh), sharding.split_batch(mesh)
  draw = view_synthesis.build_draw(config, model, parts)
  drawing = jax.jit(draw, in_shardings=(everywhere, split, split, split))
  platform = mesh.devices.flat[0].platform
  with platforms.programs_for(platform):
    traced = drawing.trace(variables, *arguments)
  compiled = compilation.compile_traced(traced, platform, "drawing of a frame")
  return compiled, flops.count(traced.jaxpr)


def _measured(
  compile_program: Callable[[], tuple[jax.stages.Compiled, int]],
  mesh,
  limit: int,
) -> dict[str, Any]:
  """What a program takes, or why it does not fit."""
  begun = time.perf_counter()
  try:
    compiled, operations = compile_program()
  # The compiler's own word for a program that does not fit.
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    seconds = time.perf_counter() - begun
    return {"fits": False, "compile_seconds": round(seconds, 1)}
  seconds = time.perf_counter() - begun
  analysis: Any = compiled.memory_analysis()
  text = compiled.as_text() or ""
  costs = compiled.cost_analysis() or {}
  total = memory.of_program(compiled) + analysis.generated_code_size_in_bytes
  return {
    "fits": total <= limit,
    "compile_seconds": round(seconds, 1),
    "bytes_per_device": {
      "total": total,
      "arguments": analysis.argument_size_in_bytes,
      "outputs": analysis.output_size_in_bytes,
      "aliased": analysis.alias_size_in_bytes,
      "temporaries": analysis.temp_size_in_bytes,
      "code": analysis.generated_code_size_in_bytes,
    },
    "operations_per_device": operations // mesh.size,
    "bytes_accessed_per_device": costs.get("bytes accessed"),
    "bytes_moved_per_device": traffic.by_kind(text),
    "cycles_per_device": program_text.estimated_cycles(text),
    "collectives_per_device": program_text.collectives(text),
    "largest_buffers": program_text.largest_buffers(text),
  }


def largest_batch(
  config: ml_collections.ConfigDict, mesh, limit: int, step: dict[str, Any]
) -> int:
  """The largest batch of all devices whose step fits.

  A bracket is narrowed down to one device's example by straight lines: memory
  grows by about the same with each example, and a step compiles for minutes.

  Args:
    config: whose other fields hold.
    mesh: the devices.
    limit: bytes of each.
    step: what `_measured` said of the step with the config's own batch.
  """
  unit = mesh.size * config.train.accumulation
  sizes: list[tuple[int, int]] = []
  units = config.train.batch_size // unit
  low, high = 0, None  # low fits, high does not
  while True:
    if "bytes_per_device" in step:
      size = step["bytes_per_device"]
      if not sizes:  # without a batch there is still the state
        sizes.append((0, size["arguments"]))
      sizes.append((units, size["total"]))
    if step["fits"]:
      low = units
    else:
      high = units
    if high is not None and high - low <= 1:
      return low * unit
    # Where the line through the last two sizes meets the limit.
    units = (low + (high or 2 * low)) // 2
    if len(sizes) > 1:
      (u0, b0), (u1, b1) = sizes[-2:]
      if b1 != b0:
        units = u0 + int((limit - b0) * (u1 - u0) / (b1 - b0))
    units = max(units, low + 1)
    if high is not None:
      units = min(units, high - 1)
    changed = config.copy_and_resolve_references()
    changed.train.batch_size = units * unit
    logging.info("trying a batch of %d", units * unit)
    step = _measured(functools.partial(_step, changed, mesh), mesh, limit)


def _lines(result: dict[str, Any]) -> list[str]:
  lines = [
    f"topology     {result['topology']}, {result['devices']} devices of"
    f" {result['memory_bytes'] / _GIB:.0f} GiB"
  ]
  for name in ("step", "frame"):
    lines += _program_lines(name, result[name], result)
  if "largest_batch_size" in result:
    lines.append(f"largest      batch of {result['largest_batch_size']} fits")
  return lines


def _program_lines(name: str, program: dict, result: dict) -> list[str]:
  """What is said of one program."""
  took = f"compiled in {program['compile_seconds']:.0f} s"
  change = (
    f"batch {result['batch_size']} does not fit: lower train.batch_size, raise"
    " mesh.shards or train.accumulation, or set model.denoiser.remat"
  )
  if "bytes_per_device" not in program:
    return [f"{name:12s} {took}; {change}"]
  size = {k: v / _GIB for k, v in program["bytes_per_device"].items()}
  lines = [
    f"{name:12s} {took}; {size['total']:.2f} GiB on each device: arguments"
    f" {size['arguments']:.2f}, outputs {size['outputs']:.2f} (of which"
    f" {size['aliased']:.2f} in place), temporaries {size['temporaries']:.2f}"
  ]
  if not program["fits"]:
    lines.append(f"             {change}")
  operations = program["operations_per_device"]
  moved = sum(program["bytes_moved_per_device"].values())
  lines.append(
    f"             {operations / 1e12:.3g} TFLOP and {moved / 1e9:.3g} GB moved"
    + _at_published_rates(operations, moved, result["device_kind"])
  )
  cycles = program.get("cycles_per_device")
  if cycles:
    lines.append(
      f"             {cycles / 1e6:.4g} million cycles, as the compiler expects"
    )
  for kind, row in program["collectives_per_device"].items():
    lines.append(
      f"             {row['count']} {kind}, {row['bytes'] / 1e6:.4g} MB"
    )
  lines.append(f"  {'MiB':>9s} {'with padding':>12s}  largest buffers")
  for row in program["largest_buffers"]:
    lines.append(
      f"  {row['bytes'] / 2**20:9.1f} {row['padded_bytes'] / 2**20:12.1f}"
      f"  {row['array']}{row['layout']} {row['source'][-60:]}"
    )
  return lines


def _at_published_rates(operations: int, moved: int, device_kind: str) -> str:
  """How long both would take, if nothing else took time."""
  peak, bandwidth = flops.peak(device_kind), flops.bandwidth(device_kind)
  if not peak or not bandwidth:
    return ""
  return (
    f": {operations / peak * 1e3:.0f} and {moved / bandwidth * 1e3:.0f} ms at"
    " the chip's published rates (computed, not measured)"
  )
