"""Paths of cameras by name or from a file of the user's."""

import io

import ml_collections
import numpy as np
from etils import epath

from genvs_jax.geometry import camera_paths
from genvs_jax.runtime import files
from genvs_jax.runtime import messages
from tfds_srn import parsing


def build_path(
  config: ml_collections.ConfigDict, distance: float
) -> np.ndarray:
  """The poses f32 [frames,4,4] that `config.sample` names.

  Args:
    config: sample.path, .frames and .elevation are read from it.
    distance: of the cameras from the origin, world units.

  Raises:
    ValueError: for a path that is neither a name nor a file of poses.
  """
  options = config.sample
  messages.check_at_least("sample.frames", options.frames, 1)
  named = {
    "orbit": lambda: camera_paths.orbit(
      options.frames, options.elevation, distance
    ),
    # Evenly spaced among SRN's 251 views, first and last included.
    "srn_spiral": lambda: camera_paths.srn_spiral(distance)[
      np.round(np.linspace(0, 250, options.frames)).astype(int)
    ],
    "reference_spiral": lambda: camera_paths.reference_spiral(
      options.frames, 1, (0.0, 80.0), distance
    ),
    "reference_spiral_2": lambda: camera_paths.reference_spiral(
      options.frames, 2, (-10.0, 60.0), distance
    ),
  }
  if options.path in named:
    return np.asarray(named[options.path]())
  path = epath.Path(options.path).expanduser()
  if not path.exists():
    raise ValueError(
      f"sample.path is {options.path!r}, expected one of {', '.join(named)} or"
      " a file of poses (.npy, or .npz with an array `poses`)"
    )
  return read_poses(str(path))


def read_poses(path: str) -> np.ndarray:
  """Poses f32 [frames,4,4] from a .npy file, or `poses` of a .npz file.

  Raises:
    ValueError: for anything that is no list of rigid motions.
  """
  try:
    if path.endswith(".npz"):
      poses = files.read_arrays(path)["poses"]
    else:
      content = io.BytesIO(epath.Path(path).read_bytes())
      poses = np.load(content, allow_pickle=False)
  except (ValueError, KeyError, OSError) as error:
    raise ValueError(
      f"{path}: expected a .npy file of poses, or .npz with an array `poses`"
      f" ({error})"
    ) from error
  if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses):
    raise ValueError(
      f"{path}: poses have shape {poses.shape}, expected [frames,4,4]"
      " camera-to-world"
    )
  for i, pose in enumerate(poses):
    problem = parsing.rigid_problem(pose)
    if problem:
      raise ValueError(
        f"{path}: pose {i} {problem}; poses are OpenCV camera-to-world matrices"
        " in world units"
      )
  return poses.astype(np.float32)
