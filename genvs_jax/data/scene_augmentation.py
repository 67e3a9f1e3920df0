"""Training scenes changed on the way to the model, pictures with cameras.

What is done to the pictures of a scene is what another scene, or other
cameras, would have given: the mirrored object, a rolled or a longer lens,
another size or paint. Nothing changes white, the background.
"""

import dataclasses
import math

import ml_collections
import numpy as np
from PIL import Image

Views = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Options:
  """What is drawn for a scene; see `augment` in `configs/base.py`.

  Attributes:
    mirror: probability of the mirrored scene.
    roll: degrees that each camera turns around its axis, at most.
    focal: natural logarithm of each camera's focal length, plus or minus.
    scale: of the size of the scene and of its cameras' distance.
    hue: degrees that the colours of a scene turn around grey, at most.
    gamma: of the exponent of the colours of a scene.
    background: probability of another colour behind the object in input views
      whose pictures have an alpha channel.
  """

  mirror: float = 0.0
  roll: float = 0.0
  focal: float = 0.0
  scale: float = 0.0
  hue: float = 0.0
  gamma: float = 0.0
  background: float = 0.0


def build_options(config: ml_collections.ConfigDict) -> Options:
  """From `config.augment`.

  Raises:
    ValueError: for a value that makes no sense.
  """
  options = Options(**config.augment.to_dict())
  for name, most in (
    *(("mirror", 1), ("background", 1), ("roll", 180), ("hue", 180)),
    *(("focal", 1), ("scale", 1), ("gamma", 1)),
  ):
    value = getattr(options, name)
    if not 0 <= value <= most:
      raise ValueError(
        f"augment.{name} is {value:g}, expected a number from 0 to {most}"
      )
  return options


def augment(views: Views, options: Options, rng: np.random.Generator) -> Views:
  """A scene's views with all that is drawn for it.

  Args:
    views: images u8 [N,H,W,3], poses f32 [N,4,4], intrinsics f32 [N,4].
    options: see `Options`; its background is that of `background`.
    rng: all numbers are drawn from it, whatever the options.

  Returns:
    views of the same shapes.
  """
  count = len(views["images"])
  coin = rng.random()
  scale, hue, gamma = rng.uniform(-1, 1, 3)
  roll, focal = rng.uniform(-1, 1, (2, count))
  if coin < options.mirror:
    views = mirror(views)
  if options.roll or options.focal:
    views = turn_and_zoom(
      views, options.roll * roll, np.exp(options.focal * focal)
    )
  if options.scale:
    views = resize_scene(views, math.exp(options.scale * scale))
  if options.hue or options.gamma:
    images = recolour(
      views["images"], options.hue * hue, math.exp(options.gamma * gamma)
    )
    views = {**views, "images": images}
  return views


def background(
  options: Options, rng: np.random.Generator
) -> tuple[int, int, int] | None:
  """The colour behind the object in input views; None for white."""
  colour = rng.integers(0, 256, 3)
  if rng.random() >= options.background:
    return None
  red, green, blue = map(int, colour)
  return red, green, blue


def mirror(views: Views) -> Views:
  """The scene mirrored at the plane y = 0, as its cameras, mirrored too, see
  it: pictures change left and right."""
  world, camera = np.diag([1, -1, 1, 1.0]), np.diag([-1, 1, 1, 1.0])
  intrinsics = views["intrinsics"].copy()
  intrinsics[:, 2] = views["images"].shape[2] - intrinsics[:, 2]
  return {
    **views,
    "images": views["images"][:, :, ::-1],
    "poses": (world @ views["poses"] @ camera).astype(np.float32),
    "intrinsics": intrinsics,
  }


def turn_and_zoom(
  views: Views, degrees: np.ndarray, factors: np.ndarray
) -> Views:
  """Each camera turned around its optical axis, and with another focal length.

  Args:
    views: of a scene.
    degrees: [N], from the camera's x axis towards its y axis.
    factors: [N] of the focal lengths.
  """
  images, poses = [], []
  intrinsics = views["intrinsics"].copy()
  intrinsics[:, :2] *= np.asarray(factors)[:, None]
  for i, angle in enumerate(np.radians(degrees)):
    cosine, sine = math.cos(angle), math.sin(angle)
    fx, fy, cx, cy = map(float, views["intrinsics"][i, :4])
    new_fx, new_fy = map(float, intrinsics[i, :2])
    # Where the ray of a new pixel was seen: x = fx (R d)_x + cx.
    a, b = fx * cosine / new_fx, -fx * sine / new_fy
    d, e = fy * sine / new_fx, fy * cosine / new_fy
    picture = Image.fromarray(views["images"][i])
    picture = picture.transform(
      picture.size,
      Image.Transform.AFFINE,
      (a, b, cx - a * cx - b * cy, d, e, cy - d * cx - e * cy),
      Image.Resampling.BICUBIC,
      fillcolor="white",
    )
    images.append(np.asarray(picture))
    turn = np.eye(4)
    turn[:2, :2] = [[cosine, -sine], [sine, cosine]]
    poses.append(views["poses"][i] @ turn)
  return {
    **views,
    "images": np.stack(images),
    "poses": np.stack(poses).astype(np.float32),
    "intrinsics": intrinsics,
  }


def resize_scene(views: Views, factor: float) -> Views:
  """The scene `factor` times as large, its cameras as much farther away: the
  same pictures."""
  poses, intrinsics = views["poses"].copy(), views["intrinsics"].copy()
  poses[:, :3, 3] *= factor
  intrinsics[:, 4:] *= factor  # near and far, if they are there
  return {**views, "poses": poses, "intrinsics": intrinsics}


def recolour(images: np.ndarray, degrees: float, gamma: float) -> np.ndarray:
  """Colours turned around the axis of greys, and raised to a power.

  Args:
    images: u8 [..,3].
    degrees: 120 takes red to green, green to blue and blue to red.
    gamma: above 1 darkens; white and black stay.
  """
  # Rodrigues' formula about (1,1,1) / sqrt(3).
  angle = math.radians(degrees)
  cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
  matrix = (
    math.cos(angle) * np.eye(3)
    + math.sin(angle) * cross
    + (1 - math.cos(angle)) / 3
  )
  colours = np.clip(images / np.float32(255) @ matrix.T, 0, 1) ** gamma
  return (colours * 255 + 0.5).astype(np.uint8)
