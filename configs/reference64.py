"""The reference's 64x64 setting, with the assignment that its code lacks.

Its `train_diffusion_resolution=64` stops with an error as published; here the
first view is read as at 128. Images take every second pixel.
"""

from configs import reference128


def get_config():
  config = reference128.get_config()
  config.model.image_size = 64
  config.model.resize = "stride"
  config.model.denoiser.channels = (128, 256, 512, 512)
  config.model.denoiser.depths = (2, 2, 4, 4)
  config.model.denoiser.attention = (False, False, True, True)
  config.diffusion.log_mean = 1.0
  return config
