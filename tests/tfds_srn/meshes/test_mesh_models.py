"""Loading of 3D models: axes, materials, normals, and files that are broken."""

import json
import struct

import numpy as np
import pytest
import trimesh
from PIL import Image

from tfds_srn.meshes import models


def quad(**visual) -> trimesh.Trimesh:
  """The unit square in x and y."""
  corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
  return trimesh.Trimesh(
    corners, [[0, 1, 2], [0, 2, 3]], process=False, **visual
  )


def textured(image: Image.Image, **material) -> trimesh.Trimesh:
  uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
  pbr = trimesh.visual.material.PBRMaterial(baseColorTexture=image, **material)
  return quad(visual=trimesh.visual.TextureVisuals(uv=uv, material=pbr))


def load(mesh, path, up="auto", crease=35.0) -> models.Model:
  mesh.export(path)
  return models.load(path, up, crease)


@pytest.mark.parametrize("suffix", models.SUFFIXES)
def test_every_format_has_unit_diagonal_centre_and_its_up_axis(
  tmp_path, suffix
):
  # 1 x 2 x 3, somewhere; the longest side is the file's third axis.
  box = trimesh.creation.box((1.0, 2.0, 3.0))
  box.apply_translation((10, 20, 30))
  model = load(box, tmp_path / f"box{suffix}")
  assert model.triangles.shape == (12, 3, 3)
  size = np.ptp(model.triangles.reshape(-1, 3), axis=0)
  sides = np.array(
    [1, 3, 2] if suffix in (".glb", ".gltf", ".obj") else [1, 2, 3]
  )
  np.testing.assert_allclose(size, sides / 14**0.5, atol=1e-5)
  middle = model.triangles.reshape(-1, 3).mean(0)
  np.testing.assert_allclose(middle, 0, atol=1e-5)
  # What was done is recorded, and can be undone.
  record = model.normalization
  assert record["up"] == ("y" if suffix in (".glb", ".gltf", ".obj") else "z")
  assert record["scale"] == pytest.approx(1 / 14**0.5, rel=1e-5)
  expected = [10, -30, 20] if record["up"] == "y" else [10, 20, 30]
  np.testing.assert_allclose(record["centre"], expected, rtol=1e-5)


@pytest.mark.parametrize("up,axis", [("x", 0), ("y", 1), ("z", 2)])
def test_the_up_axis_becomes_z_without_mirroring(tmp_path, up, axis):
  arrow = np.zeros((4, 3))
  arrow[:3, (axis + 1) % 3] = [0, 1, 0]
  arrow[:3, (axis + 2) % 3] = [0, 0, 1]
  arrow[3, axis] = 5  # the tip
  mesh = trimesh.Trimesh(arrow, [[0, 1, 3], [0, 2, 1], [0, 3, 2], [1, 2, 3]])
  volume = mesh.volume
  model = load(mesh, tmp_path / "arrow.stl", up=up)
  tip = model.triangles.reshape(-1, 3)[:, 2].argmax()
  assert model.triangles.reshape(-1, 3)[tip, 2] == pytest.approx(
    2.5 * model.normalization["scale"], rel=1e-4
  )
  a, b, c = np.moveaxis(model.triangles, 1, 0)
  signed = np.sum(np.cross(a, b) * c) / 6
  assert signed == pytest.approx(
    volume * model.normalization["scale"] ** 3, rel=1e-3
  )


def test_edges_are_sharp_above_the_crease_and_smooth_below(tmp_path):
  box = trimesh.creation.box((1, 1, 1))
  sharp = load(box, tmp_path / "box.ply")
  a, b, c = np.moveaxis(sharp.triangles, 1, 0)
  flat = np.cross(b - a, c - a)
  flat /= np.linalg.norm(flat, axis=-1, keepdims=True)
  np.testing.assert_allclose(
    sharp.normals, np.repeat(flat[:, None], 3, 1), atol=1e-5
  )
  # At a corner of a cube three sides meet.
  smooth = load(box, tmp_path / "box.ply", crease=91)
  radii = smooth.triangles / np.linalg.norm(
    smooth.triangles, axis=-1, keepdims=True
  )
  assert np.sum(smooth.normals * radii, -1).min() > 0.9
  # A ball's normals are its radii.
  ball = load(trimesh.creation.icosphere(3), tmp_path / "ball.off")
  radii = ball.triangles / np.linalg.norm(
    ball.triangles, axis=-1, keepdims=True
  )
  assert np.sum(ball.normals * radii, -1).min() > 0.999


def test_flipped_triangles_do_not_spoil_their_neighbours_normals(tmp_path):
  ball = trimesh.creation.icosphere(3)
  ball.faces[::2] = ball.faces[::2, ::-1]
  model = load(ball, tmp_path / "ball.off")
  radii = model.triangles / np.linalg.norm(
    model.triangles, axis=-1, keepdims=True
  )
  assert np.abs(np.sum(model.normals * radii, -1)).min() > 0.999


