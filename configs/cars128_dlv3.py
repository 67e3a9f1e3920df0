"""Stage 6: another encoder under the field and denoiser of a cars128 run.

Start it with --config.init_from.field=DIR and .denoiser=DIR of that run, and
.encoder=OUTPUT of --mode=convert --config=configs/cars128_dlv3.py
--source=RESNET34.pth --output=OUTPUT.
"""

from configs import cars128


def get_config():
  config = cars128.get_config()
  config.model.encoder.name = "deeplabv3plus"
  config.model.encoder.norm = "frozen"
  config.diffusion.log_mean = -1.2
  config.diffusion.log_std = 1.2
  config.diffusion.schedule = ()
  config.optimizer.denoiser_rate = 1e-5
  return config
