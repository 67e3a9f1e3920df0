"""What a rollout and its field look like in three dimensions: PLY and GLB.

Points come from the depth of the drawn frames, coloured by their pictures; a
mesh is a level of the field's density (Lorensen & Cline 1987, marching cubes by
scikit-image), coloured by the field. World units, up +z.
"""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import skimage.measure
from etils import epath

from genvs_jax.geometry import cameras
from genvs_jax.geometry import rendering
from genvs_jax.images import grids
from genvs_jax.models import pipeline
from genvs_jax.runtime import files


class Mesh(NamedTuple):
  """Triangles, or points if there are no faces.

  Attributes:
    vertices: f32 [n,3], world units.
    colours: u8 [n,3].
    faces: i32 [m,3], counter-clockwise from outside; may be empty.
  """

  vertices: np.ndarray
  colours: np.ndarray
  faces: np.ndarray


def points_of_frames(
  images: np.ndarray,
  depth: np.ndarray,
  opacity: np.ndarray,
  poses: np.ndarray,
  intrinsics: np.ndarray,
) -> Mesh:
  """A point for every pixel whose opacity is above 0.5.

  Args:
    images: u8 [N,H,W,3].
    depth: f32 [N,H,W], expected distance along the ray, world units.
    opacity: f32 [N,H,W].
    poses: f32 [N,4,4] camera-to-world.
    intrinsics: f32 [4] in pixels.
  """
  height, width = depth.shape[1:]
  origins, directions = cameras.pixel_rays(
    jnp.asarray(poses),
    jnp.broadcast_to(cameras.pinhole(intrinsics), (len(poses), 4)),
    cameras.pixel_centres(height, width),
  )
  points = np.asarray(
    origins + depth.reshape(*origins.shape[:2], 1) * directions
  )
  is_opaque = opacity.reshape(-1) > rendering.OPAQUE
  return Mesh(
    points.reshape(-1, 3)[is_opaque].astype(np.float32),
    images.reshape(-1, 3)[is_opaque],
    np.zeros((0, 3), np.int32),
  )


def build_field(
  model: pipeline.Model,
  variables: pipeline.Variables,
  inputs: pipeline.InputViews,
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """A function points [n,3] -> density [n] and colours [n,3] in [0,1].

  Args:
    model: the model.
    variables: of the model.
    inputs: encoded views of one scene (B = 1).
  """
  size = 2**14  # points at a time

  @jax.jit
  def evaluate(variables, inputs, points):
    density, features = pipeline.evaluate_field(
      model, variables, inputs, points[None, None]
    )
    colours = pipeline.to_unit(features[0, 0, :, :3], model.image_range)
    return density[0, 0], jnp.clip(colours, 0, 1)

  def field(points):
    padded = np.zeros((-(-len(points) // size) * size, 3), np.float32)
    padded[: len(points)] = points
    pieces = [
      jax.device_get(evaluate(variables, inputs, piece))
      for piece in padded.reshape(-1, size, 3)
    ]
    density, colours = (np.concatenate(x) for x in zip(*pieces, strict=True))
    return density[: len(points)], colours[: len(points)]

  return field


def mesh_of_field(
  field: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
  half_extent: float,
  resolution: int,
  level: float,
) -> Mesh:
  """The surface where a field's density crosses a level.

  Args:
    field: points [n,3] -> density [n] and colours [n,3] in [0,1].
    half_extent: of the cube around the origin that is searched, world units.
    resolution: points along each side.
    level: of the density, per world unit.

  Raises:
    ValueError: if the density crosses the level nowhere.
  """
  axis = np.linspace(-half_extent, half_extent, resolution, dtype=np.float32)
  grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
  density, _ = field(grid.reshape(-1, 3))
  if not density.min() < level < density.max():
    raise ValueError(
      f"the field's density lies between {density.min():.3g} and"
      f" {density.max():.3g} per world unit: it has no surface at"
      f" sample.mesh_level {level:.3g}"
    )
  vertices, faces, *_ = skimage.measure.marching_cubes(
    density.reshape([resolution] * 3), level, gradient_direction="ascent"
  )
  step = 2 * half_extent / (resolution - 1)
  vertices = (vertices * step - half_extent).astype(np.float32)
  _, colours = field(vertices)
  return Mesh(
    vertices,
    grids.to_uint8(colours),
    faces.astype(np.int32),
  )


def check(kind: str) -> None:
  """Raises ValueError if files of this kind need what is not installed."""
  if kind == "glb" and importlib.util.find_spec("trimesh") is None:
    raise ValueError(
      "--export=glb needs trimesh: pip install 'trimesh>=4' (or '.[meshes]')"
    )


def save(path: epath.Path, mesh: Mesh) -> None:
  """Writes a file of the kind that its name ends in, .ply or .glb."""
  write = {".ply": ply, ".glb": glb}[path.suffix]
  files.write_whole(path, write(mesh))


def glb(mesh: Mesh) -> bytes:
  """Binary glTF, which browsers and Blender show; by trimesh."""
  import trimesh  # noqa: PLC0415  (an optional extra, see `check`)

  # glTF has up +y and looks from +z: (x, y, z) -> (x, z, -y).
  x, y, z = mesh.vertices.T
  vertices = np.stack([x, z, -y], -1)
  scene = trimesh.Scene()
  if len(mesh.faces):
    scene.add_geometry(
      trimesh.Trimesh(
        vertices, mesh.faces, vertex_colors=mesh.colours, process=False
      )
    )
  else:
    scene.add_geometry(trimesh.PointCloud(vertices, colors=mesh.colours))
  return scene.export(file_type="glb")


def ply(mesh: Mesh) -> bytes:
  """A binary PLY file, which Blender, MeshLab and Open3D read."""
  vertices = np.empty(
    len(mesh.vertices),
    [(axis, "<f4") for axis in "xyz"]
    + [(colour, "u1") for colour in ("red", "green", "blue")],
  )
  for i, axis in enumerate("xyz"):
    vertices[axis] = mesh.vertices[:, i]
  for i, colour in enumerate(("red", "green", "blue")):
    vertices[colour] = mesh.colours[:, i]
  header = [
    "ply",
    "format binary_little_endian 1.0",
    f"element vertex {len(vertices)}",
    *(f"property float {axis}" for axis in "xyz"),
    *(f"property uchar {colour}" for colour in ("red", "green", "blue")),
  ]
  content = vertices.tobytes()
  if len(mesh.faces):
    faces = np.empty(len(mesh.faces), [("count", "u1"), ("at", "<i4", 3)])
    faces["count"], faces["at"] = 3, mesh.faces
    header += [
      f"element face {len(faces)}",
      "property list uchar int vertex_indices",
    ]
    content += faces.tobytes()
  text = "\n".join([*header, "end_header", ""])
  return text.encode() + content
