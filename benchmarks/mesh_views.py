"""Seconds on one core to render a view of a 3D model.

  python -m benchmarks.mesh_views --source=FOLDER --size=128

Views of SRN's spiral, as `data.dataset=meshes` renders them; processor time, as
median and largest over the models.
"""

import pathlib
import statistics
import tempfile
import time

from absl import app
from absl import flags

from tfds_srn import camera_poses
from tfds_srn import pixel_rays
from tfds_srn.meshes import model_files
from tfds_srn.meshes import models
from tfds_srn.meshes import rendering

_SOURCE = flags.DEFINE_string("source", None, "Folder of models.")
_SIZE = flags.DEFINE_integer("size", 128, "Pixels a side.")
_MODELS = flags.DEFINE_integer("models", 20, "Most that are rendered.")
_OCCLUSION = flags.DEFINE_list("occlusion_rays", ["0", "16"], "Of each row.")
_VIEWS = 10


def main(argv):
  del argv
  poses = camera_poses.spiral_poses()[:: camera_poses.SPIRAL_VIEWS // _VIEWS]
  focal = pixel_rays.FOCAL_PER_WIDTH * _SIZE.value
  with tempfile.TemporaryDirectory() as unpacked:
    files = model_files.find_models(_SOURCE.value, pathlib.Path(unpacked))
    every = max(len(files) // _MODELS.value, 1)
    loaded = [models.load(f.path, "auto", 35.0) for f in files[::every]]
  triangles = [len(model.triangles) for model in loaded]
  print(
    f"{len(loaded)} models of {min(triangles):,} to {max(triangles):,}"
    f" triangles, median {statistics.median(triangles):,.0f}"
  )
  print("occlusion rays  seconds a view, median  largest")
  for rays in map(int, _OCCLUSION.value):
    seconds = []
    for model in loaded:
      lighting = rendering.Lighting(occlusion_rays=rays)
      renderer = rendering.Renderer(model, lighting)
      renderer.view(poses[0], _SIZE.value, focal)
      begin = time.process_time()
      for pose in poses:
        renderer.view(pose, _SIZE.value, focal)
      seconds.append((time.process_time() - begin) / len(poses))
    print(f"{rays:14d}{statistics.median(seconds):24.4f}{max(seconds):9.4f}")


if __name__ == "__main__":
  flags.mark_flag_as_required("source")
  app.run(main)
