"""The radiance field: volume features at a point -> density and features.

A small MLP without view direction or position. Several input views meet here:
`aggregate="after"` averages the MLP's outputs over the views that see the
point (the reference), `"before"` averages the volume features (the paper).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genvs_jax.models import layers

ACTIVATIONS = {
  "softplus": nn.softplus,
  "relu": nn.relu,
  "sigmoid": nn.sigmoid,
  "tanh": nn.tanh,
  "none": lambda x: x,
}
AGGREGATES = ("after", "before")
# What those of the features make colours [..,3] of. An activation reaches the
# ends of its range nowhere, so colours stay a little inside.
INVERSES = {
  "sigmoid": lambda x: jax.scipy.special.logit(jnp.clip(x, 0.02, 0.98)),
  "tanh": lambda x: jnp.arctanh(jnp.clip(x, -0.96, 0.96)),
  "none": lambda x: x,
}


class RadianceField(nn.Module):
  """The MLP.

  Attributes:
    features: F, channels of the feature image.
    width: of the hidden layers.
    depth: number of hidden layers.
    activation: of the hidden layers, a key of `ACTIVATIONS`.
    density_activation: of the density; softplus cannot die at the start as
      ReLU does.
    feature_activation: of the features: "sigmoid" for images in [0,1], "tanh"
      for [-1,1], "none".
    aggregate: "after" or "before" the MLP.
    skip: add the volume features to the features (before their activation),
      which needs C = F; colours then pass from the start.
    dtype: of the MLP; density and features come back in float32.
  """

  features: int = 16
  width: int = 64
  depth: int = 1
  activation: str = "softplus"
  density_activation: str = "softplus"
  feature_activation: str = "sigmoid"
  aggregate: str = "after"
  skip: bool = False
  dtype: layers.Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, visible: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Evaluates points.

    Args:
      x: [B,V,P,C] volume features of each point in each input view.
      visible: bool [B,V,P], whether that view covers the point.

    Returns:
      density f32 [B,P] per world unit, 0 where no view sees the point, and
      features f32 [B,P,F].
    """
    x = x.astype(self.dtype)
    # The paper pools first: one evaluation per point, [B,1,P,C].
    if self.aggregate == "before":
      x = _masked_mean(x, visible)[:, None]
    if self.skip and x.shape[-1] != self.features:
      raise ValueError(
        f"field.skip needs as many volume channels ({x.shape[-1]}) as feature"
        f" channels ({self.features})"
      )
    volume_features = x
    hidden_activation = ACTIVATIONS[self.activation]
    for i in range(self.depth):
      x = hidden_activation(self._dense(x, self.width, f"hidden{i}"))
    x = self._dense(x, 1 + self.features, "out")
    # Channel 0 is the density, the others the features.
    if self.skip:
      x = x.at[..., 1:].add(volume_features)
    # The reference pools last, before the activations.
    x = x.astype(jnp.float32)
    x = _masked_mean(x, visible) if self.aggregate == "after" else x[:, 0]
    density = ACTIVATIONS[self.density_activation](x[..., 0])
    # Space that no view sees is empty, whatever the MLP makes of zeros.
    density = jnp.where(jnp.any(visible, 1), density, 0.0)
    return density, ACTIVATIONS[self.feature_activation](x[..., 1:])

  def _dense(self, x: jax.Array, width: int, name: str) -> jax.Array:
    return nn.Dense(
      width,
      kernel_init=layers.torch_default,
      bias_init=layers.torch_bias(x.shape[-1]),
      dtype=self.dtype,
      name=name,
    )(x)


def _masked_mean(x: jax.Array, visible: jax.Array) -> jax.Array:
  """Mean of x [B,V,P,c] over the views that see the point: [B,P,c]."""
  weight = visible.astype(x.dtype)[..., None]
  # View by view XLA makes one loop of it; a sum along the axis takes longer.
  total = sum(x[:, i] * weight[:, i] for i in range(x.shape[1]))
  # A point that no view sees has mean 0 instead of 0 / 0.
  return total / jnp.maximum(jnp.sum(weight, 1), 1)
