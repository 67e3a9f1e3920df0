"""An analytic ray caster in NumPy for convex polyhedra and wheels.

Each ray is intersected in closed form, painted by rules on the hit point and
shaded by Lambert's law. Through glass it goes on to what lies behind.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import spatial

from tfds_srn import pixel_rays

_TYRE = np.array([0.06, 0.06, 0.07])
_LINING = 0.35  # brightness of a pillar from inside
_ROUND = (-0.1, 0.94)  # cosines between faces whose edge is rounded off

# (points f32 [n,3], faces i64 [n]) -> a value for each point.
PointRule = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class ConvexBody:
  """The points p with normals @ p <= offsets, and how its surface is painted.

  Attributes:
    normals: [faces, 3] outward unit normals.
    offsets: [faces] signed distances of the faces from the origin.
    paint: to albedo [n,3] in [0,1].
    opacity: to [n] in [0,1], less than 1 where it is glass; None for none.
    smoothing: distance from an edge within which it is shaded as if round.
    box: lower and upper corner [3] of a box around it, if known.
  """

  normals: np.ndarray
  offsets: np.ndarray
  paint: PointRule = lambda points, faces: np.ones((len(points), 3))
  opacity: PointRule | None = None
  smoothing: float = 0.0
  box: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class Wheel:
  """A capped cylinder around an axis parallel to y."""

  centre: np.ndarray  # [3]
  radius: float
  half_width: float
  rim: np.ndarray  # albedo of the disc inside the tyre
  spokes: int = 5


@dataclasses.dataclass(frozen=True)
class Light:
  """What falls on a surface: ambient + sky * (1 + z) / 2 + sun * cosine.

  Attributes:
    ambient: on every surface.
    sky: on a surface that faces up; half of it on an upright one.
    sun: on a surface that faces `towards`.
    towards: [3] unit vector to the sun.
  """

  ambient: float = 0.62
  sky: float = 0.0
  sun: float = 0.38
  towards: tuple[float, float, float] = (0.351, 0.250, 0.902)

  def on(self, normals: np.ndarray) -> np.ndarray:
    """[n,1] on surfaces with unit normals [n,3]."""
    facing = np.maximum(normals @ np.asarray(self.towards, np.float32), 0)
    overhead = (1 + normals[:, 2]) / 2
    light = self.ambient + self.sky * overhead + self.sun * facing
    return light[:, None].astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Solid:
  """Bodies and wheels, all within the box |p| <= half_extent.

  Attributes:
    label: what it is, for people.
    bodies: convex parts.
    wheels: round parts.
    half_extent: half the sides of a box around the origin that holds all.
    light: what falls on them.
  """

  label: str
  bodies: tuple[ConvexBody, ...]
  wheels: tuple[Wheel, ...]
  half_extent: tuple[float, float, float]
  light: Light = Light()


def convex_body(
  faces: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]],
  inside: Sequence[float],
  *,
  rounding: float = 0.0,
) -> ConvexBody:
  """The body behind planes, its edges rounded off.

  Args:
    faces: (outward normal of any length, a point on the plane) of each plane.
    inside: a point behind all of them.
    rounding: radius of the edges; each gets one plane that touches the
      cylinder of that radius inside it.

  Returns:
    the body, white. Its first faces are those given, in their order; the planes
    of edges follow, without those that touch nothing.
  """
  normals = np.array([normal for normal, _ in faces], np.float64)
  normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
  offsets = (normals * np.array([p for _, p in faces], np.float64)).sum(-1)
  if rounding:
    edges = _edge_planes(normals, offsets, rounding)
    normals = np.concatenate([normals, edges[:, :3]])
    offsets = np.concatenate([offsets, edges[:, 3]])
  planes = np.concatenate([normals, -offsets[:, None]], -1)
  hull = spatial.HalfspaceIntersection(planes, np.asarray(inside, np.float64))
  touched = np.zeros(len(normals), bool)
  touched[np.concatenate([np.asarray(f, int) for f in hull.dual_facets])] = True
  touched[: len(faces)] = True
  corners = hull.intersections
  return ConvexBody(
    normals[touched].astype(np.float32),
    offsets[touched].astype(np.float32),
    smoothing=1.5 * rounding,
    box=(tuple(corners.min(0)), tuple(corners.max(0))),
  )


def _edge_planes(normals, offsets, radius: float) -> np.ndarray:
  """(normal, offset) [n,4] between all faces that may share an edge."""
  first, second = np.triu_indices(len(normals), 1)
  cosine = np.sum(normals[first] * normals[second], -1)
  keep = (cosine > _ROUND[0]) & (cosine < _ROUND[1])
  first, second = first[keep], second[keep]
  total = normals[first] + normals[second]
  length = np.linalg.norm(total, axis=-1)
  # The bisector through the edge itself, moved in to where it touches the
  # cylinder whose axis is `radius` behind both faces.
  offset = (offsets[first] + offsets[second] - 2 * radius) / length + radius
  return np.concatenate([total / length[:, None], offset[:, None]], -1)


def render_view(
  solid: Solid, pose: np.ndarray, size: int, supersampling: int = 3
) -> tuple[np.ndarray, np.ndarray]:
  """Draws one view at SRN's focal length; see `pixel_rays.draw_view`."""

  def colour_and_depth(origin, directions):
    nearest, colour = trace(solid, origin, directions)
    return colour, np.where(np.isinf(nearest), 0, nearest)

  focal = pixel_rays.FOCAL_PER_WIDTH * size
  return pixel_rays.draw_view(
    colour_and_depth, solid.half_extent, pose, size, focal, supersampling
  )


