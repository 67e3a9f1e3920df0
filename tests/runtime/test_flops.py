"""Operations counted in traced programs, against closed forms."""

import jax
import jax.numpy as jnp

from genvs_jax.runtime import flops


def count(fn, *shapes) -> int:
  arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  return flops.count(jax.make_jaxpr(fn)(*arrays))


def test_products_count_two_per_multiplication():
  assert count(jnp.matmul, (3, 4), (4, 5)) == 2 * 3 * 4 * 5
  batched = lambda a, b: jnp.einsum("nij,njk->nik", a, b)  # noqa: E731
  assert count(batched, (7, 3, 4), (7, 4, 5)) == 7 * 2 * 3 * 4 * 5


def test_loops_count_as_often_as_they_run():
  def fn(x, w):
    return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=6)[0]

  assert count(jax.jit(fn), (3, 4), (4, 4)) == 6 * 2 * 3 * 4 * 4
  again = jax.grad(lambda x, w: jax.checkpoint(fn)(x, w).sum())
  # Forward, forward again, and one product per step for the gradient of x.
  assert count(again, (3, 4), (4, 4)) >= 2 * 6 * 2 * 3 * 4 * 4


def convolution(stride, groups=1):
  def fn(x, w):
    return jax.lax.conv_general_dilated(
      x,
      w,
      (stride, stride),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=groups,
    )

  return fn


def test_convolutions_and_both_their_gradients():
  for stride in (1, 2):
    side = 8 // stride
    forward = 2 * 5 * side * side * 3 * 3 * 4 * 6
    fn, shapes = convolution(stride), ((5, 8, 8, 4), (3, 3, 4, 6))
    assert count(fn, *shapes) == forward
    both = jax.grad(lambda x, w, fn=fn: fn(x, w).sum(), argnums=(0, 1))
    assert count(both, *shapes) == 3 * forward
  depthwise = 2 * 5 * 8 * 8 * 3 * 3 * 4
  shapes = ((5, 8, 8, 4), (3, 3, 1, 4))
  assert count(convolution(1, groups=4), *shapes) == depthwise


def test_peaks_are_known_by_kind():
  assert flops.peak("NVIDIA H200") == 989e12
  assert flops.peak("NVIDIA H100 PCIe") == 756e12
  assert flops.peak("NVIDIA A100-SXM4-80GB") == 312e12
  assert flops.peak("TPU v5 lite") == 197e12
  assert flops.peak("cpu") is None
