"""Compiles the train step: the loop and the benchmarks run one program."""

import jax
import ml_collections
from absl import logging

from genvs_jax.models import builders
from genvs_jax.models import pipeline
from genvs_jax.runtime import cpu
from genvs_jax.runtime import flops
from genvs_jax.runtime import memory
from genvs_jax.runtime import sharding
from genvs_jax.training import train_step


def lower(
  traced: jax.stages.Traced, mesh: jax.sharding.Mesh
) -> jax.stages.Lowered:
  """A program for the devices of a mesh, which may not be here.

  Args:
    traced: the program.
    mesh: the devices.
  """
  platform = mesh.devices.flat[0].platform
  # That of devices that are here may have another name there (gpu and cuda).
  is_here = platform == jax.default_backend()
  return traced.lower(lowering_platforms=None if is_here else (platform,))


def compile_step(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  mesh: jax.sharding.Mesh,
  state: train_step.TrainState,
) -> tuple[jax.stages.Compiled, int]:
  """The compiled (state, batch) -> (state, metrics), and its operations.

  Args:
    config: see `configs/base.py`.
    model: that it describes.
    mesh: the devices.
    state: placed on them, or its shapes.
  """
  # Shapes and places are the same at every step: compiled once, called often.
  state_shardings = sharding.split_state(mesh, state)
  step = jax.jit(
    train_step.build_train_step(config, model, mesh),
    # The new state takes the memory of the old one.
    donate_argnums=0,
    in_shardings=(state_shardings, sharding.split_batch(mesh)),
    out_shardings=(state_shardings, sharding.replicated(mesh)),
    compiler_options=cpu.gradient_options(mesh.devices.flat[0].platform),
  )
  # Traced once, for both: operations are counted before XLA rewrites them.
  traced = step.trace(state, builders.batch_spec(config))
  operations = flops.count(traced.jaxpr)
  compiled = lower(traced, mesh).compile()
  logging.info(
    "a step takes %.3g TFLOP and %.2f GiB on each device",
    operations / 1e12,
    memory.of_program(compiled) / 2**30,
  )
  return compiled, operations
