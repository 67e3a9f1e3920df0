"""3D models as triangles with textures, loaded through trimesh.

A model is brought to SRN's conventions: +z up, the middle of its bounding box
at the origin, the box's diagonal one unit long.
"""

import dataclasses
import io
import json
import logging
import os
import pathlib
import re
import struct
from typing import Any

import numpy as np
from PIL import Image

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".off", ".stl")
MAX_TRIANGLES = 5_000_000
_GREY = 0.7  # of models without any colours
_MAX_TEXTURE = 1024  # pixels a side; larger ones would only alias
# Up axes as rows of the rotation to x, y and z of the world.
_UP = {
  "z": np.eye(3),
  "y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
  "x": np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]]),
}
UP_AXES = ("auto", *_UP)
# Of formats that say it, or whose files mostly keep to it.
_UP_OF = {".glb": "y", ".gltf": "y", ".obj": "y"}


class ModelError(ValueError):
  """A file that cannot be rendered; the text goes on after its name."""


@dataclasses.dataclass(frozen=True)
class Model:
  """Triangles, and what their surface looks like.

  Attributes:
    triangles: f32 [n,3,3] corners, world units.
    normals: f32 [n,3,3] unit normals at the corners.
    colours: f32 [n,3,4] RGBA in [0,1] at the corners.
    uv: f32 [n,3,2] texture coordinates at the corners, v upwards.
    texture: i32 [n] number of the triangle's texture, -1 for none.
    textures: u8 [H,W,4] each, RGBA, multiplied by the colours.
    normalization: what was done to the file's coordinates: up (axis), centre
      and scale, so that world = scale * (rotated - centre).
  """

  triangles: np.ndarray
  normals: np.ndarray
  colours: np.ndarray
  uv: np.ndarray
  texture: np.ndarray
  textures: tuple[np.ndarray, ...]
  normalization: dict[str, Any]

  @property
  def is_opaque(self) -> bool:
    """Whether every ray ends where it first meets a triangle."""
    used = {int(i) for i in np.unique(self.texture)} - {-1}
    return bool(
      (self.colours[..., 3] > 0.995).all()
      and all(self.textures[i][..., 3].min() == 255 for i in used)
    )


def load(path: pathlib.Path, up: str, crease: float) -> Model:
  """Loads a model file.

  Args:
    path: of the file, its textures where it says.
    up: axis of the file that points up, one of `UP_AXES`; "auto" is y for glTF
      and OBJ, z for the others.
    crease: degrees between neighbouring triangles above which their edge is
      sharp.

  Raises:
    ModelError: if it cannot be rendered as it was meant.
  """
  _check(path)
  parts = [_part_of(geometry) for geometry in _geometries(path)]
  parts = [part for part in parts if len(part.triangles)]
  count = sum(len(part.triangles) for part in parts)
  if not count:
    raise ModelError("holds no triangles")
  if count > MAX_TRIANGLES:
    raise ModelError(
      f"has {count:,} triangles, expected at most {MAX_TRIANGLES:,}: simplify"
      " it"
    )
  triangles = np.concatenate([part.triangles for part in parts])
  if not np.isfinite(triangles).all():
    raise ModelError("has corners that are not finite numbers")
  axis = _UP_OF.get(path.suffix.lower(), "z") if up == "auto" else up
  triangles = triangles @ _UP[axis].T
  low, high = triangles.min((0, 1)), triangles.max((0, 1))
  diagonal = float(np.linalg.norm(high - low))
  if diagonal < 1e-12:
    raise ModelError("has all its corners in one point")
  centre = (low + high) / 2
  triangles = (triangles - centre) / diagonal
  areas = np.linalg.norm(_crosses(triangles), axis=-1)
  keep = areas > 1e-12
  textures = [part.texture for part in parts if part.texture is not None]
  numbers = np.cumsum([part.texture is not None for part in parts]) - 1
  texture = np.concatenate(
    [
      np.full(len(p.triangles), -1 if p.texture is None else n, np.int32)
      for p, n in zip(parts, numbers, strict=True)
    ]
  )
  return Model(
    triangles=triangles[keep].astype(np.float32),
    normals=corner_normals(triangles[keep], crease),
    colours=np.concatenate([p.colours for p in parts])[keep],
    uv=np.concatenate([p.uv for p in parts])[keep],
    texture=texture[keep],
    textures=tuple(textures),
    normalization={
      "up": axis,
      "centre": [float(v) for v in centre],
      "scale": 1 / diagonal,
    },
  )


