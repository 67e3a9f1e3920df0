"""Stage 2: the denoiser alone, which learns to draw any car."""

from configs import cars64


def get_config():
  config = cars64.get_config()
  config.objective.name = "diffusion"
  config.model.denoiser.conditional = False
  config.diffusion.log_mean = -1.2
  config.diffusion.log_std = 1.2
  config.train.steps = 200_000
  return config
