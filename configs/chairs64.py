"""SRN chairs at 64x64: the recipe of cars64 in a deeper frustum."""

from configs import base


def get_config():
  config = base.get_config()
  config.data.dataset = "chairs"
  config.frustum.near = 1.25
  config.frustum.far = 2.75
  return config
