"""Many classes in one model at 64x64: cars64's networks on any 3D models.

python launch.py --mode=prepare --config=objects64 --config.data.source=DIR
"""

from configs import cars64


def get_config():
  config = cars64.get_config()
  config.data.dataset = "meshes"
  config.data.meshes.image_size = 64
  config.data.meshes.views = 50
  # A chair is as good a chair mirrored, and in another colour.
  config.augment.mirror = 0.5
  config.augment.hue = 180.0
  # SRN's protocol on objects that were never seen.
  config.evaluate.split = "test"
  config.evaluate.input_views = (64,)
  return config