def trace(solid: Solid, origin, directions) -> tuple[np.ndarray, np.ndarray]:
  """Nearest hit of each ray: its parameter [n] (inf: none), colour [n,3].

  Glass counts as a hit; its colour is mixed with that of what lies behind, of
  which other glass is opaque, and the frame from inside is not lit.
  """
  after = np.zeros(len(directions), np.float32)
  nearest, colour, glass = _first_hits(solid, origin, directions, after, ())
  for body, rays, opacity in glass:
    behind = _behind_glass(solid, body, origin, directions[rays], nearest[rays])
    share = opacity[:, None].astype(np.float32)
    colour[rays] = share * colour[rays] + (1 - share) * behind
  return nearest, colour


def _first_hits(solid: Solid, origin, directions, after, without):
  """The first surface that each ray enters beyond a parameter.

  Args:
    solid: what is there.
    origin: [3].
    directions: [n,3].
    after: [n] ray parameters.
    without: bodies that do not count.

  Returns:
    parameters [n] (inf: none), lit colours [n,3] (white: none), and for each
    body of glass (body, rays that meet it first, its opacity there).
  """
  count = len(directions)
  nearest = np.full(count, np.inf, np.float32)
  owner = np.full(count, -1, np.int64)
  normal = np.zeros((count, 3), np.float32)
  albedo = np.ones((count, 3), np.float32)
  opacities = {}
  for number, body in enumerate(solid.bodies):
    if any(body is other for other in without):
      continue
    near = _near(body, origin, directions)
    rays, t, faces = _hit_convex(body, origin, directions[near])
    rays = near[rays]
    closer = (t < nearest[rays]) & (t > after[rays])
    rays, t, faces = rays[closer], t[closer], faces[closer]
    points = origin + t[:, None] * directions[rays]
    nearest[rays] = t
    owner[rays] = number
    normal[rays] = _smooth_normals(body, points, faces)
    albedo[rays] = body.paint(points, faces)
    if body.opacity is not None:
      opacities[number] = np.ones(count, np.float32)
      opacities[number][rays] = body.opacity(points, faces)
  for wheel in solid.wheels:
    rays, t, normals, colours = _hit_wheel(wheel, origin, directions)
    closer = (t < nearest[rays]) & (t > after[rays])
    rays = rays[closer]
    nearest[rays] = t[closer]
    owner[rays] = -1
    normal[rays] = normals[closer]
    albedo[rays] = colours[closer]
  lit = np.clip(albedo * solid.light.on(normal), 0, 1)
  colour = np.where(np.isinf(nearest)[:, None], 1.0, lit).astype(np.float32)
  glass = []
  for number, opacity in opacities.items():
    rays = np.flatnonzero((owner == number) & (opacity < 1))
    glass.append((solid.bodies[number], rays, opacity[rays]))
  return nearest, colour, glass


def _behind_glass(solid: Solid, body: ConvexBody, origin, directions, enter):
  """Colours [n,3] of what rays meet after they entered a body of glass."""
  slopes = directions @ body.normals.T
  room = body.offsets - body.normals @ origin
  with np.errstate(divide="ignore", invalid="ignore"):
    ways_out = np.where(slopes > 0, room / slopes, np.inf)
  faces = ways_out.argmin(-1)
  leave = ways_out[np.arange(len(faces)), faces]
  points = origin + leave[:, None] * directions
  assert body.opacity is not None  # it is glass
  opacity = body.opacity(points, faces)[:, None].astype(np.float32)
  lining = np.where(opacity < 1, 1.0, _LINING) * body.paint(points, faces)
  t, colour, _ = _first_hits(solid, origin, directions, enter, (body,))
  inside = (t < leave)[:, None]
  return np.where(inside, colour, opacity * lining + (1 - opacity) * colour)


def _near(body: ConvexBody, origin, directions) -> np.ndarray:
  """Indices of the rays that meet the ball around a body's box."""
  if body.box is None:
    return np.arange(len(directions))
  low, high = np.array(body.box, np.float32)
  centre, radius = (low + high) / 2 - origin, np.linalg.norm(high - low) / 2
  along = directions @ centre
  squared = np.einsum("ni,ni->n", directions, directions)
  miss = centre @ centre - along**2 / squared
  return np.flatnonzero(miss < radius**2)


def _smooth_normals(body: ConvexBody, points, faces) -> np.ndarray:
  """Unit normals [n,3] that turn over from face to face near an edge."""
  own = body.normals[faces]
  if not body.smoothing or not len(points):
    return own
  distance = body.offsets - points @ body.normals.T
  weight = np.clip(1 - distance / body.smoothing, 0, 1)
  weight *= own @ body.normals.T > 0
  normals = weight @ body.normals
  return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


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
  spoke = (distance < 0.18) | (np.cos(wheel.spokes * angle) > -0.3)
  rim = on_cap & (distance < 0.62) & spoke
  colours = np.where(rim[:, None], wheel.rim, _TYRE)
  return rays, t, normals.astype(np.float32), colours
