"""Points and meshes of a sphere that is known, and the files they go into."""

import numpy as np
import pytest

from genvs_jax.geometry import camera_paths
from genvs_jax.sampling import exports

RADIUS, SHARPNESS = 0.3, 100.0
CENTRE = np.array([0.1, -0.05, 0.15])


def sphere(points):
  """A soft ball: density 50 on the sphere; red where x > 0, else blue."""
  outside = np.linalg.norm(points - CENTRE, axis=-1) - RADIUS
  density = 100 / (1 + np.exp(SHARPNESS * outside))
  red = (points[:, :1] > 0).astype(np.float32)
  return density, np.concatenate([red, 0 * red, 1 - red], -1)


def test_the_mesh_of_a_ball_is_a_sphere():
  mesh = exports.mesh_of_field(sphere, 0.5, 64, 50.0)
  distance = np.linalg.norm(mesh.vertices - CENTRE, axis=-1)
  np.testing.assert_allclose(distance, RADIUS, atol=1e-3)
  assert (mesh.colours[mesh.vertices[:, 0] > 0] == [255, 0, 0]).all()
  # Closed (Euler's formula), and facing outwards: the volume is positive.
  edges = np.sort(mesh.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), -1)
  edges = np.unique(edges, axis=0)
  assert len(mesh.vertices) - len(edges) + len(mesh.faces) == 2
  a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
  volume = np.sum(a * np.cross(b, c)) / 6
  assert volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.01)


def test_a_level_that_is_never_reached_is_named():
  with pytest.raises(
    ValueError, match=r"between .* and 100.* no surface at .* 200"
  ):
    exports.mesh_of_field(sphere, 0.5, 16, 200.0)


def test_points_lie_where_the_depth_says():
  """Distances to a sphere, seen from four sides by a long lens."""
  poses = np.asarray(camera_paths.orbit(4, 20.0, 1.3))
  intrinsics = np.array([80.0, 80.0, 16.0, 16.0], np.float32)
  x, y = np.meshgrid(np.arange(32) + 0.5, np.arange(32) + 0.5)
  rays = np.stack([(x - 16) / 80, (y - 16) / 80, np.ones_like(x)], -1)
  rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
  along = 1.3 * rays[..., 2]  # the centre is 1.3 ahead
  inside = RADIUS**2 - 1.3**2 + along**2
  hit = inside > 0
  depth = np.where(hit, along - np.sqrt(np.maximum(inside, 0)), 0)
  images = np.zeros((4, 32, 32, 3), np.uint8) + np.arange(
    4, dtype=np.uint8
  ).reshape(4, 1, 1, 1)
  mesh = exports.points_of_frames(
    images,
    np.broadcast_to(depth, (4, 32, 32)).astype(np.float32),
    np.broadcast_to(hit, (4, 32, 32)).astype(np.float32),
    poses,
    intrinsics,
  )
  assert len(mesh.vertices) == 4 * hit.sum() and not len(mesh.faces)
  distance = np.linalg.norm(mesh.vertices, axis=-1)
  np.testing.assert_allclose(distance, RADIUS, atol=1e-5)
  # Each picture's points face its camera.
  for i in range(4):
    seen = mesh.vertices[mesh.colours[:, 0] == i]
    assert (seen @ poses[i, :3, 3] > 0).all()


def test_ply_files_hold_what_was_written(tmp_path):
  mesh = exports.mesh_of_field(sphere, 0.5, 16, 50.0)
  exports.save(tmp_path / "ball.ply", mesh)
  vertices, faces = read_ply(tmp_path / "ball.ply")
  np.testing.assert_array_equal(
    np.stack([vertices[a] for a in "xyz"], -1), mesh.vertices
  )
  np.testing.assert_array_equal(vertices["blue"], mesh.colours[:, 2])
  np.testing.assert_array_equal(faces["at"], mesh.faces)
  exports.save(tmp_path / "points.ply", mesh._replace(faces=mesh.faces[:0]))
  vertices, faces = read_ply(tmp_path / "points.ply")
  assert len(vertices) == len(mesh.vertices) and faces is None


def test_glb_files_hold_the_same_in_the_axes_of_gltf(tmp_path):
  trimesh = pytest.importorskip("trimesh")
  mesh = exports.mesh_of_field(sphere, 0.5, 16, 50.0)
  for faces in (mesh.faces, mesh.faces[:0]):
    exports.save(tmp_path / "a.glb", mesh._replace(faces=faces))
    scene = trimesh.load(tmp_path / "a.glb")
    (shape,) = scene.geometry.values()
    x, y, z = shape.vertices.T
    np.testing.assert_allclose(
      np.stack([x, -z, y], -1), mesh.vertices, atol=1e-6
    )
    colours = shape.visual.vertex_colors if len(faces) else shape.colors
    np.testing.assert_array_equal(colours[:, :3], mesh.colours)
    if len(faces):
      np.testing.assert_array_equal(shape.faces, faces)


def read_ply(path):
  """Reads by the header alone, as the format's description says."""
  head, body = path.read_bytes().split(b"end_header\n", 1)
  lines = head.decode().splitlines()
  assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
  kinds = {"float": "<f4", "uchar": "u1"}
  fields, counts = [], {}
  for line in lines[2:]:
    kind, *rest = line.split()
    if kind == "element":
      counts[rest[0]] = int(rest[1])
    elif rest[0] != "list":
      fields.append((rest[1], kinds[rest[0]]))
    else:
      assert rest == ["list", "uchar", "int", "vertex_indices"]
  dtype = np.dtype(fields)
  vertices = np.frombuffer(body, dtype, counts["vertex"])
  rest = body[counts["vertex"] * dtype.itemsize :]
  if "face" not in counts:
    assert not rest
    return vertices, None
  triangle = np.dtype([("count", "u1"), ("at", "<i4", 3)])
  faces = np.frombuffer(rest, triangle)
  assert len(faces) == counts["face"] and (faces["count"] == 3).all()
  return vertices, faces
