"""Encoded views of a rollout, in a fixed number of slots.

Every view is encoded once, so that a frame costs the same however many came
before, and the number of slots is fixed, so that one compilation serves all
frames. When the slots are fewer than the views, the input views and the newest
frames hold them; a view that a policy picks beyond those is encoded again from
its picture, and counted.
"""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from genvs_jax.models import cross_views
from genvs_jax.models import pipeline


class Arrays(NamedTuple):
  """What is kept of each view.

  Attributes:
    volumes: [B,slots,H,W,D,C].
    keys: [B,slots,N,K] of `cross_views`; None if nothing attends to views.
  """

  volumes: jax.Array
  keys: jax.Array | None


@dataclasses.dataclass
class Report:
  """What a rollout did beside drawing.

  Attributes:
    slots: of the bank, per scene.
    bank_bytes: of all its arrays, slots for views encoded again included.
    encoded_again: views that no longer had a slot when they were picked.
  """

  slots: int = 0
  bank_bytes: int = 0
  encoded_again: int = 0


@dataclasses.dataclass(frozen=True)
class Slots:
  """Where views lie: inputs for good, frames until newer ones come.

  Attributes:
    inputs: input views of a scene.
    regular: slots of inputs and frames; those behind are spare ones, for
      views that are encoded again.
    spare: how many those are.
  """

  inputs: int
  regular: int
  spare: int

  def at(self, rank: int) -> int:
    """The slot of the view that came as number `rank`, while it has one."""
    if rank < self.inputs:
      return rank
    return self.inputs + (rank - self.inputs) % (self.regular - self.inputs)

  def is_lost(self, rank: int, newest: int) -> bool:
    """Whether newer frames have taken a view's slot."""
    return rank >= self.inputs and newest - rank >= self.regular - self.inputs


@dataclasses.dataclass(frozen=True)
class Scenes:
  """What a rollout knows of B scenes; views are input views, then frames in the
  order of the path.

  Attributes:
    inputs: input views of each.
    pictures: {view: [B,H,W,3] in [0,1]} of those that are there.
    poses: [B,views,4,4] camera-to-world, of frames still to be drawn too.
    intrinsics: [B,views,4].
    drawn_noise: deviation of the noise that drawn views are said to have.
  """

  inputs: int
  pictures: dict[int, Any]
  poses: np.ndarray
  intrinsics: np.ndarray
  drawn_noise: float

  def arrays(self, views: Sequence[int]) -> tuple:
    """Pictures [B,H,W,3], poses [B,4,4], intrinsics [B,4] of a view of each
    scene, and the deviation [B] of the noise that they are said to have."""
    is_drawn = np.asarray(views) >= self.inputs
    return (
      np.stack([self.pictures[view][b] for b, view in enumerate(views)]),
      np.stack([self.poses[b, view] for b, view in enumerate(views)]),
      np.stack([self.intrinsics[b, view] for b, view in enumerate(views)]),
      np.where(is_drawn, self.drawn_noise, 0.0).astype(np.float32),
    )


