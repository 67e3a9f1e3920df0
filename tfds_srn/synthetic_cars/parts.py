"""The bodies of a car, from its plan."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from tfds_srn.synthetic_cars import markings
from tfds_srn.synthetic_cars import paint
from tfds_srn.synthetic_cars import plans
from tfds_srn.synthetic_cars import ray_caster

_ARC = np.radians([0, 30, 60, 90, 120, 150, 180])  # planes of a fender


def bodies(
  plan: plans.Plan, marks: Sequence[markings.Marking]
) -> tuple[ray_caster.ConvexBody, ...]:
  """All but the wheels."""
  hull = _hull(plan)
  hull = dataclasses.replace(
    hull, paint=functools.partial(paint.hull, plan, marks, hull)
  )
  if plan.style == "formula":
    cabin = _cockpit(plan)
  elif plan.style == "roadster":
    cabin = [*_windshield(plan), *_furnishing(plan)]
  else:
    cabin = [_cabin(plan, marks)]
    if plan.glass_opacity < 1:
      cabin += _furnishing(plan)
  return (hull, *cabin, *_fenders(plan, marks), *_trim(plan), *_wing(plan))


def wheels(plan: plans.Plan) -> tuple[ray_caster.Wheel, ...]:
  """Four, at the edges of the car."""
  inset = 0.022
  if plan.style == "formula":
    inset = plan.wheel_width
  elif plan.flared:
    inset = plan.wheel_width - 0.018
  return tuple(
    ray_caster.Wheel(
      np.array([x, side * (plan.half - inset), plan.wheel_z]),
      plan.wheel_radius,
      plan.wheel_width,
      plan.rim,
      plan.spokes,
    )
    for x in plan.wheel_x
    for side in (1, -1)
  )


def _hull(plan: plans.Plan) -> ray_caster.ConvexBody:
  """Hood, doors and trunk."""
  front, rear, half = plan.front, plan.rear, plan.hull_half
  bottom, belt = plan.bottom, plan.belt
  trunk_end = max(plan.trunk_end, rear + 0.05)

  def at(share: float) -> float:
    return bottom + share * (belt - bottom)

  faces = [
    ((0, 0, -1), (0, 0, bottom)),
    ((0, 0, 1), (0, 0, belt)),
    _slope((plan.hood_end, belt), (front, belt - plan.nose_drop)),
    _slope((rear, belt - plan.tail_drop), (trunk_end, belt)),
    ((1, 0, -0.10), (front, 0, at(0.4))),
    ((1, 0, 0.35), (front, 0, at(0.55))),
    ((-1, 0, -0.10), (rear, 0, at(0.4))),
    ((-1, 0, 0.20), (rear, 0, at(0.6))),
  ]
  for side in (1, -1):
    faces += [
      ((0, side, lean), (0, side * half, at(0.55))) for lean in (0.22, -0.15)
    ]
  faces += _corners(plan)
  return ray_caster.convex_body(
    faces,
    (0, 0, (bottom + belt) / 2),
    rounding=min(plan.rounding, 0.3 * (belt - bottom)),
  )


def _cabin(
  plan: plans.Plan, marks: Sequence[markings.Marking]
) -> ray_caster.ConvexBody:
  """Windows and roof."""
  half, top, belt = plan.half, plan.top, plan.belt
  foot, head = plan.cabin_front
  rear = plan.cabin_rear
  faces = [
    ((0, 0, -1), (0, 0, belt - 0.02)),
    ((0, 0, 1), (0, 0, top)),
    _slope((head, top), (foot, belt)),
    _slope((rear, belt), (rear + plan.rear_rake * (top - belt), top)),
  ]
  for side in (1, -1):
    faces += [
      ((0, side, 0.28), (0, side * (half - 0.012), belt)),
      ((0, side * 0.6, 1), (0, side * half * 0.72, top)),
    ]
  faces += _corners(plan)
  shape = ray_caster.convex_body(
    faces,
    ((rear + foot) / 2, 0, belt),
    rounding=min(plan.rounding, 0.3 * (top - belt)),
  )
  opacity = functools.partial(paint.cabin_opacity, plan, shape)
  return dataclasses.replace(
    shape,
    paint=functools.partial(paint.cabin, plan, marks, shape),
    opacity=opacity if plan.glass_opacity < 1 else None,
  )


def _furnishing(plan: plans.Plan) -> list[ray_caster.ConvexBody]:
  """A dark floor at the height of the belt, and seats."""
  foot, rear = plan.cabin_front[0] - 0.03, plan.cabin_rear + 0.03
  height = 0.3 * (plan.top - plan.belt)
  half = plan.half - 0.03
  parts = [
    _box(
      ((foot + rear) / 2, 0, plan.belt),
      ((foot - rear) / 2, half, 0.002),
      plans.DARK,
    )
  ]
  rows = [plan.door]
  if plan.style != "roadster" and plan.door - rear > 0.2:
    rows.append(plan.door - 0.14)
  for x in rows:
    parts += [
      _box(
        (x, side * 0.45 * half, plan.belt + height),
        (0.012, 0.32 * half, height),
        plan.seats,
      )
      for side in (1, -1)
    ]
  return parts


def _windshield(plan: plans.Plan) -> list[ray_caster.ConvexBody]:
  """That of an open car, and a bar behind the seats."""
  foot = plan.cabin_front[0]
  height = 0.8 * (plan.top - plan.belt)
  back = foot - 0.5 * plan.rake * height
  half = plan.half - 0.02
  glass = ray_caster.convex_body(
    [
      _slope((back, plan.belt + height), (foot, plan.belt)),
      ((-height, 0, -(foot - back)), (foot - 0.008, 0, plan.belt)),
      ((0, 0, 1), (0, 0, plan.belt + height)),
      ((0, 0, -1), (0, 0, plan.belt - 0.01)),
      ((0, 1, 0.2), (0, half, plan.belt)),
      ((0, -1, 0.2), (0, -half, plan.belt)),
    ],
    (foot - 0.004, 0, plan.belt),
  )
  glass = dataclasses.replace(
    glass,
    paint=functools.partial(paint.windshield, plan, glass),
    opacity=functools.partial(paint.windshield_opacity, plan, glass),
  )
  bar = (plan.door - 0.06, 0, plan.belt + 0.02)
  return [glass, _box(bar, (0.012, 0.8 * half, 0.02), plan.second)]


def _cockpit(plan: plans.Plan) -> list[ray_caster.ConvexBody]:
  """A driver's head, the airbox behind it and pods beside the seat."""
  half, belt, bottom = plan.hull_half, plan.belt, plan.bottom
  door, height = plan.door, plan.top - plan.belt
  parts = [
    _box((door + 0.03, 0, belt), (0.05, 0.6 * half, 0.003), plans.DARK),
    _box(
      (door + 0.01, 0, belt + 0.02), (0.018, 0.016, 0.02), plan.seats, 0.012
    ),
    _box(
      (door - 0.08, 0, belt + height / 2 - 0.01),
      (0.06, 0.3 * half, height / 2 + 0.01),
      plan.paint,
      0.01,
    ),
  ]
  # Side pods fill the space between the wheels.
  length = (plan.wheel_x[0] - plan.wheel_x[1]) / 2 - plan.wheel_radius - 0.01
  middle = sum(plan.wheel_x) / 2
  size = (0.7 * length, 0.24 * plan.half, 0.4 * (belt - bottom))
  for side in (1, -1):
    centre = (
      middle - 0.04,
      side * 0.62 * plan.half,
      (bottom + belt) / 2 - 0.01,
    )
    parts.append(_box(centre, size, plan.second, 0.015))
  # Axles.
  for x in plan.wheel_x:
    parts.append(
      _box((x, 0, plan.wheel_z), (0.008, plan.half - 0.03, 0.004), plans.DARK)
    )
  return parts


