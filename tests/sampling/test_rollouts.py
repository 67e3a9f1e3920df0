"""Rollouts: one compilation, a bank of views, the same frames however drawn."""

import itertools
import types

import numpy as np
import pytest
from etils import epath
from PIL import Image

from genvs_jax.data import datasets
from genvs_jax.data import decoding
from genvs_jax.data import paths
from genvs_jax.geometry import camera_paths
from genvs_jax.sampling import bank
from genvs_jax.sampling import policies
from genvs_jax.sampling import rollout_files
from genvs_jax.sampling import rollouts
from genvs_jax.sampling import sample_scenes
from genvs_jax.sampling import scene_inputs
from genvs_jax.sampling import view_synthesis

POSES = np.asarray(camera_paths.orbit(6, 30.0, 1.3))


@pytest.fixture(scope="module")
def scene(drawing):
  """(config, model, variables, inputs of two scenes) with random weights."""
  config, model, variables = drawing
  config = config.copy_and_resolve_references()
  config.rollout.random_views = 1
  records = datasets.load_split(config, "", "validation")
  decoded = [
    decoding.decode_views(records[i], [0], 32, "area") for i in range(2)
  ]
  inputs = {k: np.stack([d[k] for d in decoded]) for k in decoded[0]}
  return config, model, variables, {**inputs, "scene": np.arange(2)}


@pytest.fixture(scope="module")
def drawn(scene):
  """(rollout, frames) of both scenes, with room for all views."""
  config, model, variables, inputs = scene
  rollout = rollouts.build_rollout(config, model)
  return rollout, list(rollout.run(variables, inputs, POSES, 0))


def some(inputs, rows):
  return {k: v[rows] for k, v in inputs.items()}


def test_one_compilation_serves_all_frames(drawn):
  rollout, frames = drawn
  assert len(frames) == 6 and rollout.draw.count == 1
  assert rollout._encode_into._cache_size() == 1
  assert frames[0].sample.shape == (2, 1, 32, 32, 3)
  assert rollout.report.encoded_again == 0 and rollout.report.slots == 6
  volume = 2 * 32 * 32 * 4 * 8 * 4
  # The input view and all frames but the last, which conditions nothing.
  assert rollout.report.bank_bytes == 6 * volume


def test_later_frames_depend_on_earlier_ones(scene, drawn):
  """The first frame is that of the input alone; the second is not."""
  config, model, variables, inputs = scene
  draw = view_synthesis.build_synthesize(config, model)
  for frame, close in ((0, True), (3, False)):
    alone = draw(
      variables,
      {k: inputs[k] for k in ("images", "poses", "intrinsics")},
      np.broadcast_to(POSES[frame], (2, 1, 4, 4)),
      view_synthesis.view_keys(0, inputs["scene"], np.array([frame])),
    )
    difference = np.abs(alone.rgb - drawn[1][frame].rgb).max()
    assert (difference < 1e-4) == close


@pytest.mark.parametrize("noise", rollouts.NOISES)
def test_frames_can_share_their_noise(scene, noise):
  """Two frames from one camera differ by their noise alone."""
  config, model, variables, inputs = scene
  config = config.copy_and_resolve_references()
  config.rollout.policy, config.rollout.noise = "input", noise
  rollout = rollouts.build_rollout(config, model)
  path = np.stack([POSES[2], POSES[2]])
  first, second = rollout.run(variables, inputs, path, 0)
  np.testing.assert_array_equal(first.rgb, second.rgb)
  assert np.array_equal(first.sample, second.sample) == (noise != "own")
  # Scenes have noise of their own all the same.
  assert np.abs(first.sample[0] - first.sample[1]).max() > 0.1


def test_a_scene_does_not_depend_on_the_others(scene, drawn):
  config, model, variables, inputs = scene
  alone = rollouts.build_rollout(config, model)
  for one, both in zip(
    alone.run(variables, some(inputs, slice(1, 2)), POSES[:2], 0),
    drawn[1],
    strict=False,
  ):
    np.testing.assert_allclose(one.sample, both.sample[1:], atol=1e-4)


