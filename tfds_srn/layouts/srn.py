"""SRN's layout, in either of the two published packagings.

A scene is a folder with `rgb/NAME.png` and `pose/NAME.txt`, and intrinsics as

  pixelNeRF   one `intrinsics.txt`: "f cx cy 0." / barycentre / scale /
              "height width" / optionally 1 for world-to-camera poses
  SRN         one `intrinsics/NAME.txt` per view: a 3x3 matrix that belongs to
              a render of 2 cx pixels, whatever the size of the PNG

and perhaps depth maps `depth/NAME.png`. Both give the same `Scene`.
"""

import numpy as np

from tfds_srn import parsing
from tfds_srn import scenes
from tfds_srn import trees


class SrnScene(scenes.SceneFolder):
  """A scene in this layout."""

  EXPECTED = "folders like cars_train/ID/ with rgb/ and pose/ inside"

  @staticmethod
  def is_scene(tree: trees.Tree, path: str) -> bool:
    folders, _ = tree.children(path)
    return "rgb" in folders or "pose" in folders

  def inspect(self) -> tuple[scenes.Scene | None, list[str]]:
    return _inspect(self)


def _inspect(
  folder: scenes.SceneFolder,
) -> tuple[scenes.Scene | None, list[str]]:
  """The scene, or None and everything that is wrong with it."""
  problems: list[str] = []
  views, pose_files = folder.files("rgb", ".png"), folder.files("pose", ".txt")
  if not views:
    return None, [f"{folder} is empty: expected views in rgb/NAME.png"]
  for name in sorted(views.keys() - pose_files, key=scenes.natural):
    problems.append(
      f"{folder}/{views[name]} has no pose: expected pose/{name}.txt"
    )
  for name in sorted(pose_files.keys() - views, key=scenes.natural):
    problems.append(
      f"{folder}/{pose_files[name]} has no view: expected rgb/{name}.png"
    )
  images, size = _read_images(folder, list(views.values()), problems)
  poses = _read_poses(
    folder, [pose_files[n] for n in views if n in pose_files], problems
  )
  if size is None:
    return None, problems
  intrinsics, world_to_camera = _read_intrinsics(folder, size, problems)
  depths = _read_depths(folder, list(views), size, problems)
  if problems or intrinsics is None:
    return None, problems
  matrices = np.stack(poses)
  if world_to_camera:
    matrices = np.linalg.inv(matrices)
  scene = scenes.Scene(
    scene_id=folder.scene_id,
    images=images,
    poses=matrices.astype(np.float32),
    intrinsics=np.tile(intrinsics, (len(images), 1)),
    image_sizes=np.tile(np.array(size, np.int32), (len(images), 1)),
    depths=depths,
  )
  return scene, []


def _read_images(
  folder: scenes.SceneFolder, paths: list[str], problems: list[str]
) -> tuple[list[bytes], tuple[int, int] | None]:
  """The views' bytes and their common (height, width)."""
  images: list[bytes] = []
  common: tuple[int, int] | None = None
  for path in paths:
    data = folder.read(path, problems)
    if data is None:
      continue
    size, problem = parsing.image_size(data)
    if size is None:
      problems.append(f"{folder}/{path} {problem}")
      continue
    common = common or size
    if size != common:
      problems.append(
        f"{folder}/{path} is {size[1]}x{size[0]} pixels, expected"
        f" {common[1]}x{common[0]} like the views before it"
      )
    images.append(data)
  return images, common


def _read_poses(
  folder: scenes.SceneFolder, paths: list[str], problems: list[str]
) -> list[np.ndarray]:
  poses = []
  for path in paths:
    text = folder.read(path, problems)
    if text is None:
      continue
    pose, problem = parsing.parse_pose(text)
    if pose is None:
      problems.append(f"{folder}/{path} {problem}")
    else:
      poses.append(pose)
  return poses


def _read_intrinsics(
  folder: scenes.SceneFolder, size: tuple[int, int], problems: list[str]
) -> tuple[np.ndarray | None, bool]:
  """fx, fy, cx, cy from either packaging, and the world-to-camera flag."""
  values: list[tuple[str, np.ndarray]] = []
  flag = False
  per_view = folder.files("intrinsics", ".txt")
  whole = "intrinsics.txt" in folder.tree.children(folder.path)[1]
  if not whole and not per_view:
    problems.append(
      f"{folder} has no intrinsics: expected intrinsics.txt (pixelNeRF's"
      " packaging) or intrinsics/NAME.txt (SRN's)"
    )
  if whole:
    text = folder.read("intrinsics.txt", problems)
    if text is not None:
      value, flag, problem = parsing.parse_pixelnerf_intrinsics(text, size)
      if value is None:
        problems.append(f"{folder}/intrinsics.txt {problem}")
      else:
        values.append((f"{folder}/intrinsics.txt", value))
  for path in per_view.values():
    text = folder.read(path, problems)
    if text is None:
      continue
    value, problem = parsing.parse_srn_intrinsics(text, size)
    if value is None:
      problems.append(f"{folder}/{path} {problem}")
    else:
      values.append((f"{folder}/{path}", value))
  for file, value in values[1:]:
    first_file, first = values[0]
    if not np.allclose(value, first, rtol=1e-4):
      problems.append(
        f"{file} gives fx, fy, cx, cy = {value.tolist()} in pixels of the"
        f" image, expected {first.tolist()} as in {first_file}: one camera per"
        " scene"
      )
  return (values[0][1] if values else None), flag


def _read_depths(
  folder: scenes.SceneFolder,
  names: list[str],
  size: tuple[int, int],
  problems: list[str],
) -> list[bytes]:
  maps = folder.files("depth", ".png")
  if not maps:
    return []
  if list(maps) != names:
    problems.append(
      f"{folder}/depth has {len(maps)} maps for {len(names)} views: expected"
      " one of the same name per view, or none"
    )
    return []
  contents = []
  for path in maps.values():
    content = folder.read(path, problems)
    if content is not None:
      shape, problem = parsing.image_size(content, sixteen_bits=True)
      if shape and shape[0] * size[1] != shape[1] * size[0]:
        problem = (
          f"is {shape[1]}x{shape[0]} pixels, expected the shape of its view,"
          f" {size[1]}x{size[0]}"
        )
      problems += [f"{folder}/{path} {problem}"] if problem else []
      contents.append(content)
  return contents
