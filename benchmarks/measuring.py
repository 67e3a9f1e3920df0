"""Measures programs one by one, each in a process of its own, into a file.

What the file has already is not measured again, so that a stopped run goes on
where it was. The parent process leaves the devices alone.
"""

import importlib
import json
import math
import multiprocessing
import pathlib
import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from absl import flags

from genvs_jax.aot import traffic
from genvs_jax.runtime import memory
from genvs_jax.runtime import platforms

DTYPES = ("float32", "bfloat16")
GRACE = 20  # seconds for what is under way when a time is over
_START = 600  # seconds in which a device has to start and show its rates
# What a second try would end in too; other errors may pass.
_OUT_OF_MEMORY, _OUT_OF_TIME = "RESOURCE_EXHAUSTED", "stopped after"


class Spec(NamedTuple):
  """A program of `benchmarks.programs` under a config.

  Attributes:
    config: a module of `configs`.
    program: its name.
    fields: what differs from the config: {"train.batch_size": 1}.
  """

  config: str
  program: str
  fields: dict[str, Any]

  @property
  def key(self) -> str:
    fields = ",".join(f"{k}={v}" for k, v in sorted(self.fields.items()))
    return f"{self.config}/{self.program}/{fields}"


class Results:
  """A JSON file of measurements by key.

  Args:
    path: of the file, read if it exists.
  """

  def __init__(self, path: str):
    self._path = pathlib.Path(path)
    self._path.parent.mkdir(parents=True, exist_ok=True)
    exists = self._path.exists()
    self.values = json.loads(self._path.read_text()) if exists else {}

  def has(self, key: str) -> bool:
    """Whether the file has what another try would give too."""
    error = self.values.get(key, {"error": ""}).get("error")
    final = (_OUT_OF_MEMORY, _OUT_OF_TIME)
    return error is None or any(reason in error for reason in final)

  def get(self, key: str, measure: Callable[[], dict]) -> dict:
    """What the file has under the key, else what is measured now."""
    if not self.has(key):
      print(f"measuring {key}", flush=True)
      self.put(key, measure())
    return self.values[key]

  def put(self, key: str, value: dict) -> None:
    self.values[key] = value
    part = self._path.with_suffix(".part")
    part.write_text(json.dumps(self.values, indent=1))
    part.replace(self._path)


def check_names(flag: str, known: Sequence[str]) -> None:
  """Lets a flag, a list, have known names alone."""
  flags.register_validator(
    flag,
    lambda names: set(names) <= set(known),
    message=f"expected some of {', '.join(known)}",
  )


def open_results(path: str, peak_size: int | None, cpu: bool = True) -> Results:
  """A file that has "machine" and "peaks", the rates of this machine.

  Args:
    path: of the file, read if it exists.
    peak_size: see `measure_peaks`.
    cpu: whether a CPU will do.

  Raises:
    RuntimeError: if the device does not work or is a CPU that will not do, or
      the file comes from another kind of device or version of JAX.
  """
  results = Results(path)

  def ask(function: Callable[..., dict], *arguments) -> dict:
    result = apart(function, *arguments, limit=_START)
    if "error" in result:
      raise RuntimeError(f"the device does not work: {result['error']}")
    return result

  machine = ask(describe_machine)
  if machine["device"] == "cpu" and not cpu:
    raise RuntimeError(
      "JAX finds no accelerator, only a CPU: install its plugin for the"
      " accelerator, or allow a CPU with --allow_cpu"
    )
  there = results.get("machine", lambda: machine)
  if there != machine:
    raise RuntimeError(
      f"{path} has figures of {there}, but this is {machine}: name another file"
    )
  results.get("peaks", lambda: ask(measure_peaks, peak_size))
  return results


def apart(
  function: Callable[..., dict], *arguments, limit: float | None = None
) -> dict:
  """What a function returns in a process of its own.

  If it fails, {"error": first line of the error}.

  Raises:
    TimeoutError: if it was stopped after `limit` seconds.
  """
  context = multiprocessing.get_context("spawn")
  ours, theirs = context.Pipe()
  process = context.Process(target=_answer, args=(theirs, function, *arguments))
  process.start()
  theirs.close()
  if not ours.poll(limit):
    process.kill()
    process.join()
    raise TimeoutError(f"{_OUT_OF_TIME} {limit:.3g} s")
  try:
    result = ours.recv()
  except EOFError:
    result = None
  process.join(GRACE)
  process.kill()  # if it hangs at its end
  process.join()
  return result or {"error": f"the process ended with code {process.exitcode}"}


