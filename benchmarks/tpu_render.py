"""The render compiled for a TPU, with either form of the volume lookup.

  pip install 'jax[tpu]'
  python -m benchmarks.tpu_render --config=cars64 --topology=v5e:2x2

One device renders a view of each of --scenes scenes, forward and with the
gradient by weights and volumes. Nothing runs. XLA's count of bytes takes the
body of a loop once; GB moved is `genvs_jax/aot/traffic.py`'s.
"""

import dataclasses
import functools
import importlib
import time

import jax
import jax.numpy as jnp
from absl import app
from absl import flags

from genvs_jax.aot import topologies
from genvs_jax.aot import traffic
from genvs_jax.geometry import rendering
from genvs_jax.geometry import volume_lookup
from genvs_jax.models import builders
from genvs_jax.models import pipeline

_CONFIG = flags.DEFINE_string("config", "cars64", "A module of configs.")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "See docs/tpu.md.")
_SCENES = flags.DEFINE_integer("scenes", 4, "On the device.")
_FORMS = flags.DEFINE_list(
  "forms", list(volume_lookup.FORMS[1:]), "Of the lookup."
)


def main(argv):
  del argv
  config = importlib.import_module(f"configs.{_CONFIG.value}").get_config()
  config.model.dtype = "bfloat16"
  topology = topologies.load(_TOPOLOGY.value)
  place = jax.sharding.SingleDeviceSharding(topology.devices[0])
  model = builders.build_model(config)
  arguments = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes(config, model, _SCENES.value),
  )
  print(
    f"{_CONFIG.value}, bfloat16, {_SCENES.value} scenes on one"
    f" {topology.name} device, jax {jax.__version__}\n\n"
    "| | lookup | compiled in, s | XLA: GB | GB moved | temporaries, GiB |\n"
    "|---|---|---|---|---|---|"
  )
  for name in ("render", "render and gradient"):
    for form in _FORMS.value:
      function = build(dataclasses.replace(model, lookup=form), name)
      lowered = jax.jit(function).trace(*arguments)
      lowered = lowered.lower(lowering_platforms=("tpu",))
      begin = time.perf_counter()
      compiled = lowered.compile()
      seconds = time.perf_counter() - begin
      counted = (compiled.cost_analysis() or {}).get("bytes accessed", 0)
      moved = sum(traffic.by_kind(compiled.as_text() or "").values())
      analysis = compiled.memory_analysis()
      print(
        f"| {name} | {form} | {seconds:.0f} | {counted / 1e9:.1f}"
        f" | {moved / 1e9:.1f} | {analysis.temp_size_in_bytes / 2**30:.2f} |",
        flush=True,
      )


def shapes(config, model: pipeline.Model, scenes: int) -> tuple:
  """Of (variables, volumes, poses, intrinsics, target poses, uniforms)."""
  variables = jax.eval_shape(
    lambda: builders.init_variables(
      model, jax.random.key(0), ("encoder", "field")
    )
  )
  views, size = config.model.input_views, model.image_size
  volumes = jax.eval_shape(
    functools.partial(model.encoder.apply, train=False),
    variables["encoder"],
    jax.ShapeDtypeStruct((scenes * views, size, size, 3), jnp.float32),
  )
  volumes = jax.ShapeDtypeStruct(
    (scenes, views, *volumes.shape[1:]), volumes.dtype
  )

  def array(*shape):
    return jax.ShapeDtypeStruct((scenes, *shape), jnp.float32)

  rays = model.render_size**2
  uniforms = rendering.Uniforms(
    array(rays, model.counts.coarse), array(rays, model.counts.fine)
  )
  poses = array(views, 4, 4), array(4), array(1, 4, 4)
  return variables, volumes, *poses, uniforms


def build(model: pipeline.Model, name: str):
  """The program `name`."""

  def render(variables, volumes, poses, intrinsics, targets, uniforms):
    mask = jnp.ones(poses.shape[:2], bool)
    inputs = pipeline.InputViews(volumes, poses, intrinsics, mask)
    view = pipeline.render_features(model, variables, inputs, targets, uniforms)
    return view.features

  def loss(*arguments):
    return jnp.sum(render(*arguments) ** 2)

  return render if name == "render" else jax.grad(loss, argnums=(0, 1))


if __name__ == "__main__":
  app.run(main)
