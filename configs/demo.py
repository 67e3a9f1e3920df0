"""The whole system on two CPU cores in minutes: small numbers, same code.

Writes synthetic cars, builds the dataset, trains, scores scenes never seen
and draws a turntable. Everything lands under --workdir.
"""

from configs import cars64


def get_config():
  config = cars64.get_config()
  config.modes = ("prepare", "train", "evaluate", "sample")

  config.data.dataset = "synthetic_cars"
  config.data.data_dir = "WORKDIR/data"
  config.data.synthetic.train_scenes = 600
  config.data.synthetic.validation_scenes = 24
  config.data.synthetic.test_scenes = 2
  config.data.synthetic.views = 24
  config.data.synthetic.image_size = 32
  # The settings below were chosen on seed 0; these scenes played no part.
  config.data.synthetic.seed = 1

  config.model.image_size = 32
  config.model.input_views = 1
  config.model.depth_planes = 16
  config.model.encoder.trunk_width = 16
  config.model.encoder.stage_sizes = (1, 1, 1, 1)
  config.model.encoder.decoder_width = 32
  config.model.denoiser.channels = (32, 64, 64)
  config.model.denoiser.depths = (1, 1, 1)
  config.model.denoiser.attention = (False, False, True)
  config.model.denoiser.embedding = 64
  config.model.denoiser.dropout = 0.0
  config.rendering.size = 16
  config.rendering.coarse_samples = 8
  config.rendering.fine_samples = 8
  config.rendering.rays_per_chunk = 0

  # A few thousand small steps instead of half a million: high rates, and a
  # strong RGB loss that shapes the volume before the denoiser needs it.
  config.train.steps = 4_000
  config.train.batch_size = 8
  config.train.log_every = 100
  config.train.image_grid_every = 2_000
  config.train.ema_half_life = 1_000
  config.objective.rgb = 30.0
  config.objective.opacity = 0.03
  config.objective.input_noise_max = 0.5
  config.optimizer.encoder_rate = 2e-3
  config.optimizer.field_rate = 5e-3
  config.optimizer.denoiser_rate = 1e-3
  config.optimizer.warmup = 50
  config.optimizer.clip_norm = 10.0
  # Few steps draw smoother, on average closer pictures than many.
  config.sampler.steps = 8
  config.sampler.sigma_min = 0.05
  # It learned from one input view, and its samples do not keep colours yet.
  config.rollout.policy = "input"
  config.evaluate.split = "validation"
  config.evaluate.input_views = (0,)
  config.evaluate.targets = "spread"
  config.evaluate.samples = 3
  config.evaluate.baselines = True
  config.checkpoint.every = 1_000
  config.checkpoint.keep_every = 1_000_000
  return config
