"""What the viewer draws of a scene: renders, samples step by step, rollouts."""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from genvs_jax.images import grids
from genvs_jax.models import camera_channels
from genvs_jax.models import pipeline
from genvs_jax.runtime import compilation
from genvs_jax.sampling import rollouts
from genvs_jax.sampling import surface_noise
from genvs_jax.sampling import view_synthesis

_SMALLEST_RENDER = 8  # pixels


class Settings(NamedTuple):
  """Controls of the page that change samples; see `sampler` and `rollout` in
  `configs/base.py`.

  Attributes:
    sampler: its name.
    steps: of it.
    guidance: 1 for none.
    policy: what conditions the frames of a rollout.
    seed: of the noise.
  """

  sampler: str
  steps: int
  guidance: float
  policy: str
  seed: int


class Render(NamedTuple):
  """One view, rendered.

  Attributes:
    features: conditioning image [1,H,W,F+G].
    attended: what `cross_views` attends to; None for a model without.
    surface: that it shows; None of a small one, which is not sampled.
    views: pictures, Q and B left out; NumPy.
  """

  features: jax.Array
  attended: Any
  surface: surface_noise.Surface | None
  views: view_synthesis.Views


class SceneDrawing:
  """Draws one scene from any camera.

  Args:
    model: the model.
    variables: of the model.
    build_steps: settings -> the sampler; None for a model without denoiser.
    build_rollout: settings -> what draws paths.
    small: pixels of a render while the camera moves.
  """

  def __init__(
    self,
    model: pipeline.Model,
    variables: pipeline.Variables,
    build_steps: Callable[[Settings], view_synthesis.Steps] | None,
    build_rollout: Callable[[Settings], rollouts.Rollout],
    small: int,
  ):
    self._model, self._variables = model, variables
    self._build_steps, self._build_rollout = build_steps, build_rollout
    self._encode = jax.jit(
      functools.partial(view_synthesis.encode_views, model)
    )
    small_model = dataclasses.replace(
      model, render_size=small, rays_per_chunk=0
    )
    self._render, self._render_small = (
      compilation.Program(
        functools.partial(view_synthesis.render_inputs, m), what
      )
      for m, what in ((model, "render"), (small_model, "small render"))
    )
    self._surface_of = jax.jit(
      functools.partial(surface_noise.surface_of, model)
    )
    self._inputs: dict[str, np.ndarray] = {}
    self._encoded: pipeline.InputViews | None = None

  @property
  def inputs(self) -> dict[str, np.ndarray]:
    """Images u8 [V,H,W,3], poses [V,4,4], intrinsics [4] or [V,4], scene."""
    return self._inputs

  @property
  def has_denoiser(self) -> bool:
    return self._build_steps is not None

  @property
  def half_extent(self) -> float:
    """Of the scene around the origin, world units."""
    return self._model.frustum.half_extent

  def set_inputs(self, inputs: dict[str, np.ndarray]) -> None:
    """Starts from these views: keys as of `inputs`."""
    batch = {key: np.asarray(value)[None] for key, value in inputs.items()}
    self._encoded = self._encode(self._variables, batch)
    self._inputs = inputs

  def add_view(self, picture: np.ndarray, pose: np.ndarray) -> None:
    """Makes a drawn view u8 [H,W,3] one of the inputs."""
    intrinsics = self._inputs["intrinsics"]
    if intrinsics.ndim == 2:
      # It was drawn with the camera of the first one.
      intrinsics = np.concatenate([intrinsics, intrinsics[:1]])
    self.set_inputs(
      {
        **self._inputs,
        "intrinsics": intrinsics,
        "images": np.concatenate([self._inputs["images"], picture[None]]),
        "poses": np.concatenate([self._inputs["poses"], pose[None]]),
      }
    )

  def render(self, pose: np.ndarray, is_small: bool = False) -> Render:
    """Renders a view at full size, or at the small one and enlarged.

    Args:
      pose: f32 [4,4] camera-to-world.
      is_small: see above.
    """
    draw = self._render_small if is_small else self._render
    poses = np.asarray(pose, np.float32)[None, None]
    features, attended, views = draw(self._variables, self._encoded, poses)
    surface = None
    if not is_small:
      lens = camera_channels.target_intrinsics(self._encoded)[:, 0]
      surface = self._surface_of(
        poses[0], lens, views.weighted_depth[0], views.opacity[0]
      )
    views = jax.tree.map(lambda x: np.asarray(x)[0, 0], views)
    return Render(features[0], attended, surface, views)

  def sample(
    self, render: Render, settings: Settings
  ) -> Iterator[tuple[int, np.ndarray]]:
    """Denoises a rendered view.

    Args:
      render: at full size.
      settings: of the sampler.

    Yields:
      after each step its number, from 1, and the estimate of the picture u8
      [H,W,3]; the last one is the sample.
    """
    assert self._build_steps is not None
    steps = self._build_steps(settings)
    scene = np.asarray([self._inputs["scene"]])
    # The same noise on a surface from everywhere: neighbouring views agree.
    keys = view_synthesis.view_keys(settings.seed, scene, np.zeros(1, int))[0]
    arguments = (
      self._variables,
      render.features,
      keys,
      render.attended,
      render.surface,
    )
    carry = steps.start(*arguments)
    for i in range(steps.number):
      carry, estimate, picture = steps.step(*arguments, carry, np.int32(i))
      is_last = i == steps.number - 1
      yield i + 1, grids.picture((picture if is_last else estimate)[0])

  def roll_out(
    self, poses: np.ndarray, settings: Settings
  ) -> Iterator[tuple[int, view_synthesis.Views]]:
    """Draws a path.

    Args:
      poses: f32 [F,4,4].
      settings: policy, sampler and seed.

    Yields:
      the number of a frame in the path, and what was drawn, Q and B left out.
    """
    rollout = self._build_rollout(settings)
    batch = {k: np.asarray(v)[None] for k, v in self._inputs.items()}
    order = rollout.order(len(self._inputs["images"]), len(poses))
    frames = rollout.run(self._variables, batch, poses, settings.seed)
    for number, frame in zip(order, frames, strict=True):
      yield number, jax.tree.map(lambda x: x[0, 0], frame)


