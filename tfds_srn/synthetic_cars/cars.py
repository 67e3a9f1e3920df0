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
    has_markings: whether some cars have patterns, stripes, numbers or letters,
      and most the windows, the light and the contrast of real ones.

  Returns:
    the car, its style as the label.
  """
  rng = np.random.default_rng([seed, SPLITS.index(split), index])
  plan = plans.draw_plan(rng)
  marks = []
  if has_markings:
    plan = plans.like_real_cars(rng, plan)
    marks = markings.draw_markings(rng, plan)
  bodies = parts.bodies(plan, marks)
  corners = np.abs([body.box for body in bodies if body.box]).max((0, 1))
  wheels = parts.wheels(plan)
  round_parts = np.max(
    [
      np.abs(wheel.centre) + (wheel.radius, wheel.half_width, wheel.radius)
      for wheel in wheels
    ],
    0,
  )
  azimuth = plan.sun_azimuth
  sine = 0.52  # the sun stands 31 degrees from overhead
  return ray_caster.Solid(
    label=plan.style,
    bodies=bodies,
    wheels=wheels,
    half_extent=tuple(np.maximum(corners, round_parts) + 1e-3),
    light=ray_caster.Light(
      # A surface that faces the sky gets about 1 in every light.
      ambient=0.98 - plan.sky - 0.85 * plan.sun,
      sky=plan.sky,
      sun=plan.sun,
      towards=(
        sine * np.cos(azimuth),
        sine * np.sin(azimuth),
        np.sqrt(1 - sine**2),
      ),
    ),
  )
