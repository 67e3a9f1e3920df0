"""Stage 4: grown to 128x128 by a new outer level of the denoiser.

Start it from a cars64 run: --config.init_from.encoder=DIR, .field=DIR and
.denoiser=DIR.
"""

from configs import cars64


def get_config():
  config = cars64.get_config()
  config.model.image_size = 128
  # The outermost level is as wide as that of 64 pixels, which becomes the
  # second.
  config.model.denoiser.channels = (128, 128, 256, 512, 512)
  config.model.denoiser.depths = (2, 2, 2, 4, 4)
  config.model.denoiser.attention = (False, False, False, True, True)
  # Stage 5, lower noise, comes by itself.
  config.diffusion.schedule = (
    (100_000, 1.0, 1.4),
    (150_000, 0.5, 1.4),
    (300_000, 0.5, 1.4),
    (350_000, -1.2, 1.2),
  )
  return config
