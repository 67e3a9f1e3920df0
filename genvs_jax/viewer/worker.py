"""One thread that draws for all browsers, the most urgent picture first.

Of a camera that moves only the newest place is drawn: those that it left
meanwhile are forgotten, not queued. Long work is cut into turns, so that a
camera that moves waits for one turn at most.
"""

import functools
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
from typing import Any

from absl import logging


class _Viewer:
  """What is known of a browser.

  Attributes:
    camera: the newest.
    moved: when it came.
    is_new: whether it has yet to be drawn once.
    rest: the drawing at rest, begun or finished; None before.
    is_finished: whether that is done.
  """

  def __init__(self, camera: Any, moved: float):
    self.camera, self.moved = camera, moved
    self.is_new, self.is_finished = True, False
    self.rest: Iterator[None] | None = None


class Worker:
  """Draws in a thread of its own.

  Args:
    draw_moving: (viewer, camera) -> None, quick.
    draw_at_rest: (viewer, camera) -> an iterator whose turns draw it well.
    on_error: (viewer or None, what a turn raised) -> None.
    rest_seconds: without a move, after which a camera is at rest.
  """

  def __init__(
    self,
    draw_moving: Callable[[int, Any], None],
    draw_at_rest: Callable[[int, Any], Iterator[None]],
    on_error: Callable[[int | None, Exception], None],
    rest_seconds: float = 0.15,
  ):
    self._draw_moving, self._draw_at_rest = draw_moving, draw_at_rest
    self._on_error, self._rest_seconds = on_error, rest_seconds
    self._changed = threading.Condition()
    self._viewers: dict[int, _Viewer] = {}
    self._tasks: deque[tuple[int | None, Callable[[], None]]] = deque()
    self._long: tuple[int | None, Generator[None, None, None]] | None = None
    self._is_stopped = False
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def move(self, viewer: int, camera: Any) -> None:
    """A browser's camera is here now."""
    with self._changed:
      self._viewers[viewer] = _Viewer(camera, time.monotonic())
      self._changed.notify()

  def leave(self, viewer: int) -> None:
    """A browser is gone."""
    with self._changed:
      self._viewers.pop(viewer, None)

  def redraw(self) -> None:
    """What all cameras see has changed."""
    with self._changed:
      for viewer, state in self._viewers.items():
        self._viewers[viewer] = _Viewer(state.camera, time.monotonic())
      self._changed.notify()

  def post(self, viewer: int | None, task: Callable[[], None]) -> None:
    """Runs a short task before anything else."""
    with self._changed:
      self._tasks.append((viewer, task))
      self._changed.notify()

  def start(
    self, viewer: int | None, turns: Generator[None, None, None] | None
  ) -> None:
    """Takes turns of long work when no camera waits; a new one, or None, ends
    the one before."""
    with self._changed:
      if self._long is not None:
        # Where it was at work, in the worker's thread.
        self._tasks.append((self._long[0], self._long[1].close))
      self._long = None if turns is None else (viewer, turns)
      self._changed.notify()

  def stop(self) -> None:
    """Ends the thread after its turn."""
    with self._changed:
      self._is_stopped = True
      self._changed.notify()
    self._thread.join()

  def _run(self) -> None:
    while True:
      with self._changed:
        while (turn := self._next_turn()) is None and not self._is_stopped:
          self._changed.wait(self._seconds_to_rest())
        if self._is_stopped:
          return
      assert turn is not None
      viewer, action = turn
      try:
        action()
      # Whatever a turn raises is shown; the next ones go on.
      except Exception as error:
        logging.debug("traceback", exc_info=True)
        self._on_error(viewer, error)

  def _next_turn(self) -> tuple[int | None, Callable[[], None]] | None:
    """The most urgent turn and who asked for it; None if there is none."""
    if self._tasks:
      return self._tasks.popleft()
    # Of several, the camera that has waited longest.
    viewers = sorted(self._viewers.items(), key=lambda item: item[1].moved)
    for viewer, state in viewers:
      if state.is_new:
        state.is_new = False
        return viewer, functools.partial(
          self._draw_moving, viewer, state.camera
        )
    now = time.monotonic()
    for viewer, state in viewers:
      if not state.is_finished and now - state.moved >= self._rest_seconds:
        return viewer, functools.partial(self._rest_turn, viewer, state)
    if self._long is not None:
      owner, turns = self._long
      return owner, functools.partial(self._long_turn, turns)
    return None

  def _rest_turn(self, viewer: int, state: _Viewer) -> None:
    try:
      if state.rest is None:
        state.rest = self._draw_at_rest(viewer, state.camera)
      next(state.rest)
    except StopIteration:
      state.is_finished = True
    except Exception:
      state.is_finished = True
      raise

  def _long_turn(self, turns: Iterator[None]) -> None:
    try:
      next(turns)
    except BaseException as end:
      with self._changed:
        if self._long is not None and self._long[1] is turns:
          self._long = None
      if not isinstance(end, StopIteration):
        raise

  def _seconds_to_rest(self) -> float | None:
    """Until the next camera is at rest; None if there is none to wait for."""
    waits = [
      state.moved + self._rest_seconds - time.monotonic()
      for state in self._viewers.values()
      if not state.is_finished
    ]
    return max(0.0, min(waits)) if waits else None
