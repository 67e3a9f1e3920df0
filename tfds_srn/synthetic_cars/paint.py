"""The colours of a car's surface, by rules on its points.

Points are f32 [n,3] on the faces i64 [n] of a body; colours are albedo [n,3]
in [0,1].
"""

from collections.abc import Sequence

import numpy as np

from tfds_srn.synthetic_cars import markings
from tfds_srn.synthetic_cars import plans
from tfds_srn.synthetic_cars import ray_caster

_PILLAR = 0.010  # width of the frame around a window, world units
_TOP, _SIDE, _END = 0.6, 0.75, 0.6  # least cosine with an axis


def one_colour(colour: np.ndarray, points, faces) -> np.ndarray:
  del faces
  return np.tile(colour, (len(points), 1))


def hull(
  car: plans.Plan,
  marks: Sequence[markings.Marking],
  body: ray_caster.ConvexBody,
  points,
  faces,
) -> np.ndarray:
  """Bumpers, grille, lamps, plate, arches, doors, bed of a pickup."""
  x, y, z = points.T
  normals = body.normals[faces]
  height = (z - car.bottom) / (car.belt - car.bottom)
  colour = np.where((height < 0.45)[:, None], car.second, car.paint)
  colour = _with_markings(marks, colour, points, normals)
  on_side = np.abs(normals[:, 1]) > _SIDE
  if car.style != "formula":
    for seam in (car.door, car.door + 0.17, car.door - 0.15):
      colour[on_side & (np.abs(x - seam) < 0.004) & (height > 0.12)] *= 0.4
    colour[height < 0.12] = car.underside
    for wheel_x in car.wheel_x:
      arch = np.hypot(x - wheel_x, z - car.wheel_z) < 1.2 * car.wheel_radius
      colour[on_side & arch] = plans.DARK
    _paint_ends(car, colour, normals, y, height)
  if car.style == "pickup":
    in_bed = (x > car.rear + 0.03) & (x < car.trunk_end - 0.02)
    in_bed &= (np.abs(y) < 0.8 * car.half) & (normals[:, 2] > _TOP)
    colour[in_bed] = plans.DARK
  colour[normals[:, 2] < -0.9] = car.underside
  return colour


def _paint_ends(car: plans.Plan, colour, normals, y, height) -> None:
  """Lamps, grille and plate, in place."""
  lateral = np.abs(y) / car.half
  lamps = (lateral > 0.95 - 1.6 * car.lamp_width) & (
    np.abs(height - car.lamp_height) < 0.13
  )
  grille = (lateral < 0.5) & (np.abs(height - 0.42) < 0.14)
  plate = (lateral < 0.22) & (np.abs(height - 0.3) < 0.08)
  ahead, behind = normals[:, 0] > _END, normals[:, 0] < -_END
  colour[ahead & lamps] = car.lamp_colour
  colour[behind & lamps] = car.tail_colour
  colour[ahead & grille] = plans.DARK
  if car.plate:
    colour[behind & plate] = 0.9


def cabin(
  car: plans.Plan,
  marks: Sequence[markings.Marking],
  body: ray_caster.ConvexBody,
  points,
  faces,
) -> np.ndarray:
  """Roof and pillars, windows set between them."""
  colour = np.tile(car.roof, (len(points), 1))
  colour = _with_markings(marks, colour, points, body.normals[faces])
  colour[_is_window(car, body, points, faces)] = car.glass
  return colour


def cabin_opacity(
  car: plans.Plan, body: ray_caster.ConvexBody, points, faces
) -> np.ndarray:
  window = _is_window(car, body, points, faces)
  return np.where(window, car.glass_opacity, 1.0)


def _is_window(
  car: plans.Plan, body: ray_caster.ConvexBody, points, faces
) -> np.ndarray:
  """bool [n]: away from the edges of upright and sloping faces."""
  x, _, z = points.T
  normals = body.normals[faces]
  inside = body.offsets - points @ body.normals.T  # distance to each face
  inside[np.arange(len(points)), faces] = np.inf
  window = (inside.min(-1) > _PILLAR) & (z > car.belt + 0.008)
  on_side = np.abs(normals[:, 1]) > _SIDE
  window &= on_side | (np.abs(normals[:, 1]) < 0.05)
  window &= np.abs(normals[:, 2]) < 0.95
  window &= ~(on_side & (np.abs(x - car.door) < 0.010))
  if car.style == "van":  # a panel van: no windows behind the door
    window &= ~(on_side & (x < car.door))
  return window


def windshield(
  car: plans.Plan, body: ray_caster.ConvexBody, points, faces
) -> np.ndarray:
  """Glass in a dark frame."""
  window = windshield_opacity(car, body, points, faces) < 1
  return np.where(window[:, None], car.glass, plans.DARK)


def windshield_opacity(
  car: plans.Plan, body: ray_caster.ConvexBody, points, faces
) -> np.ndarray:
  """[n]: faces 2 and on are the frame's outside; 0 and 1 are the pane's."""
  distance = body.offsets[2:] - points @ body.normals[2:].T
  window = (faces < 2) & (distance.min(-1) > 0.5 * _PILLAR)
  return np.where(window, min(car.glass_opacity, 0.5), 1.0)


def fender(
  car: plans.Plan,
  marks: Sequence[markings.Marking],
  body: ray_caster.ConvexBody,
  points,
  faces,
) -> np.ndarray:
  """The second colour, with the dark arch around the wheel."""
  normals = body.normals[faces]
  colour = np.tile(car.second, (len(points), 1))
  colour = _with_markings(marks, colour, points, normals)
  for wheel_x in car.wheel_x:
    distance = np.hypot(points[:, 0] - wheel_x, points[:, 2] - car.wheel_z)
    arch = (distance < 1.08 * car.wheel_radius) & (
      np.abs(normals[:, 1]) > _SIDE
    )
    colour[arch] = plans.DARK
  return colour


def _with_markings(
  marks: Sequence[markings.Marking], colour, points, normals
) -> np.ndarray:
  for marking in marks:
    colour[marking.covers(points, normals)] = marking.colour
  return colour
