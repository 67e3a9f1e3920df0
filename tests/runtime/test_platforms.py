"""Forms of convolutions for CPUs and TPUs against XLA's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genvs_jax.runtime import platforms


def plain(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@pytest.mark.parametrize(
  "size, inputs, outputs",
  [
    (1, 5, 7),
    (3, 6, 4),
    (3, 67, 70),  # beyond a multiple of 64 on both sides
    (3, 64, 65),
    (5, 3, 2),
  ],
)
def test_values_and_gradients(size, inputs, outputs):
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (2, 6, 5, inputs))
  kernel = jax.random.normal(keys[1], (size, size, inputs, outputs))
  weight = jax.random.normal(keys[2], (2, 6, 5, outputs))
  ours = platforms.pointwise if size == 1 else platforms.same

  def run(function):
    value, back = jax.vjp(function, x, kernel)
    return value, *back(weight)

  result, expected = jax.jit(run, static_argnums=0)(ours), run(plain)
  for a, b in zip(result, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4)


def test_bfloat16_is_summed_in_float32():
  """4096 ones in bfloat16 would stop growing at 256."""
  x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
  kernel = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
  _, back = jax.vjp(platforms.pointwise, x, kernel)
  assert back(x)[1] == 4096
  _, back = jax.vjp(platforms.same, x, jnp.ones((3, 3, 1, 1), jnp.bfloat16))
  assert back(x)[1][1, 1] == 4096


@pytest.mark.parametrize("on_cpu", [True, False])
def test_only_wide_layers_that_keep_the_shape_change(monkeypatch, on_cpu):
  """Strided, dilated and grouped ones stay XLA's, and all of them on GPU."""
  if not on_cpu:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

  def is_xlas(width=128, **options) -> bool:
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, width))
    layer = nn.Conv(width, **options)
    variables = layer.init(jax.random.key(1), x)

    def apply(variables, x):
      with platforms.convolutions():
        return layer.apply(variables, x)

    np.testing.assert_allclose(
      apply(variables, x), layer.apply(variables, x), atol=1e-5, rtol=1e-5
    )
    jaxpr = jax.make_jaxpr(apply)(variables, x)
    return "custom_vjp" not in str(jaxpr)

  assert is_xlas(kernel_size=(3, 3), padding=1) != on_cpu
  assert is_xlas(kernel_size=(1, 1)) != on_cpu
  assert is_xlas(kernel_size=(1, 1), width=16) != on_cpu
  assert is_xlas(kernel_size=(1, 1), width=8)
  assert is_xlas(kernel_size=(3, 3), padding=1, strides=2)
  assert is_xlas(kernel_size=(3, 3), padding=2, kernel_dilation=2)
  assert is_xlas(512, kernel_size=(3, 3), padding=1, feature_group_count=4)
  assert is_xlas(kernel_size=(3, 3), padding=0)
  assert is_xlas(kernel_size=(2, 2))


def test_programs_for_tpus_keep_convolutions_to_themselves():
  """A network traced here for another platform takes that platform's forms."""
  layer = nn.Conv(128, (3, 3), padding=1)
  x = jnp.ones((1, 8, 8, 128))
  variables = layer.init(jax.random.key(0), x)

  def program(platform: str) -> str:
    def apply(variables, x):
      with platforms.convolutions():
        return layer.apply(variables, x)

    with platforms.programs_for(platform):
      return str(jax.make_jaxpr(apply)(variables, x))

  assert "custom_vjp" in program("cpu")
  assert "optimization_barrier" in program("tpu")
  assert "custom_vjp" not in program("tpu")
  assert "optimization_barrier" not in program("cuda")
