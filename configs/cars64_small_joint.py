"""Goes on from `cars64_small` with all parts together: 20,000 steps, or more.

  python launch.py --config=cars64_small_joint --workdir=DIR2 \
    --config.init_from.encoder=DIR --config.init_from.field=DIR \
    --config.init_from.denoiser=DIR

DIR is a workdir or a checkpoint of `cars64_small`, such as the package's own.
"""

from configs import cars64_small


def get_config():
  config = cars64_small.get_config()
  # No stages: encoder and field learn from the RGB loss and from a quarter of
  # the denoiser's gradient, which else spoils the render: it puts there, dot by
  # dot, what the denoiser would like to be told.
  config.train.one_view_steps = 0
  config.train.render_steps = 0
  config.train.steps = 20_000
  config.objective.feature_gradient = 0.25
  config.objective.gradient_reaches = "features"
  config.optimizer.encoder_rate = 6e-4
  config.optimizer.field_rate = 1.5e-3
  config.optimizer.denoiser_rate = 1e-3
  config.optimizer.schedule = "constant"
  config.optimizer.period = 500_000
  config.optimizer.final_rate = 1e-8
  config.optimizer.warmup = 200
  return config
