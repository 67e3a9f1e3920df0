"""Reading compiled programs, by hand and of a real compiler."""

import jax
import jax.numpy as jnp
import numpy as np

from genvs_jax.aot import program_text
from genvs_jax.runtime import sharding

TEXT = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%fused_computation.1 (p: f32[9,9]) -> f32[512,512] {
  %p = f32[9,9]{1,0:T(8,128)} parameter(0)
  ROOT %inner = f32[512,512]{1,0:T(8,128)} broadcast(%p), dimensions={0,1}
}

%region_0.5 (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

ENTRY %main (x: f32[5,3,16]) -> f32[5,3,16] {
  %x = f32[5,3,16]{2,1,0:T(8,128)} parameter(0)
  %f = bf16[5,3,16]{2,1,0:T(8,128)(2,1)} fusion(%x), \
calls=%fused_computation.1, metadata={op_name="jit(step)/render/gather"}
  %t = f32[16,3]{0,1:T(4,128)} transpose(%x), dimensions={1,0}
  %fast = f32[64,128]{1,0:T(8,128)S(1)} copy(%x)
  %flat = s32[100]{0:T(256)} iota(), iota_dimension=0
  %all-reduce.1 = (f32[10]{0}, bf16[4,4]{1,0}) all-reduce(%x, %t), \
to_apply=%region_0.5
  %ag = (f32[2,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%t), dimensions={0}
  %ag.done = f32[16,4]{1,0} all-gather-done(%ag)
  ROOT %g = f32[5,3,16]{2,1,0:T(8,128)} get-tuple-element(%all-reduce.1), \
index=0
}
"""


def test_transfers_are_counted_once_and_by_their_results():
  assert program_text.collectives(TEXT) == {
    "all-reduce": {"count": 1, "bytes": 10 * 4 + 16 * 2},
    "all-gather": {"count": 1, "bytes": 16 * 4 * 4},
  }


def test_transfers_in_loops_and_beside_computation_are_counted():
  text = """\
%begin (p: f32[2,4]) -> f32[16,4] {
  %p = f32[2,4]{1,0} parameter(0)
  ROOT %a = f32[16,4]{1,0} all-gather(%p), channel_id=7, dimensions={0}
}

%end (q: f32[2,4]) -> f32[16,4] {
  %q = f32[2,4]{1,0} parameter(0)
  ROOT %b = f32[16,4]{1,0} all-gather(%q), channel_id=7, dimensions={0}
}

%body (r: f32[3]) -> f32[3] {
  %r = f32[3]{0} parameter(0)
  ROOT %c = f32[3]{0} all-reduce(%r), channel_id=8, to_apply=%region
}

%condition (t: f32[3]) -> pred[] {
  %t = f32[3]{0} parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (x: f32[2,4], y: f32[3]) -> f32[3] {
  %x = f32[2,4]{1,0} parameter(0)
  %y = f32[3]{0} parameter(1)
  %start = f32[16,4]{1,0} fusion(%x), kind=kCustom, calls=%begin
  %done = f32[16,4]{1,0} fusion(%x), kind=kCustom, calls=%end
  ROOT %w = f32[3]{0} while(%y), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
}
"""
  assert program_text.collectives(text) == {
    "all-gather": {"count": 1, "bytes": 16 * 4 * 4},
    "all-reduce": {"count": 5, "bytes": 5 * 3 * 4},
  }


def test_cycles_are_those_of_all_that_runs():
  text = """\
%body (r: f32[3]) -> f32[3] {
  %r = f32[3]{0} parameter(0)
  ROOT %c = f32[3]{0} add(%r, %r), \
backend_config={"window_config":{"estimated_cycles":"20"}}
}

ENTRY %main (y: f32[3]) -> f32[3] {
  %y = f32[3]{0} parameter(0)
  %z = f32[3]{0} multiply(%y, %y), \
backend_config={"window_config":{"estimated_cycles":"7"}}
  ROOT %w = f32[3]{0} while(%z), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
}
"""
  assert program_text.estimated_cycles(text) == 107
  assert program_text.estimated_cycles(TEXT) == 0


def test_buffers_are_those_of_main_memory_with_their_padding():
  rows = {row["array"]: row for row in program_text.largest_buffers(TEXT)}
  # Neither what is inside of a fusion, nor in fast memory, nor parameters.
  assert {"f32[512,512]", "f32[64,128]", "f32[5,3,16]"}.isdisjoint(rows)
  gather = rows["bf16[5,3,16]"]
  assert gather["source"] == "jit(step)/render/gather"
  assert gather["bytes"] == 5 * 3 * 16 * 2
  assert gather["padded_bytes"] == 5 * 8 * 128 * 2  # 3 -> 8, 16 -> 128
  # Side 0 is the innermost: 3 in tiles of 4, 16 in tiles of 128.
  assert rows["f32[16,3]"]["padded_bytes"] == 4 * 128 * 4
  assert rows["s32[100]"]["padded_bytes"] == 256 * 4
  sizes = [r["padded_bytes"] for r in program_text.largest_buffers(TEXT, 2)]
  assert sizes == sorted(sizes, reverse=True) and len(sizes) == 2


def test_a_sum_over_devices_is_found_in_a_real_program():
  mesh = sharding.make_mesh()
  split = sharding.split_batch(mesh)
  program = jax.jit(
    lambda x: jnp.sum(x, 0),
    in_shardings=split,
    out_shardings=sharding.replicated(mesh),
  )
  x = np.zeros((8 * len(jax.devices()), 5), np.float32)
  text = program.lower(x).compile().as_text()
  assert program_text.collectives(text) == {
    "all-reduce": {"count": 1, "bytes": 5 * 4}
  }