def _answer(pipe, function: Callable[..., dict], *arguments) -> None:
  try:
    pipe.send(function(*arguments))
  # A table with a hole is better than none.
  except Exception as error:
    pipe.send({"error": (str(error).splitlines() or [repr(error)])[0][:200]})


def load_config(spec: Spec):
  """The config that a spec describes."""
  config = importlib.import_module(f"configs.{spec.config}").get_config()
  config.update_from_flattened_dict(spec.fields)
  return config


def measure(spec: Spec, repeats: int, seconds: float) -> dict:
  """Times, work and memory of a program.

  Args:
    spec: the program.
    repeats: runs after the first, ...
    seconds: ... fewer (but one) if they would take longer than this.
  """
  from benchmarks import programs  # noqa: PLC0415  (JAX only in a child)

  platforms.keep_freed_memory()  # as launch.py does
  begin = time.perf_counter()
  program = programs.build(load_config(spec), spec.program)
  setup = time.perf_counter() - begin - program.compile_seconds
  times = time_runs(program.run, repeats, seconds)
  costs = program.compiled.cost_analysis() or {}
  ((_, peak),) = memory.peak().items()  # of the device, or of this process
  return {
    "seconds": times,
    "compile_seconds": program.compile_seconds,
    "setup_seconds": setup,
    "operations": program.operations,
    "devices": program.devices,
    "xla_operations": costs.get("flops"),
    "xla_bytes": costs.get("bytes accessed"),
    "traffic": traffic.by_kind(program.compiled.as_text() or ""),
    "compiled_gib": memory.of_program(program.compiled) / 2**30,
    "peak_gib": peak,
  }


def measure_all(results: Results, specs: list[Spec], until: float) -> None:
  """Measures what is missing, as far as the time allows.

  A program that is not done though it came first has failed.

  Args:
    results: where the measurements go.
    specs: all programs, in their order.
    until: when to end, as `time.time` tells it, or GRACE seconds later.

  Raises:
    TimeoutError: if some are left to a later call.
  """
  longest = 60.0  # seconds that one may take
  missing = [spec for spec in specs if not results.has(spec.key)]
  for i, spec in enumerate(missing):
    begin = time.time()
    if i and begin + longest > until:
      raise TimeoutError(f"measured {i} of {len(missing)} programs")
    if smaller := _too_large_already(results, spec):
      results.put(spec.key, {"error": f"{_OUT_OF_MEMORY} at {smaller} scenes"})
      continue
    limit = max(1.0, until + GRACE - begin)
    print(f"measuring {spec.key}", flush=True)
    try:
      row = apart(measure, spec, 7, 20, limit=limit)
    except TimeoutError as error:
      if i:
        raise
      row = {"error": str(error)}
    results.put(spec.key, row)
    longest = max(longest, 1.2 * (time.time() - begin))


def _too_large_already(results: Results, spec: Spec) -> int | None:
  """The smaller batch for which the same program's memory did not suffice."""
  for smaller in range(1, spec.fields.get("train.batch_size", 1)):
    fields = {**spec.fields, "train.batch_size": smaller}
    row = results.values.get(spec._replace(fields=fields).key, {})
    if _OUT_OF_MEMORY in row.get("error", ""):
      return smaller
  return None


def describe_machine() -> dict:
  """Its devices, and JAX's version."""
  import jax  # noqa: PLC0415  (only in a child)

  return {
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "jax": jax.__version__,
  }


def measure_peaks(size: int | None) -> dict[str, float]:
  """What a large matrix product and a large copy reach on one device.

  Args:
    size: of the matrices, along each side; 16 * size**2 bytes are copied. By
      default 4096 on a CPU, else 8192.
  """
  import jax  # noqa: PLC0415  (only in a child)
  import jax.numpy as jnp  # noqa: PLC0415

  platforms.keep_freed_memory()
  size = size or (4096 if jax.default_backend() == "cpu" else 8192)
  result = {}

  def best(function, x) -> float:
    compiled = jax.jit(function).lower(x).compile()
    return min(time_runs(lambda: jax.block_until_ready(compiled(x)), 7, 20))

  for dtype in DTYPES:
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    duration = best(lambda x: x @ x, x)
    result[f"{dtype}_per_second"] = 2 * size**3 / duration
  duration = best(lambda x: x + 1, jnp.ones(4 * size**2, jnp.float32))
  result["bytes_per_second"] = 2 * 16 * size**2 / duration
  return result


