"""The model that comes with the package, `cars64-small`: synthetic cars at
64x64 on two CPU cores in hours. What became of it: docs/results.md."""

from configs import demo


def get_config():
  config = demo.get_config()
  config.data.synthetic.train_scenes = 2_000
  config.data.synthetic.validation_scenes = 24
  config.data.synthetic.test_scenes = 50
  config.data.synthetic.views = 24
  config.data.synthetic.image_size = 64

  config.model.image_size = 64
  config.model.input_views = 2
  config.model.depth_planes = 32
  config.model.encoder.trunk_width = 32
  config.model.encoder.stage_sizes = (1, 1, 1, 1)
  config.model.encoder.decoder_width = 64
  config.rendering.size = 32
  config.rendering.coarse_samples = 16
  config.rendering.fine_samples = 16
  config.model.denoiser.channels = (32, 64, 128, 128)
  config.model.denoiser.depths = (1, 1, 2, 2)
  config.model.denoiser.attention = (False, False, True, True)
  config.model.denoiser.embedding = 128

  config.train.render_steps = 5_000
  config.train.steps = 20_000
  config.train.batch_size = 4
  config.optimizer.encoder_rate = 1.5e-3
  return config
