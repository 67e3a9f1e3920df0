"""Views of a model by casting rays with Embree.

Lambert's law under lights that stand still in the world, on both sides of every
triangle; textures, transparency layer by layer, white behind. Colours are
multiplied as the files hold them, without a detour through linear light.
"""

import dataclasses

import numpy as np

from tfds_srn import pixel_rays
from tfds_srn.meshes import models

_MAX_LAYERS = 8  # of transparent surfaces along a ray
_STEP = 1e-4  # past a surface, world units
_REACH = 0.3  # of the surroundings that darken a point, world units
# Depth is that of the surface behind which less than this is seen.
_OPAQUE = 0.5


@dataclasses.dataclass(frozen=True)
class Lighting:
  """What falls on a surface.

  Attributes:
    lights: (x, y, z, strength) of each: where it comes from, in the world, and
      what it adds to a surface that faces it.
    ambient: what every surface gets.
    occlusion_rays: with which the share of the surroundings that hides the sky
      is measured; 0 for none.
  """

  lights: tuple[tuple[float, float, float, float], ...] = (
    (0.35, 0.25, 0.90, 0.38),
  )
  ambient: float = 0.62
  occlusion_rays: int = 0


class Renderer:
  """Draws views of one model.

  Args:
    model: see `models.load`.
    lighting: see `Lighting`.
  """

  def __init__(self, model: models.Model, lighting: Lighting = Lighting()):
    try:
      from embreex import mesh_construction  # noqa: PLC0415  (optional)
      from embreex import rtcore_scene  # noqa: PLC0415
    except ImportError as error:
      raise ValueError(
        "data.dataset = 'meshes' needs embreex: pip install trimesh embreex"
      ) from error
    self._model = model
    self._lighting = lighting
    self._scene = rtcore_scene.EmbreeScene()
    mesh_construction.TriangleMesh(self._scene, model.triangles)
    self._half_extent = np.abs(model.triangles).max((0, 1)) + 1e-3
    lights = np.array(lighting.lights, np.float32).reshape(-1, 4)
    length = np.linalg.norm(lights[:, :3], axis=-1, keepdims=True)
    self._towards = lights[:, :3] / length
    self._strengths = lights[:, 3]

  def view(
    self, pose: np.ndarray, size: int, focal: float, supersampling: int = 3
  ) -> tuple[np.ndarray, np.ndarray]:
    """Draws one view.

    Args:
      pose: [4,4] OpenCV camera-to-world.
      size: width and height in pixels; the principal point is the middle.
      focal: in pixels.
      supersampling: rays per pixel and axis, odd so that one passes through
        the pixel's centre and gives its depth.

    Returns:
      image f32 [size,size,3] in [0,1] on white, and depth f32 [size,size] along
      the optical axis in world units, 0 where the central ray meets nothing.
    """

    def trace(origin, directions):
      return self.trace(np.broadcast_to(origin, directions.shape), directions)

    return pixel_rays.draw_view(
      trace, self._half_extent, pose, size, focal, supersampling
    )

  def trace(
    self, origins: np.ndarray, directions: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """What rays meet.

    Args:
      origins: f32 [n,3], world units.
      directions: f32 [n,3], of any length.

    Returns:
      colours f32 [n,3] over white, and the parameter f32 [n] of the surface
      that each ray stops at, 0 for none.
    """
    count = len(directions)
    colour = np.zeros((count, 3), np.float32)
    passing = np.ones(count, np.float32)  # share of the light from behind
    depth = np.zeros(count, np.float32)
    begin = np.zeros(count, np.float32)
    step = _STEP / np.linalg.norm(directions, axis=-1)
    active = np.arange(count)
    for _ in range(1 if self._model.is_opaque else _MAX_LAYERS):
      starts = origins[active] + begin[active, None] * directions[active]
      hit = self._scene.run(
        np.ascontiguousarray(starts), directions[active], output=1
      )
      met = hit["primID"] >= 0
      active, starts = active[met], starts[met]
      if not len(active):
        break
      face, u, v, t = (hit[k][met] for k in ("primID", "u", "v", "tfar"))
      along = directions[active]
      points = starts + t[:, None] * along
      surface, alpha = self._surface(face, u, v)
      light = self._light(face, u, v, points, along)
      colour[active] += (passing[active] * alpha)[:, None] * surface * light
      passing[active] *= 1 - alpha
      t = begin[active] + t
      # Where most of the light is stopped.
      stops = (depth[active] == 0) & (passing[active] < _OPAQUE)
      depth[active[stops]] = t[stops]
      begin[active] = t + step[active]
      active = active[passing[active] > 0.01]
    return np.clip(colour + passing[:, None], 0, 1), depth

  def _surface(self, face, u, v) -> tuple[np.ndarray, np.ndarray]:
    """Colours [n,3] and opacity [n] of points on triangles."""
    model = self._model
    colours = _at(model.colours[face], u, v)
    numbers = model.texture[face]
    for number in np.unique(numbers[numbers >= 0]):
      rows = np.flatnonzero(numbers == number)
      uv = _at(model.uv[face[rows]], u[rows], v[rows])
      colours[rows] *= _texels(model.textures[number], uv)
    return colours[:, :3], colours[:, 3]

  def _light(self, face, u, v, points, along) -> np.ndarray:
    """What falls on points of triangles, seen along rays: [n,1]."""
    triangles = self._model.triangles[face]
    plane = np.cross(
      triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    )
    normals = _at(self._model.normals[face], u, v)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    # The side that is seen.
    behind = np.sum(plane * along, -1) > 0
    normals = np.where(behind[:, None], -normals, normals)
    facing = np.maximum(normals @ self._towards.T, 0)
    light = self._lighting.ambient + facing @ self._strengths
    if self._lighting.occlusion_rays:
      plane /= np.linalg.norm(plane, axis=-1, keepdims=True)
      light *= self._open_share(
        points, np.where(behind[:, None], -plane, plane)
      )
    return light[:, None].astype(np.float32)

  def _open_share(self, points, normals) -> np.ndarray:
    """Share [n] of the cosine-weighted sky that nothing near hides."""
    count = self._lighting.occlusion_rays
    # A spiral over the hemisphere, which is the same for every point.
    height = np.sqrt(1 - (np.arange(count) + 0.5) / count)
    angle = np.arange(count) * np.pi * (3 - 5**0.5)
    ring = np.sqrt(1 - height**2)
    local = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], -1)
    # Axes across the normal, by the coordinate in which it is smallest.
    helper = np.eye(3)[np.argmin(np.abs(normals), -1)]
    first = np.cross(normals, helper)
    first /= np.linalg.norm(first, axis=-1, keepdims=True)
    frame = np.stack([first, np.cross(normals, first), normals], 1)
    starts = (points + _STEP * normals).astype(np.float32)
    open_share = np.zeros(len(points))
    for direction in local:
      towards = np.einsum("i,nij->nj", direction, frame).astype(np.float32)
      reach = np.full(len(points), _REACH, np.float32)
      hidden = self._scene.run(starts, towards, dists=reach, query="OCCLUDED")
      open_share += hidden < 0
    return open_share / count


def _at(corners: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Values [n,C] at barycentric u, v, from those at the corners [n,3,C]."""
  u, v = u[:, None], v[:, None]
  return (1 - u - v) * corners[:, 0] + u * corners[:, 1] + v * corners[:, 2]


def _texels(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
  """RGBA f32 [n,4] in [0,1], bilinear, the picture repeating."""
  height, width = texture.shape[:2]
  x = uv[:, 0] * width - 0.5
  y = (1 - uv[:, 1]) * height - 0.5
  left, top = np.floor(x), np.floor(y)
  across, down = (x - left)[:, None], (y - top)[:, None]
  left, top = left.astype(np.int64), top.astype(np.int64)
  columns, rows = (
    (left % width, (left + 1) % width),
    (
      top % height,
      (top + 1) % height,
    ),
  )
  upper = texture[rows[0], columns[0]] * (1 - across) + (
    texture[rows[0], columns[1]] * across
  )
  lower = texture[rows[1], columns[0]] * (1 - across) + (
    texture[rows[1], columns[1]] * across
  )
  return ((upper * (1 - down) + lower * down) / 255).astype(np.float32)
