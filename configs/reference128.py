"""The PyTorch reference's main branch at 128x128, as `docs/reference.md` says.

Converted checkpoints of it carry this config. What the reference does by
mistake is repaired; what its weights were trained with is kept. Its numbers are
float32: on a GPU or TPU, set model.precision to "highest" to get their digits.
"""

from configs import cars64

_SCENES = 2212  # 90 % of cars_train
_BATCH = 32  # 16 micro-batches of 2
STEPS_PER_EPOCH = _SCENES // _BATCH


def get_config():
  config = cars64.get_config()
  config.model.image_size = 128
  config.model.field.skip = False
  config.model.denoiser.channels = (128, 128, 256, 512, 512)
  config.model.denoiser.depths = (2, 2, 2, 4, 4)
  config.model.denoiser.attention = (False, False, False, True, True)
  config.frustum.kind = "unit_cube"
  config.frustum.flip_input = True
  config.rendering.upsampling = "nearest"
  config.diffusion.log_mean = 0.5
  config.diffusion.null_noise = "uniform"

  config.objective.rgb_input = 0.01
  config.objective.first_view_world = True
  # It meant 0.2, but in effect warps whatever it trains the denoiser on.
  config.objective.augmentation = 1.0
  config.train.batch_size = _BATCH
  config.train.steps = 2180 * STEPS_PER_EPOCH
  config.optimizer.warmup = 0
  config.optimizer.schedule = "cosine_restarts"
  config.optimizer.period = 400 * STEPS_PER_EPOCH
  # It sums the gradients of 16 micro-batches, clips the sum to norm 1 and adds
  # 1e-8 to the root of its square; ours is their mean.
  config.optimizer.clip_norm = 1.0 / 16
  config.optimizer.eps = 1e-8 / 16

  config.sampler.name = "dpmpp_2m"
  config.sampler.steps = 50
  config.sampler.sigma_min = 0.01
  config.sampler.sigma_max = 80.0
  return config
