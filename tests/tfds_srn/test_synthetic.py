"""The procedural cars: geometry, variety, determinism."""

import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import optimize

from tfds_srn import camera_poses
from tfds_srn import scenes
from tfds_srn import splits
from tfds_srn import srn_writer
from tfds_srn.synthetic_cars import car_scenes
from tfds_srn.synthetic_cars import cars
from tfds_srn.synthetic_cars import plans
from tfds_srn.synthetic_cars import ray_caster


def digest(folder: pathlib.Path) -> dict[str, str]:
  return {
    str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
    for p in sorted(folder.rglob("*"))
    if p.is_file()
  }


def test_same_seed_same_bytes_whatever_the_number_of_processes(tmp_path):
  counts = {"train": 2, "val": 1}
  for name, processes, seed in (("a", 1, 0), ("b", 2, 0), ("c", 1, 1)):
    car_scenes.write_scenes(
      tmp_path / name,
      counts=counts,
      size=32,
      views=2,
      seed=seed,
      processes=processes,
    )
  a, b, c = (digest(tmp_path / name) for name in "abc")
  assert a == b
  assert len(a) == 3 * (2 * 3 + 1) + 1
  assert not set(a.values()) & {
    v for k, v in c.items() if k.endswith(".png") and "rgb" in k
  }


def test_finished_scenes_are_reused_and_other_arguments_refused(tmp_path):
  kwargs = {"counts": {"train": 1}, "size": 32, "views": 2, "processes": 1}
  car_scenes.write_scenes(tmp_path, **kwargs)
  picture = next(tmp_path.rglob("rgb/*.png"))
  picture.unlink()  # would come back if the scenes were written again
  car_scenes.write_scenes(tmp_path, **kwargs)
  assert not picture.exists()
  with pytest.raises(ValueError, match="remove it, or give"):
    car_scenes.write_scenes(tmp_path, **{**kwargs, "seed": 1})


def test_interrupted_writing_is_not_taken_for_finished(tmp_path):
  car_scenes.write_scenes(
    tmp_path, counts={"train": 2}, size=32, views=2, processes=1
  )
  whole = digest(tmp_path)
  # As a killed process leaves it: a scene in the making, another not begun.
  first, second = sorted((tmp_path / "cars_train").iterdir())
  first.rename(first.with_name(f".{first.name}.1"))
  shutil.rmtree(second)
  next(tmp_path.rglob("rgb/*.png")).write_bytes(b"cut")
  car_scenes.write_scenes(
    tmp_path, counts={"train": 2}, size=32, views=2, processes=1
  )
  again = digest(tmp_path)
  assert {k: v for k, v in again.items() if "/." not in k} == whole
  result = splits.find_scenes(str(tmp_path))
  assert not scenes.survey(f for g in result.values() for f in g)[1]


def test_spiral_is_srn_s_closed_form():
  poses = camera_poses.spiral_poses()
  assert poses.shape == (251, 4, 4)
  i = np.arange(251)
  azimuth, elevation = 0.08 * (250 - i), np.pi / 2 * i / 250
  expected = 1.3 * np.stack(
    [
      np.cos(elevation) * np.cos(azimuth),
      np.cos(elevation) * np.sin(azimuth),
      np.sin(elevation),
    ],
    -1,
  )
  np.testing.assert_allclose(poses[:, :3, 3], expected, atol=1e-6)
  np.testing.assert_allclose(
    poses[250, :3, :2], [[-1, 0], [0, 1], [0, 0]], atol=1e-6
  )
  gram = np.einsum("nij,nik->njk", poses[:, :3, :3], poses[:, :3, :3])
  np.testing.assert_allclose(gram, np.eye(3)[None].repeat(251, 0), atol=1e-6)
  # Every camera looks at the origin: it lies straight ahead at 1.3.
  ahead = poses[:, :3, 3] + 1.3 * poses[:, :3, 2]
  np.testing.assert_allclose(ahead, 0, atol=1e-6)


def test_train_cameras_are_all_over_the_sphere():
  poses = car_scenes.train_poses(0, "train", 0, 2000)
  position = poses[:, :3, 3] / 1.3
  np.testing.assert_allclose(np.linalg.norm(position, axis=-1), 1, atol=1e-6)
  # Uniform on the sphere: mean 0 and covariance I/3.
  np.testing.assert_allclose(position.mean(0), 0, atol=0.05)
  np.testing.assert_allclose(np.cov(position.T), np.eye(3) / 3, atol=0.03)


def test_cars_stay_inside_the_frustum_and_in_the_picture():
  for index in range(20):
    car = cars.sample_car(0, "train", index)
    pose = car_scenes.train_poses(0, "train", index, 1)[0]
    image, depth = ray_caster.render_view(car, pose, 64)
    assert image.min() >= 0 and image.max() <= 1
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    np.testing.assert_array_equal(border, 1)
    hit = depth > 0
    assert 0.03 < hit.mean() < 0.6
    assert depth[hit].min() > 0.8 and depth[hit].max() < 1.8
    # Pixels without depth may be touched by neighbours' edges alone.
    inner = ~hit
    for axis in (0, 1):
      for shift in (1, -1):
        inner &= ~np.roll(hit, shift, axis)
    assert (image[inner] == 1).mean() > 0.998  # thin parts, as mirrors


