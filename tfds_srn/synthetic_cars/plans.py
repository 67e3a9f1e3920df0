"""What is drawn by lot for a car: style, proportions, colours, markings."""

import dataclasses

import numpy as np

DARK = np.array([0.06, 0.06, 0.07])


@dataclasses.dataclass(frozen=True)
class Style:
  """Ranges (low, high) of uniform draws, and how often it is seen.

  Hood, trunk, height, width, wheel radius and rounding are fractions of the
  car's length; the belt line is one of the body's height.
  """

  share: float

  hood: tuple[float, float]
  trunk: tuple[float, float]
  height: tuple[float, float]
  belt_line: tuple[float, float]
  rake: float  # of the windshield, run over rise
  width: tuple[float, float] = (0.39, 0.46)
  wheel: tuple[float, float] = (0.068, 0.085)
  rounding: tuple[float, float] = (0.012, 0.04)
  wing: float = 0.0  # how often it has one


STYLES = {
  "sedan": Style(
    5.0, (0.24, 0.30), (0.12, 0.18), (0.27, 0.31), (0.52, 0.58), 1.1
  ),
  "coupe": Style(
    4.0, (0.30, 0.37), (0.08, 0.15), (0.22, 0.26), (0.52, 0.58), 1.5, wing=0.3
  ),
  "hatchback": Style(
    4.0, (0.22, 0.27), (0.0, 0.03), (0.29, 0.34), (0.50, 0.56), 0.7
  ),
  "wagon": Style(
    3.0, (0.24, 0.29), (0.0, 0.03), (0.27, 0.31), (0.52, 0.58), 1.0
  ),
  "suv": Style(4.0, (0.22, 0.27), (0.0, 0.03), (0.34, 0.39), (0.52, 0.58), 0.5),
  "van": Style(
    2.5, (0.05, 0.11), (0.0, 0.02), (0.36, 0.42), (0.46, 0.52), 0.44
  ),
  "pickup": Style(
    2.5, (0.24, 0.29), (0.34, 0.40), (0.31, 0.36), (0.54, 0.60), 0.6
  ),
  "beetle": Style(
    1.5,
    (0.20, 0.26),
    (0.06, 0.12),
    (0.32, 0.37),
    (0.46, 0.54),
    0.9,
    rounding=(0.05, 0.07),
  ),
  "roadster": Style(
    1.5, (0.32, 0.38), (0.14, 0.22), (0.24, 0.27), (0.58, 0.64), 1.4
  ),
  "racer": Style(
    4.0,
    (0.28, 0.38),
    (0.12, 0.24),
    (0.22, 0.27),
    (0.50, 0.58),
    1.7,
    width=(0.42, 0.48),
    wheel=(0.066, 0.078),
    rounding=(0.02, 0.05),
    wing=0.8,
  ),
  "formula": Style(
    1.0,
    (0.38, 0.46),
    (0.26, 0.34),
    (0.20, 0.24),
    (0.50, 0.58),
    1.4,
    width=(0.38, 0.44),
    wheel=(0.066, 0.076),
    wing=1.0,
  ),
}


@dataclasses.dataclass(frozen=True)
class Plan:
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
  rounding: float
  rake: float  # of the windshield, run over rise
  rear_rake: float
  wheel_radius: float
  wheel_width: float
  wheel_x: tuple[float, float]
  spokes: int
  rim: np.ndarray
  flared: bool  # fenders that stand out over the wheels
  paint: np.ndarray
  second: np.ndarray  # of the lower half and the small parts
  roof: np.ndarray  # and of the pillars
  underside: np.ndarray
  glass: np.ndarray
  glass_opacity: float
  seats: np.ndarray
  lamp_height: float
  lamp_width: float
  lamp_colour: np.ndarray
  tail_colour: np.ndarray
  plate: bool
  wing_height: float  # above the trunk, 0 for no wing
  splitter: bool
  skirts: bool
  scoop: bool
  bumpers: bool
  rails: bool
  sky: float  # share of the light that comes from above, all around
  sun: float
  sun_azimuth: float

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
    foot = self.hood_end + min(0.02, 0.2 * (self.front - self.hood_end))
    return foot, foot - self.rake * (self.top - self.belt)

  @property
  def cabin_rear(self) -> float:
    return max(self.trunk_end, self.rear + 0.012)

  @property
  def end_half(self) -> float:
    """Half the width at the front and the rear, between the cut corners."""
    return max(0.5 * self.half, self.half - 1.2 * self.corner_cut)

  @property
  def hull_half(self) -> float:
    """Half the width of the body itself: wheels of a formula car are out."""
    return self.half * (0.42 if self.style == "formula" else 1)


