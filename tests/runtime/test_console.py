"""What a command says."""

import io
import logging
import re
import sys
import time

import pytest

from genvs_jax.runtime import console


@pytest.mark.parametrize(
  "argv,expected",
  [
    (
      [
        "launch.py",
        "--mode=sample",
        "--config.sample.scene=0",
        "--config=demo",
      ],
      "python launch.py --config=demo --mode=view --config.sample.scene=4",
    ),
    # A flag and its value in two words; one that needs quotes.
    (
      ["/bin/genvs", "--mode", "sample", "--images", "my car.png"],
      "genvs --images 'my car.png' --mode=view --config.sample.scene=4",
    ),
  ],
)
def test_a_command_is_repeated_with_other_values(monkeypatch, argv, expected):
  monkeypatch.setattr(sys, "argv", argv)
  line = console.command_line(mode="view", config__sample__scene=4)
  assert line == expected


def test_values_of_flags_as_they_were_typed(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["launch.py", "--a=1", "--b", "2", "--c"])
  assert [console.flag_value(name) for name in "abcd"] == ["1", "2", None, None]


def test_progress_passes_items_on_and_says_what_is_left(monkeypatch, caplog):
  now = iter(range(0, 100, 4))
  monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
  with caplog.at_level(logging.INFO, "absl"):
    items = list(console.progress(iter("abcdefg"), 7, "drawing"))
  assert items == list("abcdefg")
  # A line when ten seconds have passed, at four an item, and one at the end.
  assert caplog.messages == [
    "drawing: 2 of 7, 0:00:30 left",
    "drawing: 5 of 7, 0:00:10 left",
    "drawing: 7 of 7, in 0:00:32",
  ]


def test_durations():
  assert console.duration(0.4) == "0:00:00"
  assert console.duration(3_725) == "1:02:05"


def test_expected_warnings_of_libraries_are_kept_back():
  def shown(text, path="/x/site-packages/a.py", level=logging.WARNING):
    record = logging.LogRecord("absl", level, path, 1, text, None, None)
    return console._OwnNotes().filter(record)

  assert not shown("Variant folder /x has no dataset_info.json")
  assert not shown("a note", level=logging.INFO)
  assert shown("a warning") and shown("a note", "/x/genvs_jax/a.py", 20)


def test_what_is_waited_for_fills_a_bar_in_a_terminal(monkeypatch):
  terminal = io.StringIO()
  terminal.isatty = lambda: True
  monkeypatch.setattr(sys, "stderr", terminal)
  with console.waiting("compiling the frame", 1.0):
    time.sleep(1.2)
  assert re.search(
    r"compiling the frame: 00:01 \|[^ ]+ *\|", terminal.getvalue()
  )
