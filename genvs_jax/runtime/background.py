"""Work of the host that nothing waits for, such as writing pictures."""

import collections
import contextlib
from collections.abc import Callable
from concurrent import futures


class Background(contextlib.AbstractContextManager):
  """Runs functions one after another in a thread of its own.

  Errors come out of `check`, or at the end of the context, which waits for
  what is under way.
  """

  def __init__(self):
    self._thread = futures.ThreadPoolExecutor(1)
    self._in_flight: collections.deque[futures.Future] = collections.deque()

  def run(self, function: Callable, *arguments) -> None:
    """Returns at once."""
    self._in_flight.append(self._thread.submit(function, *arguments))

  def check(self) -> None:
    """Raises what a finished function has raised."""
    while self._in_flight and self._in_flight[0].done():
      self._in_flight.popleft().result()

  def __exit__(self, *error) -> None:
    self._thread.shutdown()
    if error == (None, None, None):
      self.check()
