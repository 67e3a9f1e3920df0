"""Drawing a path frame by frame, earlier frames conditioning later ones.

Every view is encoded once, into a bank of volumes with a fixed number of
slots, so that one compilation serves all frames and a frame costs the same
however many came before. When the slots are fewer than the views, the input
views and the newest frames hold them; a view that a policy picks beyond those
is encoded again from its picture, and counted.
"""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from genvs_jax.models import cross_views
from genvs_jax.models import pipeline
from genvs_jax.sampling import policies
from genvs_jax.sampling import view_synthesis


@dataclasses.dataclass(frozen=True)
class Options:
  """How paths are drawn; see `rollout` in `configs/base.py`.

  Attributes:
    build_policy: number of input views -> the policy.
    bank_gib: memory for encoded views.
    bank_dtype: of them.
    sampler: see `view_synthesis.build_sampler`; None draws RGB renders.
    trajectories: frames whose estimates at each step are returned.
    same_noise: draw all frames of a scene with the same noise.
    drawn_noise: deviation of the noise that drawn views are said to have.
  """

  build_policy: Callable[[int], policies.Policy]
  bank_gib: float
  bank_dtype: Any
  sampler: Callable | None
  trajectories: tuple[int, ...]
  same_noise: bool = False
  drawn_noise: float = 0.0


@dataclasses.dataclass
class BankReport:
  """What a rollout did beside drawing.

  Attributes:
    slots: of the bank, per scene.
    bank_bytes: of all its volumes, slots for views encoded again included.
    encoded_again: views that no longer had a slot when they were picked.
  """

  slots: int = 0
  bank_bytes: int = 0
  encoded_again: int = 0


@dataclasses.dataclass(frozen=True)
class _Slots:
  """Where views lie in the bank: inputs for good, frames until newer ones come.

  Attributes:
    inputs: input views of a scene.
    regular: slots of inputs and frames; those behind are spare ones, for
      views that are encoded again.
  """

  inputs: int
  regular: int

  def of_view(self, view: int) -> int:
    """The slot of a view while it has one."""
    if view < self.inputs:
      return view
    return self.inputs + (view - self.inputs) % (self.regular - self.inputs)

  def is_lost(self, view: int, newest: int) -> bool:
    """Whether newer frames have taken a view's slot."""
    return view >= self.inputs and newest - view >= self.regular - self.inputs


class Bank(NamedTuple):
  """What is kept of each view.

  Attributes:
    volumes: [B,slots,H,W,D,C].
    keys: [B,slots,N,K] of `cross_views`; None if nothing attends to views.
  """

  volumes: jax.Array
  keys: jax.Array | None


@dataclasses.dataclass(frozen=True)
class _Scenes:
  """What a rollout knows of B scenes.

  Attributes:
    inputs: input views of each.
    pictures: of inputs, then of the frames that are drawn, each [B,H,W,3] in
      [0,1].
    poses: [B,views,4,4] camera-to-world, of frames still to be drawn too.
    intrinsics: [B,4].
  """

  inputs: int
  pictures: list[Any]
  poses: np.ndarray
  intrinsics: np.ndarray

  def arrays(self, views: Sequence[int], drawn_noise: float) -> tuple:
    """Pictures [B,H,W,3], poses [B,4,4], intrinsics [B,4] of a view of each
    scene, and the deviation [B] of the noise that they are said to have."""
    is_drawn = np.asarray(views) >= self.inputs
    return (
      np.stack([self.pictures[view][b] for b, view in enumerate(views)]),
      np.stack([self.poses[b, view] for b, view in enumerate(views)]),
      self.intrinsics,
      np.where(is_drawn, drawn_noise, 0.0).astype(np.float32),
    )


