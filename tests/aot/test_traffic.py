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
    "elementwise": 5 * 2 * padded,
    "gather": 2 * rows + 4 * 4,
  }


OTHERS = """\
HloModule jit_g, is_scheduled=true

%fused.2 (a: f32[100,128], b: f32[1,128], c: s32[]) -> f32[100,128] {
  %a = f32[100,128]{1,0} parameter(0)
  %b = f32[1,128]{1,0} parameter(1)
  %c = s32[] parameter(2)
  %z = s32[] constant(0)
  ROOT %u = f32[100,128]{1,0} dynamic-update-slice(%a, %b, %c, %z)
}

%fused.3 (t: f32[1000,8], i: s32[4]) -> f32[4,8] {
  %t = f32[1000,8]{1,0} parameter(0)
  %flat = f32[1000,1,8]{2,1,0} bitcast(%t)
  %i = s32[4]{0} parameter(1)
  ROOT %g = f32[4,8]{1,0} gather(%flat, %i), offset_dims={1}
}

%small (s: f32[16,16]) -> f32[16,16] {
  %s = f32[16,16]{1,0} parameter(0)
  ROOT %negate = f32[16,16]{1,0} negate(%s)
}

%large (l: f32[16,16]) -> f32[16,16] {
  %l = f32[16,16]{1,0} parameter(0)
  %d = f32[16,16]{1,0} dot(%l, %l), lhs_contracting_dims={1}
  ROOT %e = f32[16,16]{1,0} dot(%d, %d), lhs_contracting_dims={1}
}

%body.1 (p: f32[]) -> f32[] {
  %p = f32[] parameter(0)
  ROOT %half = f32[] multiply(%p, %p)
}

%until (q: f32[]) -> pred[] {
  %q = f32[] parameter(0)
  %least = f32[] constant(0.001)
  ROOT %more = pred[] compare(%q, %least), direction=GT
}

ENTRY %main (x: f32[100,128], r: f32[1,128], n: s32[], y: f32[]) -> f32[] {
  %x = f32[100,128]{1,0} parameter(0)
  %r = f32[1,128]{1,0} parameter(1)
  %n = s32[] parameter(2)
  %y = f32[] parameter(3)
  %in_place = f32[100,128]{1,0} fusion(%x, %r, %n), kind=kLoop, calls=%fused.2
  %fast = f32[100,128]{1,0:T(8,128)S(1)} copy(%in_place)
  %start = (f32[1,128]{1,0}, f32[8,128]{1,0}) all-gather-start(%r)
  %done = f32[8,128]{1,0} all-gather-done(%start)
  %table = f32[1000,8]{1,0} parameter(4)
  %rows = s32[4]{0} parameter(5)
  %looked_up = f32[4,8]{1,0} fusion(%table, %rows), kind=kLoop, calls=%fused.3
  %k = s32[] parameter(6)
  %m = f32[16,16]{1,0} parameter(7)
  %either = f32[16,16]{1,0} conditional(%k, %m, %m), \
branch_computations={%small, %large}
  ROOT %w = f32[] while(%y), condition=%until, body=%body.1
}
"""


def test_updates_branches_and_asynchronous_operations():
  row, square = 128 * 4, 16 * 16 * 4
  assert traffic.by_kind(OTHERS) == {
    "copies": 100 * row,  # read; what is made stays on the chip
    "collectives": row + 8 * row,
    "products": 4 * square,  # the dearer branch
    # One row and its number; a loop whose end is not known runs once.
    "elementwise": 2 * row + 4 + 2 * 4,
    "gather": 2 * 4 * 8 * 4 + 4 * 4,
  }
  assert traffic.by_kind("") == {}


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
  others = sum(kinds[k] for k in kinds if k != "products")
  assert array <= others <= 3 * trips * array  # a copy at each turn
