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
  config.data.synthetic.markings = False  # more than 32 pixels show
  # The settings below were chosen on seed 0; these scenes played no part.
  config.data.synthetic.seed = 1

  config.model.image_size = 32
  config.model.input_views = 1
  config.model.depth_planes = 16
  config.model.encoder.trunk_width = 16
  config.model.encoder.stage_sizes = (1, 1, 1, 1)
  config.model.encoder.decoder_width = 32
  config.model.encoder.image_skip = True
  config.model.denoiser.channels = (32, 64, 64)
  config.model.denoiser.depths = (1, 1, 1)
  config.model.denoiser.attention = (False, False, True)
  config.model.denoiser.embedding = 64
  config.model.denoiser.dropout = 0.0
  config.rendering.size = 16
  config.rendering.coarse_samples = 8
  config.rendering.fine_samples = 8
  config.rendering.rays_per_chunk = 0

  # A few thousand small steps instead of half a million, at high rates. The
  # renderer comes first and is frozen while the denoiser learns what it
  # lacks, from features of unit variance, and with its camera's rays.
  config.train.render_steps = 2_500
  config.train.steps = 3_000
  config.train.batch_size = 8
  config.train.target_views = 2
  config.train.log_every = 100
  config.train.image_grid_every = 1_500
  config.train.ema_half_life = 1_000
  config.diffusion.target = "residual"
  config.diffusion.sigma_data = 0.0  # measured
  config.diffusion.units = "sigma_data"
  config.diffusion.log_mean = 0.5
  config.diffusion.log_std = 1.2
  config.model.denoiser.geometry = ("directions", "depth", "opacity")
  config.objective.rgb = 30.0
  config.objective.opacity = 0.03
  config.objective.input_noise_max = 0.5
  config.objective.conditioning_dropout = 0.0  # it is not guided
  config.optimizer.encoder_rate = 2e-3
  config.optimizer.field_rate = 5e-3
  config.optimizer.denoiser_rate = 3e-3
  config.optimizer.warmup = 50
  config.optimizer.schedule = "cosine"
  config.optimizer.period = 0  # each stage's own
  config.optimizer.final_rate = 1e-5
  config.optimizer.clip_norm = 10.0
  # From the render on, not from noise: few steps do, and with new noise in each
  # they forget the speckle of the first.
  config.sampler.name = "renoise"
  config.sampler.steps = 3
  config.sampler.sigma_min = 0.05
  config.sampler.sigma_max = 20.0
  # It learned from one input view.
  config.rollout.policy = "input"
  config.rollout.noise = "surface"
  config.evaluate.split = "validation"
  config.evaluate.input_views = (0,)
  config.evaluate.targets = "spread"
  config.evaluate.samples = 3
  config.evaluate.baselines = True
  config.evaluate.rollouts = 4
  config.evaluate.field_fit = False
  config.checkpoint.every = 1_000
  config.checkpoint.keep_every = 1_000_000
  return config
