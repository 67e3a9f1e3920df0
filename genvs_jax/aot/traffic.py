"""Bytes that a compiled program moves, by kind of operation.

XLA's own count takes the body of a loop once; here it counts as often as it
runs. An instruction reads its operands and writes its result, in their layouts
with padding; what a fusion computes on the way stays on the chip, and so do
arrays in the chip's own memory. Of an operand that is only gathered or sliced
from, the rows that are read count, and of one that is updated in place, the
part that is new.
"""

from collections.abc import Iterator

from genvs_jax.aot import program_text
from genvs_jax.aot.program_text import Computation
from genvs_jax.aot.program_text import Instruction

# Kinds in the order in which they name a fusion that holds several.
KINDS = {
  "products": ("convolution", "dot"),
  "gather": ("gather",),
  "scatter": ("scatter",),
  "sort": ("sort",),
  "sums": ("reduce", "reduce-window"),
  "copies": ("copy", "transpose", "concatenate", "reshape"),
  "collectives": program_text.COLLECTIVES,
}
OTHER = "elementwise"
# They move nothing, or what they call does.
_FREE = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
  *("after-all", "opt-barrier", "partition-id"),
}
_SLICES = ("gather", "dynamic-slice", "slice")
_UPDATE = "dynamic-update-slice"


def by_kind(text: str) -> dict[str, int]:
  """Bytes of each kind of operation of a program, those of all its loops.

  Args:
    text: `compiled.as_text()`.
  """

  def moved(instruction, computation, computations):
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
      return {}
    inside = _fused(instruction, computations)
    kind = _kind(instruction, inside, computations)
    return {kind: _moved(instruction, computation, inside)}

  return dict(program_text.sum_over_runs(text, moved).most_common())


def _fused(
  instruction: Instruction, computations: dict[str, Computation]
) -> Computation:
  """What a fusion computes; nothing for another instruction."""
  names = instruction.called("calls")
  return computations[names[0]] if names else {}


def _moved(
  instruction: Instruction, computation: Computation, inside: Computation
) -> int:
  """Bytes that an instruction reads and writes."""
  makes = sum(_size(array) for array in program_text.results(instruction))
  reads = 0
  for name in dict.fromkeys(instruction.operands):
    if name not in computation:
      continue
    whole = _sizes(computation, name)
    if inside:
      numbers = [i for i, x in enumerate(instruction.operands) if x == name]
      read = sum(_read_by_fusion(inside, str(i), whole) for i in numbers)
      whole = min(whole, read)
    elif name == instruction.operands[0]:
      if instruction.opcode in _SLICES:
        whole = min(whole, makes)
      elif instruction.opcode == _UPDATE:
        whole = 0
    reads += whole
  # An update in place makes the new part alone.
  if instruction.opcode == _UPDATE:
    makes = _sizes(computation, instruction.operands[1])
  for update in inside.values():
    if update.opcode == _UPDATE:
      array = sum(_size(a) for a in update.arrays)
      makes -= array - _sizes(inside, update.operands[1])
  return reads + max(makes, 0)


def _read_by_fusion(inside: Computation, number: str, whole: int) -> int:
  """Bytes of an operand that what a fusion computes reads."""
  names = [
    name
    for name, instruction in inside.items()
    if instruction.opcode == "parameter" and instruction.operands == (number,)
  ]
  reads = 0
  for user, name in _users(inside, names):
    is_first = user.operands[0] == name
    if user.opcode in _SLICES and is_first:
      reads += sum(_size(array) for array in user.arrays)
    elif not (user.opcode == _UPDATE and is_first):
      return whole
  return reads


def _users(
  computation: Computation, names: list[str]
) -> Iterator[tuple[Instruction, str]]:
  """Instructions that use some others, also under another shape."""
  for name in names:  # grows by bitcasts
    for other, instruction in computation.items():
      if name in instruction.operands:
        if instruction.opcode == "bitcast":
          names.append(other)
        else:
          yield instruction, name


def _kind(
  instruction: Instruction,
  inside: Computation,
  computations: dict[str, Computation],
) -> str:
  """The kind of an instruction, a fusion's by all that it computes."""
  opcodes, pending = {instruction.opcode.removesuffix("-start")}, [inside]
  for computation in pending:
    for inner in computation.values():
      opcodes.add(inner.opcode)
      pending.append(_fused(inner, computations))
  for kind, members in KINDS.items():
    if opcodes & set(members):
      return kind
  return OTHER


def _sizes(computation: Computation, name: str) -> int:
  return sum(_size(array) for array in computation[name].arrays)


def _size(array: program_text.Array) -> int:
  return 0 if array.on_chip else array.padded_bytes
