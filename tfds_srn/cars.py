"""Procedural cars: shapes, proportions and colours drawn from a seed.

A car is a handful of convex bodies and four wheels, inside the sphere of
radius 0.5 around the origin: +z up, the front towards +x, left towards +y.
"""

import dataclasses
import functools

import numpy as np

from tfds_srn import ray_caster

SPLITS = ("train", "val", "test")

_DARK = np.array([0.06, 0.06, 0.07])
_UNDERSIDE = np.array([0.30, 0.30, 0.32])
_GLASS = np.array([0.13, 0.16, 0.20])

# Fractions of the car's length or height: (low, high) of a uniform draw.
_STYLES = {
  #          hood          trunk         height        belt line     rake
  "sedan": ((0.24, 0.30), (0.12, 0.18), (0.27, 0.31), (0.52, 0.58), 0.55),
  "coupe": ((0.30, 0.37), (0.08, 0.15), (0.22, 0.26), (0.52, 0.58), 0.75),
  "hatchback": ((0.22, 0.27), (0.0, 0.03), (0.29, 0.34), (0.50, 0.56), 0.35),
  "suv": ((0.22, 0.27), (0.0, 0.03), (0.34, 0.39), (0.52, 0.58), 0.25),
  "van": ((0.05, 0.11), (0.0, 0.02), (0.36, 0.42), (0.46, 0.52), 0.22),
  "pickup": ((0.24, 0.29), (0.34, 0.40), (0.31, 0.36), (0.54, 0.60), 0.30),
}


def sample_car(seed: int, split: str, index: int) -> ray_caster.Solid:
  """Draws the shape, proportions and colours of one car.

  Args:
    seed: of the whole dataset, 0 or more.
    split: one of `SPLITS`; the same index in two splits gives two cars.
    index: of the car in its split, 0 or more.

  Returns:
    the car, its style as the label.
  """
  plan = _draw_plan(np.random.default_rng([seed, SPLITS.index(split), index]))
  return ray_caster.Solid(
    label=plan.style,
    bodies=(_lower_body(plan), _cabin(plan), *_extras(plan)),
    wheels=_wheels(plan),
    half_extent=(plan.front + 0.01, plan.half + 0.03, plan.top + 0.06),
  )


@dataclasses.dataclass(frozen=True)
class _Plan:
  """All that is drawn for a car; lengths in world units.

  x runs from `rear` to `front`, y from -half to half, z from -top to top; the
  lower body from `bottom` to `belt`, the cabin from there to the top.
  """

  style: str
  front: float
  rear: float
  half: float
  top: float
  bottom: float
  belt: float
  hood_end: float
  trunk_end: float
  nose_drop: float
  tail_drop: float
  corner_cut: float
  rake: float  # of the windshield, run over rise
  rear_rake: float
  wheel_radius: float
  wheel_x: tuple[float, float]
  rim: np.ndarray
  paint: np.ndarray
  second: np.ndarray  # of the lower half and the small parts
  stripes: int
  stripe_colour: np.ndarray
  side_stripe: tuple[bool, bool]  # left, right
  lamp_height: float
  lamp_width: float
  lamp_colour: np.ndarray
  tail_colour: np.ndarray
  plate: bool
  spoiler: bool
  rails: bool

  @property
  def wheel_z(self) -> float:
    return -self.top + self.wheel_radius

  @property
  def door(self) -> float:
    """x of the pillar between the doors."""
    return (self.hood_end + self.trunk_end) / 2 + 0.02

  @property
  def cabin_front(self) -> tuple[float, float]:
    """x of the windshield's foot and head."""
    foot = self.hood_end + 0.02
    return foot, foot - self.rake * (self.top - self.belt) * 2

  @property
  def cabin_rear(self) -> float:
    return max(self.trunk_end, self.rear + 0.012)


def _draw_plan(rng: np.random.Generator) -> _Plan:
  style = str(rng.choice(list(_STYLES)))
  hood, trunk, height, belt_line, rake = _STYLES[style]
  length = rng.uniform(0.76, 0.90)
  width = length * rng.uniform(0.39, 0.46)
  top = length * rng.uniform(*height) / 2
  radius = length * rng.uniform(0.068, 0.085)
  bottom = -top + radius * rng.uniform(0.55, 0.85)
  belt = bottom + (top - bottom) * rng.uniform(*belt_line)
  front, rear = length / 2, -length / 2
  hood_end = front - length * rng.uniform(*hood)
  trunk_end = rear + length * rng.uniform(*trunk)
  paint, second = _body_colour(rng), _body_colour(rng)
  two_tone = rng.random() < 0.3
  return _Plan(
    style=style,
    front=front,
    rear=rear,
    half=width / 2,
    top=top,
    bottom=bottom,
    belt=belt,
    hood_end=hood_end,
    trunk_end=trunk_end,
    wheel_radius=radius,
    wheel_x=(
      front - length * rng.uniform(0.17, 0.21),
      rear + length * rng.uniform(0.17, 0.22),
    ),
    rim=np.full(3, rng.uniform(0.45, 0.85)),
    nose_drop=(belt - bottom) * rng.uniform(0.12, 0.35),
    tail_drop=(belt - bottom) * rng.uniform(0.02, 0.15),
    paint=paint,
    second=second if two_tone else paint,
    stripes=int(rng.choice([0, 0, 1, 2])),
    stripe_colour=_body_colour(rng),
    side_stripe=tuple(rng.random(2) < 0.25),
    lamp_height=rng.uniform(0.55, 0.72),
    lamp_width=rng.uniform(0.16, 0.30),
    lamp_colour=np.array([0.98, 0.96, rng.uniform(0.6, 0.95)]),
    tail_colour=np.array([rng.uniform(0.65, 0.9), 0.05, 0.05]),
    plate=rng.random() < 0.8,
    corner_cut=0.03 + 0.04 * rng.random(),
    rake=rake,
    rear_rake=rake * rng.uniform(0.5, 1.3),
    spoiler=style in ("coupe", "sedan") and rng.random() < 0.45,
    rails=style in ("suv", "van") and rng.random() < 0.4,
  )