class Bank:
  """Encoded views of some scenes.

  Args:
    scenes: whose pictures are encoded.
    slots: where.
    arrays: of all slots, empty.
    encode: (arrays, pictures, poses, intrinsics, deviations, slot) -> arrays.
    report: that counts views encoded again.

  Attributes:
    views: those that were put in, in the order in which they came first.
    arrays: of all slots.
  """

  def __init__(
    self,
    scenes: Scenes,
    slots: Slots,
    arrays: Arrays,
    encode: Callable[..., Arrays],
    report: Report,
  ):
    self.views: list[int] = []
    self.arrays = arrays
    self._scenes, self._slots = scenes, slots
    self._encode, self._report = encode, report

  def put(self, view: int) -> None:
    """Encodes a view of all scenes; one that was there is replaced."""
    if view not in self.views:
      self.views.append(view)
    rank, newest = self.views.index(view), len(self.views) - 1
    if not self._slots.is_lost(rank, newest):
      self._put_into(
        [view] * len(self._scenes.intrinsics), self._slots.at(rank)
      )

  def find(self, choice: np.ndarray) -> np.ndarray:
    """Slots of views [B,rows,k], -1 for none; encodes those that have none."""
    ranks = {view: rank for rank, view in enumerate(self.views)}
    newest = len(self.views) - 1
    at = np.zeros_like(choice)
    absent: list[dict[int, int]] = []  # per scene: view -> spare slot
    for b, views in enumerate(choice):
      spare: dict[int, int] = {}
      for place, view in np.ndenumerate(views):
        if view < 0:
          continue
        rank = ranks[int(view)]
        slot = self._slots.at(rank)
        if self._slots.is_lost(rank, newest):
          slot = spare.setdefault(int(view), self._slots.regular + len(spare))
        at[(b, *place)] = slot
      absent.append(spare)
    # One spare slot of all scenes at a time; scenes with fewer encode view 0.
    for i in range(max(map(len, absent))):
      views = [list(s)[i] if i < len(s) else 0 for s in absent]
      self._put_into(views, self._slots.regular + i)
    self._report.encoded_again += sum(map(len, absent))
    return at

  def _put_into(self, views: Sequence[int], slot: int) -> None:
    arrays = self._scenes.arrays(views)
    self.arrays = self._encode(self.arrays, *arrays, np.int32(slot))


def slot_shapes(model: pipeline.Model) -> list[tuple[int, ...]]:
  """Shapes of what is kept of a view: its volume, and its keys if any."""
  size, encoder = model.image_size, model.encoder
  shapes: list[tuple[int, ...]] = [
    (size, size, encoder.depth_planes, encoder.channels)
  ]
  if model.view_encoder is not None:
    shapes.append(cross_views.key_shape(model.view_encoder, size))
  return shapes


def divide(
  inputs: int, frames: int, max_frames: int, slot_bytes: int, gib: float
) -> Slots:
  """Slots for inputs and frames in some memory.

  Args:
    inputs: of a scene.
    frames: that condition others.
    max_frames: that condition one frame at once.
    slot_bytes: of one slot of all scenes.
    gib: the memory in GiB.
  """
  room = int(gib * 2**30 // slot_bytes)
  regular, spare = inputs + frames, 0
  if regular > room:
    # Views without a slot are encoded again, each into a slot of its own.
    spare = min(max_frames, frames)
    regular = max(room - spare, inputs + min(frames, 1))
    spare = min(spare, inputs + frames - regular)
  if regular + spare > room:
    logging.warning(
      "rollout.bank_gib is %.2f, but the views that the policy may pick at"
      " once take %.2f GiB",
      gib,
      (regular + spare) * slot_bytes / 2**30,
    )
  return Slots(inputs, regular, spare)


def empty(
  model: pipeline.Model, dtype: Any, count: int, slots: Slots
) -> Arrays:
  """Zeros for `count` scenes."""
  total = slots.regular + slots.spare
  arrays = [
    jnp.zeros((count, total, *shape), dtype) for shape in slot_shapes(model)
  ]
  return Arrays(arrays[0], arrays[1] if len(arrays) > 1 else None)


def encode_into(
  model: pipeline.Model,
  variables: pipeline.Variables,
  arrays: Arrays,
  pictures: jax.Array,
  poses: jax.Array,
  intrinsics: jax.Array,
  deviations: jax.Array,
  slot: jax.Array,
) -> Arrays:
  """Puts pictures [B,H,W,3] in [0,1] into a slot; see `Scenes.arrays`."""
  pictures = pictures[:, None]
  images = pipeline.from_unit(pictures, model.image_range)
  volumes, _ = pipeline.encode(
    model, variables, images, deviation=deviations[:, None]
  )
  keys = cross_views.encode(
    model, variables, pictures, poses[:, None], intrinsics
  )

  def put(slots, new):
    new = new.astype(slots.dtype)
    return jax.lax.dynamic_update_slice_in_dim(slots, new, slot, 1)

  return jax.tree.map(put, arrays, Arrays(volumes, keys))


def slot_bytes(model: pipeline.Model, dtype: Any, count: int) -> int:
  """Bytes of one slot of `count` scenes."""
  values = sum(map(math.prod, slot_shapes(model)))
  return count * jnp.dtype(dtype).itemsize * values
