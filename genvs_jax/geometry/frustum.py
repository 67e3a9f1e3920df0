"""Where a world point lies in the frustum volume of an input view.

Each kind of frustum answers two questions: `coordinates` maps world points to
(u, v, w) in [-1,1], the volume's columns, rows and depth planes, with a mask
of the points that the volume covers; `ray_bounds` says between which
distances a target ray is worth sampling. `align_corners` says whether -1 and 1
are the centres of the outermost voxels (True) or their outer faces (False).
"""

import dataclasses

import jax
import jax.numpy as jnp

from genvs_jax.geometry import cameras


@dataclasses.dataclass(frozen=True)
class NearFar:
  """The camera's pyramid between two planes, linear in depth (pixelNeRF).

  Attributes:
    near: depth of the first plane in world units; also where rays start.
    far: depth of the last plane; also where rays end.
    image_size: (height, width) in pixels of the image behind the intrinsics.
  """

  near: float
  far: float
  image_size: tuple[int, int]
  align_corners = False

  @property
  def half_extent(self) -> float:
    """Of the cube around the origin that cameras at their usual distance, in
    the middle of near and far, cover; world units."""
    return (self.far - self.near) / 2

  def coordinates(
    self, points: jax.Array, poses: jax.Array, intrinsics: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Volume coordinates of world points.

    Args:
      points: [..,P,3] world units.
      poses: [..,4,4] camera-to-world of the input views.
      intrinsics: [..,4] pixels.

    Returns:
      uvw [..,P,3] in [-1,1] (clamped), and bool [..,P], True inside.
    """
    pixels, depth = cameras.project(points, poses, intrinsics)
    height, width = self.image_size
    uv = pixels / jnp.array([width, height], jnp.float32) * 2 - 1
    w = (depth - self.near) / (self.far - self.near) * 2 - 1
    uvw = jnp.concatenate([uv, w[..., None]], -1)
    inside = jnp.all(jnp.abs(uvw) <= 1, -1) & (depth > 0)
    return jnp.clip(uvw, -1, 1), inside

  def ray_bounds(
    self, origins: jax.Array, directions: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Distances [..,R] along unit rays between which samples are placed."""
    del directions
    shape = origins.shape[:-1]
    return jnp.full(shape, self.near), jnp.full(shape, self.far)


@dataclasses.dataclass(frozen=True)
class UnitCube:
  """The reference's frustum: the cube [-1,1]^3 seen from the input camera.

  The camera looks at the cube's centre from distance d = |t|; x and y are
  divided by depth, and depth planes run from d+1 (w = -1, far) to d-1 (w = 1,
  near). v points up: row 0 of the volume is the bottom of the image. Points
  outside are clamped to the border voxels and count as covered. Square pixels
  and a centred principal point are assumed, as in the reference.

  Attributes:
    min_near: rays start no nearer than this (world units).
  """

  min_near: float = 0.5
  align_corners = True
  half_extent = 1.0

  def coordinates(
    self, points: jax.Array, poses: jax.Array, intrinsics: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """As `NearFar.coordinates`; everything is covered."""
    local = cameras.world_to_camera(points, poses)
    distance = jnp.linalg.norm(poses[..., :3, 3], axis=-1)[..., None]
    slope = (intrinsics[..., 0] / intrinsics[..., 2])[..., None]
    depth = local[..., 2]
    # Near the camera's own plane the division magnifies every rounding.
    positive = jnp.maximum(depth, 1e-6)
    u = slope * local[..., 0] / positive
    v = slope * -local[..., 1] / positive
    uvw = jnp.stack([u, v, distance - depth], -1)
    return jnp.clip(uvw, -1, 1), jnp.ones(uvw.shape[:-1], bool)

  def ray_bounds(
    self, origins: jax.Array, directions: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Entry and exit distances of the cube; both 1e9 for a ray that misses."""
    slope = directions + 1e-15
    a, b = (-1 - origins) / slope, (1 - origins) / slope
    near = jnp.max(jnp.minimum(a, b), -1)
    far = jnp.min(jnp.maximum(a, b), -1)
    # The reference clamps `near` after this test only, so that a cube behind
    # the camera gives near > far; we count it as a miss.
    miss = (far < near) | (far < self.min_near)
    near = jnp.where(miss, 1e9, jnp.maximum(near, self.min_near))
    return near, jnp.where(miss, 1e9, far)


Frustum = NearFar | UnitCube


def build_frustum(config) -> Frustum:
  """From `config.frustum` and `config.model.image_size`."""
  if config.frustum.kind == "near_far":
    size = config.model.image_size
    return NearFar(config.frustum.near, config.frustum.far, (size, size))
  if config.frustum.kind == "unit_cube":
    return UnitCube(config.frustum.min_near)
  raise ValueError(
    f"frustum.kind is {config.frustum.kind!r}, expected 'near_far' or"
    " 'unit_cube'"
  )
