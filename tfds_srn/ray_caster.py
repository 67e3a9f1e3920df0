"""An analytic ray caster in NumPy for convex polyhedra and wheels.

Each ray is intersected in closed form, painted by rules on the hit point and
shaded by Lambert's law. Cameras are OpenCV camera-to-world matrices; images
are RGB in [0,1] on white.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

FOCAL_PER_WIDTH = 131.25 / 128.0  # SRN cars: 131.25 pixels at width 128

_LIGHT = np.array([0.35, 0.25, 0.90]) / np.linalg.norm([0.35, 0.25, 0.90])
_AMBIENT = 0.62
_TYRE = np.array([0.06, 0.06, 0.07])


@dataclasses.dataclass(frozen=True)
class ConvexBody:
  """The points p with normals @ p <= offsets, and how its surface is painted.

  Attributes:
    normals: [faces, 3] outward unit normals.
    offsets: [faces] signed distances of the faces from the origin.
    paint: (points [n,3], faces i64 [n]) -> albedo [n,3] in [0,1].
  """

  normals: np.ndarray
  offsets: np.ndarray
  paint: Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Wheel:
  """A capped cylinder around an axis parallel to y."""

  centre: np.ndarray  # [3]
  radius: float
  half_width: float
  rim: np.ndarray  # albedo of the disc inside the tyre


@dataclasses.dataclass(frozen=True)
class Solid:
  """Bodies and wheels, all within the box |p| <= half_extent.

  Attributes:
    label: what it is, for people.
    bodies: convex parts.
    wheels: round parts.
    half_extent: half the sides of a box around the origin that holds all.
  """

  label: str
  bodies: tuple[ConvexBody, ...]
  wheels: tuple[Wheel, ...]
  half_extent: tuple[float, float, float]


def render_view(
  solid: Solid, pose: np.ndarray, size: int, supersampling: int = 3
) -> tuple[np.ndarray, np.ndarray]:
  """Draws one view.

  Args:
    solid: what to draw.
    pose: [4,4] OpenCV camera-to-world.
    size: width and height in pixels; the focal length is SRN's for it.
    supersampling: rays per pixel and axis, odd so that one passes through the
      pixel's centre and gives its depth.

  Returns:
    image f32 [size,size,3] in [0,1] on white, and depth f32 [size,size] along
    the optical axis in world units, 0 where the central ray meets nothing.
  """
  if supersampling % 2 == 0:
    raise ValueError(
      f"supersampling is {supersampling}, expected an odd number"
    )
  pose = np.asarray(pose, np.float64)
  origin, rotation = pose[:3, 3], pose[:3, :3]
  focal = FOCAL_PER_WIDTH * size
  top, bottom, left, right = image_bounds(solid.half_extent, pose, focal, size)
  rows = (np.arange((bottom - top) * supersampling) + 0.5) / supersampling
  columns = (np.arange((right - left) * supersampling) + 0.5) / supersampling
  y, x = np.meshgrid(rows + top, columns + left, indexing="ij")
  local = np.stack(
    [(x - size / 2) / focal, (y - size / 2) / focal, np.ones_like(x)], -1
  ).reshape(-1, 3)
  # Unnormalised directions: the ray parameter is depth on the optical axis.
  directions = (local @ rotation.T).astype(np.float32)
  depth, colour = trace(solid, origin.astype(np.float32), directions)

  shape = (bottom - top, supersampling, right - left, supersampling)
  patch = colour.reshape(*shape, 3).mean((1, 3))
  centre = supersampling // 2
  patch_depth = depth.reshape(shape)[:, centre, :, centre]
  image = np.ones((size, size, 3), np.float32)
  image[top:bottom, left:right] = patch
  depths = np.zeros((size, size), np.float32)
  depths[top:bottom, left:right] = np.where(
    np.isinf(patch_depth), 0, patch_depth
  )
  return image, depths


def trace(solid: Solid, origin, directions) -> tuple[np.ndarray, np.ndarray]:
  """Nearest hit of each ray: its parameter [n] (inf: none), colour [n,3]."""
  count = len(directions)
  nearest = np.full(count, np.inf, np.float32)
  normal = np.zeros((count, 3), np.float32)
  albedo = np.ones((count, 3), np.float32)
  for body in solid.bodies:
    rays, t, faces = _hit_convex(body, origin, directions)
    closer = t < nearest[rays]
    rays, t, faces = rays[closer], t[closer], faces[closer]
    nearest[rays] = t
    normal[rays] = body.normals[faces]
    albedo[rays] = body.paint(origin + t[:, None] * directions[rays], faces)
  for wheel in solid.wheels:
    rays, t, normals, colours = _hit_wheel(wheel, origin, directions)
    closer = t < nearest[rays]
    rays = rays[closer]
    nearest[rays] = t[closer]
    normal[rays] = normals[closer]
    albedo[rays] = colours[closer]
  lit = _AMBIENT + (1 - _AMBIENT) * np.clip(normal @ _LIGHT, 0, None)
  colour = np.where(
    np.isinf(nearest)[:, None], 1.0, albedo * lit[:, None].astype(np.float32)
  )
  return nearest, colour


def image_bounds(
  half_extent: Sequence[float], pose: np.ndarray, focal: float, size: int
) -> tuple[int, int, int, int]:
  """Pixel rows and columns (top, bottom, left, right) outside which all is
  white: the projected corners of a box around the origin, or everything if one
  of them lies behind the camera."""
  signs = np.stack(np.meshgrid(*[(-1, 1)] * 3), -1).reshape(-1, 3)
  corners = signs * half_extent - pose[:3, 3]
  x, y, z = (corners @ pose[:3, :3]).T
  if z.min() < 1e-3:
    return 0, size, 0, size
  columns, rows = focal * x / z + size / 2, focal * y / z + size / 2
  top, left = (int(np.floor(v.min())) for v in (rows, columns))
  bottom, right = (int(np.ceil(v.max())) for v in (rows, columns))
  top, left = (min(max(v, 0), size - 1) for v in (top, left))
  bottom, right = (max(min(v, size), 1) for v in (bottom, right))
  return top, max(bottom, top + 1), left, max(right, left + 1)


def _hit_convex(body: ConvexBody, origin, directions):
  """Rays that enter the body: their indices, parameters and entry faces."""
  enter = np.full(len(directions), -np.inf, np.float32)
  leave = np.full(len(directions), np.inf, np.float32)
  face = np.zeros(len(directions), np.int64)
  for i, normal in enumerate(body.normals):
    slope = directions @ normal
    room = body.offsets[i] - origin @ normal
    with np.errstate(divide="ignore", invalid="ignore"):
      t = room / slope
    inward = slope < 0
    later = inward & (t > enter)
    enter[later] = t[later]
    face[later] = i
    outward = slope > 0
    np.minimum(leave, t, out=leave, where=outward)
    if room < 0:
      leave[slope == 0] = -np.inf
  rays = np.flatnonzero((enter < leave) & (enter > 0))
  return rays, enter[rays], face[rays]


def _hit_wheel(wheel: Wheel, origin, directions):
  """Rays that enter the wheel: indices, parameters, normals, albedo."""
  ox, oy, oz = origin - wheel.centre
  dx, dy, dz = directions.T
  a = dx**2 + dz**2
  b = ox * dx + oz * dz
  c = ox**2 + oz**2 - wheel.radius**2
  discriminant = b**2 - a * c
  with np.errstate(divide="ignore", invalid="ignore"):
    root = np.sqrt(discriminant)
    round_in, round_out = (-b - root) / a, (-b + root) / a
    cap_in = (-np.sign(dy) * wheel.half_width - oy) / dy
    cap_out = (np.sign(dy) * wheel.half_width - oy) / dy
    enter = np.maximum(round_in, cap_in)
    hit = (discriminant > 0) & (enter < np.minimum(round_out, cap_out))
  rays = np.flatnonzero(hit & (enter > 0))
  t = enter[rays]
  point = np.array([ox, oy, oz]) + t[:, None] * directions[rays]
  on_cap = cap_in[rays] >= round_in[rays]
  normals = np.where(
    on_cap[:, None],
    np.stack([0 * t, -np.sign(dy[rays]), 0 * t], -1),
    point * [1, 0, 1] / wheel.radius,
  )
  distance = np.hypot(point[:, 0], point[:, 2]) / wheel.radius
  angle = np.arctan2(point[:, 2], point[:, 0])
  spoke = (distance < 0.18) | (np.cos(5 * angle) > -0.3)
  rim = on_cap & (distance < 0.62) & spoke
  colours = np.where(rim[:, None], wheel.rim, _TYRE)
  return rays, t, normals.astype(np.float32), colours
