"""Types and precision of the train step, as it is lowered for a TPU.

No TPU and no compiler of one is needed: the program is read before XLA.
"""

import collections
import functools
import re

import jax
import pytest

from configs import debug
from genvs_jax.aot import program_text
from genvs_jax.models import builders
from genvs_jax.runtime import platforms
from genvs_jax.runtime import sharding
from genvs_jax.training import startup
from genvs_jax.training import train_step

# JAX's names of what the networks compute; the field's is Flax's own.
NETWORKS = re.compile(r"\((encoder|denoiser)\)|RadianceField")
ARITHMETIC = re.compile(
  r"(add|subtract|multiply|divide|exponential|exponential-minus-one|log|power"
  r"|sqrt|rsqrt|tanh|logistic|reduce|reduce-window)"
)
CALLS = ("to_apply", "body", "condition", "calls", "branch_computations")
BRANCHES = ("true_computation", "false_computation")


def instructions(text: str) -> list[tuple[str, str, str, str]]:
  """(type, opcode, attributes, JAX's names of it and of all that call it)."""
  computations, _ = program_text.parse(text)
  callers = collections.defaultdict(list)
  for computation, lines in computations.items():
    for line in lines.values():
      for called in line.called(*CALLS, *BRANCHES):
        callers[called].append((computation, line.source))

  @functools.cache
  def scope(computation: str) -> str:
    return " ".join(
      sorted({f"{scope(c)} {name}" for c, name in callers[computation]})
    )

  return [
    (
      line.arrays[0].dtype if line.arrays else "",
      line.opcode,
      line.attributes,
      f"{scope(computation)} {line.source}",
    )
    for computation, lines in computations.items()
    for line in lines.values()
  ]


@pytest.fixture(scope="module")
def lines() -> list[tuple[str, str, str, str]]:
  config = debug.get_config()
  config.model.dtype = "bfloat16"
  model = builders.build_model(config)
  mesh = sharding.make_mesh(jax.devices()[:1])
  state = jax.eval_shape(lambda: startup.init_state(config, model))
  step = jax.jit(train_step.build_train_step(config, model, mesh))
  with platforms.programs_for("tpu"):
    traced = step.trace(state, builders.batch_spec(config))
  lowered = traced.lower(lowering_platforms=("tpu",))
  return instructions(lowered.as_text("hlo", debug_info=True))


def is_product(opcode: str) -> bool:
  return opcode in ("dot", "convolution")


def test_networks_multiply_in_bfloat16(lines):
  products = [
    (kind, name)
    for kind, opcode, _, name in lines
    if is_product(opcode) and NETWORKS.search(name)
  ]
  # By design these stay float32: what noise levels become, and the last layer.
  float32_layers = re.compile("mapp(er|ing)|augmentation|/output/")
  for part in ("encoder", "denoiser", "RadianceField"):
    kinds = [
      k
      for k, name in products
      if part in name and not float32_layers.search(name)
    ]
    assert len(kinds) > 5 and set(kinds) == {"bf16"}, part


def test_other_products_are_float32_at_highest_precision(lines):
  products = [
    (kind, rest, name)
    for kind, opcode, rest, name in lines
    if is_product(opcode) and not NETWORKS.search(name)
  ]
  assert len(products) > 5
  for kind, rest, name in products:
    assert kind == "f32", name
    assert "operand_precision={highest,highest}" in rest, name


def test_geometry_compositing_and_losses_compute_in_float32(lines):
  outside = [
    (kind, opcode, name)
    for kind, opcode, _, name in lines
    if ARITHMETIC.fullmatch(opcode)
    and not NETWORKS.search(name)
    # Sums of what several users of a network's output send back.
    and not name.endswith("add_any")
  ]
  assert sum("render" in name for _, _, name in outside) > 50
  for kind, opcode, name in outside:
    assert kind not in ("bf16", "f16"), (opcode, name)
