"""The smallest run that takes every code path of the flagship; for tests and
first looks."""

from configs import cars64


def get_config():
  config = cars64.get_config()
  config.modes = ("prepare", "train", "evaluate", "sample")

  config.data.dataset = "synthetic_cars"
  config.data.data_dir = "WORKDIR/data"
  config.data.synthetic.train_scenes = 6
  config.data.synthetic.validation_scenes = 3
  config.data.synthetic.test_scenes = 1
  config.data.synthetic.views = 8
  config.data.synthetic.image_size = 32
  config.data.synthetic.seed = 1

  config.model.image_size = 32
  config.model.volume_channels = 8
  config.model.feature_channels = 8
  config.model.depth_planes = 4
  config.model.encoder.trunk_width = 4
  config.model.encoder.stage_sizes = (1, 1, 1, 1)
  config.model.encoder.decoder_width = 8
  config.model.field.width = 8
  config.model.denoiser.channels = (8, 16)
  config.model.denoiser.depths = (1, 1)
  config.model.denoiser.attention = (False, True)
  config.model.denoiser.embedding = 16
  config.model.denoiser.dropout = 0.0
  config.rendering.size = 8
  config.rendering.coarse_samples = 4
  config.rendering.fine_samples = 4
  config.rendering.rays_per_chunk = 32

  config.train.steps = 8
  config.train.batch_size = 4
  config.train.ema_half_life = 1_000
  config.train.log_every = 1
  config.train.image_grid_every = 8
  config.train.image_grid_scenes = 2
  config.checkpoint.every = 4
  config.checkpoint.keep_every = 1_000_000
  # High rates and a strong RGB loss, as small networks take them.
  config.objective.rgb = 30.0
  config.objective.opacity = 0.03
  config.objective.input_noise_max = 0.5
  config.optimizer.encoder_rate = 2e-3
  config.optimizer.field_rate = 5e-3
  config.optimizer.denoiser_rate = 1e-3
  config.optimizer.warmup = 50
  config.optimizer.clip_norm = 10.0

  config.sampler.steps = 3
  config.sampler.sigma_min = 0.05
  config.sample.frames = 3
  config.evaluate.split = "validation"
  config.evaluate.scenes = 3
  config.evaluate.input_views = (0,)
  config.evaluate.targets = "spread"
  config.evaluate.spread_views = 2
  config.evaluate.samples = 2
  config.evaluate.baselines = True
  config.evaluate.batch_size = 2
  return config
