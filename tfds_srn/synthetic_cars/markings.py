"""What is painted on a car's body beyond its colours.

Each marking says which surface points it covers and in which colour; the later
ones lie on top.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from tfds_srn.synthetic_cars import plans

# Five octal digits each: three bits for every row, from the top.
_DIGITS = [
  "75557",
  "26227",
  "71747",
  "71717",
  "55711",
  "74717",
  "74757",
  "71122",
  "75757",
  "75717",
]


@dataclasses.dataclass(frozen=True)
class Marking:
  """Where a colour lies.

  Attributes:
    covers: (points [n,3], unit normals [n,3]) -> bool [n].
    colour: [3].
  """

  covers: Callable[[np.ndarray, np.ndarray], np.ndarray]
  colour: np.ndarray


def draw_markings(rng: np.random.Generator, plan: plans.Plan) -> list[Marking]:
  """Patterns, stripes, numbers and letters; many cars have none."""
  is_racer = plan.style in ("racer", "formula")
  patterns = (None, _spots, _bands, _split, _patches, _stripes)
  shares = [0.52, 0.05, 0.07, 0.10, 0.08, 0.18]
  if is_racer:
    shares = [0.2, 0.1, 0.2, 0.15, 0.15, 0.2]
  pattern = patterns[rng.choice(len(patterns), p=shares)]
  markings = [] if pattern is None else [pattern(rng, plan)]
  if rng.random() < 0.2:
    markings += _side_stripes(rng, plan)
  if rng.random() < (0.7 if is_racer else 0.06):
    markings += _numbers(rng, plan)
  if rng.random() < (0.7 if is_racer else 0.08):
    markings += _letters(rng, plan)
  return markings


def _stripes(rng: np.random.Generator, plan: plans.Plan) -> Marking:
  """One or two along the car, over hood, roof and trunk."""
  centre = rng.choice([0.0, 0.3]) * plan.half
  width = rng.uniform(0.08, 0.2) * plan.half

  def covers(points, normals):
    on_top = np.abs(normals[:, 1]) < 0.6
    return on_top & (np.abs(np.abs(points[:, 1]) - centre) < width)

  return Marking(covers, plans.colour_beside(rng, plan.paint))


def _spots(rng: np.random.Generator, plan: plans.Plan) -> Marking:
  extent = np.array([plan.front, plan.half, plan.top])
  centres = rng.uniform(-1, 1, (24, 3)) * extent
  radii = rng.uniform(0.02, 0.06, 24)

  def covers(points, normals):
    del normals
    covered = np.zeros(len(points), bool)
    for centre, radius in zip(centres, radii, strict=True):
      covered |= ((points - centre) ** 2).sum(-1) < radius**2
    return covered

  return Marking(covers, plans.colour_beside(rng, plan.paint))


def _bands(rng: np.random.Generator, plan: plans.Plan) -> Marking:
  """Slanted bands around one end of the car or all of it."""
  angle, slant = rng.uniform(0, np.pi), rng.uniform(-1, 1)
  direction = np.array([np.cos(angle), np.sin(angle), slant])
  period, share = rng.uniform(0.05, 0.2), rng.uniform(0.3, 0.6)
  begin = rng.choice([-1.0, -0.1, 0.1]) * plan.front

  def covers(points, normals):
    del normals
    phase = (points @ direction / period) % 1
    return (phase < share) & (points[:, 0] > begin)

  return Marking(covers, plans.colour_beside(rng, plan.paint))


def _split(rng: np.random.Generator, plan: plans.Plan) -> Marking:
  """Another colour from a slanted plane backwards."""
  direction = np.array([1.0, rng.uniform(-0.8, 0.8), rng.uniform(-2, 2)])
  offset = rng.uniform(-0.3, 0.3) * plan.front

  def covers(points, normals):
    del normals
    return points @ direction < offset

  return Marking(covers, plans.colour_beside(rng, plan.paint))


def _patches(rng: np.random.Generator, plan: plans.Plan) -> Marking:
  """Irregular ones, where a few waves add up to much."""
  waves = rng.normal(0, 14, (5, 3))
  phases = rng.uniform(0, 2 * np.pi, 5)
  threshold = rng.uniform(0.3, 1.5)

  def covers(points, normals):
    del normals
    return np.sin(points @ waves.T + phases).sum(-1) > threshold

  return Marking(covers, plans.colour_beside(rng, plan.paint))


def _side_stripes(rng: np.random.Generator, plan: plans.Plan) -> list[Marking]:
  """A band along the doors of one side or both."""
  sides = ((1,), (-1,), (1, -1))[rng.integers(3)]
  height = plan.bottom + rng.uniform(0.45, 0.8) * (plan.belt - plan.bottom)
  width = rng.uniform(0.004, 0.014)

  def covers(points, normals):
    band = np.abs(points[:, 2] - height) < width
    return band & np.isin(_facing(normals, 1), sides)

  return [Marking(covers, plans.colour_beside(rng, plan.paint))]


def _numbers(rng: np.random.Generator, plan: plans.Plan) -> list[Marking]:
  """One number on both doors and the hood, some on a white disc."""
  digits = [_DIGITS[i] for i in rng.integers(0, 10, rng.integers(1, 3))]
  rows = [
    [int(bit) for digit in digits for bit in f"{int(digit[row]):03b}0"]
    for row in range(5)
  ]
  bitmap = np.array(rows, bool)[:, :-1]
  colour = plans.colour_beside(rng, plan.paint)
  door = (plan.door, (plan.bottom + plan.belt) / 2 + 0.01)
  hood = ((plan.hood_end + plan.front) / 2, 0.0)
  height = 0.42 * (plan.belt - plan.bottom)
  size = (height * bitmap.shape[1] / 5, height)
  places = [(1, 1, door), (1, -1, door), (2, 1, hood)]
  markings = []
  if rng.random() < 0.5:
    disc, radius = np.ones((1, 1), bool), 1.3 * max(size)
    markings = [
      _print(disc, axis, side, place, (radius, radius), 0.95, True)
      for axis, side, place in places
    ]
    colour = 0.2 * colour
  return markings + [
    _print(bitmap, axis, side, place, size, colour)
    for axis, side, place in places
  ]


def _letters(rng: np.random.Generator, plan: plans.Plan) -> list[Marking]:
  """Lines of something like writing on the sides, the tail and the hood."""
  colour = plans.colour_beside(rng, plan.paint)
  markings = []
  for _ in range(rng.integers(1, 4)):
    bitmap = rng.random((5, rng.integers(15, 40))) < 0.5
    bitmap[:, 3::4] = False
    height = rng.uniform(0.008, 0.02)
    size = (height * bitmap.shape[1] / 5, height)
    axis = int(rng.choice([0, 1, 1, 2]))
    sides: tuple[int, ...]
    if axis == 0:
      place, sides = (0.0, rng.uniform(plan.bottom, plan.belt)), (-1,)
    elif axis == 1:
      place = (
        rng.uniform(-0.6, 0.6) * plan.front,
        rng.uniform(plan.bottom, plan.belt),
      )
      sides = (1, -1)
    else:
      place, sides = (rng.uniform(-0.8, 0.8) * plan.front, 0.0), (1,)
    markings += [
      _print(bitmap, axis, side, place, size, colour) for side in sides
    ]
  return markings


def _print(
  bitmap, axis, side, place, half_size, colour, is_disc=False
) -> Marking:
  """A picture in one colour, projected along an axis onto what faces it.

  Args:
    bitmap: bool [rows, columns], from the top left.
    axis: 0, 1 or 2, along which it is projected.
    side: of the car, 1 or -1 along that axis.
    place: of its centre in the two other coordinates, in their order.
    half_size: half its width and height in world units.
    colour: [3] or a grey.
    is_disc: whether it is cut to an ellipse.
  """
  covers = functools.partial(
    _is_printed, bitmap, axis, side, place, half_size, is_disc
  )
  return Marking(covers, np.broadcast_to(colour, 3))


def _is_printed(
  bitmap, axis, side, place, half_size, is_disc, points, normals
) -> np.ndarray:
  if axis == 2:  # read from the front, its lines across the car
    across, up = points[:, 1] - place[1], place[0] - points[:, 0]
  else:
    across, up = points[:, 1 - axis] - place[0], points[:, 2] - place[1]
    across = across * (side if axis == 0 else -side)
  across, up = across / half_size[0], up / half_size[1]
  inside = (np.abs(across) < 1) & (np.abs(up) < 1)
  if is_disc:
    inside &= across**2 + up**2 < 1
  inside &= _facing(normals, axis) == side
  rows, columns = bitmap.shape
  row = np.clip((1 - up) / 2 * rows, 0, rows - 1).astype(int)
  column = np.clip((1 + across) / 2 * columns, 0, columns - 1).astype(int)
  return inside & bitmap[row, column]


def _facing(normals: np.ndarray, axis: int) -> np.ndarray:
  """1 or -1 where a normal leans to that side of an axis, else 0."""
  return np.where(np.abs(normals[:, axis]) > 0.6, np.sign(normals[:, axis]), 0)
