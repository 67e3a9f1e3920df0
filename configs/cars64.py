"""SRN cars at 64x64, encoder, field and denoiser trained jointly."""

from configs import base


def get_config():
  return base.get_config()