def test_a_small_bank_draws_the_same_and_encodes_again(scene, drawn):
  config, model, variables, inputs = scene
  config = config.copy_and_resolve_references()
  volume = 2 * 32 * 32 * 4 * 8 * 4
  config.rollout.bank_gib = 3.5 * volume / 2**30
  small = rollouts.build_rollout(config, model)
  frames = list(small.run(variables, inputs, POSES, 0))
  assert small.report.slots == 2 and small.report.encoded_again > 0
  assert small.report.bank_bytes == 3 * volume  # one to encode again in
  for ours, theirs in zip(frames, drawn[1], strict=True):
    np.testing.assert_allclose(ours.sample, theirs.sample, atol=1e-4)


def test_going_on_from_finished_frames(scene, drawn):
  _, _, variables, inputs = scene
  rollout, frames = drawn
  rest = list(rollout.run(variables, inputs, POSES, 0, finished=frames[:4]))
  assert len(rest) == 2
  for ours, theirs in zip(rest, frames[4:], strict=True):
    np.testing.assert_array_equal(ours.sample, theirs.sample)


@pytest.mark.parametrize("policy", ["stochastic", "nearest"])
def test_other_policies_draw_in_one_compilation(scene, policy):
  config, model, variables, inputs = scene
  config = config.copy_and_resolve_references()
  config.rollout.policy, config.rollout.bank_dtype = policy, "bfloat16"
  rollout = rollouts.build_rollout(config, model)
  frames = list(rollout.run(variables, some(inputs, slice(0, 1)), POSES[:3], 0))
  assert len(frames) == 3 and rollout.draw.count == 1
  assert all(np.isfinite(f.sample).all() for f in frames)


def test_input_views_may_have_cameras_of_their_own(scene):
  config, model, variables, inputs = scene
  two = {
    **inputs,
    "images": np.repeat(inputs["images"], 2, 1),
    "poses": np.stack([inputs["poses"][:, 0], inputs["poses"][::-1, 0]], 1),
  }
  config = config.copy_and_resolve_references()
  config.rollout.policy = "nearest"

  def frames(intrinsics):
    rollout = rollouts.build_rollout(config, model)
    batch = {**two, "intrinsics": intrinsics}
    return rollouts.in_path_order(rollout, variables, batch, POSES[:3], 0)

  shared = inputs["intrinsics"][:, 0]
  each = np.repeat(shared[:, None], 2, 1)
  other = each * np.array([[1, 1, 1, 1], [1.5, 1.5, 1, 1]], np.float32)
  same = frames(each)
  for a, b in zip(frames(shared), same, strict=True):
    np.testing.assert_allclose(a.sample, b.sample, atol=1e-5)
  changed = [
    np.abs(a.rgb - b.rgb).max()
    for a, b in zip(same, frames(other), strict=True)
  ]
  assert max(changed) > 1e-3


def test_without_guidance_towards_features_all_scenes_are_one(scene):
  """Weight 0 leaves the unconditional denoiser, which sees no features."""
  config, model, variables, inputs = scene
  config = config.copy_and_resolve_references()
  config.sampler.guidance = 0.0
  config.rollout.policy = "input"
  same = {**inputs, "scene": np.zeros(2, int)}
  (frame,) = rollouts.build_rollout(config, model).run(
    variables, same, POSES[:1], 0
  )
  np.testing.assert_allclose(frame.sample[0], frame.sample[1], atol=1e-5)
  assert np.abs(frame.rgb[0] - frame.rgb[1]).max() > 1e-3


def test_a_killed_rollout_goes_on(scene, tmp_path):
  """Two scenes over two devices; the second run draws the last frame alone."""
  config, model, variables, _ = scene
  config = config.copy_and_resolve_references()
  config.sample.scenes, config.sample.frames = 2, 3
  written, second = sample_scenes.sample(
    config, model, variables, str(tmp_path)
  )
  assert second["mp4"].parent.name == "validation_0001"
  folder = tmp_path / "samples" / "validation_0000"
  names = {p.name for p in folder.iterdir()}
  assert names >= {"turntable.mp4", "turntable.gif", "grid.png", "frames.npz"}
  with np.load(written["npz"]) as arrays:
    before = dict(arrays)
  assert before["images"].shape == before["renders"].shape == (3, 32, 32, 3)
  assert np.abs(before["images"].astype(int) - before["renders"]).max() > 1
  assert before["depth"].shape == before["opacity"].shape == (3, 32, 32)
  np.testing.assert_allclose(before["poses"], POSES[::2], atol=1e-6)
  first = folder / "frames" / "0000.png"
  (folder / "frames" / "0002.npz").unlink()
  stamp = first.stat().st_mtime_ns
  sample_scenes.sample(config, model, variables, str(tmp_path))
  assert first.stat().st_mtime_ns == stamp
  with np.load(written["npz"]) as arrays:
    for name, value in arrays.items():
      np.testing.assert_array_equal(value, before[name])
  config.sampler.steps = 2  # another sampler starts anew
  sample_scenes.sample(config, model, variables, str(tmp_path))
  assert first.stat().st_mtime_ns > stamp
  old = tmp_path / "samples" / "validation_0000.before" / "frames" / "0000.png"
  assert old.stat().st_mtime_ns == stamp


