"""Where the time of a program goes, from a trace of JAX's profiler."""

import collections
import glob
import gzip
import json
import re
import statistics
from collections.abc import Callable
from typing import NamedTuple

import jax

from benchmarks import measuring

# Scopes of `genvs_jax.models.pipeline`; what is in none of them is the rest.
PARTS = ("encoder", "render", "denoiser")
_PRODUCT = re.compile(r"dot|conv(?!ert)|gemm|cublas|cudnn", re.IGNORECASE)
# Operations that only hold others.
_HOLDS_OTHERS = re.compile(r"while|call|conditional")
REST, UNKNOWN = "loss, optimizer", "unknown"


class Op(NamedTuple):
  """One run of an operation: its name in the program, and seconds."""

  name: str
  start: float
  duration: float


class Profile(NamedTuple):
  """Seconds of a run.

  Attributes:
    wall: of a run without the profiler, which slows down what lies between
      operations (on GPUs it puts command buffers aside).
    busy: with at least one operation under way, under the profiler.
    groups: by (part, pass, kind of operation), of all devices.
    largest: by (operation, scope), the longest ones.
  """

  wall: float
  busy: float
  groups: dict[str, float]
  largest: dict[str, float]

  def waste(self) -> str:
    """The largest share that no matrix product or convolution explains."""
    total = sum(self.groups.values())
    shares = {
      name: seconds / total * self.busy / self.wall
      for name, seconds in self.groups.items()
      if not name.endswith("products")
    }
    shares["idle"] = 1 - self.busy / self.wall
    name = max(shares, key=shares.get)
    return f"{name} ({shares[name]:.0%} of the time)"

  def table(self) -> str:
    """Markdown."""
    total = sum(self.groups.values())
    lines = [
      f"{self.wall:.4g} s without the profiler, of which"
      f" {self.busy / self.wall:.0%} busy; the largest waste: {self.waste()}\n",
      "| part | share of the operations |",
      "|---|---|",
    ]
    for name, seconds in sorted(self.groups.items(), key=lambda item: -item[1]):
      lines.append(f"| {name} | {seconds / total:.1%} |")
    lines += ["", "| operation | share |", "|---|---|"]
    for name, seconds in self.largest.items():
      lines.append(f"| {name} | {seconds / total:.1%} |")
    return "\n".join(lines)


def record(run: Callable[[], None], program: str, folder: str) -> Profile:
  """Runs something four times, and once under the profiler.

  Args:
    run: runs a compiled program and waits.
    program: its text, `compiled.as_text()`.
    folder: an empty one, receives the trace.
  """
  seconds = statistics.median(measuring.time_runs(run, 3))
  with jax.profiler.trace(folder):
    run()
  (path,) = glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True)
  with gzip.open(path) as file:
    events = json.load(file)["traceEvents"]
  ops = read_ops(events, on_host=jax.default_backend() == "cpu")
  return summarise(ops, read_scopes(program), seconds)


def read_ops(events: list[dict], on_host: bool) -> list[Op]:
  """The operations among the events of a trace, on devices or on the host.

  An accelerator's host has events of the same names: those that start them.
  """
  devices = {
    event["pid"]
    for event in events
    if event.get("name") == "process_name"
    and event["args"]["name"].startswith("/device:")
  }
  result = [
    event
    for event in events
    if event.get("ph") == "X" and "hlo_op" in event.get("args", {})
  ]
  return [
    Op(event["args"]["hlo_op"], event["ts"] / 1e6, event["dur"] / 1e6)
    for event in result
    if (event["pid"] in devices) != on_host
    and not _HOLDS_OTHERS.match(event["args"]["hlo_op"])
  ]


def read_scopes(program: str) -> dict[str, str]:
  """Where the operations of a compiled program come from, by their names."""
  pattern = re.compile(r'%?([\w.-]+) = .*op_name="([^"]*)"')
  return dict(m.groups() for m in pattern.finditer(program))


def summarise(ops: list[Op], scopes: dict[str, str], seconds: float) -> Profile:
  """Groups the operations of a run.

  Args:
    ops: of the run.
    scopes: where they come from.
    seconds: of a run without the profiler.

  Raises:
    ValueError: if there are no operations.
  """
  if not ops:
    raise ValueError("the trace holds no operations")
  ops = sorted(ops, key=lambda op: op.start)
  busy, until = 0.0, ops[0].start
  for op in ops:
    end = op.start + op.duration
    busy += max(0.0, end - max(op.start, until))
    until = max(until, end)
  groups, single = collections.Counter(), collections.Counter()
  for op in ops:
    scope = scopes.get(op.name, "")
    groups[group(op.name, scope)] += op.duration
    single[f"{op.name} {scope[-80:]}"] += op.duration
  return Profile(
    max(seconds, busy), busy, dict(groups), dict(single.most_common(12))
  )


def group(name: str, scope: str) -> str:
  """Part of the model, pass and kind of an operation."""
  steps = re.split(r"[/()]", scope)
  rest = REST if scope else UNKNOWN
  part = next((part for part in PARTS if part in steps), rest)
  way = "backward" if "transpose(" in scope else "forward"
  product = _PRODUCT.search(name) or _PRODUCT.search(scope.rpartition("/")[2])
  return f"{part}, {way}, {'products' if product else 'other'}"
