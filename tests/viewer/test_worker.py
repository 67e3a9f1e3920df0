"""The newest camera wins; nothing waits for long work."""

import threading
import time

import pytest

from genvs_jax.viewer import worker


class Log:
  """What a worker drew, with a gate that holds it up."""

  def __init__(self, rest_turns=2, rest_seconds=0.02):
    self.moving, self.rest, self.errors = [], [], []
    self.gate = threading.Event()
    self.gate.set()
    self.rest_turns = rest_turns
    self.worker = worker.Worker(
      self._draw_moving, self._draw_at_rest, self._on_error, rest_seconds
    )

  def _draw_moving(self, viewer, camera):
    self.gate.wait(5)
    self.moving.append((viewer, camera))
    if camera == "broken":
      raise ValueError("no such camera")

  def _draw_at_rest(self, viewer, camera):
    for turn in range(self.rest_turns):
      self.gate.wait(5)
      self.rest.append((viewer, camera, turn))
      yield

  def _on_error(self, viewer, error):
    self.errors.append((viewer, str(error)))


@pytest.fixture
def log():
  log = Log()
  yield log
  log.gate.set()
  log.worker.stop()


def until(condition):
  deadline = time.monotonic() + 5
  while not condition():
    assert time.monotonic() < deadline, "nothing happened"
    time.sleep(0.002)


def test_a_camera_is_drawn_moving_and_then_at_rest(log):
  log.worker.move(1, "a")
  until(lambda: len(log.rest) == 2)
  assert log.moving == [(1, "a")]
  assert log.rest == [(1, "a", 0), (1, "a", 1)]
  time.sleep(0.05)
  assert len(log.rest) == 2  # once


def test_only_the_newest_camera_is_drawn(log):
  log.gate.clear()
  log.worker.move(1, "first")
  time.sleep(0.02)  # is being drawn
  for i in range(20):
    log.worker.move(1, i)
  log.gate.set()
  until(lambda: len(log.rest) == 2)
  assert log.moving == [(1, "first"), (1, 19)]
  assert {camera for _, camera, _ in log.rest} == {19}


def test_a_move_ends_what_is_drawn_at_rest(log):
  log.rest_turns = 1000
  log.worker.move(1, "a")
  until(lambda: len(log.rest) > 3)
  log.worker.move(1, "b")
  until(lambda: log.rest[-1][1] == "b")
  drawn_until = [camera for _, camera, _ in log.rest]
  assert "a" not in drawn_until[drawn_until.index("b") :]


def test_browsers_take_turns(log):
  stopped = threading.Event()

  def always_moving():
    i = 0
    while not stopped.is_set():
      log.worker.move(1, i)
      i += 1
      time.sleep(0.001)

  thread = threading.Thread(target=always_moving)
  thread.start()
  try:
    for i in range(5):
      log.worker.move(2, i)
      until(lambda i=i: (2, i) in log.moving)
  finally:
    stopped.set()
    thread.join()


def test_long_work_gives_way_and_goes_on(log):
  turns = []

  def work():
    for i in range(200):
      turns.append(i)
      time.sleep(0.001)
      yield

  log.worker.start(1, work())
  until(lambda: len(turns) > 3)
  log.worker.move(1, "a")
  until(lambda: len(log.rest) == 2)
  assert len(turns) < 200
  until(lambda: len(turns) == 200)


def test_long_work_is_ended_by_another_or_by_none(log):
  closed = []

  def work(name):
    try:
      while True:
        time.sleep(0.001)
        yield
    finally:
      closed.append(name)

  log.worker.start(1, work("a"))
  time.sleep(0.02)
  log.worker.start(1, work("b"))
  until(lambda: closed == ["a"])
  log.worker.start(None, None)
  until(lambda: closed == ["a", "b"])


def test_short_tasks_go_first_and_in_order(log):
  order = []
  log.gate.clear()
  log.worker.move(1, "a")
  time.sleep(0.01)
  for i in range(3):
    log.worker.post(1, lambda i=i: order.append((i, len(log.rest))))
  log.gate.set()
  until(lambda: len(order) == 3)
  assert order == [(0, 0), (1, 0), (2, 0)]


def test_errors_go_to_whom_they_concern_and_the_rest_goes_on(log):
  def failing():
    yield
    raise ValueError("half way")

  def task():
    raise ValueError("a task")

  log.worker.move(3, "broken")
  log.worker.post(4, task)
  log.worker.start(5, failing())
  until(lambda: len(log.errors) == 3)
  assert sorted(log.errors) == [
    (3, "no such camera"),
    (4, "a task"),
    (5, "half way"),
  ]
  log.worker.move(3, "a")
  until(lambda: (3, "a") in log.moving)


def test_a_browser_that_left_is_not_drawn(log):
  log.gate.clear()
  log.worker.move(1, "a")
  time.sleep(0.01)
  log.worker.move(2, "b")
  log.worker.leave(2)
  log.gate.set()
  until(lambda: len(log.rest) == 2)
  assert all(viewer == 1 for viewer, *_ in log.moving + log.rest)
