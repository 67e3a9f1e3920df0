"""Where cameras of rendered scenes stand, all looking at the origin.

World and cameras are as in SRN: +z up, OpenCV camera-to-world matrices (x
right, y down, z forward).
"""

import numpy as np

DISTANCE = 1.3  # world units, as in SRN cars
SPIRAL_VIEWS = 251
REGIONS = ("sphere", "upper")


def random_poses(
  rng: np.random.Generator,
  views: int,
  distance: float = DISTANCE,
  region: str = "sphere",
) -> np.ndarray:
  """Poses f32 [views,4,4], uniform over the sphere or its upper half."""
  height = rng.uniform(0 if region == "upper" else -1, 1, views)
  azimuth = rng.uniform(0, 2 * np.pi, views)
  ring = np.sqrt(1 - height**2)
  positions = np.stack(
    [ring * np.cos(azimuth), ring * np.sin(azimuth), height], -1
  )
  return np.stack([look_at_origin(distance * p) for p in positions])


def spiral_poses(distance: float = DISTANCE) -> np.ndarray:
  """The 251 poses f32 [251,4,4] of every SRN test scene, in closed form."""
  i = np.arange(SPIRAL_VIEWS)
  azimuth = 0.08 * (SPIRAL_VIEWS - 1 - i)
  elevation = (np.pi / 2) * i / (SPIRAL_VIEWS - 1)
  positions = distance * np.stack(
    [
      np.cos(elevation) * np.cos(azimuth),
      np.cos(elevation) * np.sin(azimuth),
      np.sin(elevation),
    ],
    -1,
  )
  return np.stack([look_at_origin(p) for p in positions])


def look_at_origin(position: np.ndarray) -> np.ndarray:
  """OpenCV camera-to-world f32 [4,4] at `position` [3], up +z.

  At the poles, where up is undefined, right is (-1,0,0) as in SRN's files.
  """
  position = np.asarray(position, np.float64)
  forward = -position / np.linalg.norm(position)
  right = np.cross(forward, [0.0, 0.0, 1.0])
  norm = np.linalg.norm(right)
  right = right / norm if norm > 1e-9 else np.array([-1.0, 0.0, 0.0])
  pose = np.eye(4)
  pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], -1)
  pose[:3, 3] = position
  return pose.astype(np.float32)