def test_films_show_input_sample_and_render_or_one_of_them(scene, tmp_path):
  config, model, variables, inputs = scene
  config = config.copy_and_resolve_references()
  config.sample.frames = 2
  widths = {"side_by_side": 3, "sample": 1, "render": 1}
  films = {}
  for config.sample.film, columns in widths.items():
    (paths,) = sample_scenes.sample(config, model, variables, str(tmp_path))
    with Image.open(paths["gif"]) as film:
      assert film.size == (columns * 256, 256)
      films[config.sample.film] = np.asarray(film.convert("RGB"), int)
  # A GIF has few colours; the first frame of each is close to its column.
  columns = np.split(films["side_by_side"], 3, 1)
  first = inputs["images"][0, 0].repeat(8, 0).repeat(8, 1).astype(int)
  expected = [first, films["sample"], films["render"]]
  for i, column in enumerate(columns):
    errors = [np.abs(column - other).mean() for other in expected]
    assert int(np.argmin(errors)) == i and min(errors) < 8, errors
  config.sample.film = "samples"
  with pytest.raises(ValueError, match=r"sample\.film is 'samples'"):
    sample_scenes.sample(config, model, variables, str(tmp_path))


def test_points_take_the_colours_of_samples_or_renders(scene, tmp_path):
  config, model, variables, _ = scene
  config = config.copy_and_resolve_references()
  config.sample.frames, config.sample.mesh_resolution = 2, 24
  sizes, contents = set(), set()
  for config.sample.point_colours in sample_scenes.COLOURS:
    (paths,) = sample_scenes.sample(
      config, model, variables, str(tmp_path), export="ply"
    )
    contents.add(paths["points"].read_bytes())
    sizes.add(paths["points"].stat().length)
  assert len(contents) == 2 and len(sizes) == 1


def test_frames_of_other_poses_are_not_taken_for_finished(scene, tmp_path):
  """The path's file keeps its name and changes what it holds."""
  config, model, variables, _ = scene
  config = config.copy_and_resolve_references()
  config.sampler.steps = 1
  config.sample.path = str(tmp_path / "poses.npy")
  drawn = []
  for poses in (POSES[:2], POSES[1:3]):
    np.save(tmp_path / "poses.npy", poses)
    (written,) = sample_scenes.sample(config, model, variables, str(tmp_path))
    with np.load(written["npz"]) as arrays:
      np.testing.assert_array_equal(arrays["poses"], poses)
      drawn.append(arrays["opacity"])
  assert np.abs(drawn[0][0] - drawn[1][0]).max() > 1e-3


def test_trajectories_and_surfaces_are_written_when_asked_for(scene, tmp_path):
  config, model, variables, _ = scene
  config = config.copy_and_resolve_references()
  config.sample.frames, config.sample.trajectories = 3, (1,)
  config.sample.mesh_resolution = 24
  config.sample.unconditional = 3
  config.sampler.steps = 3
  (written,) = sample_scenes.sample(
    config, model, variables, str(tmp_path), export="ply"
  )
  folder = tmp_path / "samples" / "validation_0000"
  assert written["trajectory"].name == "trajectory_0001.mp4"
  singles = sorted((tmp_path / "samples" / "unconditional").glob("0*.png"))
  assert [path.name for path in singles] == [f"000{i}.png" for i in range(3)]
  assert len({path.read_bytes() for path in singles}) == 3
  assert not (folder / "trajectory_0000.mp4").exists()
  with np.load(folder / "frames" / "0001.npz") as arrays:
    estimates, sample = arrays["estimates"], arrays["sample"]
  assert estimates.shape == (1, 3, 32, 32, 3)
  with Image.open(folder / "trajectory_0001.png") as sheet:
    pixels = np.asarray(sheet)[48, [84 + 98 * i + 48 for i in range(4)]]
  expected = [*estimates[0, :, 16, 16], sample[0, 16, 16]]
  np.testing.assert_array_equal(
    pixels, (np.clip(expected, 0, 1) * 255 + 0.5).astype(np.uint8)
  )
  with np.load(folder / "frames" / "0000.npz") as arrays:
    assert "estimates" not in arrays.files
  with np.load(written["npz"]) as arrays:
    opaque = (arrays["opacity"] > 0.5).sum()
  header = written["points"].read_bytes()[:200]
  assert f"element vertex {opaque}\n".encode() in header
  assert b"element face" in written["mesh"].read_bytes()[:300]


