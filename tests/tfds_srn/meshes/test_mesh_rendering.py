"""Rendered models against closed forms, another ray caster and our cameras."""

import numpy as np
import pytest
import trimesh
from PIL import Image

from genvs_jax.geometry import cameras
from tests.tfds_srn.meshes import test_mesh_models as loading
from tfds_srn import camera_poses
from tfds_srn import pixel_rays
from tfds_srn.meshes import models
from tfds_srn.meshes import rendering
from tfds_srn.synthetic_cars import ray_caster

SIZE = 48
FOCAL = pixel_rays.FOCAL_PER_WIDTH * SIZE
INTRINSICS = np.array([FOCAL, FOCAL, SIZE / 2, SIZE / 2], np.float32)
POSES = camera_poses.spiral_poses()[[3, 40, 77, 120, 200]]
# Seen straight, from the positive end of an axis.
ABOVE = camera_poses.look_at_origin(np.array([0, 0, 1.3]))
LEVEL = rendering.Lighting(lights=(), ambient=1.0)


def model_of(mesh, tmp_path, suffix=".glb", up="z", **options) -> models.Model:
  return loading.load(mesh, tmp_path / f"model{suffix}", up=up, **options)


def painted_box() -> trimesh.Trimesh:
  """A box with a colour for each side."""
  box = trimesh.creation.box((0.8, 0.5, 0.3))
  box.apply_scale(1 / np.linalg.norm([0.8, 0.5, 0.3]))
  box.visual.face_colors = [
    (*colour, 255)
    for colour in (np.abs(box.face_normals @ PAINT) * 255 + 0.5).astype(int)
  ]
  return box


PAINT = np.array([[0.9, 0.2, 0.1], [0.1, 0.7, 0.3], [0.2, 0.4, 0.8]])


@pytest.mark.parametrize("pose", POSES)
def test_a_box_is_that_of_the_analytic_ray_caster(tmp_path, pose):
  model = model_of(painted_box(), tmp_path, ".ply")
  normals = np.concatenate([np.eye(3), -np.eye(3)])
  half = np.array([0.8, 0.5, 0.3]) / np.linalg.norm([0.8, 0.5, 0.3]) / 2
  body = ray_caster.ConvexBody(
    normals,
    np.tile(half, 2),
    lambda points, faces: np.tile(PAINT, (2, 1))[faces].astype(np.float32),
  )
  solid = ray_caster.Solid("box", (body,), (), tuple(half + 1e-3))
  image, depth = ray_caster.render_view(solid, pose, SIZE)
  ours, our_depth = rendering.Renderer(model).view(pose, SIZE, FOCAL)
  # Colours are 8 bits in the file; a ray on an edge may fall to either side.
  assert np.quantile(np.abs(ours - image), 0.99) < 0.004
  assert np.abs(ours - image).mean() < 1e-3
  both = (depth > 0) & (our_depth > 0)
  assert both.sum() > 0.98 * (depth > 0).sum() > 100
  np.testing.assert_allclose(our_depth[both], depth[both], atol=2e-4)


def test_depth_of_a_ball_is_the_closed_form_with_our_rays(tmp_path):
  ball = trimesh.creation.icosphere(5)
  renderer = rendering.Renderer(model_of(ball, tmp_path))
  radius = np.linalg.norm(renderer._model.triangles, axis=-1).max()
  for pose in POSES:
    _, depth = renderer.view(pose, SIZE, FOCAL)
    origins, directions = map(
      np.asarray,
      cameras.pixel_rays(
        pose, INTRINSICS, np.asarray(cameras.pixel_centres(SIZE, SIZE))
      ),
    )
    along = np.sum(origins * directions, -1)
    root = along**2 - np.sum(origins**2, -1) + radius**2
    distance = -along - np.sqrt(np.maximum(root, 0))
    expected = distance * (directions @ pose[:3, 2])
    inside = root > 0.01 * radius**2
    np.testing.assert_allclose(
      depth.reshape(-1)[inside], expected[inside], atol=2e-3
    )
    assert (depth.reshape(-1)[root < 0] == 0).all()


def test_views_agree_through_their_depth(tmp_path):
  """A point seen in two views has one place and one colour."""
  rng = np.random.default_rng(0)
  picture = Image.fromarray(rng.integers(60, 220, (6, 6, 3), np.uint8))
  picture = picture.resize((96, 96), Image.Resampling.BICUBIC)
  ball = trimesh.creation.uv_sphere(count=[64, 64])
  ball.visual = trimesh.visual.TextureVisuals(
    uv=np.stack(
      [
        np.arctan2(ball.vertices[:, 1], ball.vertices[:, 0]) / np.pi + 1,
        ball.vertices[:, 2] / 2 + 0.5,
      ],
      -1,
    ),
    material=trimesh.visual.material.PBRMaterial(baseColorTexture=picture),
  )
  renderer = rendering.Renderer(model_of(ball, tmp_path))
  poses = camera_poses.spiral_poses()[60:85:5]
  views = [renderer.view(pose, SIZE, FOCAL) for pose in poses]
  errors = []
  for here, there in ((0, 1), (1, 2), (2, 3), (3, 4)):
    (image, depth), (image2, depth2) = views[here], views[there]
    pixels = np.asarray(cameras.pixel_centres(SIZE, SIZE))
    origins, directions = map(
      np.asarray, cameras.pixel_rays(poses[here], INTRINSICS, pixels)
    )
    distance = depth.reshape(-1) / (directions @ poses[here][:3, 2])
    points = origins + distance[:, None] * directions
    xy, z = map(np.asarray, cameras.project(points, poses[there], INTRINSICS))
    column, row = np.clip(np.floor(xy).astype(int).T, 0, SIZE - 1)
    seen = (depth.reshape(-1) > 0) & (np.abs(depth2[row, column] - z) < 0.01)
    assert seen.sum() > 60
    errors.append(
      np.abs(image.reshape(-1, 3)[seen] - image2[row, column][seen])
    )
  assert np.median(np.concatenate(errors)) <= 0.01