def _wheels(plan: _Plan) -> tuple[ray_caster.Wheel, ...]:
  return tuple(
    ray_caster.Wheel(
      np.array([x, side * (plan.half - 0.022), plan.wheel_z]),
      plan.wheel_radius,
      0.028,
      plan.rim,
    )
    for x in plan.wheel_x
    for side in (1, -1)
  )


def _lower_body(plan: _Plan) -> ray_caster.ConvexBody:
  """Hood, doors and trunk; `_paint_lower` knows the order of the faces."""
  front, rear, half = plan.front, plan.rear, plan.half
  bottom, belt = plan.bottom, plan.belt
  trunk_end = max(plan.trunk_end, rear + 0.05)

  def at(share: float) -> float:
    return bottom + share * (belt - bottom)

  return _body(
    [
      ((0, 0, -1), (0, 0, bottom)),
      ((0, 0, 1), (0, 0, belt)),
      _slope((plan.hood_end, belt), (front, belt - plan.nose_drop)),
      _slope((rear, belt - plan.tail_drop), (trunk_end, belt)),
      ((1, 0, -0.10), (front, 0, at(0.4))),
      ((1, 0, 0.35), (front, 0, at(0.55))),
      ((-1, 0, -0.10), (rear, 0, at(0.4))),
      ((-1, 0, 0.20), (rear, 0, at(0.6))),
      ((0, 1, 0.22), (0, half, at(0.55))),
      ((0, -1, 0.22), (0, -half, at(0.55))),
      ((0, 1, -0.15), (0, half, at(0.55))),
      ((0, -1, -0.15), (0, -half, at(0.55))),
      *_corners(front, rear, half, plan.corner_cut),
    ],
    functools.partial(_paint_lower, plan),
  )


def _cabin(plan: _Plan) -> ray_caster.ConvexBody:
  """Windows and roof; `_paint_cabin` knows the order of the faces."""
  half, top, belt = plan.half, plan.top, plan.belt
  foot, head = plan.cabin_front
  rear = plan.cabin_rear
  shape = _body(
    [
      ((0, 0, -1), (0, 0, belt - 0.02)),
      ((0, 0, 1), (0, 0, top)),
      _slope((head, top), (foot, belt)),
      _slope((rear, belt), (rear + plan.rear_rake * (top - belt), top)),
      ((0, 1, 0.28), (0, half - 0.012, belt)),
      ((0, -1, 0.28), (0, -half + 0.012, belt)),
      ((0, 0.6, 1), (0, half * 0.72, top)),
      ((0, -0.6, 1), (0, -half * 0.72, top)),
    ],
    None,
  )
  return dataclasses.replace(
    shape, paint=functools.partial(_paint_cabin, plan, shape)
  )


def _extras(plan: _Plan) -> list[ray_caster.ConvexBody]:
  """Mirrors, and for some cars a spoiler or roof rails."""
  half, belt, rear = plan.half, plan.belt, plan.rear + 0.03
  bodies = []
  for side in (1, -1):
    centre = (plan.hood_end - 0.02, side * (half + 0.012), belt + 0.022)
    bodies.append(_box(centre, (0.012, 0.016, 0.012), plan.second))
  if plan.spoiler:
    size = (0.022, half * 0.85, 0.007)
    bodies.append(_box((rear, 0, belt + 0.035), size, plan.second))
    for side in (1, -1):
      centre = (rear, side * half * 0.5, belt + 0.012)
      bodies.append(_box(centre, (0.010, 0.008, 0.024), _DARK))
  if plan.rails:
    head = plan.cabin_front[1]
    size = (abs(head - plan.cabin_rear) * 0.35, 0.008, 0.008)
    for side in (1, -1):
      centre = (
        (head + plan.cabin_rear) / 2,
        side * half * 0.66,
        plan.top + 0.006,
      )
      bodies.append(_box(centre, size, _DARK))
  return bodies


