"""From a config to the compiled train step."""

from typing import Any

import jax
import numpy as np
from absl import logging

from genvs_jax.models import pipeline
from genvs_jax.runtime import flops
from genvs_jax.runtime import sharding
from genvs_jax.training import train_state


def batch_spec(config) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and dtypes of the global batches of training."""
  count, size = config.train.batch_size, config.model.image_size
  views = config.model.input_views + config.train.target_views
  shapes = {
    "images": ((count, views, size, size, 3), np.uint8),
    "poses": ((count, views, 4, 4), np.float32),
    "intrinsics": ((count, 4), np.float32),
    "scene": ((count,), np.int32),
  }
  return {k: jax.ShapeDtypeStruct(*spec) for k, spec in shapes.items()}


def compile_step(config, model: pipeline.Model, mesh, state):
  """The compiled (state, batch) -> (state, metrics), and its operations.

  Args:
    config: see `configs/base.py`.
    model: that it describes.
    mesh: the devices.
    state: placed on them, or its shapes.
  """
  shardings = sharding.split_state(mesh, state)
  whole = sharding.whole_leaves(mesh, state.params)
  if whole:
    logging.info(
      "%d parameters have no axis that %d divides and stay whole: %s",
      len(whole),
      config.mesh.shards,
      ", ".join(whole),
    )
  step = jax.jit(
    train_state.build_train_step(
      config, model, sharding.build_gather(mesh), sharding.build_scatter(mesh)
    ),
    donate_argnums=0,
    in_shardings=(shardings, sharding.split_batch(mesh)),
    out_shardings=(shardings, sharding.replicated(mesh)),
    compiler_options=options(mesh.devices.flat[0].platform),
  )
  traced = step.trace(state, batch_spec(config))
  operations = flops.count(traced.jaxpr)
  compiled = traced.lower().compile()
  logging.info(
    "a step takes %.3g TFLOP and %.2f GiB on each device",
    operations / 1e12,
    bytes_needed(compiled) / 2**30,
  )
  return compiled, operations


def options(platform: str) -> dict[str, str] | None:
  """Compiler options for programs with gradients."""
  if platform != "cpu":
    return None
  # Of the two orders that XLA knows on CPU, the one that needs less memory.
  return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def bytes_needed(compiled: Any) -> int:
  """Bytes on each device that a compiled program needs while it runs."""
  analysis = compiled.memory_analysis()
  return (
    analysis.argument_size_in_bytes
    + analysis.output_size_in_bytes
    - analysis.alias_size_in_bytes
    + analysis.temp_size_in_bytes
  )
