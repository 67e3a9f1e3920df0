"""What a command says: errors as one sentence, results at the end.

Nothing here imports JAX, so that a wrong flag is answered at once.
"""

import difflib
import logging as logging_module
import os
import pathlib
import re
import sys
from collections.abc import Callable

from absl import app
from absl import logging

# Beside the package in a checkout.
_CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


class StoppedError(Exception):
  """A mode ended early, on request; its text says how to resume."""


class _OwnNotes(logging_module.Filter):
  """Lets warnings of all through, and notes of this project alone."""

  def filter(self, record: logging_module.LogRecord) -> bool:
    if "site-packages" not in record.pathname:
      return True
    expected = "Using custom data configuration" in record.getMessage()
    return record.levelno >= logging_module.WARNING and not expected


def hide_library_notes() -> None:
  """Keeps what libraries note of their work out of the log."""
  logging.get_absl_handler().addFilter(_OwnNotes())
  show = sys.unraisablehook

  def hook(unraisable) -> None:
    # Orbax leaves a coroutine behind when a save fails, which is told already.
    if str(unraisable.exc_value) != "Event loop is closed":
      show(unraisable)

  sys.unraisablehook = hook


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


def parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; an unknown config, or field of it, is one sentence."""
  argv = [argv[0], *(_with_config_path(arg) for arg in argv[1:])]
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError) as error:
    unknown, *nearest = re.findall(
      r"""['"]([\w.]+)['"]""", str(error).replace("\\", "")
    ) or ["?"]
    args = (a.split("=")[0] for a in argv if a.startswith("--config."))
    flag = next((a for a in args if unknown in a.split(".")), unknown)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    sys.exit(f"error: {flag}: the config has no field {unknown!r}{hint}")


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
  recipes = sorted(p.stem for p in _CONFIGS.glob("*.py"))
  if name not in recipes:
    close = difflib.get_close_matches(name, recipes, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    sys.exit(
      f"error: --config={value}: no such file, {hint}expected a path or one of"
      f" {', '.join(recipes)}"
    )
  return f"{flag}={_CONFIGS / name}.py{colon}{rest}"


def flag_value(name: str) -> str:
  """The value of a flag as it was typed, in capitals if it was not."""
  for arg in sys.argv:
    if arg.startswith(f"--{name}="):
      return arg.partition("=")[2]
  return name.upper()