def test_colours_come_from_vertices_faces_and_materials(tmp_path):
  of_vertices = np.array(
    [[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255], [9, 9, 9, 255]],
    np.uint8,
  )
  model = load(quad(vertex_colors=of_vertices), tmp_path / "a.ply")
  np.testing.assert_allclose(model.colours[0] * 255, of_vertices[:3], atol=0.5)
  of_faces = np.array([[255, 0, 0, 255], [0, 0, 255, 255]], np.uint8)
  model = load(quad(face_colors=of_faces), tmp_path / "b.ply")
  np.testing.assert_allclose(model.colours[:, 0] * 255, of_faces, atol=0.5)
  (tmp_path / "c.mtl").write_text("newmtl m\nKd 0.2 0.4 0.6\nd 0.5\n")
  (tmp_path / "c.obj").write_text(
    "mtllib c.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nusemtl m\nf 1 2 3\n"
  )
  model = models.load(tmp_path / "c.obj", "auto", 35.0)
  np.testing.assert_allclose(
    model.colours[0, 0], [0.2, 0.4, 0.6, 0.5], atol=0.003
  )
  assert not model.is_opaque


@pytest.mark.parametrize(
  "mode,factor,alpha",
  [
    (None, 1.0, [255, 255]),
    ("OPAQUE", 0.5, [255, 255]),
    ("BLEND", 0.5, [100, 200]),
    ("MASK", 1.0, [0, 255]),
  ],
)
def test_alpha_counts_as_the_material_says(tmp_path, mode, factor, alpha):
  pixels = np.full((1, 2, 4), 50, np.uint8)
  pixels[0, :, 3] = 100, 200
  mesh = textured(
    Image.fromarray(pixels),
    alphaMode=mode,
    baseColorFactor=[255, 255, 255, int(255 * factor)],
  )
  model = load(mesh, tmp_path / "quad.glb")
  assert model.textures[0][0, :, 3].tolist() == alpha
  expected = factor if mode == "BLEND" else 1
  assert model.colours[0, 0, 3] == pytest.approx(expected, abs=0.01)
  assert model.is_opaque == (min(alpha) == 255)


def draco_file(path):
  header = {
    "asset": {"version": "2.0"},
    "extensionsRequired": ["KHR_draco_mesh_compression"],
  }
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 4)
  path.write_bytes(
    struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text), len(text), b"JSON")
    + text
  )


def test_files_that_cannot_be_rendered_say_why(tmp_path):
  (tmp_path / "empty.obj").write_bytes(b"")
  (tmp_path / "garbage.glb").write_bytes(bytes(range(256)) * 9)
  (tmp_path / "cut.stl").write_bytes(b"\0" * 90)
  (tmp_path / "points.ply").write_text(
    "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\n"
    "property float y\nproperty float z\nend_header\n0 0 0\n1 1 1\n"
  )
  (tmp_path / "flat.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
  (tmp_path / "a.obj").write_text("mtllib gone.mtl\nv 0 0 0\nv 1 0 0\nf 1 2 1")
  (tmp_path / "b.mtl").write_text("newmtl m\nmap_Kd -s 1 1 1 my wood.png\n")
  (tmp_path / "b.obj").write_text("mtllib b.mtl\nv 0 0 0\nv 1 0 0\nf 1 2 1\n")
  (tmp_path / "c.gltf").write_text('{"images": [{"uri": "gone.png"}]}')
  (tmp_path / "d.gltf").write_text('{"buffers": [{"uri": "gone.bin"}]}')
  draco_file(tmp_path / "draco.glb")
  for name, reason in (
    ("empty.obj", "is empty"),
    ("garbage.glb", "cannot be read"),
    ("cut.stl", "cannot be read|no triangles"),
    ("points.ply", "holds no triangles"),
    ("flat.obj", "all its corners in one point|no triangles"),
    ("a.obj", r"lacks its texture, material or buffer file gone\.mtl"),
    ("b.obj", r"lacks its texture, material or buffer file my wood\.png"),
    ("c.gltf", r"lacks its texture, material or buffer file gone\.png"),
    ("d.gltf", r"lacks its texture, material or buffer file gone\.bin"),
    ("draco.glb", "is Draco-compressed.*gltf-transform"),
  ):
    with pytest.raises(models.ModelError, match=reason):
      models.load(tmp_path / name, "auto", 35.0)


def test_huge_models_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(models, "MAX_TRIANGLES", 11)
  with pytest.raises(models.ModelError, match="12 triangles, expected at most"):
    load(trimesh.creation.box(), tmp_path / "box.stl")
