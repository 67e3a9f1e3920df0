"""The flagship: SRN cars at 64x64, encoder, field and denoiser jointly.

All that makes the recipe stands here, also where it equals the defaults of
`base.py`; chairs and the stages start from this file. The widths are the
reference's: 62.5M parameters in the encoder, 2k in the field, 113.1M in the
denoiser.
"""

from configs import base


def get_config():
  config = base.get_config()
  config.data.dataset = "cars"

  # An image becomes a volume of 64 planes x 16 channels between near and far:
  # SRN's cars lie inside a sphere of radius 0.5 around the origin, its cameras
  # 1.3 away.
  config.model.image_size = 64
  config.model.image_range = (0.0, 1.0)
  config.model.input_views = 2
  config.model.encoder.name = "resnet34_unet"
  config.model.encoder.norm = "batch"
  config.frustum.kind = "near_far"
  config.frustum.near = 0.8
  config.frustum.far = 1.8

  # The render has the image's size: 64 coarse and 64 fine samples on each of
  # 64 x 64 rays.
  config.rendering.size = 64
  config.rendering.coarse_samples = 64
  config.rendering.fine_samples = 64

  config.model.denoiser.name = "image_v1"
  config.model.denoiser.channels = (128, 256, 512, 512)
  config.model.denoiser.depths = (2, 2, 4, 4)
  config.model.denoiser.attention = (False, False, True, True)
  # High noise, at which only the features tell what to draw.
  config.diffusion.log_mean = 1.0
  config.diffusion.log_std = 1.4

  # The denoising loss, the squared error of the render's first three channels,
  # and a little pressure against fog.
  config.objective.name = "joint"
  config.objective.denoising = 1.0
  config.objective.weighting = "learned"
  config.objective.rgb = 1.0
  config.objective.opacity = 0.001
  config.objective.input_noise_probability = 0.5
  config.objective.conditioning_dropout = 0.1

  config.train.steps = 500_000
  config.train.batch_size = 32
  config.train.ema = "half_life"
  config.train.ema_half_life = 500_000
  config.optimizer.encoder_rate = 1e-4
  config.optimizer.field_rate = 2e-4
  config.optimizer.denoiser_rate = 2e-4
  config.optimizer.warmup = 1_000
  config.optimizer.schedule = "constant"
  return config
