"""What a compiled program says of itself: transfers, buffers, types.

The text is XLA's HLO after scheduling, an instruction a line:

  %name = f32[8,128]{1,0:T(8,128)} opcode(%operands), metadata={op_name="..."}
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
  "collective-broadcast",
  "ragged-all-to-all",
)
_BYTES = {
  **dict.fromkeys(("pred", "s8", "u8"), 1),
  **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
  **dict.fromkeys(("s32", "u32", "f32"), 4),
  **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
}
# Names of arrays that are there already, or of several.
_NO_BUFFER = (
  *("parameter", "tuple", "get-tuple-element", "bitcast", "while"),
  *("conditional", "constant", "copy-done", "async-done"),
)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\(")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_TILE = re.compile(r"T\(([\d,]+)\)")


class Array(NamedTuple):
  """An array of a program.

  Attributes:
    dtype: as XLA names it, f32, bf16 ...
    shape: its sides.
    layout: minor-to-major order and tiles, as XLA writes them.
    bytes: of its values.
    padded_bytes: that it takes in that layout.
  """

  dtype: str
  shape: tuple[int, ...]
  layout: str
  bytes: int
  padded_bytes: int


class Instruction(NamedTuple):
  """An instruction that has a result of its own.

  Attributes:
    opcode: such as fusion or all-reduce-start.
    arrays: of its result, several for a tuple.
    source: JAX's name of what it computes; "" if unknown.
  """

  opcode: str
  arrays: tuple[Array, ...]
  source: str


def instructions(text: str) -> Iterator[Instruction]:
  """The instructions of a program, those inside of fusions left out.

  Args:
    text: `compiled.as_text()`.
  """
  inside = set(_CALLED.findall(text))  # of fusions and reductions
  computation = ""
  for line in text.splitlines():
    head = COMPUTATION.match(line)
    if head:
      computation = head[1]
      continue
    match = _INSTRUCTION.match(line)
    if match is None or computation in inside:
      continue
    source = re.search(r'op_name="([^"]*)"', line)
    arrays = tuple(result_arrays(match[1]))
    yield Instruction(match[2], arrays, source[1] if source else "")


def collectives(text: str) -> dict[str, dict[str, int]]:
  """What a program sends between devices: {kind: {"count", "bytes"}} of the
  results on each device."""
  rows: dict[str, dict[str, int]] = {}
  for opcode, arrays, _ in instructions(text):
    kind = opcode.removesuffix("-start")
    if kind in COLLECTIVES:
      # An asynchronous one has its operands in its result, too.
      half = len(arrays) // 2 if opcode != kind and len(arrays) > 1 else 0
      row = rows.setdefault(kind, {"count": 0, "bytes": 0})
      row["count"] += 1
      row["bytes"] += sum(array.bytes for array in arrays[half:])
  return rows


def largest_buffers(text: str, count: int = 10) -> list[dict]:
  """The largest arrays in main memory that instructions make.

  Args:
    text: see `instructions`.
    count: how many; those of one shape and source are one.
  """
  rows: dict[tuple, dict] = {}
  for opcode, arrays, source in instructions(text):
    if opcode in _NO_BUFFER:
      continue
    for array in arrays:
      if "S(1)" in array.layout:  # in the chip's own fast memory
        continue
      key = array.dtype, array.shape, array.layout, source
      row = {
        "array": f"{array.dtype}[{','.join(map(str, array.shape))}]",
        "layout": array.layout,
        "bytes": array.bytes,
        "padded_bytes": array.padded_bytes,
        "opcode": opcode,
        "source": source,
        "count": 0,
      }
      rows.setdefault(key, row)["count"] += 1
  ordered = sorted(rows.values(), key=lambda row: -row["padded_bytes"])
  return ordered[:count]


def result_arrays(text: str) -> Iterator[Array]:
  """The arrays of an instruction's result, in XLA's notation."""
  for dtype, sides, order, tiles in _ARRAY.findall(text):
    if dtype not in _BYTES:
      continue
    shape = tuple(int(n) for n in sides.split(",") if n)
    size = _BYTES[dtype]
    layout = f"{{{order}:{tiles}}}" if tiles else f"{{{order}}}"
    minor_to_major = [int(n) for n in order.split(",") if n]
    padded = _padded(shape, minor_to_major, tiles)
    yield Array(dtype, shape, layout, size * math.prod(shape), size * padded)


def _padded(shape, minor_to_major: list[int], tiles: str) -> int:
  """Values of an array in whole tiles: its innermost sides are rounded up."""
  tile = _TILE.search(tiles)
  sides = [shape[i] for i in reversed(minor_to_major)]  # major to minor
  if tile is None or len(sides) != len(shape):
    return math.prod(shape)
  steps = [int(n) for n in tile[1].split(",")]
  sides = [1] * (len(steps) - len(sides)) + sides
  inner = [
    -(-side // step) * step
    for side, step in zip(sides[-len(steps) :], steps, strict=True)
  ]
  return math.prod(sides[: -len(steps)]) * math.prod(inner)