def corner_normals(triangles: np.ndarray, crease: float) -> np.ndarray:
  """Unit normals at the corners, smooth where the surface bends little.

  The normal of a corner is the mean, by area, of the triangles around its
  point whose plane differs from its own by less than the crease. Which side of
  a triangle is the outer one plays no part: files often do not keep to it.

  Args:
    triangles: [n,3,3] with an area each.
    crease: degrees.

  Returns:
    f32 [n,3,3], each on the side of its triangle's own normal.
  """
  crosses = _crosses(triangles)
  normals = crosses / np.linalg.norm(crosses, axis=-1, keepdims=True)
  count = len(triangles)
  # Points are one if they differ by less than a millionth of the diagonal.
  points = np.round(triangles.reshape(-1, 3) * 1e6).astype(np.int64)
  _, point = np.unique(points, axis=0, return_inverse=True)
  order = np.argsort(point.ravel(), kind="stable")
  face_of = np.repeat(np.arange(count), 3)[order]  # corners, point by point
  degree = np.bincount(point.ravel())
  start = np.concatenate([[0], np.cumsum(degree)])
  of_corner = point.ravel()[order]
  total = crosses[face_of]
  limit = np.cos(np.radians(crease))
  # Neighbour by neighbour around all points at once.
  for step in range(1, min(int(degree.max()), 256)):
    have = np.flatnonzero(degree[of_corner] > step)
    first = start[of_corner[have]]
    other = face_of[first + (have - first + step) % degree[of_corner[have]]]
    cosine = np.sum(normals[face_of[have]] * normals[other], -1)
    weight = np.where(cosine < 0, -1, 1) * (np.abs(cosine) >= limit)
    total[have] += weight[:, None] * crosses[other]
  result = np.empty((3 * count, 3))
  result[order] = total
  by_corner = result.reshape(count, 3, 3)
  length = np.linalg.norm(by_corner, axis=-1, keepdims=True)
  flat = np.broadcast_to(normals[:, None], by_corner.shape)
  smooth = by_corner / np.maximum(length, 1e-12)
  return np.where(length > 1e-12, smooth, flat).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Part:
  """Triangles of one material; see `Model`."""

  triangles: np.ndarray
  colours: np.ndarray
  uv: np.ndarray
  texture: np.ndarray | None


def _crosses(triangles: np.ndarray) -> np.ndarray:
  """[n,3] normals twice as long as the triangles are large."""
  a, b, c = np.moveaxis(np.asarray(triangles, np.float64), 1, 0)
  return np.cross(b - a, c - a)


def _geometries(path: pathlib.Path) -> list[Any]:
  """trimesh's meshes of a file, each where the file's scene puts it."""
  try:
    import trimesh  # noqa: PLC0415  (optional)
  except ImportError as error:
    raise ValueError(
      "data.dataset = 'meshes' needs trimesh and embreex: pip install trimesh"
      " embreex"
    ) from error
  # Its own word on what it cannot use is told by `_check`.
  logging.getLogger("trimesh").setLevel(logging.CRITICAL)
  try:
    scene = trimesh.load_scene(path)
    return [
      geometry
      for geometry in scene.dump()
      if isinstance(geometry, trimesh.Trimesh)
    ]
  except Exception as error:  # any kind, from a dozen parsers
    raise ModelError(
      f"cannot be read ({type(error).__name__}: {error}): expected an"
      f" undamaged {path.suffix} file"
    ) from error


def _part_of(geometry: Any) -> _Part:
  """A trimesh mesh with its material."""
  faces, visual = np.asarray(geometry.faces), geometry.visual
  colours = np.ones((len(faces), 3, 4), np.float32)
  uv = np.zeros((len(faces), 3, 2), np.float32)
  texture = None
  if visual.kind is None:
    colours[..., :3] = _GREY
  elif visual.kind == "face":
    colours[:] = np.asarray(visual.face_colors)[:, None] / 255
  elif visual.kind == "vertex":
    colours[:] = np.asarray(visual.vertex_colors)[faces] / 255
  elif visual.kind == "texture":
    material = visual.material
    factor, image, has_alpha = _material_of(material)
    colours *= factor
    if image is not None and visual.uv is not None:
      uv[:] = np.asarray(visual.uv)[faces][..., :2]
      texture = _pixels_of(image)
    of_vertices = geometry.vertex_attributes.get("color")
    if of_vertices is not None:
      values = np.asarray(of_vertices, np.float32)[faces]
      values = values / 255 if values.max() > 1 else values
      colours[..., : values.shape[-1]] *= values
    if not has_alpha:
      colours[..., 3] = 1
      if texture is not None:
        texture[..., 3] = 255
    elif getattr(material, "alphaMode", None) == "MASK" and texture is not None:
      cutoff = material.alphaCutoff
      cutoff = 0.5 if cutoff is None else cutoff
      alpha = texture[..., 3] * factor[3] / 255
      texture[..., 3] = np.where(alpha >= cutoff, 255, 0)
      colours[..., 3] = 1
  return _Part(np.asarray(geometry.triangles), colours, uv, texture)


