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
    # What is done is not asked for again.
    (
      ["launch.py", "--rebuild", "--config=cars64"],
      "python launch.py --config=cars64 --mode=view --config.sample.scene=4",
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
    "drawing: 2 of 7, 0:00:20 left",
    "drawing: 5 of 7, 0:00:08 left",
    "drawing: 7 of 7, in 0:00:32",
  ]


def test_what_the_first_item_waits_for_is_not_expected_of_the_others(
  monkeypatch, caplog
):
  now = iter([0, 0, 100, *range(101, 130)])  # the first takes 100 seconds
  monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
  with caplog.at_level(logging.INFO, "absl"):
    list(console.progress(iter("abcdefg"), 7, "drawing"))
  assert caplog.messages[0] == "drawing: 2 of 7, 0:00:05 left"


def test_nothing_to_do_is_not_told(caplog):
  with caplog.at_level(logging.INFO, "absl"):
    assert list(console.progress(iter(()), 0, "drawing")) == []
  assert not caplog.messages


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
  # Of an installed copy too.
  assert shown("a note", "/x/site-packages/genvs_jax/a.py", logging.INFO)
  assert shown("a note", "/x/site-packages/tfds_srn/meshes/a.py", logging.INFO)
  # A clone has the name of the package, with its environment inside.
  inside = "/x/genvs_jax/.venv/lib/python3.11/site-packages"
  assert not shown("a note", f"{inside}/orbax/a.py", logging.INFO)
  assert shown("a note", f"{inside}/genvs_jax/a.py", logging.INFO)


def test_lines_of_the_log_have_the_time_and_what_is_no_note_its_kind():
  def line(level):
    record = logging.LogRecord("absl", level, "/x/a.py", 1, "%d", (3,), None)
    return console._Lines().format(record)

  assert re.fullmatch(r"\d\d:\d\d:\d\d 3", line(logging.INFO))
  assert re.fullmatch(r"\d\d:\d\d:\d\d warning: 3", line(logging.WARNING))


def test_what_is_waited_for_fills_a_bar_in_a_terminal(monkeypatch):
  terminal = io.StringIO()
  terminal.isatty = lambda: True
  monkeypatch.setattr(sys, "stderr", terminal)
  with console.waiting("compiling the frame", 1.0):
    time.sleep(1.2)
  assert re.search(
    r"compiling the frame: 00:01 \|[^ ]+ *\|", terminal.getvalue()
  )


def test_help_shows_the_command_that_was_typed(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["/usr/bin/genvs", "--help"])
  assert console._program() == ["genvs"]
  monkeypatch.setattr(sys, "argv", ["/x/launch.py", "--help"])
  assert console._program() == ["python", "launch.py"]
