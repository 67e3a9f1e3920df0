"""Renders and samples of a group of scenes, a few target views at a time."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genvs_jax.evaluation import protocol
from genvs_jax.models import pipeline
from genvs_jax.runtime import sharding
from genvs_jax.sampling import view_synthesis


class Drawn(NamedTuple):
  """Pictures of one scene's T targets, on the host.

  Attributes:
    render: u8 [T,H,W,3].
    samples: u8 [T,K,H,W,3]; K = 0 without a denoiser.
    depth: f32 [T,H,W], expected distance along the ray, world units.
    opacity: f32 [T,H,W] in [0,1].
  """

  render: np.ndarray
  samples: np.ndarray
  depth: np.ndarray
  opacity: np.ndarray


def build_drawing(
  config, model: pipeline.Model, variables: pipeline.Variables, batch: int
) -> Callable[..., list[Drawn]]:
  """A function (scenes, input_scenes, samples) -> `Drawn` of each scene.

  `scenes` are `protocol.SceneViews`, at most `batch` of them; the inputs are
  those of `input_scenes`, by default the same; `samples` is K. Scenes are
  spread over this process's devices. What a view looks like depends on the
  seed and on the numbers of scene, view and sample alone.

  Args:
    config: evaluate, sampler and seed are read from it.
    model: the model.
    variables: of the model, on this process's devices.
    batch: scenes drawn at a time; fewer take as long.
  """
  chunk = config.evaluate.batch_views
  mesh = sharding.make_local_mesh(batch)
  split = sharding.split_batch(mesh)
  variables = jax.device_put(variables, sharding.replicated(mesh))
  has_denoiser = "denoiser" in variables
  sampler = (
    view_synthesis.build_sampler(config, model) if has_denoiser else None
  )
  encode = jax.jit(
    lambda variables, inputs: view_synthesis.encode_views(
      model, variables, inputs
    )
  )

  @jax.jit
  def draw(variables, inputs, poses, keys) -> Drawn:
    """Poses [B,Q,4,4] and keys [K,B,Q]; `Drawn` with B before T = Q."""
    features, views = view_synthesis.render_inputs(
      model, variables, inputs, poses
    )
    flat = features.reshape(-1, *features.shape[2:])

    def sample(keys):
      drawn, _ = sampler(variables, flat, keys.reshape(-1))
      return _to_uint8(drawn.reshape(views.rgb.shape))

    samples = (
      jax.lax.map(sample, keys)
      if len(keys)
      else jnp.zeros((0, *views.rgb.shape), jnp.uint8)
    )
    return Drawn(
      render=_to_uint8(views.rgb),
      samples=jnp.moveaxis(samples, 0, 2),
      depth=views.depth / jnp.maximum(views.opacity, 1e-6),
      opacity=views.opacity,
    )

  def draw_group(
    scenes: Sequence[protocol.SceneViews],
    input_scenes: Sequence[protocol.SceneViews] | None = None,
    samples: int = 0,
  ) -> list[Drawn]:
    kept = len(scenes)
    rows = [min(i, kept - 1) for i in range(batch)]
    scenes = [scenes[i] for i in rows]
    given = scenes if input_scenes is None else [input_scenes[i] for i in rows]
    stacked = {
      key: np.stack([s.inputs[key] for s in given]) for key in given[0].inputs
    }
    inputs = encode(variables, jax.device_put(stacked, split))
    most = max(len(s.views) for s in scenes)
    pieces = []
    for first in range(0, most, chunk):
      # A piece that is too long repeats the last view, to keep its shape.
      at = [
        np.minimum(np.arange(first, first + chunk), len(s.views) - 1)
        for s in scenes
      ]
      poses = np.stack([s.poses[i] for s, i in zip(scenes, at, strict=True)])
      keys = jnp.stack(
        [
          view_synthesis.view_keys(config.seed, [s.scene], s.views[i])[0]
          for s, i in zip(scenes, at, strict=True)
        ]
      )
      drawn = draw(
        variables,
        inputs,
        jax.device_put(poses, split),
        _sample_keys(keys, samples),
      )
      pieces.append(jax.device_get(drawn))
    return [
      jax.tree.map(
        lambda *x, b=b, s=s: np.concatenate([y[b] for y in x])[: len(s.views)],
        *pieces,
      )
      for b, s in enumerate(scenes[:kept])
    ]

  return draw_group


def _sample_keys(keys: jax.Array, samples: int) -> jax.Array:
  """Keys [K,B,Q] of each sample of each view, from keys [B,Q]."""
  fold = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))
  return jax.vmap(fold, (None, 0))(keys, jnp.arange(samples))


def _to_uint8(images: jax.Array) -> jax.Array:
  return (jnp.clip(images, 0, 1) * 255 + 0.5).astype(jnp.uint8)