def _material_of(material: Any) -> tuple[np.ndarray, Any, bool]:
  """RGBA factor in [0,1], picture or None, and whether alpha counts."""
  if hasattr(material, "baseColorFactor"):  # of glTF
    factor, image = material.baseColorFactor, material.baseColorTexture
    is_transparent = material.alphaMode in ("BLEND", "MASK")
  else:  # of MTL
    factor, image, is_transparent = material.diffuse, material.image, True
  factor = np.ones(4) if factor is None else np.asarray(factor)
  factor = factor / 255 if factor.dtype.kind in "iu" else factor
  factor = np.concatenate([factor, np.ones(4 - len(factor))])
  values = getattr(material, "kwargs", None) or {}
  if "d" in values:  # opacity, or its opposite
    factor[3] = float(values["d"][-1])
  elif "tr" in values:
    factor[3] = 1 - float(values["tr"][-1])
  # What a picture shows is not darkened by a colour that stands in for it.
  if image is not None and not hasattr(material, "baseColorFactor"):
    factor[:3] = 1
  return factor.astype(np.float32), image, is_transparent


def _pixels_of(image: Image.Image) -> np.ndarray:
  """u8 [H,W,4], of at most `_MAX_TEXTURE` pixels a side."""
  try:
    image = image.convert("RGBA")
  except (OSError, SyntaxError, ValueError) as error:
    raise ModelError(f"has a texture that cannot be read ({error})") from error
  largest = max(image.size)
  if largest > _MAX_TEXTURE:
    size = [max(v * _MAX_TEXTURE // largest, 1) for v in image.size]
    image = image.resize(size, Image.Resampling.BOX)
  return np.array(image)


def _check(path: pathlib.Path) -> None:
  """Raises ModelError for files that trimesh would load as something else."""
  if not path.stat().st_size:
    raise ModelError("is empty")
  suffix = path.suffix.lower()
  if suffix in (".glb", ".gltf"):
    header = _gltf_header(path)
    if "KHR_draco_mesh_compression" in header.get("extensionsRequired", ()):
      raise ModelError(
        "is Draco-compressed, which trimesh cannot read: decompress it, say"
        " with 'npx @gltf-transform/cli copy IN OUT'"
      )
  for file in side_files(path):
    if not file.exists():
      raise ModelError(
        "lacks its texture, material or buffer file"
        f" {os.path.relpath(file, path.parent)}"
      )


def side_files(path: pathlib.Path) -> list[pathlib.Path]:
  """Files that a model file names: pictures, materials and buffers.

  They need not exist.

  Raises:
    ModelError: if the file that names them cannot be read.
  """
  suffix = path.suffix.lower()
  if suffix == ".obj":
    return _side_files_of_obj(path)
  if suffix not in (".glb", ".gltf"):
    return []
  header = _gltf_header(path)
  entries = [*header.get("images", ()), *header.get("buffers", ())]
  uris = [entry.get("uri", "") for entry in entries]
  return [path.parent / u for u in uris if u and not u.startswith("data:")]


def _gltf_header(path: pathlib.Path) -> dict:
  """The JSON part of a glTF file."""
  data = path.read_bytes()
  try:
    if path.suffix.lower() == ".glb":
      magic, _, _, length = struct.unpack("<4sIII", data[:16])
      if magic != b"glTF":
        raise ValueError("no glTF header")
      data = data[20 : 20 + length]
    return json.load(io.BytesIO(data))
  except (ValueError, struct.error) as error:
    raise ModelError(
      f"cannot be read ({error}): expected an undamaged {path.suffix} file"
    ) from error


def _side_files_of_obj(path: pathlib.Path) -> list[pathlib.Path]:
  """Of an OBJ file: its MTL files, and the pictures that those name."""
  files = []
  text = path.read_text("utf-8", "replace")
  for library in re.findall(r"^mtllib[ \t]+(.+?)\s*$", text, re.M):
    file = path.parent / library
    files.append(file)
    if not file.exists():
      continue
    materials = file.read_text("utf-8", "replace")
    pattern = r"^\s*map_Kd[ \t]+(?:-\w+(?:[ \t]+[\d.+-]+)+[ \t]+)*(.+?)\s*$"
    for picture in re.findall(pattern, materials, re.M | re.I):
      files.append(file.parent / picture.replace("\\", "/"))
  return files
