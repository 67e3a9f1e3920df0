"""Many classes in one model at 64x64, for two CPU cores in hours.

python launch.py --config=objects64_small --workdir=W --config.data.source=DIR
"""

from configs import base
from configs import cars64_small


def get_config():
  config = cars64_small.get_config()
  config.data.dataset = "meshes"
  config.data.synthetic = base.get_config().data.synthetic
  config.data.meshes.image_size = 64
  config.data.meshes.views = 24
  config.augment.mirror = 0.5
  config.augment.hue = 180.0
  return config
