"""Stage 1: encoder and field alone, on the RGB loss."""

from configs import cars64


def get_config():
  config = cars64.get_config()
  config.objective.name = "nerf"
  config.train.steps = 100_000
  return config
