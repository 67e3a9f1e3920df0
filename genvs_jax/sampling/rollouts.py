"""Drawing a path frame by frame, earlier frames conditioning later ones.

Frames are drawn in the order of the policy, once or, in a second pass, again
given all others. Views are encoded into a `bank` as they come.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from genvs_jax.geometry import cameras
from genvs_jax.models import pipeline
from genvs_jax.runtime import compilation
from genvs_jax.runtime import messages
from genvs_jax.sampling import bank
from genvs_jax.sampling import policies
from genvs_jax.sampling import surface_noise
from genvs_jax.sampling import view_synthesis

# Where the sampler's noise comes from: each frame has its own, or all frames of
# a scene have the same, on the screen or on the surface that they show.
NOISES = ("own", "screen", "surface")


@dataclasses.dataclass(frozen=True)
class Options:
  """How paths are drawn; see `rollout` in `configs/base.py`.

  Attributes:
    build_policy: number of input views -> the policy.
    bank_gib: memory for encoded views.
    bank_dtype: of them.
    sampler: see `view_synthesis.build_sampler`; None draws RGB renders.
    trajectories: frames whose estimates at each step are returned.
    noise: of the frames of a scene, one of `NOISES`.
    drawn_noise: deviation of the noise that drawn views are said to have.
    passes: over the path; those after the first draw every frame again, given
      all the others.
  """

  build_policy: Callable[[int], policies.Policy]
  bank_gib: float
  bank_dtype: Any
  sampler: Callable | None
  trajectories: tuple[int, ...]
  noise: str = "own"
  drawn_noise: float = 0.0
  passes: int = 1


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
    self._encode_into = jax.jit(
      functools.partial(bank.encode_into, model), donate_argnums=1
    )
    self.draw = compilation.Program(self._draw, "drawing of a frame")
    self.report = bank.Report()

  def order(self, inputs: int, frames: int) -> list[int]:
    """Frames of a path in the order in which `run` draws them.

    Args:
      inputs: input views of a scene.
      frames: of the path.
    """
    return self._options.build_policy(inputs).order(frames)

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
      inputs: images u8 [B,V,H,W,3], poses [B,V,4,4], intrinsics [B,4] or
        [B,V,4], of which frames have the first, and scene [B], whose number
        goes into the noise.
      poses: [frames,4,4] camera-to-world, or [B,frames,4,4] with a path for
        each scene.
      seed: of the sampling noise and of random choices.
      finished: frames that an earlier rollout of the same kind drew, in the
        order in which they were drawn.

    Yields:
      one `Views` with Q = 1 per pose that is left, NumPy arrays, as `order`
      says.
    """
    count, views = inputs["images"].shape[:2]
    poses = np.asarray(poses)
    poses = np.broadcast_to(poses, (count, *poses.shape[-3:]))
    frames = poses.shape[1]
    if len(finished) == frames:
      return
    policy = self._options.build_policy(views)
    images = inputs["images"] / np.float32(255)
    of_inputs = cameras.by_view(np.asarray(inputs["intrinsics"]))
    intrinsics = np.repeat(of_inputs[:, :1], views + frames, 1)
    intrinsics[:, :views] = of_inputs
    scenes = bank.Scenes(
      inputs=views,
      pictures={i: images[:, i] for i in range(views)},
      poses=np.concatenate([np.asarray(inputs["poses"]), poses], 1),
      intrinsics=intrinsics,
      drawn_noise=self._options.drawn_noise,
    )
    numbers = np.arange(frames) * (self._options.noise == "own")
    keys = view_synthesis.view_keys(seed, inputs["scene"], numbers)
    # The last frame conditions nothing, and with some policies no frame does.
    passes = self._options.passes if policy.uses_frames else 1
    conditioning = (frames - (passes == 1)) * policy.uses_frames
    views_bank = self._empty_bank(variables, scenes, conditioning, policy)
    for view in range(views):
      views_bank.put(view)
    for turn, (number, frame) in itertools.product(
      range(passes), enumerate(policy.order(frames))
    ):
      is_last_pass = turn == passes - 1
      if is_last_pass and number < len(finished):
        new_views = finished[number]
      else:
        seeds = [
          [seed, int(s), frame] + [turn] * (turn > 0) for s in inputs["scene"]
        ]
        arrays = self._conditions(views_bank, scenes, policy, frame, seeds)
        new_views = self.draw(
          variables, views_bank.arrays, *self._place((*arrays, keys[:, frame]))
        )
        if frame not in self._options.trajectories:
          new_views = new_views._replace(estimates=None)
        new_views = jax.tree.map(np.asarray, new_views)
        if is_last_pass:
          yield new_views
      scenes.pictures[views + frame] = new_views.picture[:, 0]
      if number < conditioning:
        views_bank.put(views + frame)

  def _conditions(
    self, views_bank: bank.Bank, scenes: bank.Scenes, policy, frame: int, seeds
  ) -> tuple:
    """What `_draw` takes of a frame, the views that its policy picks of those
    that are there first; `seeds` are one per scene."""
    own = scenes.inputs + frame
    target = scenes.poses[:, own]
    # Never the frame itself, which a second pass finds there.
    others = np.array([v for v in views_bank.views if v != own])
    before = len(others)
    if own in views_bank.views:
      before = views_bank.views.index(own)
    choice = np.stack(
      [
        policy.choose(
          poses[others],
          scenes.inputs,
          before,
          goal,
          np.random.default_rng(numbers),
        )
        for poses, goal, numbers in zip(
          scenes.poses, target, seeds, strict=True
        )
      ]
    )  # [B,rows,k]
    view_index = others[np.maximum(choice, 0)]  # view 0 stands for none
    slots = views_bank.find(np.where(choice >= 0, view_index, -1))
    poses, intrinsics = (
      np.stack([x[i] for x, i in zip(of_scenes, view_index, strict=True)])
      for of_scenes in (scenes.poses, scenes.intrinsics)
    )
    drawn_with = scenes.intrinsics[:, own]
    return slots, choice >= 0, poses, intrinsics, drawn_with, target

  def _empty_bank(
    self,
    variables: pipeline.Variables,
    scenes: bank.Scenes,
    frames: int,
    policy: policies.Policy,
  ) -> bank.Bank:
    """A bank for the inputs, and for frames that condition others."""
    options, count = self._options, len(scenes.intrinsics)
    one_slot = bank.slot_bytes(self._model, options.bank_dtype, count)
    # In a second pass the newest frame, too, may have lost its slot.
    at_once = policy.max_frames + (options.passes > 1)
    slots = bank.divide(
      scenes.inputs, frames, at_once, one_slot, options.bank_gib
    )
    total = slots.regular + slots.spare
    self.report = bank.Report(slots.regular, one_slot * total)
    arrays = bank.empty(self._model, options.bank_dtype, count, slots)

    def encode(arrays, *views_and_slot):
      *of_views, slot = views_and_slot
      return self._encode_into(
        variables, arrays, *self._place(tuple(of_views)), slot
      )

    return bank.Bank(scenes, slots, self._place(arrays), encode, self.report)

  def _draw(
    self,
    variables,
    held,
    slots,
    mask,
    poses,
    intrinsics,
    drawn_with,
    target,
    keys,
  ) -> view_synthesis.Views:
    """One frame; slots and mask [B,rows,k], poses [B,rows,k,4,4]."""

    def render(row):
      slots, mask, poses, intrinsics = row
      volumes = jax.vmap(lambda volumes, at: volumes[at])(held.volumes, slots)
      keys = None
      if held.keys is not None:
        keys = jax.vmap(lambda keys, at: keys[at])(held.keys, slots)
        keys = keys.astype(jnp.float32)
      inputs = pipeline.InputViews(
        volumes.astype(jnp.float32), poses, intrinsics, mask, keys, drawn_with
      )
      return view_synthesis.render_inputs(
        self._model, variables, inputs, target[:, None]
      )

    by_row = jax.tree.map(
      lambda x: jnp.moveaxis(x, 1, 0), (slots, mask, poses, intrinsics)
    )
    features, attended, views = jax.lax.map(render, by_row)
    views = jax.tree.map(lambda x: jnp.mean(x, 0), views)
    if self._options.sampler is None:
      return views
    # [rows,B,H,W,F]: one feature image for all steps, or one for each.
    features = features[:, :, 0]
    if len(features) == 1:
      features, attended = jax.tree.map(lambda x: x[0], (features, attended))
    surface = None
    if self._options.noise == "surface":
      depth, opacity = views.weighted_depth[:, 0], views.opacity[:, 0]
      surface = surface_noise.surface_of(
        self._model, target, drawn_with, depth, opacity
      )
    samples, estimates = self._options.sampler(
      variables, features, keys, attended, surface
    )
    views = views._replace(sample=samples[:, None])
    if self._options.trajectories:
      views = views._replace(estimates=jnp.moveaxis(estimates, 0, 1)[:, None])
    return views


