"""Bytes of programs, by hand and of a real compiler."""

import jax
import jax.numpy as jnp
import numpy as np

from genvs_jax.aot import traffic

LOOP = """\
HloModule jit_f, is_scheduled=true

%fused.1 (a: f32[1000,8], i: s32[4]) -> f32[4,8] {
  %a = f32[1000,8]{1,0} parameter(0)
  %i = s32[4]{0} parameter(1)
  ROOT %g = f32[4,8]{1,0} gather(%a, %i), offset_dims={1}
}

%body (p: (s32[], f32[16,8])) -> (s32[], f32[16,8]) {
  %p = (s32[], f32[16,8]{1,0:T(8,128)}) parameter(0)
  %n = s32[] get-tuple-element(%p), index=0
  %x = f32[16,8]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %m = f32[16,8]{1,0:T(8,128)} multiply(%x, %x)
  ROOT %t = (s32[], f32[16,8]{1,0:T(8,128)}) tuple(%n, %m)
}

%condition (q: (s32[], f32[16,8])) -> pred[] {
  %q = (s32[], f32[16,8]{1,0:T(8,128)}) parameter(0)
  %c = s32[] constant(5)
  %k = s32[] get-tuple-element(%q), index=0
  ROOT %less = pred[] compare(%k, %c), direction=LT
}

ENTRY %main (t: f32[1000,8], i: s32[4], v: (s32[], f32[16,8])) -> f32[4,8] {
  %t = f32[1000,8]{1,0} parameter(0)
  %i.1 = s32[4]{0} parameter(1)
  %v = (s32[], f32[16,8]{1,0:T(8,128)}) parameter(2)
  %w = (s32[], f32[16,8]{1,0:T(8,128)}) while(%v), condition=%condition, \
body=%body
  ROOT %f = f32[4,8]{1,0} fusion(%t, %i.1), kind=kLoop, calls=%fused.1
}
"""


def test_a_loop_counts_as_often_as_it_runs_and_a_gather_what_it_reads():
  padded = 16 * 128 * 4  # eight channels take 128 lanes
  rows = 4 * 8 * 4  # read and written
  assert traffic.by_kind(LOOP) == {
    "elementwise": 5 * 3 * padded,
    "gather": 2 * rows + 4 * 4,
  }


def test_a_compiled_program_moves_what_it_must():
  """A square repeated by a loop, and a sum."""
  size, trips = 256, 7

  def f(x):
    x, _ = jax.lax.scan(lambda x, _: (x @ x, None), x, length=trips)
    return jnp.sum(x)

  shape = jax.ShapeDtypeStruct((size, size), jnp.float32)
  kinds = traffic.by_kind(jax.jit(f).lower(shape).compile().as_text())
  array = 4 * size**2
  np.testing.assert_allclose(kinds["products"], trips * 2 * array, rtol=0.1)
  assert array <= sum(kinds[k] for k in kinds if k != "products")
