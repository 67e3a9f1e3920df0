"""What a command says: progress, errors as one sentence, results at the end.

Nothing here imports JAX, so that a wrong flag is answered at once.
"""

import ast
import contextlib
import difflib
import logging as logging_module
import os
import pathlib
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import TypeVar

from absl import flags
from absl import logging

# Beside the package in a checkout.
_CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
_OWN = {"genvs_jax", "tfds_srn"}
# What libraries warn of in the course of things.
_EXPECTED = (
  "Using custom data configuration",
  "Variant folder",
  # Of a checkpoint that is read while none is written.
  "Metadata file does not exist",
)
# What Python says of a value that is no number.
_PLAIN = {
  "invalid literal for int() with base 10:": "expected a whole number, found",
  "could not convert string to float:": "expected a number, found",
}
_ONCE = ("rebuild",)  # flags that the next command does not need
_LINE_SECONDS = 10.0  # between lines of progress where there is no terminal

Item = TypeVar("Item")


class StoppedError(Exception):
  """A mode ended early, on request; its text says how to resume."""


class _OwnNotes(logging_module.Filter):
  """Lets warnings of all through, and notes of this project alone."""

  def filter(self, record: logging_module.LogRecord) -> bool:
    parts = pathlib.PurePath(record.pathname).parts
    if "site-packages" not in parts:
      return True
    # An installed package lies there itself; a clone, or a folder above the
    # environment, may have its name.
    last = len(parts) - 1 - parts[::-1].index("site-packages")
    if parts[last + 1] in _OWN:
      return True
    message = record.getMessage()
    is_expected = any(text in message for text in _EXPECTED)
    return record.levelno >= logging_module.WARNING and not is_expected


class _Lines(logging_module.Formatter):
  """The time and what is said, and where it is said if it is no note."""

  def format(self, record: logging_module.LogRecord) -> str:
    is_note = record.levelno == logging_module.INFO
    level = "" if is_note else f"{record.levelname.lower()}: "
    return f"{self.formatTime(record, '%H:%M:%S')} {level}{record.getMessage()}"


def set_up_log() -> None:
  """Short lines, without what libraries note of their work; --verbosity=1 has
  file and line of each. In a notebook too, where nothing parses flags."""
  logging.use_absl_handler()
  if not flags.FLAGS.is_parsed():
    logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  handler.addFilter(_OwnNotes())
  if logging.get_verbosity() <= logging.INFO:
    handler.setFormatter(_Lines())
  show = sys.unraisablehook

  def hook(unraisable) -> None:
    # Orbax leaves a coroutine behind when a save fails, which is told already.
    if str(unraisable.exc_value) != "Event loop is closed":
      show(unraisable)

  sys.unraisablehook = hook