def test_paths_by_name_and_from_a_file(scene, tmp_path):
  config = scene[0].copy_and_resolve_references()
  config.sample.path, config.sample.frames = "srn_spiral", 251
  np.testing.assert_array_equal(
    paths.build_path(config, 1.3), camera_paths.srn_spiral()
  )
  config.sample.frames = 11
  np.testing.assert_array_equal(
    paths.build_path(config, 1.3), camera_paths.srn_spiral()[::25]
  )
  np.savez(tmp_path / "poses.npz", poses=POSES)
  config.sample.path = str(tmp_path / "poses.npz")
  np.testing.assert_array_equal(paths.build_path(config, 1.3), POSES)
  np.save(tmp_path / "bad.npy", POSES[:, :3])
  config.sample.path = str(tmp_path / "bad.npy")
  with pytest.raises(ValueError, match=r"shape \(6, 3, 4\), expected \[fram"):
    paths.build_path(config, 1.3)
  np.save(tmp_path / "bad.npy", POSES * np.array([1, -1, 1, 1]).reshape(4, 1))
  with pytest.raises(ValueError, match="pose 0 is no rigid motion"):
    paths.build_path(config, 1.3)
  poses = POSES.copy()
  poses[2, 0, 3] = np.nan
  np.save(tmp_path / "bad.npy", poses)
  with pytest.raises(ValueError, match="pose 2 holds a number that is not fin"):
    paths.build_path(config, 1.3)
  config.sample.path = "spiral"
  with pytest.raises(ValueError, match="'spiral', expected one of orbit, srn"):
    paths.build_path(config, 1.3)


def test_scenes_and_views_that_are_not_there_are_named(scene):
  config, model, *_ = scene
  config = config.copy_and_resolve_references()
  config.sample.scene = 99
  with pytest.raises(ValueError, match="expected scenes from 0 to 2"):
    scene_inputs.load_inputs(config, model, "")
  config.sample.scene, config.sample.input_views = 0, (0, 8)
  with pytest.raises(ValueError, match=r"\(0, 8\), expected one or more from"):
    scene_inputs.load_inputs(config, model, "")


def test_nothing_that_was_drawn_is_deleted(scene, tmp_path):
  """Each rollout of another kind leaves the folder of the one before whole."""
  config, model, variables, _ = scene
  config = config.copy_and_resolve_references()
  config.sample.frames, config.sampler.steps = 1, 1
  samples = tmp_path / "samples"
  for seed in range(3):
    config.seed = seed
    sample_scenes.sample(config, model, variables, str(tmp_path))
    notes = samples / "validation_0000" / "notes.txt"
    notes.write_text(f"seed {seed}")
  folders = ("before", "before_2")
  notes = [
    (samples / f"validation_0000.{name}" / "notes.txt").read_text()
    for name in folders
  ]
  assert notes == ["seed 0", "seed 1"]


def test_what_changes_no_picture_starts_nothing_anew(scene, tmp_path):
  """Memory for the bank, and a second scene drawn beside the first."""
  config, model, variables, _ = scene
  config = config.copy_and_resolve_references()
  config.sample.frames, config.sampler.steps = 2, 1
  sample_scenes.sample(config, model, variables, str(tmp_path))
  first = tmp_path / "samples" / "validation_0000" / "frames" / "0000.png"
  stamp = first.stat().st_mtime_ns
  config.rollout.bank_gib = 1.0
  sample_scenes.sample(config, model, variables, str(tmp_path))
  assert first.stat().st_mtime_ns == stamp
  config.sample.scenes = 2
  sample_scenes.sample(config, model, variables, str(tmp_path))
  assert not list((tmp_path / "samples").glob("*.before"))
  assert (tmp_path / "samples" / "validation_0001" / "grid.png").exists()


