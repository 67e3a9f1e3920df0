"""What a compiled program says of itself: transfers, buffers, types.

The text is XLA's HLO after scheduling, an instruction a line:

  %name = f32[8,128]{1,0:T(8,128)} opcode(%operands), metadata={op_name="..."}
"""

import collections
import functools
import math
import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
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
  *("conditional", "constant"),
)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_INSTRUCTION = re.compile(
  r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*?)\)(?:, (.*))?$"
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*)?\{\s*$")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
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

  @property
  def on_chip(self) -> bool:
    """Whether it lies in the chip's own fast memory."""
    return "S(1)" in self.layout


class Instruction(NamedTuple):
  """A line of a program.

  Attributes:
    opcode: such as fusion or all-reduce-start.
    arrays: of its result, several for a tuple.
    operands: names of instructions, or a constant's value or a parameter's
      number.
    attributes: the rest of the line.
  """

  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  attributes: str

  @property
  def source(self) -> str:
    """JAX's name of what it computes; "" if unknown."""
    match = re.search(r'op_name="([^"]*)"', self.attributes)
    return match[1] if match else ""

  def called(self, *attributes: str) -> list[str]:
    """The computations that attributes such as body name."""
    names = []
    for attribute in attributes:
      for text in re.findall(
        rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes
      ):
        names += re.findall(r"[\w.\-]+", text)
    return names


Computation = dict[str, Instruction]


@functools.lru_cache(maxsize=1)  # a program is asked several questions
def parse(text: str) -> tuple[dict[str, Computation], str]:
  """The computations of a program by name, and the name of its entry.

  Args:
    text: `compiled.as_text()`; "" gives none, and "".
  """
  computations: dict[str, Computation] = {}
  entry, current = "", {}
  for line in text.splitlines():
    head = _COMPUTATION.match(line)
    if head:
      current = computations[head[1]] = {}
      entry = head[1] if line.startswith("ENTRY") else entry
      continue
    match = _INSTRUCTION.match(line)
    if match:
      name, result, opcode, operands, attributes = match.groups()
      # Operands may have their types before their names.
      names = re.sub(r"/\*.*?\*/|\w+\[[\d,]*\](\{[^}]*\})?", "", operands)
      current[name] = Instruction(
        opcode,
        tuple(_arrays(result)),
        tuple(re.findall(r"[\w.\-]+", names)),
        attributes or "",
      )
  return computations, entry


def instructions(text: str) -> Iterator[Instruction]:
  """The instructions of a program, those inside of fusions left out.

  Args:
    text: see `parse`.
  """
  computations, _ = parse(text)
  inside: set[str] = set()  # of fusions and reductions
  for computation in computations.values():
    for instruction in computation.values():
      inside.update(instruction.called("calls"))
      if instruction.opcode != "call":
        inside.update(instruction.called("to_apply"))
  for name, computation in computations.items():
    if name not in inside:
      yield from computation.values()


def sum_over_runs(
  text: str,
  count: Callable[
    [Instruction, Computation, dict[str, Computation]], Mapping[Any, int]
  ],
) -> collections.Counter[Any]:
  """Sums something over all instructions that a program runs.

  The body of a loop counts as often as it runs (once if that is not known), and
  of a conditional the branch with the largest sum. What a fusion or a reduction
  computes inside is left to `count`.

  Args:
    text: see `parse`.
    count: (instruction, its computation, all of them by name) -> amounts.
  """
  computations, entry = parse(text)

  def total_of(name: str) -> collections.Counter[Any]:
    total: collections.Counter[Any] = collections.Counter()
    for instruction in computations.get(name, {}).values():
      if instruction.opcode == "while":
        trips = _trips(instruction, computations)
        for body in instruction.called("body"):
          for key, amount in total_of(body).items():
            total[key] += trips * amount
      elif instruction.opcode == "conditional":
        branches = instruction.called(
          "true_computation", "false_computation", "branch_computations"
        )
        totals = [total_of(branch) for branch in branches]
        largest = max(totals, key=collections.Counter.total)
        total += largest
      elif instruction.opcode == "call":
        for called in instruction.called("to_apply"):
          total += total_of(called)
      else:
        total.update(count(instruction, computations[name], computations))
    return total

  return total_of(entry)


def _trips(loop: Instruction, computations: dict[str, Computation]) -> int:
  """How often a loop runs; once if that is not known."""
  match = _TRIPS.search(loop.attributes)
  if match:
    return int(match[1])
  # A counter that is compared with a constant, from 0.
  limits = [
    instruction.operands[0]
    for name in loop.called("condition")
    for instruction in computations[name].values()
    if instruction.opcode == "constant" and instruction.operands
  ]
  is_known = len(limits) == 1 and limits[0].isdecimal()
  return int(limits[0]) if is_known else 1


def collectives(text: str) -> dict[str, dict[str, int]]:
  """What a program sends between devices: {kind: {"count", "bytes"}} of the
  results on each device, those of all its loops."""
  # A TPU sends while it computes: fusions hold the start of a transfer, what is
  # computed meanwhile and the end, each of them with the transfer inside.
  known: set[str] = set()

  def sent(instruction, computation, computations):
    del computation
    total: collections.Counter[tuple[str, str]] = collections.Counter()
    inside = [computations[name] for name in instruction.called("calls")]
    for one in (instruction, *(x for c in inside for x in c.values())):
      kind = one.opcode.removesuffix("-start")
      channel = _CHANNEL.search(one.attributes)
      if kind not in COLLECTIVES or (channel and channel[1] in known):
        continue
      known.update(channel.groups() if channel else ())
      total[kind, "count"] += 1
      total[kind, "bytes"] += sum(array.bytes for array in results(one))
    return total

  rows: dict[str, dict[str, int]] = {}
  for (kind, what), amount in sum_over_runs(text, sent).items():
    rows.setdefault(kind, {})[what] = amount
  return rows


def estimated_cycles(text: str) -> int:
  """Cycles that the compiler of TPUs expects a core to take, by its own model.

  Only of what it gives an estimate for: not for transfers, and 0 elsewhere.
  """

  def cycles(instruction, computation, computations):
    del computation, computations
    match = _CYCLES.search(instruction.attributes)
    return {"cycles": int(match[1])} if match else {}

  return sum_over_runs(text, cycles)["cycles"]


def results(instruction: Instruction) -> tuple[Array, ...]:
  """The arrays that an instruction makes.

  The result of an asynchronous one has its operands in front and may have
  counters behind; that of all-reduce-start has neither.
  """
  opcode, arrays = instruction.opcode, instruction.arrays
  if not opcode.endswith("-start") or opcode == "all-reduce-start":
    return arrays
  arrays = tuple(a for a in arrays if not (a.dtype == "u32" and not a.shape))
  return arrays[len(arrays) // 2 :]


def largest_buffers(text: str, count: int = 10) -> list[dict]:
  """The largest arrays in main memory that instructions make.

  Args:
    text: see `instructions`.
    count: how many; those of one shape and source are one.
  """
  rows: dict[tuple, dict] = {}
  for instruction in instructions(text):
    opcode, source = instruction.opcode, instruction.source
    if opcode in _NO_BUFFER or opcode.endswith("-done"):
      continue
    for array in results(instruction):
      if array.on_chip:
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


def _arrays(text: str) -> Iterator[Array]:
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