def in_path_order(
  rollout: Rollout, variables, inputs: dict, poses: np.ndarray, seed: int
) -> list[view_synthesis.Views]:
  """All frames of a rollout as the path has them; arguments as of `run`."""
  order = rollout.order(inputs["images"].shape[1], poses.shape[-3])
  views = rollout.run(variables, inputs, poses, seed)
  frames = dict(zip(order, views, strict=True))
  return [frames[i] for i in range(len(frames))]


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
  messages.check_at_least("rollout.passes", config.rollout.passes, 1)
  messages.check_choice("rollout.noise", config.rollout.noise, NOISES)
  if config.rollout.drawn_noise and not model.noise_told:
    raise ValueError(
      f"rollout.drawn_noise is {config.rollout.drawn_noise}, but the model was"
      " not trained to be told of noise (model.encoder.noise_told): set it to 0"
    )
  if not has_denoiser:  # nothing attends to the views
    model = dataclasses.replace(model, view_encoder=None)
  options = Options(
    build_policy=lambda inputs: policies.build_policy(config, inputs),
    bank_gib=config.rollout.bank_gib,
    bank_dtype=config.rollout.bank_dtype,
    sampler=(
      view_synthesis.build_sampler(config, model) if has_denoiser else None
    ),
    trajectories=tuple(trajectories),
    noise=config.rollout.noise,
    drawn_noise=config.rollout.drawn_noise,
    passes=config.rollout.passes,
  )
  return Rollout(options, model, place)
