"""Losses of encoder and field that a recipe may add: priors on the depth, and
agreement between renders from different input views."""

import jax
import jax.numpy as jnp

from genvs_jax.geometry import rendering
from genvs_jax.models import pipeline

# Name of a metric -> (its weight, its value), as `objectives` sums them.
Losses = dict[str, tuple[float, jax.Array]]


def prior(options, render: pipeline.FeatureRender, poses: jax.Array) -> Losses:
  """`depth_prior` at the distances of the cameras [B,Q,4,4]; `options` are
  those of `objectives`."""
  distance = jnp.linalg.norm(poses[..., :3, 3], axis=-1)[..., None, None]
  value = depth_prior(render.weighted_depth, render.opacity, distance)
  return {"loss_depth_prior": (options.depth_prior, value)}


def agreement(
  model: pipeline.Model,
  options,
  variables: pipeline.Variables,
  inputs: pipeline.InputViews,
  poses: jax.Array,
  uniforms: rendering.Uniforms,
  render: pipeline.FeatureRender,
) -> Losses:
  """`consistency` of a render with one from the last input view alone.

  Args:
    model: the model.
    options: of `objectives`.
    variables: of all parts.
    inputs: the encoded input views.
    poses: [B,Q,4,4] of the rendered views.
    uniforms: that they were rendered with.
    render: from all input views in use.
  """
  # The same views from the last input view alone, without gradient. (The
  # reference encodes the target view for it; these are encoded anyway.)
  count = inputs.mask.shape[1]
  is_last = jnp.broadcast_to(jnp.arange(count) == count - 1, inputs.mask.shape)
  other = pipeline.render_features(
    model, variables, inputs._replace(mask=is_last), poses, uniforms
  )
  by_depth = consistency(render.weighted_depth, other.weighted_depth)
  by_opacity = consistency(render.opacity, other.opacity)
  return {
    "loss_depth_consistency": (options.depth_consistency, by_depth),
    "loss_opacity_consistency": (options.opacity_consistency, by_opacity),
  }


def depth_prior(
  weighted_depth: jax.Array, opacity: jax.Array, distance: jax.Array
) -> jax.Array:
  """Pulls what is opaque to the distance at which the object stands.

  Args:
    weighted_depth: [..,h,w] of a render.
    opacity: [..,h,w].
    distance: of the camera from the world's origin, broadcast against [..].

  Returns:
    mean of opacity (expected depth - distance)^2.
  """
  # Empty space has no depth to pull: each pixel counts as far as it is opaque.
  depth = rendering.expected_depth(weighted_depth, opacity)
  return jnp.mean(opacity * (depth - distance) ** 2)


def consistency(values: jax.Array, others: jax.Array) -> jax.Array:
  """Squared difference of two renders [..,h,w] of one view from different
  inputs; `others` take no gradient."""
  # One side teaches the other; otherwise both would agree on fog.
  return jnp.mean((values - jax.lax.stop_gradient(others)) ** 2)
