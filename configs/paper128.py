"""The recipe of the GeNVS paper at 128x128, as re-implementations quote it.

DeepLabV3+ without norms, features pooled over the views before the MLP, EDM's
DDPM++, images in [-1,1], the denoising loss alone, deterministic Heun.
"""

from configs import cars64


def get_config():
  config = cars64.get_config()
  config.model.image_size = 128
  config.model.image_range = (-1.0, 1.0)
  config.model.input_views = 3
  config.model.encoder.name = "deeplabv3plus"
  config.model.encoder.norm = "none"
  config.model.field.aggregate = "before"
  config.model.field.depth = 2
  config.model.field.feature_activation = "none"
  config.model.denoiser.name = "ddpmpp"
  config.model.denoiser.channels = (128, 128, 256, 256, 256)
  config.model.denoiser.depths = (4, 4, 4, 4, 4)
  config.model.denoiser.attention = (False, False, False, True, False)  # at 16
  config.model.denoiser.embedding = 512
  config.model.denoiser.dropout = 0.1
  config.model.denoiser.augmentation = False

  config.diffusion.log_mean = -1.0
  config.diffusion.log_std = 1.4
  config.objective.weighting = "edm"
  config.objective.rgb = 0.0
  config.objective.opacity = 0.0
  # In [-1,1] units up to 0.5, which is about 1.1 after normalising.
  config.objective.input_noise_max = 1.1
  config.train.batch_size = 96
  config.optimizer.encoder_rate = 2e-5
  config.optimizer.field_rate = 2e-5
  config.optimizer.denoiser_rate = 2e-5
  config.optimizer.b2 = 0.999
  config.optimizer.weight_decay = 0.0

  config.sampler.name = "heun"
  config.sampler.steps = 30
  config.sampler.churn = 0.0
  config.sampler.sigma_min = 0.002
  config.sampler.sigma_max = 80.0
  return config
