"""The programs that the benchmarks time, compiled for a config.

  encoder            B scenes of V input views, without gradient
  render             T views of each scene from its V volumes
  denoiser           one evaluation for B images
  frame              one view of each scene with the config's sampler, from
                     pictures to a picture
  step               a whole train step
  encoder_gradient, render_gradient, denoiser_gradient
                     forward and backward, by parameters and by the input

B, V and T are `train.batch_size`, `model.input_views` and
`train.target_views`. Weights and pictures are random.
"""

import time
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import memory_scenes
from genvs_jax.geometry import rendering
from genvs_jax.models import builders
from genvs_jax.models import denoising
from genvs_jax.models import pipeline
from genvs_jax.runtime import flops
from genvs_jax.runtime import platforms
from genvs_jax.runtime import sharding
from genvs_jax.sampling import view_synthesis
from genvs_jax.training import startup
from genvs_jax.training import train_step
from tfds_srn.synthetic_cars import car_scenes

NAMES = ("encoder", "render", "denoiser", "step", "frame")


class Program(NamedTuple):
  """A program that is ready to run.

  Attributes:
    run: runs it once and waits for the result.
    compiled: what XLA made of it.
    operations: in its convolutions and matrix products, loops counted.
    compile_seconds: of tracing and compiling.
    devices: that share its work.
  """

  run: Callable[[], Any]
  compiled: jax.stages.Compiled
  operations: int
  compile_seconds: float
  devices: int = 1


def build(config, name: str) -> Program:
  """One of the programs above."""
  model = builders.build_model(config)
  if name == "step":
    return _build_step(config, model)
  part = name.removesuffix("_gradient")
  build_one = {
    "encoder": _encoder,
    "render": _render,
    "denoiser": _denoiser,
    "frame": _frame,
  }[part]
  function, parts, *arguments = build_one(config, model, name != part)
  variables = _init(model, parts)
  if name != part:
    function = _gradient(function)
  options = platforms.gradient_options(jax.default_backend())
  begin = time.perf_counter()
  traced = jax.jit(
    function, compiler_options=options if name != part else None
  ).trace(variables, *arguments)
  compiled = traced.lower().compile()
  seconds = time.perf_counter() - begin
  return Program(
    lambda: jax.block_until_ready(compiled(variables, *arguments)),
    compiled,
    flops.count(traced.jaxpr),
    seconds,
  )


def random_batch(config) -> dict[str, np.ndarray]:
  """A batch of noise pictures at cameras all over the sphere."""
  rng = np.random.default_rng(0)
  count, size = config.train.batch_size, config.model.image_size
  views = config.model.input_views + config.train.target_views
  return {
    "images": rng.integers(
      0, 256, (count, views, size, size, 3), dtype=np.uint8
    ),
    "poses": np.stack(
      [car_scenes.train_poses(0, "train", i, views) for i in range(count)]
    ),
    "intrinsics": np.tile(memory_scenes.intrinsics(size), (count, views, 1)),
    "scene": np.arange(count, dtype=np.int32),
  }


def _build_step(config, model: pipeline.Model) -> Program:
  mesh = sharding.make_mesh(
    replicas=config.mesh.replicas, shards=config.mesh.shards
  )
  abstract = jax.eval_shape(lambda: startup.init_state(config, model))
  state = startup.init_on_devices(
    config, model, sharding.split_state(mesh, abstract)
  )
  jax.block_until_ready(state)
  begin = time.perf_counter()
  compiled, operations = train_step.compile_step(config, model, mesh, state)
  seconds = time.perf_counter() - begin
  batch = sharding.to_devices(
    random_batch(config), mesh, config.train.batch_size
  )

  def run():
    nonlocal state
    state, metrics = compiled(state, batch)
    return jax.block_until_ready((state, metrics))

  return Program(run, compiled, operations, seconds, mesh.size)


def _init(model: pipeline.Model, parts: tuple[str, ...]):
  # A long program that runs once, see `startup.init_on_devices`.
  options = {"xla_backend_optimization_level": 0}
  return jax.jit(
    lambda: builders.init_variables(model, jax.random.key(0), parts),
    compiler_options=options if jax.default_backend() == "cpu" else None,
  )()


def _gradient(function):
  """The gradient of the mean square of all outputs, by parameters and x."""

  def of_params(params, x, buffers, rest):
    out = function(pipeline.join_variables(params, buffers), x, rest)
    return sum(jnp.mean(jnp.square(y.astype(jnp.float32))) for y in out)

  def run(variables, x, rest):
    params, buffers = pipeline.split_variables(variables)
    return jax.grad(of_params, (0, 1))(params, x, buffers, rest)

  return run


# Each gives (variables, x, rest) -> outputs, the parts that it needs, and its
# input: x, of which there may be a gradient, and the rest.


def _encoder(config, model, train: bool):
  images = random_batch(config)["images"][:, : config.model.input_views]

  def encode(variables, images, rest):
    del rest
    return pipeline.encode(model, variables, images, train=train)[:1]

  return encode, ("encoder",), jnp.asarray(images / np.float32(255)), ()


def _render(config, model, train: bool):
  batch, views = random_batch(config), config.model.input_views
  count = len(batch["poses"])
  keys = jax.random.split(jax.random.key(0), 3)
  size, planes = model.image_size, model.encoder.depth_planes
  shape = (count, views, size, size, planes, model.encoder.channels)
  volumes = jax.random.normal(keys[0], shape, model.encoder.dtype)
  uniforms = rendering.Uniforms(None, None)
  if train:
    rays = config.train.target_views * model.render_size**2
    uniforms = rendering.Uniforms(
      jax.random.uniform(keys[1], (count, rays, model.counts.coarse)),
      jax.random.uniform(keys[2], (count, rays, model.counts.fine)),
    )

  def render(variables, volumes, rest):
    poses, intrinsics, uniforms = rest
    inputs = pipeline.InputViews(
      volumes,
      poses[:, :views],
      intrinsics,
      jnp.ones((count, views), bool),
    )
    return pipeline.render_features(
      model, variables, inputs, poses[:, views:], uniforms
    )

  rest = (batch["poses"], batch["intrinsics"][:, :views], uniforms)
  return render, ("field",), volumes, rest


def _denoiser(config, model, train: bool):
  key = jax.random.key(0)
  size, count = model.image_size, config.train.batch_size
  features = jax.random.uniform(
    key, (count, size, size, model.denoiser_features)
  )

  def predict(variables, features, rest):
    noisy, sigma, key = rest
    return denoising.predict(
      model,
      variables,
      noisy,
      sigma,
      features,
      dropout_key=key if train else None,
    )

  noisy = jax.random.normal(key, (count, size, size, 3))
  return predict, ("denoiser",), features, (noisy, jnp.ones(count), key)


def _frame(config, model, train: bool):
  del train
  batch, views = random_batch(config), config.model.input_views
  inputs = {
    "images": batch["images"][:, :views],
    "poses": batch["poses"][:, :views],
    "intrinsics": batch["intrinsics"][:, :views],
  }
  keys = view_synthesis.view_keys(0, batch["scene"], np.arange(1))
  draw = view_synthesis.build_synthesize(config, model)

  def frame(variables, inputs, rest):
    return draw(variables, inputs, *rest)

  rest = (batch["poses"][:, views : views + 1], keys)
  return frame, pipeline.PARTS, inputs, rest
