"""Procedural cars: shapes, proportions and colours drawn from a seed.

A car is convex bodies and four wheels, inside the sphere of radius 0.5 around
the origin: +z up, the front towards +x, left towards +y.
"""

import numpy as np

from tfds_srn.synthetic_cars import markings
from tfds_srn.synthetic_cars import parts
from tfds_srn.synthetic_cars import plans
from tfds_srn.synthetic_cars import ray_caster

SPLITS = ("train", "val", "test")


def sample_car(
  seed: int, split: str, index: int, has_markings: bool = True
) -> ray_caster.Solid:
  """Draws the shape, proportions and colours of one car.

  Args:
    seed: of the whole dataset, 0 or more.
    split: one of `SPLITS`; the same index in two splits gives two cars.
    index: of the car in its split, 0 or more.
    has_markings: whether some cars have patterns, stripes, numbers or letters.

  Returns:
    the car, its style as the label.
  """
  rng = np.random.default_rng([seed, SPLITS.index(split), index])
  plan = plans.draw_plan(rng)
  marks = markings.draw_markings(rng, plan) if has_markings else []
  bodies = parts.bodies(plan, marks)
  corners = np.abs([body.box for body in bodies]).max((0, 1))
  wheels = (plan.front, plan.half + 2 * plan.wheel_width, plan.top)
  azimuth, slant = plan.sun_azimuth, 0.52
  return ray_caster.Solid(
    label=plan.style,
    bodies=bodies,
    wheels=parts.wheels(plan),
    half_extent=tuple(np.maximum(corners, wheels) + 1e-3),
    light=ray_caster.Light(
      # A surface that faces the sky gets about 1 in every light.
      ambient=0.98 - plan.sky - 0.85 * plan.sun,
      sky=plan.sky,
      sun=plan.sun,
      towards=(
        slant * np.cos(azimuth),
        slant * np.sin(azimuth),
        np.sqrt(1 - slant**2),
      ),
    ),
  )