def test_a_picture_lies_on_its_square_the_right_way_up(tmp_path):
  pixels = np.array(
    [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 90, 90]]], np.uint8
  )
  mesh = loading.textured(Image.fromarray(pixels).resize((64, 64), 0))
  renderer = rendering.Renderer(model_of(mesh, tmp_path), LEVEL)
  image, _ = renderer.view(ABOVE, SIZE, FOCAL)
  middle, offset = SIZE // 2, SIZE // 8
  # Right is -x and up +y for a camera above, whose up is +y and right (-1,0,0)
  # as in SRN's files: down is -y there.
  rows = image[[middle - offset, middle + offset]]
  shown = rows[:, [middle - offset, middle + offset]]
  down = ABOVE[:3, 1]
  right = ABOVE[:3, 0]
  expected = pixels / 255
  if right[0] < 0:
    expected = expected[:, ::-1]
  if down[1] > 0:
    expected = expected[::-1]
  np.testing.assert_allclose(shown, expected, atol=0.01)


def test_glass_lets_what_is_behind_through(tmp_path):
  front = loading.quad(face_colors=[[0, 255, 0, 64]] * 2)
  back = loading.quad(face_colors=[[255, 0, 0, 255]] * 2)
  back.apply_translation((0, 0, -0.5))
  front.visual = trimesh.visual.TextureVisuals(
    material=trimesh.visual.material.PBRMaterial(
      baseColorFactor=[0, 255, 0, 64], alphaMode="BLEND"
    )
  )
  scene = trimesh.Scene([front, back])
  scene.export(tmp_path / "scene.glb")
  model = models.load(tmp_path / "scene.glb", "z", 35.0)
  renderer = rendering.Renderer(model, LEVEL)
  image, depth = renderer.view(ABOVE, SIZE, FOCAL)
  alpha, middle = 64 / 255, SIZE // 2
  np.testing.assert_allclose(
    image[middle, middle], [1 - alpha, alpha, 0], atol=0.01
  )
  # The depth is that of what stops the light.
  scale = model.normalization["scale"]
  assert depth[middle, middle] == pytest.approx(1.3 + 0.25 * scale, abs=1e-3)
  assert (image[0, 0] == 1).all() and depth[0, 0] == 0


def test_lights_stand_still_in_the_world(tmp_path):
  renderer = rendering.Renderer(
    model_of(loading.quad(), tmp_path),
    rendering.Lighting(lights=((0, 3, 4, 0.5), (0, 0, -1, 0.3)), ambient=0.1),
  )
  above, _ = renderer.view(ABOVE, SIZE, FOCAL)
  below, _ = renderer.view(
    camera_poses.look_at_origin(np.array([0, 0, -1.3])), SIZE, FOCAL
  )
  middle = SIZE // 2
  grey = model_of(loading.quad(), tmp_path).colours[0, 0, :3]
  np.testing.assert_allclose(
    above[middle, middle], grey * (0.1 + 0.5 * 0.8), atol=0.003
  )
  np.testing.assert_allclose(
    below[middle, middle], grey * (0.1 + 0.3), atol=0.003
  )


def test_corners_are_darker_where_the_sky_is_hidden(tmp_path):
  """At the foot of a wall half of the sky is hidden, far from it none."""
  white = [[255, 255, 255, 255]] * 4
  ground = loading.quad(vertex_colors=white)
  wall = loading.quad(vertex_colors=white)
  wall.apply_transform(
    trimesh.transformations.rotation_matrix(np.pi / 2, (0, 1, 0))
  )
  wall.apply_translation((0.0, 0, 1.0))
  mesh = trimesh.util.concatenate([ground, wall])
  model = model_of(mesh, tmp_path)
  lighting = rendering.Lighting(lights=(), ambient=1.0, occlusion_rays=256)
  renderer = rendering.Renderer(model, lighting)
  corner = model.triangles.reshape(-1, 3).min(0)
  scale = model.normalization["scale"]
  starts = np.array([[0.002, 0.5, 0.4], [0.9, 0.5, 0.4]]) * scale + corner
  colour, _ = renderer.trace(
    starts.astype(np.float32), np.array([[0, 0, -1.0]] * 2, np.float32)
  )
  assert colour[0, 0] == pytest.approx(0.5, abs=0.03)
  assert colour[1, 0] > 0.97