def test_a_frame_cut_short_is_drawn_again(scene, tmp_path):
  config, model, variables, _ = scene
  config = config.copy_and_resolve_references()
  config.sample.frames, config.sampler.steps = 2, 1
  sample_scenes.sample(config, model, variables, str(tmp_path))
  path = tmp_path / "samples" / "validation_0000" / "frames" / "0001.npz"
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  sample_scenes.sample(config, model, variables, str(tmp_path))
  assert len(path.read_bytes()) == len(whole)


@pytest.mark.parametrize("policy", policies.NAMES)
def test_every_lookup_in_the_bank_is_of_the_right_view(drawing, policy):
  """With a bank that holds numbers of views in place of their volumes."""
  config, _, _ = drawing
  config = config.copy_and_resolve_references()
  config.rollout.policy = policy
  config.sampler.steps = 4
  config.rollout.random_views, config.rollout.nearest_views = 2, 3
  encoder = types.SimpleNamespace(depth_planes=1, channels=1)
  model = types.SimpleNamespace(
    image_size=1, encoder=encoder, view_encoder=None
  )
  lookups = 0
  for scenes, inputs, frames, room, passes in itertools.product(
    (1, 3), (1, 2), (1, 2, 9), (2, 3, 5, 8, 20), (1, 2)
  ):
    views = inputs + frames
    # The number of a view is in its picture and in its camera's position.
    number = np.arange(scenes)[:, None] * 1000.0 + np.arange(views)
    poses = np.broadcast_to(np.eye(4), (scenes, views, 4, 4)).copy()
    poses[..., 0, 3] = number
    poses[..., 1, 3] = 1.0
    options = rollouts.Options(
      build_policy=lambda n: policies.build_policy(config, n),
      bank_gib=room * scenes * 4 / 2**30,
      bank_dtype="float32",
      sampler=None,
      trajectories=(),
      drawn_noise=0.25,
      passes=passes,
    )
    rollout = rollouts.Rollout(options, model, place=lambda x: x)

    def encode(
      variables, arrays, pictures, poses, intrinsics, told, slot, first=inputs
    ):
      del variables
      value = pictures[:, 0, 0, 0]
      # Frames have the camera of the first input view.
      first_views = 1000.0 * np.arange(len(value))
      own = np.where(value % 1000 < first, value, first_views)
      np.testing.assert_array_equal(intrinsics[:, 0], own)
      np.testing.assert_allclose(value, poses[:, 0, 3])
      # Frames are declared noisy, inputs are not.
      np.testing.assert_array_equal(told, (value % 1000 >= first) * 0.25)
      volumes = np.array(arrays.volumes)
      volumes[:, slot] = value.reshape(-1, 1, 1, 1, 1)
      return bank.Arrays(volumes, None)

    def draw(variables, arrays, slots, mask, poses, *rest, first=inputs):
      nonlocal lookups
      del variables
      intrinsics, drawn_with, target, _ = rest
      first_views = 1000.0 * np.arange(len(slots))
      np.testing.assert_array_equal(drawn_with[:, 0], first_views)
      for b in range(len(slots)):
        view = poses[b, ..., 0, 3]
        own = np.where(view % 1000 < first, view, first_views[b])
        np.testing.assert_array_equal(intrinsics[b, ..., 0], own)
        held = arrays.volumes[b, slots[b], 0, 0, 0, 0][mask[b]]
        np.testing.assert_array_equal(held, poses[b, ..., 0, 3][mask[b]])
        assert target[b, 0, 3] not in held  # a frame never conditions itself
        lookups += held.size
      rgb = np.broadcast_to(
        target[:, 0, 3][:, None, None, None, None], (len(slots), 1, 1, 1, 3)
      )
      return view_synthesis.Views(None, rgb, rgb[..., 0], rgb[..., 0])

    rollout._encode_into, rollout.draw = encode, draw
    images = number[:, :inputs, None, None, None] * np.ones(3) * 255
    scene_inputs = {
      "images": images.astype(np.float32),
      "poses": poses[:, :inputs],
      "intrinsics": number[:, :inputs, None] * np.ones(4),
      "scene": np.arange(scenes),
    }
    drawn = list(rollout.run({}, scene_inputs, poses[:, inputs:], 0))
    # Each frame once, and in the order that was announced.
    order = rollout.order(inputs, frames)
    assert sorted(order) == list(range(frames))
    numbers = [int(view.rgb[0].max()) % 1000 - inputs for view in drawn]
    assert numbers == order
  assert lookups > 300