class Rollout:
  """Draws paths for a batch of scenes side by side.

  Args:
    options: see `Options`.
    model: the model.
    place: puts arrays [B,..] on the devices, by default on the first.
  """

  def __init__(
    self,
    options: Options,
    model: pipeline.Model,
    place: Callable[[Any], Any] = jax.device_put,
  ):
    self._options = options
    self._model = model
    self._place = place
    self._encode_into = jax.jit(self._encode_into_slot, donate_argnums=1)
    self.draw = jax.jit(self._draw)
    self.report = BankReport()

  def run(
    self,
    variables: pipeline.Variables,
    inputs: dict[str, np.ndarray],
    poses: np.ndarray,
    seed: int,
    finished: Sequence[view_synthesis.Views] = (),
  ) -> Iterator[view_synthesis.Views]:
    """Draws the path, from where it was left.

    Args:
      variables: of the model.
      inputs: images u8 [B,V,H,W,3], poses [B,V,4,4], intrinsics [B,4] and
        scene [B], whose number goes into the noise.
      poses: [frames,4,4] camera-to-world, or [B,frames,4,4] with a path for
        each scene.
      seed: of the sampling noise and of random choices.
      finished: frames that an earlier rollout of the same kind drew.

    Yields:
      one `Views` with Q = 1 per pose that is left, NumPy arrays.
    """
    count, views = inputs["images"].shape[:2]
    poses = np.asarray(poses)
    poses = np.broadcast_to(poses, (count, *poses.shape[-3:]))
    frames = poses.shape[1]
    if len(finished) == frames:
      return
    policy = self._options.build_policy(views)
    images = inputs["images"] / np.float32(255)
    scenes = _Scenes(
      inputs=views,
      pictures=[images[:, i] for i in range(views)],
      poses=np.concatenate([np.asarray(inputs["poses"]), poses], 1),
      intrinsics=inputs["intrinsics"],
    )
    numbers = np.arange(frames) * (not self._options.same_noise)
    keys = view_synthesis.view_keys(seed, inputs["scene"], numbers)
    # The last frame conditions nothing, and with some policies no frame does.
    conditioning = (frames - 1) * policy.uses_frames
    bank, slots = self._empty_bank(count, views, conditioning, policy)
    for view in range(views):
      bank = self._encode(variables, bank, scenes, [view] * count, view)
    for frame in range(frames):
      view = views + frame
      if frame < len(finished):
        new_views = finished[frame]
      else:
        # Per scene: which views condition this frame, [B,rows,k].
        choice = np.stack(
          [
            policy.choose(
              scenes.poses[b, :view],
              views,
              poses[b, frame],
              np.random.default_rng([seed, int(scene), frame]),
            )
            for b, scene in enumerate(inputs["scene"])
          ]
        )
        at, bank = self._find_slots(variables, bank, slots, choice, scenes)
        view_index = np.maximum(choice, 0)  # view 0 stands where -1 is none
        arrays = (
          at,
          choice >= 0,
          np.stack([scenes.poses[b][view_index[b]] for b in range(count)]),
          inputs["intrinsics"],
          poses[:, frame],
          keys[:, frame],
        )
        new_views = self.draw(variables, bank, *self._place(arrays))
        if frame not in self._options.trajectories:
          new_views = new_views._replace(estimates=None)
        new_views = jax.tree.map(np.asarray, new_views)
        yield new_views
      scenes.pictures.append(new_views.picture[:, 0])
      if frame < conditioning:
        slot = slots.of_view(view)
        bank = self._encode(variables, bank, scenes, [view] * count, slot)

  def _empty_bank(
    self, count: int, inputs: int, frames: int, policy: policies.Policy
  ) -> tuple[Bank, _Slots]:
    """Zeros [B,slots,H,W,D,C] for inputs, frames, and views encoded again."""
    size, encoder = self._model.image_size, self._model.encoder
    dtype = jnp.dtype(self._options.bank_dtype)
    view_encoder = self._model.view_encoder
    volume = (size, size, encoder.depth_planes, encoder.channels)
    shapes: list[tuple[int, ...]] = [volume]
    if view_encoder is not None:
      shapes.append(cross_views.key_shape(view_encoder, size))
    slot_bytes = count * dtype.itemsize * sum(map(math.prod, shapes))
    room = int(self._options.bank_gib * 2**30 // slot_bytes)
    regular, spare = inputs + frames, 0
    if regular > room:
      # Views without a slot are encoded again, each into a slot of its own.
      spare = min(policy.max_frames, frames)
      regular = max(room - spare, inputs + min(frames, 1))
      spare = min(spare, inputs + frames - regular)
    total = regular + spare
    if total > room:
      logging.warning(
        "rollout.bank_gib is %.2f, but the views that the policy may pick at"
        " once take %.2f GiB",
        self._options.bank_gib,
        total * slot_bytes / 2**30,
      )
    self.report = BankReport(regular, slot_bytes * total)
    arrays = [
      self._place(jnp.zeros((count, total, *shape), dtype)) for shape in shapes
    ]
    bank = Bank(arrays[0], arrays[1] if len(arrays) > 1 else None)
    return bank, _Slots(inputs, regular)

  def _encode(self, variables, bank, scenes, views, slot: int):
    """Encodes a view of each scene into a slot of the bank."""
    arrays = scenes.arrays(views, self._options.drawn_noise)
    return self._encode_into(
      variables, bank, *self._place(arrays), np.int32(slot)
    )

  def _find_slots(self, variables, bank, slots: _Slots, choice, scenes):
    """Slots of the picked views [B,rows,k]; encodes those that have none."""
    newest = len(scenes.pictures) - 1
    at = np.zeros_like(choice)
    absent: list[dict[int, int]] = []  # per scene: view -> spare slot
    for b, views in enumerate(choice):
      spare: dict[int, int] = {}
      for place, view in np.ndenumerate(views):
        if view < 0:
          continue
        slot = slots.of_view(view)
        if slots.is_lost(view, newest):
          slot = spare.setdefault(int(view), slots.regular + len(spare))
        at[(b, *place)] = slot
      absent.append(spare)
    # One spare slot of all scenes at a time; scenes with fewer encode view 0.
    for i in range(max(map(len, absent))):
      views = [list(s)[i] if i < len(s) else 0 for s in absent]
      bank = self._encode(variables, bank, scenes, views, slots.regular + i)
    self.report.encoded_again += sum(map(len, absent))
    return at, bank

  def _encode_into_slot(
    self, variables, bank: Bank, pictures, poses, intrinsics, deviation, slot
  ) -> Bank:
    images = pipeline.from_unit(pictures[:, None], self._model.image_range)
    volumes, _ = pipeline.encode(
      self._model, variables, images, deviation=deviation[:, None]
    )
    keys = cross_views.encode(
      self._model, variables, pictures[:, None], poses[:, None], intrinsics
    )

    def put(bank, new):
      start = (0, slot, *[0] * (bank.ndim - 2))
      return jax.lax.dynamic_update_slice(bank, new.astype(bank.dtype), start)

    return jax.tree.map(put, bank, Bank(volumes, keys))

  def _draw(
    self, variables, bank, slots, mask, poses, intrinsics, target, keys
  ) -> view_synthesis.Views:
    """One frame; slots and mask [B,rows,k], poses [B,rows,k,4,4]."""

    def render(row):
      slots, mask, poses = row
      volumes = jax.vmap(lambda volumes, at: volumes[at])(bank.volumes, slots)
      keys = None
      if bank.keys is not None:
        keys = jax.vmap(lambda keys, at: keys[at])(bank.keys, slots)
        keys = keys.astype(jnp.float32)
      inputs = pipeline.InputViews(
        volumes.astype(jnp.float32), poses, intrinsics, mask, keys
      )
      return view_synthesis.render_inputs(
        self._model, variables, inputs, target[:, None]
      )

    by_row = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (slots, mask, poses))
    features, attended, views = jax.lax.map(render, by_row)
    views = jax.tree.map(lambda x: jnp.mean(x, 0), views)
    if self._options.sampler is None:
      return views
    # [rows,B,H,W,F]: one feature image for all steps, or one for each.
    features = features[:, :, 0]
    if len(features) == 1:
      features, attended = jax.tree.map(lambda x: x[0], (features, attended))
    samples, estimates = self._options.sampler(
      variables, features, keys, attended
    )
    views = views._replace(sample=samples[:, None])
    if self._options.trajectories:
      views = views._replace(estimates=jnp.moveaxis(estimates, 0, 1)[:, None])
    return views


def build_rollout(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  has_denoiser: bool = True,
  place: Callable[[Any], Any] = jax.device_put,
  trajectories: Collection[int] = (),
) -> Rollout:
  """From `config.rollout` and `config.sampler`.

  Args:
    config: see above.
    model: the model.
    has_denoiser: False draws RGB renders instead of samples.
    place: puts arrays [B,..] on the devices, by default on the first.
    trajectories: frames whose estimates at each step are returned.
  """
  config = config.copy_and_resolve_references()
  if config.rollout.drawn_noise and not model.noise_told:
    raise ValueError(
      f"rollout.drawn_noise is {config.rollout.drawn_noise}, but the model was"
      " not trained to be told of noise (model.encoder.noise_told): set it to 0"
    )
  options = Options(
    build_policy=lambda inputs: policies.build_policy(config, inputs),
    bank_gib=config.rollout.bank_gib,
    bank_dtype=config.rollout.bank_dtype,
    sampler=(
      view_synthesis.build_sampler(config, model) if has_denoiser else None
    ),
    trajectories=tuple(trajectories),
    same_noise=config.rollout.same_noise,
    drawn_noise=config.rollout.drawn_noise,
  )
  return Rollout(options, model, place)