def _body_colour(rng: np.random.Generator) -> np.ndarray:
  """Saturated paints and the greys, blacks and whites that real cars wear."""
  if rng.random() < 0.3:
    return np.full(3, rng.choice([0.10, 0.25, 0.5, 0.7, 0.92]))
  hue, saturation, value = (
    rng.random(),
    rng.uniform(0.5, 1),
    rng.uniform(0.4, 1),
  )
  sector = (hue * 6 + np.array([5.0, 3.0, 1.0])) % 6
  return value - value * saturation * np.clip(
    np.minimum(sector, 4 - sector), 0, 1
  )


def _body(faces, paint) -> ray_caster.ConvexBody:
  """From (outward normal, point on the face) pairs."""
  normals = np.array([n for n, _ in faces], np.float64)
  normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
  points = np.array([p for _, p in faces], np.float64)
  offsets = (normals * points).sum(-1)
  return ray_caster.ConvexBody(
    normals.astype(np.float32), offsets.astype(np.float32), paint
  )


def _box(centre, half_sizes, colour) -> ray_caster.ConvexBody:
  faces = []
  for axis in range(3):
    for sign in (1, -1):
      normal = np.zeros(3)
      normal[axis] = sign
      faces.append((normal, np.array(centre) + normal * half_sizes[axis]))
  return _body(faces, lambda points, face: np.tile(colour, (len(points), 1)))


def _slope(a: tuple[float, float], b: tuple[float, float]):
  """The face through the (x, z) points a, b with a.x < b.x, facing up."""
  return ((-(b[1] - a[1]), 0.0, b[0] - a[0]), (a[0], 0.0, a[1]))


def _corners(front: float, rear: float, half: float, cut: float):
  return [
    ((sx, sy * 0.8, 0), (x - sx * cut, sy * half, 0))
    for sx, x in ((1, front), (-1, rear))
    for sy in (1, -1)
  ]


def _paint_lower(car: _Plan, points, faces) -> np.ndarray:
  """Bumpers, grille, lamps, plates, arches, doors, stripes, pickup bed."""
  x, y, z = points.T
  height = (z - car.bottom) / (car.belt - car.bottom)
  colour = np.where((height < 0.45)[:, None], car.second, car.paint)
  if car.stripes:
    centre = 0.0 if car.stripes == 1 else 0.3 * car.half
    on_stripe = np.abs(np.abs(y) - centre) < 0.14 * car.half
    colour[on_stripe & (height > 0.3)] = car.stripe_colour
  on_side = (faces >= 8) & (faces < 12)
  for has_stripe, side in zip(car.side_stripe, (1, -1), strict=True):
    if has_stripe:
      band = on_side & (y * side > 0) & (np.abs(height - 0.62) < 0.1)
      colour[band] = car.stripe_colour
  for seam in (car.door, car.door + 0.17, car.door - 0.15):
    colour[on_side & (np.abs(x - seam) < 0.004) & (height > 0.12)] *= 0.4
  colour[height < 0.12] = _UNDERSIDE
  for wheel_x in car.wheel_x:
    arch = np.hypot(x - wheel_x, z - car.wheel_z) < 1.2 * car.wheel_radius
    colour[on_side & arch] = _DARK
  ends = [(x > 0) & np.isin(faces, (4, 5, 12, 13))]
  ends.append((x < 0) & np.isin(faces, (6, 7, 14, 15)))
  lateral = np.abs(y) / car.half
  lamps = (lateral > 0.95 - 1.6 * car.lamp_width) & (
    np.abs(height - car.lamp_height) < 0.13
  )
  grille = (lateral < 0.5) & (np.abs(height - 0.42) < 0.14)
  plate = (lateral < 0.22) & (np.abs(height - 0.3) < 0.08)
  for end, lamp_colour in zip(
    ends, (car.lamp_colour, car.tail_colour), strict=True
  ):
    colour[end & lamps] = lamp_colour
  colour[ends[0] & grille] = _DARK
  if car.plate:
    colour[ends[1] & plate] = 0.9
  if car.style == "pickup":
    in_bed = (x > car.rear + 0.03) & (x < car.trunk_end - 0.02)
    in_bed &= lateral < 0.8
    colour[in_bed & np.isin(faces, (1, 3))] = _DARK
  colour[faces == 0] = _UNDERSIDE
  return colour


def _paint_cabin(
  car: _Plan, body: ray_caster.ConvexBody, points, faces
) -> np.ndarray:
  """Roof and pillars in body colour, windows set into four of the faces."""
  x, y, z = points.T
  colour = np.tile(car.paint, (len(points), 1))
  if car.stripes:
    centre = 0.0 if car.stripes == 1 else 0.3 * car.half
    colour[np.abs(np.abs(y) - centre) < 0.14 * car.half] = car.stripe_colour
  inside = body.offsets - points @ body.normals.T  # distance to each face
  inside[np.arange(len(points)), faces] = np.inf
  framed = (inside.min(-1) > 0.014) & (z > car.belt + 0.008)
  glass = framed & np.isin(faces, (2, 3, 4, 5))
  on_side = np.isin(faces, (4, 5))
  glass &= ~(on_side & (np.abs(x - car.door) < 0.010))
  if car.style == "van":  # a panel van: no windows behind the door
    glass &= ~(on_side & (x < car.door))
  colour[glass] = _GLASS
  return colour