def test_a_second_pass_draws_every_frame_from_the_others(scene):
  """One frame by hand: the first, given the second of the first pass."""
  config, model, variables, inputs = scene
  config = config.copy_and_resolve_references()
  config.rollout.policy, config.rollout.nearest_views = "nearest", 9
  inputs = some(inputs, slice(0, 1))
  once = rollouts.build_rollout(config, model)
  first = list(once.run(variables, inputs, POSES[:2], 0))
  config.rollout.passes = 2
  twice = rollouts.build_rollout(config, model)
  second = list(twice.run(variables, inputs, POSES[:2], 0))
  assert len(second) == 2 and twice.draw.count == 1
  assert np.abs(second[0].sample - first[0].sample).max() > 1e-3
  # The input, then the frame that came second: as inputs of a rollout of one.
  picture = np.asarray(first[1].sample) * 255
  given = {
    **inputs,
    "images": np.concatenate([inputs["images"], picture], 1),
    "poses": np.concatenate([inputs["poses"], POSES[None, 1:2]], 1),
  }
  config.rollout.passes = 1
  (by_hand,) = rollouts.build_rollout(config, model).run(
    variables, given, POSES[:1], 0
  )
  np.testing.assert_allclose(second[0].sample, by_hand.sample, atol=1e-4)
  # Left after a frame of the second pass, it goes on with the next one.
  rest = list(twice.run(variables, inputs, POSES[:2], 0, second[:1]))
  np.testing.assert_allclose(rest[0].sample, second[1].sample, atol=1e-4)


def test_pictures_of_one_name_do_not_share_a_folder():
  names = sample_scenes._names(["cars/a.png", "cars/b"])
  assert names == ["a", "b"]
  names = sample_scenes._names(["cars/a.png", "cars/a.jpg"])
  assert names == ["a.png", "a.jpg"]


def test_no_pass_at_all_is_refused(scene):
  config, model, *_ = scene
  config = config.copy_and_resolve_references()
  config.rollout.passes = 0
  with pytest.raises(ValueError, match=r"rollout\.passes is 0, expected 1"):
    rollouts.build_rollout(config, model)


def test_anchors_are_written_in_their_order_and_filmed_along_the_path(
  scene, tmp_path
):
  config, model, variables, _ = scene
  config = config.copy_and_resolve_references()
  config.rollout.policy, config.rollout.anchors = "anchors", 2
  config.sample.frames = 4
  sample_scenes.sample(config, model, variables, str(tmp_path))
  folder = tmp_path / "samples" / "validation_0000"
  stamps = [p.stat().st_mtime_ns for p in sorted(folder.glob("frames/*.npz"))]
  assert np.argsort(stamps).tolist() == [0, 2, 1, 3]
  # Interrupted after the anchors, the others are drawn and not these.
  (folder / "frames" / "0001.npz").unlink()
  sample_scenes.sample(config, model, variables, str(tmp_path))
  again = [p.stat().st_mtime_ns for p in sorted(folder.glob("frames/*.npz"))]
  assert again[0] == stamps[0] and again[2] == stamps[2]
  assert again[1] > stamps[1] and again[3] > stamps[3]
  with np.load(folder / "frames.npz") as film:
    for i in range(4):
      with np.load(folder / "frames" / f"{i:04d}.npz") as frame:
        np.testing.assert_allclose(
          film["opacity"][i], frame["opacity"][0], atol=1e-6
        )


def test_pictures_of_other_settings_are_kept(tmp_path):
  folder = epath.Path(tmp_path / "unconditional")
  for seed, note in ((0, "a"), (1, "b"), (1, "c"), (2, "d")):
    rollout_files.open_folder(folder, {"seed": seed})
    (folder / "note").write_text(note)
  notes = {f.name: (f / "note").read_text() for f in tmp_path.iterdir()}
  assert notes == {
    "unconditional": "d",
    "unconditional.before": "a",
    "unconditional.before_2": "c",
  }
