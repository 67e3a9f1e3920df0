"""The reference's dlv3 branch, later published as genvs_unofficial, at 128.

Its encoder starts from ImageNet weights: convert them first and start with
`init_from`.
"""

from configs import reference128


def get_config():
  config = reference128.get_config()
  config.model.encoder.name = "deeplabv3plus"
  config.model.encoder.norm = "frozen"
  config.diffusion.log_mean = -1.2
  config.diffusion.log_std = 1.2
  config.objective.rgb_input = 0.0
  config.objective.render_input = True
  config.objective.depth_prior = 1.0
  config.objective.augmentation = 0.5
  config.train.steps = 8180 * reference128.STEPS_PER_EPOCH
  config.optimizer.denoiser_rate = 1e-5

  config.sampler.name = "euler"
  config.sampler.steps = 250
  config.sampler.churn = 0.4
  config.sampler.noise_scale = 1.003
  config.sampler.sigma_min = 0.03
  config.sampler.sigma_max = 50.0
  return config