def draw_plan(rng: np.random.Generator) -> Plan:
  """Draws a car."""
  shares = np.array([style.share for style in STYLES.values()])
  name = str(rng.choice(list(STYLES), p=shares / shares.sum()))
  style = STYLES[name]
  length = rng.uniform(0.76, 0.92)
  width = length * rng.uniform(*style.width)
  # Mirrors and fenders stand out, and all stays within 0.5 of the middle.
  length *= min(1.0, 0.93 / np.hypot(length, width + 0.05))
  top = length * rng.uniform(*style.height) / 2
  radius = length * rng.uniform(*style.wheel)
  bottom = -top + radius * rng.uniform(0.45, 0.85)
  belt = bottom + (top - bottom) * rng.uniform(*style.belt_line)
  front, rear = length / 2, -length / 2
  paint, second = body_colour(rng), body_colour(rng)
  racy = name in ("racer", "formula") or rng.random() < 0.1
  return Plan(
    style=name,
    front=front,
    rear=rear,
    half=width / 2,
    top=top,
    bottom=bottom,
    belt=belt,
    hood_end=front - length * rng.uniform(*style.hood),
    trunk_end=rear + length * rng.uniform(*style.trunk),
    nose_drop=(belt - bottom) * rng.uniform(0.12, 0.55 if racy else 0.35),
    tail_drop=(belt - bottom) * rng.uniform(0.02, 0.15),
    corner_cut=rng.uniform(0.03, 0.09),
    rounding=length * rng.uniform(*style.rounding),
    rake=style.rake * rng.uniform(0.85, 1.15),
    rear_rake=style.rake * rng.uniform(0.2, 0.75),
    wheel_radius=radius,
    wheel_width=0.038 if name == "formula" else rng.uniform(0.022, 0.032),
    wheel_x=(
      front - length * rng.uniform(0.16, 0.21),
      rear + length * rng.uniform(0.16, 0.22),
    ),
    spokes=int(rng.integers(4, 9)),
    rim=np.full(3, rng.uniform(0.3, 0.9)),
    flared=name == "beetle" or (racy and rng.random() < 0.6),
    paint=paint,
    roof=paint,
    second=second if rng.random() < 0.3 else paint,
    underside=np.full(3, rng.uniform(0.2, 0.55))
    if rng.random() < 0.7
    else 0.8 * paint,
    glass=np.full(3, rng.uniform(0.05, 0.3)) + np.array([0, 0.01, 0.03]),
    glass_opacity=1.0 if rng.random() < 0.5 else rng.uniform(0.2, 0.7),
    seats=np.full(3, rng.uniform(0.08, 0.6)) * rng.uniform(0.8, 1, 3),
    lamp_height=rng.uniform(0.55, 0.72),
    lamp_width=rng.uniform(0.14, 0.30),
    lamp_colour=np.array([0.98, 0.96, rng.uniform(0.6, 0.95)]),
    tail_colour=np.array([rng.uniform(0.65, 0.9), 0.05, 0.05]),
    plate=rng.random() < 0.6,
    wing_height=rng.uniform(0.02, 0.075) if rng.random() < style.wing else 0.0,
    splitter=racy and rng.random() < 0.7,
    skirts=rng.random() < (0.6 if racy else 0.2),
    scoop=racy and rng.random() < 0.4,
    bumpers=not racy and rng.random() < 0.4,
    rails=name in ("suv", "van", "wagon") and rng.random() < 0.4,
    sky=rng.uniform(0.0, 0.35),
    sun=rng.uniform(0.2, 0.4),
    sun_azimuth=rng.uniform(0, 2 * np.pi),
  )


def like_real_cars(rng: np.random.Generator, plan: Plan) -> Plan:
  """With bright paint, large black windows and the light from above, as most
  models of real cars have."""
  paint, kind = plan.paint, rng.random()
  if kind < 0.3:  # white and silver
    paint = rng.uniform(0.75, 1.0) * rng.uniform(0.94, 1.0, 3)
  elif kind < 0.65:
    paint = _of_hue(rng.random(), rng.uniform(0.6, 1.0), rng.uniform(0.8, 1.0))
  second = paint if plan.second is plan.paint else colour_beside(rng, paint)
  kind = rng.random()
  is_black = rng.random() < 0.7
  rise = plan.top - plan.belt
  room = (plan.cabin_front[0] - plan.cabin_rear - 0.1) / rise
  return dataclasses.replace(
    plan,
    paint=paint,
    second=second,
    roof=DARK if kind < 0.15 else second if kind < 0.3 else paint,
    glass=np.full(3, rng.uniform(0.01, 0.08)) if is_black else plan.glass,
    glass_opacity=1.0 if is_black else plan.glass_opacity,
    rake=min(plan.rake * rng.uniform(1.0, 1.6), 0.65 * room),
    rear_rake=min(plan.rear_rake * rng.uniform(1.0, 1.8), 0.35 * room),
    sky=rng.uniform(0.1, 0.45),
  )


def colour_beside(rng: np.random.Generator, paint: np.ndarray) -> np.ndarray:
  """A colour that stands out from a paint."""
  colours = [body_colour(rng) for _ in range(3)]
  return max(colours, key=lambda c: np.abs(c - paint).sum())


def body_colour(rng: np.random.Generator) -> np.ndarray:
  """Saturated paints and the greys, blacks and whites that real cars wear."""
  if rng.random() < 0.35:
    grey = rng.choice([0.07, 0.25, 0.5, 0.7, 0.92]) + rng.uniform(-0.05, 0.05)
    return np.clip(grey * rng.uniform(0.93, 1.0, 3), 0, 1)
  return _of_hue(rng.random(), rng.uniform(0.35, 1), rng.uniform(0.3, 1))


def _of_hue(hue: float, saturation: float, value: float) -> np.ndarray:
  """RGB of HSV."""
  sector = (hue * 6 + np.array([5.0, 3.0, 1.0])) % 6
  return value - value * saturation * np.clip(
    np.minimum(sector, 4 - sector), 0, 1
  )
