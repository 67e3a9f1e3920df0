"""A small model of synthetic cars at 64x64, for two CPU cores in hours.

  python launch.py --config=configs/cars64_small.py --workdir=DIR

The features are rendered at half the image's size; the denoiser draws what the
enlarged render lacks.
"""

from configs import demo


def get_config():
  config = demo.get_config()
  config.data.synthetic.train_scenes = 2_000
  config.data.synthetic.validation_scenes = 24
  config.data.synthetic.test_scenes = 50
  config.data.synthetic.image_size = 64
  config.data.synthetic.markings = True

  config.model.image_size = 64
  config.model.input_views = 2
  config.model.depth_planes = 32
  config.model.encoder.trunk_width = 32
  config.model.encoder.decoder_width = 64
  config.model.denoiser.channels = (32, 64, 128, 128)
  config.model.denoiser.depths = (1, 1, 2, 1)
  config.model.denoiser.attention = (False, False, True, True)
  config.model.denoiser.embedding = 128
  config.rendering.size = 32
  config.rendering.coarse_samples = 16
  config.rendering.fine_samples = 16

  config.train.one_view_steps = 4_500
  config.train.render_steps = 2_000
  config.train.steps = 6_000
  config.train.batch_size = 8
  config.train.target_views = 1
  config.checkpoint.every = 500

  # From little noise: with more, frames of a rollout agree less.
  config.sampler.steps = 10
  config.sampler.sigma_max = 1.8

  # SRN's protocol: view 64 of the test spiral, pixelNeRF's subset of targets.
  config.evaluate.split = "test"
  config.evaluate.input_views = (64,)
  config.evaluate.targets = "pixelnerf"
  config.evaluate.samples = 5
  return config
