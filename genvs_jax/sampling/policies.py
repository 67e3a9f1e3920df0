"""Which views a frame of a rollout is conditioned on.

A policy is a function (poses, inputs, before, target, rng) -> i32 [rows, k]:
`poses` [N,4,4] are those of all other views that are there, the input views
first and then the frames in the order in which they are drawn; the first
`before` of them stand before this frame: all N, unless this is a second pass.
The entries are indices into them, -1 for none. One row holds for the whole
frame; several rows are one per denoising step.
"""

from collections.abc import Callable
from typing import NamedTuple

import ml_collections
import numpy as np

from genvs_jax.geometry import camera_paths
from genvs_jax.runtime import messages

ChooseViews = Callable[
  [np.ndarray, int, int, np.ndarray, np.random.Generator], np.ndarray
]
NAMES = ("input", "reference", "nearest", "stochastic", "anchors")


class Policy(NamedTuple):
  """A policy and what it may need at once.

  Attributes:
    choose: see above.
    uses_frames: whether it ever picks a frame.
    max_frames: that one target may be conditioned on.
    order: number of frames -> the frames in the order in which they are drawn.
  """

  choose: ChooseViews
  uses_frames: bool
  max_frames: int
  order: Callable[[int], list[int]] = lambda frames: list(range(frames))


def input_only(views: int) -> ChooseViews:
  """The input views alone: frames do not depend on each other."""

  def choose(poses, inputs, before, target, rng):
    del poses, before, target, rng
    return _row(range(inputs), views)

  return choose


def reference(views: int, random_views: int) -> ChooseViews:
  """The reference's: inputs, some random earlier frames, and the last one.

  Args:
    views: k.
    random_views: most frames before the last one.
  """

  def choose(poses, inputs, before, target, rng):
    del target
    # What a second pass has not drawn again yet is older than what it has.
    frames = np.roll(np.arange(inputs, len(poses)), len(poses) - before)
    last, earlier = frames[-1:], frames[:-1]
    count = min(random_views, len(earlier))
    picks = rng.choice(earlier, count, replace=False) if count else []
    return _row([*range(inputs), *sorted(picks), *last], views)

  return choose


def nearest(views: int) -> ChooseViews:
  """The k views nearest in angle, as seen from the world's origin."""

  def choose(poses, inputs, before, target, rng):
    del inputs, before, rng
    angles = np.asarray(camera_paths.view_angle(poses, target))
    order = np.argsort(angles, kind="stable")
    return _row(order[:views], views)

  return choose


def anchors(views: int, count: int) -> ChooseViews:
  """The k views nearest in angle among the inputs and the first `count` frames
  that were drawn: frames between anchors do not hand their errors on."""

  def choose(poses, inputs, before, target, rng):
    # An anchor that is drawn again is not among the others.
    anchored = inputs + count - (before < inputs + count)
    return nearest(views)(poses[:anchored], inputs, before, target, rng)

  return choose


def anchors_first(frames: int, count: int) -> list[int]:
  """Frames of a closed path: `count` far-apart ones, then the others."""
  first = sorted(
    {i * frames // count for i in range(count)} & set(range(frames))
  )
  return first + [i for i in range(frames) if i not in first]


def stochastic(steps: int) -> ChooseViews:
  """One view at each denoising step, any of all so far (3DiM, sec. 3.2)."""

  def choose(poses, inputs, before, target, rng):
    del inputs, before, target
    return rng.integers(0, len(poses), (steps, 1)).astype(np.int32)

  return choose


def _row(indices, views: int) -> np.ndarray:
  row = np.full((1, views), -1, np.int32)
  indices = list(indices)[:views]
  row[0, : len(indices)] = indices
  return row


def build_policy(config: ml_collections.ConfigDict, inputs: int) -> Policy:
  """From `config.rollout` and `config.sampler.steps`.

  Args:
    config: see above.
    inputs: number of input views.
  """
  options, steps = config.rollout, config.sampler.steps
  messages.check_choice("rollout.policy", options.policy, NAMES)
  if options.policy == "input":
    return Policy(input_only(inputs), False, 0)
  if options.policy == "nearest":
    return Policy(nearest(options.nearest_views), True, options.nearest_views)
  if options.policy == "anchors":
    count = options.anchors
    if count < 1:
      raise ValueError(f"rollout.anchors is {count}, expected 1 or more")
    return Policy(
      anchors(options.nearest_views, count),
      True,
      min(options.nearest_views, count),
      lambda frames: anchors_first(frames, count),
    )
  if options.policy == "stochastic":
    return Policy(stochastic(steps), True, steps)
  views = inputs + options.random_views + 1
  return Policy(
    reference(views, options.random_views), True, options.random_views
  )
