"""The sentences that errors are made of: what was found, what was expected."""

from collections.abc import Iterable


def check_choice(field: str, value: str, choices: Iterable[str]) -> None:
  """Raises ValueError unless `value` is one of `choices`.

  Args:
    field: of the config, or whatever the user has set.
    value: that it has.
    choices: that it may have.
  """
  choices = tuple(choices)
  if value not in choices:
    names = ", ".join(choice or "''" for choice in choices)
    raise ValueError(f"{field} is {value!r}, expected one of {names}")


def check_at_least(field: str, value: float, least: float) -> None:
  """Raises ValueError if a field of the config is below `least`."""
  if not value >= least:
    raise ValueError(f"{field} is {value}, expected {least} or more")


def first_line(error: BaseException, max_length: int = 300) -> str:
  """An error's text, as far as it fits into a sentence."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:max_length]
