"""The sentences of errors."""

import pytest

from genvs_jax.runtime import messages


def test_choices_are_named_with_what_was_found():
  messages.check_choice("a.b", "x", ("x", "y"))
  with pytest.raises(ValueError, match=r"^a\.b is 'z', expected one of x, ''$"):
    messages.check_choice("a.b", "z", ("x", ""))


def test_the_first_line_of_an_error():
  assert messages.first_line(ValueError("\none\ntwo")) == "one"
  assert messages.first_line(ValueError()) == "ValueError"
  assert messages.first_line(ValueError("abc"), 2) == "ab"