def overlap(a, b) -> bool:
  """Whether a ball fits into both of two convex bodies."""
  (low, high), (other_low, other_high) = np.array(a.box), np.array(b.box)
  if (low > other_high).any() or (other_low > high).any():
    return False
  normals = np.concatenate([a.normals, b.normals]).astype(np.float64)
  radius = np.ones((len(normals), 1))
  result = optimize.linprog(
    [0, 0, 0, -1],
    A_ub=np.concatenate([normals, radius], -1),
    b_ub=np.concatenate([a.offsets, b.offsets]),
    bounds=[(None, None)] * 3 + [(None, 1)],
  )
  return result.status == 0 and result.x[3] > 1e-4


def test_no_part_of_a_car_floats_or_leaves_the_sphere():
  labels = set()
  for index in range(60):
    car = cars.sample_car(0, "train", index)
    labels.add(car.label)
    joined, rest = [car.bodies[0]], list(car.bodies[1:])
    for body in joined:  # grows as it is gone through
      neighbours = [other for other in rest if overlap(body, other)]
      joined += neighbours
      rest = [b for b in rest if not any(b is n for n in neighbours)]
    assert not rest, (car.label, index)
    corners = np.abs([body.box for body in car.bodies]).max(1)
    assert np.linalg.norm(corners, axis=-1).max() < 0.5
  assert "formula" in labels


def test_front_and_rear_differ_and_cars_vary():
  sampled = [cars.sample_car(0, "train", i) for i in range(60)]
  assert len({car.label for car in sampled}) == len(plans.STYLES)
  front = camera_poses.look_at_origin(np.array([1.3, 0, 0]))
  rear = camera_poses.look_at_origin(np.array([-1.3, 0, 0]))
  views = [
    [ray_caster.render_view(car, pose, 32)[0] for pose in (front, rear)]
    for car in sampled[:10]
  ]
  for a, b in views:
    assert np.abs(a - b[:, ::-1]).max() > 0.2
  fronts = np.stack([a for a, _ in views])
  gaps = np.abs(fronts[:, None] - fronts).max((-1, -2, -3))
  assert gaps[~np.eye(10, dtype=bool)].min() > 0.1


def test_left_and_right_differ_for_some_cars():
  left = camera_poses.look_at_origin(np.array([0, 1.3, 0.2]))
  right = camera_poses.look_at_origin(np.array([0, -1.3, 0.2]))
  differ = []
  for i in range(30):
    car = cars.sample_car(0, "train", i)
    a, depth = ray_caster.render_view(car, left, 64)
    b, _ = ray_caster.render_view(car, right, 64)
    # Hue, not brightness: the light comes from one side.
    mask = depth > 0
    hue = [x / x.sum(-1, keepdims=True) for x in (a, b[:, ::-1])]
    differ.append(np.abs(hue[0] - hue[1])[mask].mean() > 0.01)
  assert 0 < sum(differ) < 30


def test_cars_with_markings_have_more_contrast_and_others_stay_plain():
  pose = camera_poses.look_at_origin(np.array([0.7, 0.7, 0.8]))

  def contrast(has_markings: bool) -> float:
    values = []
    for index in range(24):
      car = cars.sample_car(0, "train", index, has_markings)
      picture, depth = ray_caster.render_view(car, pose, 32)
      values.append(picture[depth > 0].std(0).mean())
    return float(np.mean(values))

  assert contrast(True) > 1.25 * contrast(False)
  for index in range(60):
    plan = plans.draw_plan(np.random.default_rng(index))
    assert plan.roof is plan.paint


def test_windows_leave_a_roof():
  for index in range(200):
    rng = np.random.default_rng(index)
    plan = plans.like_real_cars(rng, plans.draw_plan(rng))
    rise = plan.top - plan.belt
    rear_edge = plan.cabin_rear + plan.rear_rake * rise
    assert plan.cabin_front[1] - rear_edge > 0.09, plan.style


def test_anti_aliasing_agrees_with_many_rays():
  car = cars.sample_car(0, "train", 0)
  pose = car_scenes.train_poses(0, "train", 0, 1)[0]
  three, _ = ray_caster.render_view(car, pose, 32, 3)
  many, _ = ray_caster.render_view(car, pose, 32, 9)
  one, _ = ray_caster.render_view(car, pose, 32, 1)
  assert np.abs(three - many).mean() < 0.4 * np.abs(one - many).mean()


def test_written_depth_is_the_rendered_one(tmp_path):
  car_scenes.write_scenes(
    tmp_path, counts={"val": 1}, size=32, views=1, processes=1
  )
  pose = car_scenes.train_poses(0, "val", 0, 1)[0]
  _, depth = ray_caster.render_view(cars.sample_car(0, "val", 0), pose, 32)
  stored = np.array(Image.open(next(tmp_path.rglob("depth/*.png"))))
  np.testing.assert_allclose(stored / srn_writer.DEPTH_UNITS, depth, atol=6e-5)
  marker = json.loads((tmp_path / "synthetic.json").read_text())
  assert marker["counts"]["val"] == 1