def _fenders(
  plan: plans.Plan, marks: Sequence[markings.Marking]
) -> list[ray_caster.ConvexBody]:
  """Half cylinders that stand out over the wheels."""
  if not plan.flared or plan.style == "formula":
    return []
  parts = []
  radius = 1.28 * plan.wheel_radius
  for x in plan.wheel_x:
    for side in (1, -1):
      outer = side * (plan.half + 0.016)
      arc = [
        (
          (np.cos(a), 0, np.sin(a)),
          (x + radius * np.cos(a), 0, plan.wheel_z + radius * np.sin(a)),
        )
        for a in _ARC
      ]
      faces = [
        *arc,
        ((0, 0, -1), (0, 0, plan.wheel_z - 0.4 * plan.wheel_radius)),
        ((0, side, 0.1), (0, outer, plan.wheel_z)),
        ((0, -side, 0), (0, side * 0.6 * plan.half, 0)),
      ]
      inside = (x, side * 0.8 * plan.half, plan.wheel_z)
      shape = ray_caster.convex_body(faces, inside)
      rule = functools.partial(paint.fender, plan, marks, shape)
      parts.append(dataclasses.replace(shape, paint=rule, smoothing=0.03))
  return parts


def _trim(plan: plans.Plan) -> list[ray_caster.ConvexBody]:
  """Mirrors, rails, bumpers, skirts, splitter and scoop, as the plan has."""
  if plan.style == "formula":
    return []
  half, belt, bottom = plan.half, plan.belt, plan.bottom
  middle = sum(plan.wheel_x) / 2
  between = (plan.wheel_x[0] - plan.wheel_x[1]) / 2 - 1.2 * plan.wheel_radius
  parts = []
  for side in (1, -1):
    x = plan.hood_end - 0.02
    stem = (x, side * (half - 0.018), belt + 0.004)
    parts += [
      _box(
        (x, side * (half + 0.012), belt + 0.022),
        (0.012, 0.016, 0.012),
        plan.second,
      ),
      _box(stem, (0.006, 0.022, 0.018), plan.second),
    ]
  if plan.rails:
    head = plan.cabin_front[1]
    size = (abs(head - plan.cabin_rear) * 0.35, 0.008, 0.008)
    for side in (1, -1):
      centre = (
        (head + plan.cabin_rear) / 2,
        side * half * 0.6,
        plan.top + 0.002,
      )
      parts.append(_box(centre, size, plans.DARK))
  if plan.bumpers:
    colour = plans.DARK if plan.second is plan.paint else plan.second
    height = bottom + 0.25 * (belt - bottom)
    for x in (plan.front - 0.002, plan.rear + 0.002):
      parts.append(
        _box((x, 0, height), (0.014, plan.end_half, 0.018), colour, 0.008)
      )
  if plan.skirts:
    for side in (1, -1):
      centre = (middle, side * (half - 0.004), bottom + 0.008)
      parts.append(_box(centre, (between, 0.012, 0.014), plan.second, 0.006))
  if plan.splitter:
    centre = (plan.front - 0.02, 0, bottom + 0.004)
    parts.append(_box(centre, (0.03, 1.1 * plan.end_half, 0.006), plan.second))
  if plan.scoop:
    x = (plan.hood_end + plan.front) / 2 - 0.02
    share = (x - plan.hood_end) / (plan.front - plan.hood_end)
    centre = (x, 0, belt - share * plan.nose_drop - 0.004)
    parts.append(_box(centre, (0.045, 0.2 * half, 0.022), plan.paint, 0.008))
  return parts


