"""SRN chairs at 64x64: the recipe of cars64 in a deeper frustum."""

from configs import cars64


def get_config():
  config = cars64.get_config()
  config.data.dataset = "chairs"
  config.frustum.near = 1.25
  config.frustum.far = 2.75
  return config
