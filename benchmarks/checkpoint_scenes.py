"""A trained model and scenes to draw with it, made anew if a generator can."""

from genvs_jax.checkpointing import pretrained
from genvs_jax.data import dataset_builders
from genvs_jax.data import datasets
from genvs_jax.evaluation import protocol


def load(
  checkpoint: str, workdir: str, count: int
) -> tuple[pretrained.Pretrained, list[protocol.SceneViews]]:
  """The checkpoint, with the config that it is used with, and scenes.

  Args:
    checkpoint: as for `pretrained.load`.
    workdir: that receives the scenes.
    count: of the validation split, from the first view to some all over the
      sphere.
  """
  genvs = pretrained.load(checkpoint)
  config = genvs.config
  if dataset_builders.are_made(config):
    config = dataset_builders.with_one_split(config, "validation")
    datasets.prepare(config, workdir)
  records = datasets.load_split(config, workdir, "validation")
  config.evaluate.input_views = (0,)
  config.evaluate.targets = "spread"
  scenes = [
    protocol.load_scene(config, records, i)
    for i in range(min(count, len(records)))
  ]
  return genvs._replace(config=config), scenes
