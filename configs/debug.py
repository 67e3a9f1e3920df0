"""The smallest run that takes every code path; for tests and first looks."""

from configs import demo


def get_config():
  config = demo.get_config()
  config.data.synthetic.train_scenes = 6
  config.data.synthetic.validation_scenes = 3
  config.data.synthetic.test_scenes = 1
  config.data.synthetic.views = 8
  config.model.input_views = 2
  config.model.volume_channels = 8
  config.model.feature_channels = 8
  config.model.depth_planes = 4
  config.model.encoder.trunk_width = 4
  config.model.encoder.decoder_width = 8
  config.model.field.width = 8
  config.model.denoiser.channels = (8, 16)
  config.model.denoiser.depths = (1, 1)
  config.model.denoiser.attention = (False, True)
  config.model.denoiser.embedding = 16
  config.rendering.size = 8
  config.rendering.coarse_samples = 4
  config.rendering.fine_samples = 4
  config.rendering.rays_per_chunk = 32
  # All parts together from the start and pictures whole, as cars64 has it.
  config.train.render_steps = 0
  config.train.target_views = 1
  config.diffusion.target = "image"
  config.diffusion.sigma_data = 0.5
  config.diffusion.units = "image"
  config.diffusion.log_mean = 1.0
  config.diffusion.log_std = 1.4
  config.model.denoiser.geometry = ()
  config.objective.conditioning_dropout = 0.1
  config.optimizer.schedule = "constant"
  config.optimizer.period = 500_000
  config.optimizer.final_rate = 1e-8
  config.optimizer.denoiser_rate = 1e-3
  config.train.steps = 8
  config.train.batch_size = 4
  config.train.log_every = 1
  config.train.image_grid_every = 8
  config.train.image_grid_scenes = 2
  config.checkpoint.every = 4
  config.sampler.sigma_max = 80.0
  config.sampler.churn = 0.4
  config.rollout.policy = "reference"
  config.rollout.same_noise = False
  config.sample.frames = 3
  config.evaluate.scenes = 3
  config.evaluate.spread_views = 2
  config.evaluate.samples = 2
  config.evaluate.rollouts = 0
  config.evaluate.field_fit = True
  config.evaluate.batch_size = 2
  return config