def build_drawing(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  variables: pipeline.Variables,
) -> SceneDrawing:
  """From the config of a checkpoint: sampler and rollout are read from it.

  Args:
    config: see above.
    model: the model.
    variables: of the model.

  Raises:
    ValueError: for a model without encoder and field.
  """
  if "encoder" not in variables:
    raise ValueError(
      "the checkpoint holds a denoiser alone, which has no views to turn:"
      " expected one with encoder and field"
    )
  has_denoiser = "denoiser" in variables

  def with_settings(settings: Settings) -> ml_collections.ConfigDict:
    changed = config.copy_and_resolve_references()
    changed.sampler.name = settings.sampler
    changed.sampler.steps = settings.steps
    changed.sampler.guidance = settings.guidance
    changed.rollout.policy = settings.policy
    changed.rollout.passes = 1  # a turn is a frame, not a whole pass
    return changed

  # Each of them is compiled: some are kept.
  @functools.lru_cache(maxsize=8)
  def steps_of(name: str, steps: int, guidance: float):
    return view_synthesis.build_steps(
      with_settings(Settings(name, steps, guidance, "input", 0)), model
    )

  @functools.lru_cache(maxsize=4)
  def rollout_of(settings: Settings):
    return rollouts.build_rollout(with_settings(settings), model, has_denoiser)

  return SceneDrawing(
    model,
    variables,
    (lambda s: steps_of(*s[:3])) if has_denoiser else None,
    lambda s: rollout_of(s._replace(seed=0)),
    max(min(model.render_size, _SMALLEST_RENDER), model.render_size // 2),
  )


def settings_of(config: ml_collections.ConfigDict) -> Settings:
  """Those that a config names."""
  sampler = config.sampler
  return Settings(
    sampler.name,
    sampler.steps,
    sampler.guidance,
    config.rollout.policy,
    config.seed,
  )