def progress(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
  """Passes items on and says how far they are, and how long it will take.

  In a terminal that is a bar, elsewhere a line every ten seconds and a last.

  Args:
    items: whose passing is the progress.
    total: how many they will be.
    what: is going on, such as "drawing frames".
  """
  if not total:
    yield from items
    return
  started = last = time.monotonic()
  if sys.stderr.isatty():
    yield from _bar(items, total, what)
    return
  # The first item may wait for a program to be compiled, and tells nothing of
  # the others.
  second = started
  for number, item in enumerate(items):
    now = time.monotonic()
    second = now if number == 1 else second
    if number > 1 and now - last >= _LINE_SECONDS:
      left = (now - second) / (number - 1) * (total - number)
      logging.info("%s: %d of %d, %s left", what, number, total, duration(left))
      last = now
    yield item
  logging.info(
    "%s: %d of %d, in %s",
    what,
    total,
    total,
    duration(time.monotonic() - started),
  )


def _bar(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
  """`progress` in a terminal."""
  import tqdm  # noqa: PLC0415  (wanted for this alone)

  with tqdm.tqdm(
    desc=what, total=total, leave=False, dynamic_ncols=True, smoothing=0.1
  ) as bar:
    for number, item in enumerate(items):
      if number == 1:  # see above
        bar.reset(total)
        bar.update(1)
      elif number:
        bar.update(1)
      yield item
    bar.update(1)


@contextlib.contextmanager
def waiting(what: str, seconds: float, is_told: bool = True) -> Iterator[None]:
  """Says what is waited for, and about how long it takes.

  In a terminal that is a bar that fills with the time, elsewhere a line.

  Args:
    what: is going on, such as "compiling the train step".
    seconds: that it is expected to take.
    is_told: whether to say so at all.
  """
  if not is_told:
    yield
    return
  logging.info(
    "%s, about %.0f s (less if an earlier start kept it)", what, seconds
  )
  if not sys.stderr.isatty():
    yield
    return
  import tqdm  # noqa: PLC0415  (wanted for this alone)

  ended = threading.Event()
  started = time.monotonic()

  def fill() -> None:
    layout = "{desc}: {elapsed} |{bar}|"
    with tqdm.tqdm(
      desc=what, total=100, leave=False, dynamic_ncols=True, bar_format=layout
    ) as bar:
      while not ended.wait(0.5):
        share = (time.monotonic() - started) / max(seconds, 1.0)
        bar.update(100 * min(share, 1.0) - bar.n)

  thread = threading.Thread(target=fill, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()


def duration(seconds: float) -> str:
  """Hours, minutes and seconds: 0:01:20."""
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def report(command: Callable[[], list[str]]) -> int:
  """Runs a command, prints the lines that it returns or one error sentence.

  Returns:
    the exit code.
  """
  try:
    lines = command()
  except StoppedError as stopped:
    print(f"\n{stopped}")
    return 0
  except KeyboardInterrupt:
    print(
      "\nstopped by Ctrl-C: what is finished stays; the same command goes on"
      " from there",
      file=sys.stderr,
      flush=True,
    )
    # An orderly exit would wait for devices and threads at work, some of which
    # crash when they are taken apart.
    sys.stdout.flush()
    os._exit(130)
  except (ValueError, OSError, FloatingPointError) as error:
    logging.debug("traceback", exc_info=True)
    print(f"error: {error}", file=sys.stderr)
    print("(--verbosity=1 shows where it was raised)", file=sys.stderr)
    return 1
  print("\n" + "\n".join(lines))
  return 0


def parse_flags(argv: list[str], description: str = "") -> list[str]:
  """Parses flags; an unknown config, or field of it, is one sentence.

  Args:
    argv: the command.
    description: of it, for --help.
  """
  if {"--help", "-help", "-h", "--helpshort"} & set(argv[1:]):
    with contextlib.suppress(BrokenPipeError):  # of "| head"
      print(_help(description), flush=True)
    os._exit(0)
  argv = [argv[0], *(_with_config_path(arg) for arg in argv[1:])]
  set_fields = [arg for arg in argv if arg.startswith("--config.")]
  if set_fields and flag_value("config") is None and flag_value("checkpoint"):
    # Fields of the checkpoint's config, of which base.py has the names.
    argv.insert(1, f"--config={_CONFIGS / 'base.py'}")
  try:
    return flags.FLAGS(argv)
  except flags.UnrecognizedFlagError as error:
    names = [name for name in flags.FLAGS if len(name) > 1]
    close = difflib.get_close_matches(error.flagname, names, 1)
    hint = f"; did you mean --{close[0]}?" if close else ""
    sys.exit(f"error: there is no flag --{error.flagname}{hint} (see --help)")
  except flags.Error as error:
    text = str(error).rstrip(".")
    for theirs, plain in _PLAIN.items():
      text = text.replace(theirs, plain)
    sys.exit(f"error: {text}{_near_mode()}")
  except (AttributeError, KeyError) as error:
    unknown, *nearest = re.findall(
      r"""['"]([\w.]+)['"]""", str(error).replace("\\", "")
    ) or ["?"]
    args = (a.split("=")[0] for a in argv if a.startswith("--config."))
    flag = next((a for a in args if unknown in a.split(".")), unknown)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    sys.exit(f"error: {flag}: the config has no field {unknown!r}{hint}")


def _near_mode() -> str:
  """A guess at the mode that was meant, if it is none."""
  names = getattr(flags.FLAGS["mode"].parser, "enum_values", ())
  value = flag_value("mode") or ""
  close = difflib.get_close_matches(value, names, 1)
  return f"; did you mean {close[0]!r}?" if close and value not in names else ""


def _with_config_path(arg: str) -> str:
  """An argument, in which a config that is named has its path.

  `--config=cars64` and `--config=configs/cars64.py` are found from any folder;
  what follows a colon goes to the config's function.
  """
  flag, _, value = arg.partition("=")
  if flag not in ("--config", "-config") or not value:
    return arg
  path, colon, rest = value.partition(":")
  if os.path.exists(path):
    return arg
  name = os.path.basename(path).removesuffix(".py")
  recipes = [path.stem for path in _recipes()]
  if name not in recipes:
    close = difflib.get_close_matches(name, recipes, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    sys.exit(
      f"error: --config={value}: no such file, {hint}expected a path or one of"
      f" {', '.join(recipes)}"
    )
  return f"{flag}={_CONFIGS / name}.py{colon}{rest}"


def _help(description: str) -> str:
  """What the command does, its flags, and the recipes with a line each."""
  module = flags.FLAGS.find_module_defining_flag("workdir")
  width = max(len(path.stem) for path in _recipes())
  recipes = [
    f"  {path.stem:{width}s}  {_first_sentence(path)}" for path in _recipes()
  ]
  return "\n".join(
    [
      description.replace("python launch.py", " ".join(_program())),
      "Recipes for --config:",
      *recipes,
      "",
      "Flags:",
      flags.FLAGS.module_help(module).partition("\n")[2],
    ]
  )


def _recipes() -> list[pathlib.Path]:
  return sorted(_CONFIGS.glob("[!_]*.py"))


def _first_sentence(path: pathlib.Path) -> str:
  """Of a module's docstring."""
  text = ast.get_docstring(ast.parse(path.read_text())) or ""
  return " ".join(text.partition("\n\n")[0].split()).rstrip(".")


def flag_value(name: str) -> str | None:
  """The value of a flag as it was typed; None if it was not."""
  for arg, following in zip(sys.argv, [*sys.argv[1:], None], strict=True):
    if arg.startswith(f"--{name}="):
      return arg.partition("=")[2]
    if arg == f"--{name}":
      return following
  return None


def command_line(**changes: object) -> str:
  """The command that was typed, with other values of some flags.

  Args:
    **changes: values by the names of the flags, "__" in the place of dots.
  """
  values = {k.replace("__", "."): str(v) for k, v in changes.items()}
  words, skip = [], False
  for arg in sys.argv[1:]:
    name, equals, _ = arg.removeprefix("--").partition("=")
    if not skip and name not in values and name not in _ONCE:
      words.append(arg)
    skip = name in values and not equals
  words += [f"--{name}={value}" for name, value in values.items()]
  return shlex.join([*_program(), *words])


def _program() -> list[str]:
  """The words that start this command: it may be installed as `genvs`."""
  program = os.path.basename(sys.argv[0])
  return ["python", program] if program.endswith(".py") else [program]