def share_of_product(row: dict, peaks: dict[str, float], dtype: str) -> float:
  """A program's rate over that of a large product on as many devices.

  Args:
    row: what `measure` gave.
    peaks: what `measure_peaks` gave.
    dtype: that the program computes in.
  """
  rate = row["operations"] / statistics.median(row["seconds"])
  return rate / (row["devices"] * peaks[f"{dtype}_per_second"])


def time_runs(
  run: Callable[[], Any], repeats: int, seconds: float = math.inf
) -> list[float]:
  """Seconds of each run after a first one.

  There are fewer than `repeats`, but one, once they take `seconds` together.
  """
  run()
  times = []
  while len(times) < repeats and (not times or sum(times) < seconds):
    begin = time.perf_counter()
    run()
    times.append(time.perf_counter() - begin)
  return times


def spread(times: list[float]) -> str:
  """Median and extremes."""
  low, high = min(times), max(times)
  return f"{statistics.median(times):.3g} ({low:.3g} to {high:.3g})"


def table(rows: dict[str, dict], values: dict, dtype: str) -> str:
  """Markdown: a line per program.

  Args:
    rows: label -> what `measure` gave.
    values: of an `open_results`, for the machine and its peaks.
    dtype: that the programs compute in.
  """
  machine, peaks = values["machine"], values["peaks"]
  product, copy = peaks[f"{dtype}_per_second"], peaks["bytes_per_second"]
  lines = [
    f"{machine['devices']} x {machine['device']}, jax {machine['jax']},"
    f" {dtype}; on one, a large matrix product reaches {product / 1e9:.0f}"
    f" GFLOP/s, a large copy {copy / 1e9:.1f} GB/s; XLA counts the body of a"
    " loop once, GB moved has it as often as it runs\n",
    "| | seconds | to compile | GFLOP | XLA: GFLOP, GB | GB moved | share of"
    " the product's rate, of the copy's | compiled, GiB | peak, GiB |",
    "|---|---|---|---|---|---|---|---|---|",
  ]
  for label, row in rows.items():
    if "error" in row:
      lines.append(f"| {label} | {row['error']} |" + " |" * 7)
      continue
    median = statistics.median(row["seconds"])
    by_kind = row.get("traffic", {})
    moved = (sum(by_kind.values()) or math.nan) / median / copy
    used = share_of_product(row, peaks, dtype)
    lines.append(
      f"| {label} | {spread(row['seconds'])} | {row['compile_seconds']:.1f}"
      f" | {row['operations'] / 1e9:.4g}"
      f" | {(row['xla_operations'] or math.nan) / 1e9:.4g},"
      f" {(row['xla_bytes'] or math.nan) / 1e9:.3g}"
      f" | {largest_kinds(by_kind)}"
      f" | {used:.0%}, {moved:.0%}"
      f" | {row['compiled_gib']:.2f} | {row['peak_gib']:.2f} |"
    )
  return "\n".join(lines)


def largest_kinds(by_kind: dict[str, int]) -> str:
  """The kinds of operation that move the most bytes, in GB, and the sum."""
  shares = [f"{name} {n / 1e9:.3g}" for name, n in list(by_kind.items())[:4]]
  return f"{sum(by_kind.values()) / 1e9:.3g}: {', '.join(shares)}"


def comparison(old: dict, new: dict) -> str:
  """Markdown: what two files have both, side by side."""
  lines = [
    "| | seconds, old | new | ratio | compiled GiB, old | new | ratio |",
    "|---|---|---|---|---|---|---|",
  ]
  for key in old:
    before, now = old[key], new.get(key, {})
    if "seconds" not in before or "seconds" not in now:
      continue
    cells = []
    for was, is_now in (
      (statistics.median(x["seconds"]) for x in (before, now)),
      (x.get("compiled_gib") for x in (before, now)),
    ):
      ratio = f"{is_now / was:.2f}" if was and is_now else ""
      cells += [f"{x:.3g}" if x else "" for x in (was, is_now)] + [ratio]
    lines.append(f"| {key} | {' | '.join(cells)} |")
  return "\n".join(lines)