def _wing(plan: plans.Plan) -> list[ray_caster.ConvexBody]:
  """On two posts over the trunk, with end plates if it is high; a formula car
  has one in front too."""
  if not plan.wing_height:
    return []
  half, rise = 0.88 * plan.half, plan.wing_height
  height = plan.belt - plan.tail_drop + rise
  chord = 0.018 + 0.25 * rise
  rear = plan.rear + 1.2 * chord
  apart = (0.25 if plan.style == "formula" else 0.5) * plan.hull_half
  parts = [_box((rear, 0, height), (chord, half, 0.006), plan.second)]
  for side in (1, -1):
    # The posts reach into the trunk.
    post = (
      rear,
      side * apart,
      height - rise / 2 - 0.015,
    )
    parts.append(_box(post, (0.010, 0.007, rise / 2 + 0.025), plans.DARK))
    if rise > 0.045:
      plate = (rear, side * half, height)
      parts.append(_box(plate, (1.2 * chord, 0.004, 0.018), plan.second))
  if plan.style == "formula":
    nose = (plan.front - 0.026, 0, plan.bottom + 0.012)
    parts.append(_box(nose, (0.026, 0.95 * plan.half, 0.005), plan.second))
  return parts


def _corners(plan: plans.Plan):
  """Upright faces that cut the four corners of the car."""
  half = plan.hull_half
  return [
    ((end, side * 0.8, 0), (x - end * plan.corner_cut, side * half, 0))
    for end, x in ((1, plan.front), (-1, plan.rear))
    for side in (1, -1)
  ]


def _box(centre, half_sizes, colour, rounding=0.0) -> ray_caster.ConvexBody:
  """An upright box of one colour."""
  faces = []
  for axis in range(3):
    for sign in (1, -1):
      normal = np.zeros(3)
      normal[axis] = sign
      faces.append((normal, np.array(centre) + normal * half_sizes[axis]))
  shape = ray_caster.convex_body(faces, centre, rounding=rounding)
  return dataclasses.replace(
    shape, paint=functools.partial(paint.one_colour, colour)
  )


def _slope(a: tuple[float, float], b: tuple[float, float]):
  """The face through the (x, z) points a, b with a.x < b.x, facing up."""
  return ((-(b[1] - a[1]), 0.0, b[0] - a[0]), (a[0], 0.0, a[1]))
