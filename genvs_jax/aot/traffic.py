"""Bytes that a compiled program moves, by kind of operation.

XLA's own count takes the body of a loop once; here it counts as often as it
runs. An instruction reads its operands and writes its result, in their layouts
with padding; what a fusion computes on the way stays on the chip. Of an operand
that is only gathered or sliced from, the rows that are read count.
"""

import collections
import re
from collections.abc import Iterable
from typing import NamedTuple

from genvs_jax.aot import program_text

# Kinds in the order in which they name a fusion that holds several.
KINDS = {
  "products": ("convolution", "dot"),
  "gather": ("gather",),
  "scatter": ("scatter",),
  "sort": ("sort",),
  "sums": ("reduce", "reduce-window"),
  "copies": ("copy", "copy-start", "transpose", "concatenate", "reshape"),
  "collectives": program_text.COLLECTIVES,
}
OTHER = "elementwise"
# They move nothing, or what they call does.
_FREE = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
  *("while", "conditional", "call", "copy-done", "async-done", "after-all"),
  *("opt-barrier", "partition-id", "iota"),
}
_SLICES = ("gather", "dynamic-slice", "slice")
_LINE = re.compile(
  r"\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*?)\)(?:, (.*))?$"
)
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


class Instruction(NamedTuple):
  """A line of a program: its result, operands by name, and the rest of it."""

  opcode: str
  bytes: int
  operands: tuple[str, ...]
  rest: str

  def called(self, attribute: str) -> str:
    """The computation that an attribute such as body names; "" if none."""
    match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
    return match[1] if match else ""


Computation = dict[str, Instruction]


def by_kind(text: str) -> dict[str, int]:
  """Bytes of each kind of operation of a program, those of all its loops.

  Args:
    text: `compiled.as_text()`.
  """
  computations, entry = parse(text)
  total: dict[str, int] = collections.Counter()

  def add(name: str, times: int) -> None:
    computation = computations[name]
    for instruction in computation.values():
      if instruction.opcode == "while":
        trips = times * _trips(instruction, computations)
        add(instruction.called("body"), trips)
      elif instruction.opcode == "call":
        add(instruction.called("to_apply"), times)
      elif instruction.opcode not in _FREE:
        kind, moved = _moved(instruction, computation, computations)
        total[kind] += times * moved

  add(entry, 1)
  return dict(sorted(total.items(), key=lambda item: -item[1]))


def parse(text: str) -> tuple[dict[str, Computation], str]:
  """The computations of a program by name, and the name of its entry."""
  computations: dict[str, Computation] = {}
  entry, current = "", {}
  for line in text.splitlines():
    head = program_text.COMPUTATION.match(line)
    if head:
      current = computations[head[1]] = {}
      entry = head[1] if line.startswith("ENTRY") else entry
      continue
    match = _LINE.match(line)
    if match:
      _, name, result, opcode, operands, rest = match.groups()
      size = sum(a.padded_bytes for a in program_text.result_arrays(result))
      names = tuple(re.findall(r"%([\w.\-]+)", operands))
      if opcode in ("parameter", "constant"):  # a number in their place
        rest = operands
      current[name] = Instruction(opcode, size, names, rest or "")
  return computations, entry


def _trips(loop: Instruction, computations: dict[str, Computation]) -> int:
  """How often a loop runs; once if that is not known."""
  match = _TRIPS.search(loop.rest)
  if match:
    return int(match[1])
  # A counter that is compared with a constant, from 0.
  text = computations[loop.called("condition")]
  limits = [i for i in text.values() if i.opcode == "constant"]
  return int(limits[0].rest) if len(limits) == 1 and limits[0].rest else 1


def _moved(
  instruction: Instruction,
  computation: Computation,
  computations: dict[str, Computation],
) -> tuple[str, int]:
  """The kind of an instruction, and the bytes that it reads and writes."""
  inner = computations.get(instruction.called("calls"), {})
  inside = [i.opcode for i in inner.values()] or [instruction.opcode]
  read = 0
  for number, name in enumerate(instruction.operands):
    source = computation.get(name)
    whole = source.bytes if source else 0
    read += min(whole, _read_of_parameter(inner, number, whole))
  if instruction.opcode in _SLICES:
    read = min(read, 2 * instruction.bytes)
  written = instruction.bytes
  # An update in place writes the new part alone.
  for update in inner.values():
    if update.opcode == "dynamic-update-slice":
      part = inner[update.operands[1]].bytes
      written = min(written, 2 * part)
      read = min(read, 2 * part)
  return _kind(inside), read + written


def _read_of_parameter(inner: Computation, number: int, whole: int) -> int:
  """Bytes of a fusion's operand that its users inside read."""
  name = next(
    (
      name
      for name, i in inner.items()
      if i.opcode == "parameter" and i.rest == str(number)
    ),
    None,
  )
  users = [i for i in inner.values() if name in i.operands]
  if not users or not all(
    user.opcode in _SLICES and user.operands[0] == name for user in users
  ):
    return whole
  return sum(user.bytes for user in users)


def _kind(opcodes: Iterable[str]) -> str:
  found = {opcode.removesuffix("-start") for opcode in opcodes}
  for kind, members in KINDS.items():
    if found & set(members):
      return kind
  return OTHER
