"""Renders and samples of a group of scenes, a few target views at a time."""

import functools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from genvs_jax.evaluation import protocol
from genvs_jax.geometry import rendering
from genvs_jax.images import grids
from genvs_jax.models import pipeline
from genvs_jax.runtime import compilation
from genvs_jax.runtime import sharding
from genvs_jax.sampling import view_synthesis


class Predictions(NamedTuple):
  """Pictures of one scene's T targets, on the host.

  Attributes:
    render: u8 [T,H,W,3].
    samples: u8 [T,K,H,W,3]; K = 0 without a denoiser.
    depth: f32 [T,H,W], expected distance along the ray, world units.
    opacity: f32 [T,H,W] in [0,1].
  """

  render: Any
  samples: Any
  depth: Any
  opacity: Any


class Predictor:
  """Draws groups of scenes, spread over this process's devices.

  What a view looks like depends on the seed and on the numbers of scene, view
  and sample alone.

  Args:
    model: the model.
    variables: of the model, on this process's devices.
    sampler: see `view_synthesis.build_sampler`; None for renders alone.
    seed: of the samples.
    batch: scenes drawn at a time; fewer take as long.
    batch_views: target views of each at a time.
  """

  def __init__(
    self,
    model: pipeline.Model,
    variables: pipeline.Variables,
    sampler: Callable | None,
    seed: int,
    batch: int,
    batch_views: int,
  ):
    mesh = sharding.make_local_mesh(batch)
    self._split = sharding.split_batch(mesh)
    self._variables = jax.device_put(variables, sharding.replicated(mesh))
    self._seed, self._batch, self._batch_views = seed, batch, batch_views
    self._encode = compilation.Program(
      functools.partial(view_synthesis.encode_views, model),
      "encoding of input views",
    )
    self._draw = compilation.Program(
      _build_draw(model, sampler), "drawing of scored views"
    )

  def __call__(
    self,
    scenes: Sequence[protocol.SceneViews],
    input_scenes: Sequence[protocol.SceneViews] | None = None,
    samples: int = 0,
  ) -> list[Predictions]:
    """Predictions of each scene, at most `batch` of them.

    Args:
      scenes: whose targets are drawn.
      input_scenes: whose inputs they are drawn from, by default the same.
      samples: K of each target.
    """
    count = len(scenes)
    rows = sharding.pad_rows(count, self._batch)
    sources = scenes if input_scenes is None else input_scenes
    stacked = {
      key: np.stack([sources[i].inputs[key] for i in rows])
      for key in sources[0].inputs
    }
    inputs = self._encode(self._variables, jax.device_put(stacked, self._split))
    pieces = [
      jax.device_get(
        self._draw(
          self._variables, inputs, *jax.device_put(cameras, self._split), keys
        )
      )
      for cameras, keys in self._pieces([scenes[i] for i in rows], samples)
    ]
    return [
      jax.tree.map(
        lambda *x, b=b, s=s: np.concatenate([y[b] for y in x])[: len(s.views)],
        *pieces,
      )
      for b, s in enumerate(scenes)
    ]

  def _pieces(
    self, scenes: Sequence[protocol.SceneViews], samples: int
  ) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], jax.Array]]:
    """Poses [B,Q,4,4] with intrinsics [B,Q,4], and keys [K,B,Q], `batch_views`
    targets at a time."""
    count, size = max(len(s.views) for s in scenes), self._batch_views
    for first in range(0, count, size):
      # A piece that is too long repeats the last view, to keep its shape.
      at = [
        np.minimum(np.arange(first, first + size), len(s.views) - 1)
        for s in scenes
      ]
      poses, intrinsics = (
        np.stack([x[i] for x, i in zip(of_scenes, at, strict=True)])
        for of_scenes in (
          [s.poses for s in scenes],
          [s.intrinsics for s in scenes],
        )
      )
      keys = [
        view_synthesis.view_keys(self._seed, np.array([s.scene]), s.views[i])[0]
        for s, i in zip(scenes, at, strict=True)
      ]
      yield (poses, intrinsics), _sample_keys(jnp.stack(keys), samples)


def build_predictor(
  config: ml_collections.ConfigDict,
  model: pipeline.Model,
  variables: pipeline.Variables,
  batch: int,
) -> Predictor:
  """From `config.evaluate`, `config.sampler` and `config.seed`."""
  has_denoiser = "denoiser" in variables
  return Predictor(
    model,
    variables,
    view_synthesis.build_sampler(config, model) if has_denoiser else None,
    config.seed,
    batch,
    config.evaluate.batch_views,
  )


def _build_draw(model: pipeline.Model, sampler: Callable | None) -> Callable:
  """(variables, inputs, poses [B,Q,4,4], intrinsics [B,Q,4], keys [K,B,Q]) ->
  `Predictions` with B before T = Q, to be compiled."""

  def draw(variables, inputs, poses, intrinsics, keys) -> Predictions:
    inputs = inputs._replace(drawn_with=intrinsics)
    features, attended, views = view_synthesis.render_inputs(
      model, variables, inputs, poses
    )
    flat = features.reshape(-1, *features.shape[2:])

    def sample(keys):
      assert sampler is not None  # without one there are no keys
      images, _ = sampler(variables, flat, keys.reshape(-1), attended)
      return grids.to_uint8(images.reshape(views.rgb.shape))

    # Sample by sample: memory of one.
    samples = (
      jax.lax.map(sample, keys)
      if len(keys)
      else jnp.zeros((0, *views.rgb.shape), jnp.uint8)
    )
    return Predictions(
      render=grids.to_uint8(views.rgb),
      samples=jnp.moveaxis(samples, 0, 2),
      depth=rendering.expected_depth(views.weighted_depth, views.opacity),
      opacity=views.opacity,
    )

  return draw


def _sample_keys(keys: jax.Array, samples: int) -> jax.Array:
  """Keys [K,B,Q] of each sample of each view, from keys [B,Q]."""
  fold = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))
  return jax.vmap(fold, (None, 0))(keys, jnp.arange(samples))
