"""Drawing a path frame by frame, earlier frames conditioning later ones.

Every view is encoded once, into a bank of volumes with a fixed number of
slots, so that one compilation serves all frames and a frame costs the same
however many came before. When the slots are fewer than the views, the input
views and the newest frames hold them; a view that a policy picks beyond those
is encoded again from its picture, and counted.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from genvs_jax.models import pipeline
from genvs_jax.sampling import policies
from genvs_jax.sampling import view_synthesis


@dataclasses.dataclass
class Report:
  """What a rollout did beside drawing.

  Attributes:
    slots: of the bank, per scene.
    bank_bytes: of all its volumes, slots for views encoded again included.
    encoded_again: views that no longer had a slot when they were picked.
  """

  slots: int = 0
  bank_bytes: int = 0
  encoded_again: int = 0


class Rollout:
  """Draws paths for a batch of scenes side by side.

  Args:
    config: rollout and sampler are read from it.
    model: the model.
    has_denoiser: False draws RGB renders instead of samples.
    place: puts arrays [B,..] on the devices, by default on the first.
    progress: frames whose estimates at each step are kept.
  """

  def __init__(
    self,
    config,
    model: pipeline.Model,
    has_denoiser: bool = True,
    place: Callable[[Any], Any] = jax.device_put,
    progress: Collection[int] = (),
  ):
    self._place_arrays = place
    self._config = config
    self._model = model
    self._has_denoiser = has_denoiser
    self._progress = progress
    self._dtype = jnp.dtype(config.rollout.bank_dtype)
    self._sampler = (
      view_synthesis.build_sampler(config, model) if has_denoiser else None
    )
    self._encode_into = jax.jit(self._encode_into_slots, donate_argnums=1)
    self.draw = jax.jit(self._draw)
    self.report = Report()

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
    count, given = inputs["images"].shape[:2]
    poses = np.asarray(poses)
    poses = np.broadcast_to(poses, (count, *poses.shape[-3:]))
    frames = poses.shape[1]
    if len(finished) == frames:
      return
    policy = policies.build_policy(
      self._config, given, self._config.sampler.steps
    )
    pictures = [inputs["images"][:, i] / np.float32(255) for i in range(given)]
    all_poses = np.concatenate([np.asarray(inputs["poses"]), poses], 1)
    keys = view_synthesis.view_keys(seed, inputs["scene"], np.arange(frames))
    # The last frame conditions nothing, and with some policies no frame does.
    uses_frames = self._config.rollout.policy != "input"
    bank = self._empty_bank(count, given, (frames - 1) * uses_frames)
    kept = self.report.slots
    for view in range(given):
      bank = self._encode(variables, bank, pictures[view], view)
    for frame in range(frames):
      view = given + frame
      if frame < len(finished):
        drawn = finished[frame]
      else:
        rows = np.stack(
          [
            policy(
              all_poses[b, :view],
              given,
              poses[b, frame],
              np.random.default_rng([seed, int(scene), frame]),
            )
            for b, scene in enumerate(inputs["scene"])
          ]
        )
        slots, bank = self._place(variables, bank, rows, pictures, given, kept)
        picked = np.maximum(rows, 0)
        arrays = (
          slots,
          rows >= 0,
          np.stack([all_poses[b][picked[b]] for b in range(count)]),
          inputs["intrinsics"],
          poses[:, frame],
          keys[:, frame],
        )
        drawn = self.draw(variables, bank, *self._place_arrays(arrays))
        if frame not in self._progress:
          drawn = drawn._replace(estimates=None)
        drawn = jax.tree.map(np.asarray, drawn)
        yield drawn
      picture = drawn.rgb if drawn.sample is None else drawn.sample
      pictures.append(picture[:, 0])
      if uses_frames and frame < frames - 1:
        slot = _slot(view, given, kept)
        bank = self._encode(variables, bank, pictures[view], slot)

  def _empty_bank(self, count: int, given: int, frames: int) -> jax.Array:
    """Zeros [B,slots,H,W,D,C] for inputs, frames, and views encoded again."""
    size, encoder = self._model.image_size, self._model.encoder
    shape = (size, size, encoder.depth_planes, encoder.channels)
    one = count * int(np.prod(shape)) * self._dtype.itemsize
    options = self._config.rollout
    room = int(options.bank_gib * 2**30 // one)
    kept, spare = given + frames, 0
    if kept > room:
      # Views without a slot are encoded again, each into a slot of its own.
      picked = {
        "input": 0,
        "reference": options.random_views,
        "nearest": options.nearest_views,
        "stochastic": self._config.sampler.steps,
      }[options.policy]
      spare = min(picked, frames)
      kept = max(room - spare, given + min(frames, 1))
      spare = min(spare, given + frames - kept)
    if kept + spare > room:
      logging.warning(
        "rollout.bank_gib is %.2f, but the views that policy %r may pick at"
        " once take %.2f GiB",
        options.bank_gib,
        options.policy,
        (kept + spare) * one / 2**30,
      )
    self.report = Report(kept, one * (kept + spare))
    return self._place_arrays(
      jnp.zeros((count, kept + spare, *shape), self._dtype)
    )

  def _encode(self, variables, bank, pictures: np.ndarray, slot: int):
    """Encodes pictures [B,H,W,3] in [0,1] into a slot of the bank."""
    return self._encode_into(
      variables, bank, self._place_arrays(pictures), np.int32(slot)
    )

  def _place(self, variables, bank, rows, pictures, given: int, kept: int):
    """Slots of the picked views [B,rows,k]; encodes those that have none."""
    newest = len(pictures) - 1
    slots = np.zeros_like(rows)
    missing: list[dict[int, int]] = []  # per scene: view -> spare slot
    for b, picked in enumerate(rows):
      spare: dict[int, int] = {}
      for at, view in np.ndenumerate(picked):
        if view < 0:
          continue
        slot = _slot(view, given, kept)
        if view >= given and newest - view >= kept - given:
          slot = spare.setdefault(int(view), kept + len(spare))
        slots[(b, *at)] = slot
      missing.append(spare)
    for i in range(max(map(len, missing))):
      views = [list(s)[i] if i < len(s) else 0 for s in missing]
      batch = np.stack([pictures[view][b] for b, view in enumerate(views)])
      bank = self._encode(variables, bank, batch, kept + i)
    self.report.encoded_again += sum(map(len, missing))
    return slots, bank

  def _encode_into_slots(self, variables, bank, pictures, slot):
    low, high = self._model.image_range
    images = pictures[:, None] * (high - low) + low
    volumes, _ = pipeline.encode(self._model, variables, images)
    start = (0, slot, *[0] * (bank.ndim - 2))
    return jax.lax.dynamic_update_slice(bank, volumes.astype(bank.dtype), start)

  def _draw(
    self, variables, bank, slots, mask, poses, intrinsics, target, keys
  ) -> view_synthesis.Views:
    """One frame; slots and mask [B,rows,k], poses [B,rows,k,4,4]."""

    def render(row):
      slots, mask, poses = row
      volumes = jax.vmap(lambda volumes, at: volumes[at])(bank, slots)
      inputs = pipeline.InputViews(
        volumes.astype(jnp.float32), poses, intrinsics, mask
      )
      return view_synthesis.render_inputs(
        self._model, variables, inputs, target[:, None]
      )

    by_row = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (slots, mask, poses))
    features, views = jax.lax.map(render, by_row)
    views = jax.tree.map(lambda x: jnp.mean(x, 0), views)
    if not self._has_denoiser:
      return views
    # [rows,B,H,W,F]: one feature image for all steps, or one for each.
    features = features[:, :, 0]
    drawn, estimates = self._sampler(
      variables, features[0] if len(features) == 1 else features, keys
    )
    views = views._replace(sample=drawn[:, None])
    if self._progress:
      views = views._replace(estimates=jnp.moveaxis(estimates, 0, 1)[:, None])
    return views


def _slot(view: int, given: int, kept: int) -> int:
  """Where a view is kept: inputs for good, frames until newer ones come."""
  return view if view < given else given + (view - given) % (kept - given)
