"""What saves memory changes no number: pieces of a batch, recomputation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import debug
from genvs_jax.data import datasets
from genvs_jax.data import loading
from genvs_jax.models import builders
from genvs_jax.models import ddpmpp
from genvs_jax.models import deeplabv3plus
from genvs_jax.models import image_v1
from genvs_jax.models import resnet
from genvs_jax.runtime import sharding
from genvs_jax.training import startup
from genvs_jax.training import train_step


def assert_close(a, b, rtol: float):
  """Leaf by leaf, relative to the largest value of each."""

  def compare(a, b):
    np.testing.assert_allclose(a, b, atol=rtol * np.abs(a).max() + 1e-12)

  jax.tree.map(compare, a, b)


@pytest.mark.parametrize(
  "objective", ["diffusion", pytest.param("joint", marks=pytest.mark.slow)]
)
def test_pieces_of_a_batch_give_the_update_of_the_whole(
  objective, debug_workdir
):
  """Exactly so without dropout and batch statistics, which see the batch."""
  config = debug.get_config()
  config.objective.name = objective
  config.model.denoiser.conditional = objective == "joint"
  config.data.data_dir = f"{debug_workdir}/data"
  config.model.encoder.norm = "frozen"
  config.objective.augmentation = 0.5
  config.optimizer.warmup = 0
  model = builders.build_model(config)
  mesh = sharding.make_mesh(jax.devices()[:1])
  state = startup.init_on_devices(config, model)
  records = datasets.load_split(config, "", "train")
  batch = next(loading.train_batches(config, records, start_step=0))

  def update(pieces: int):
    config.train.accumulation = pieces
    step = jax.jit(train_step.build_train_step(config, model, mesh))
    return step(state, batch)

  whole, metrics = update(1)
  pieces, metrics_of_pieces = update(2)
  assert_close(metrics, metrics_of_pieces, 1e-4)
  # The first moments are the clipped gradient times a number.
  assert_close(whole.opt_state, pieces.opt_state, 1e-4)


IMAGES = jnp.linspace(0, 1, 2 * 32 * 32 * 3).reshape(2, 32, 32, 3) ** 2
LEVELS = {"channels": (8, 16), "depths": (1, 1), "attention": (False, True)}
NETWORKS = {
  "resnet_unet": lambda remat: resnet.ResNetUNet(
    4, 2, 4, (1, 1, 1, 1), decoder_width=8, remat=remat
  ),
  "deeplabv3plus": lambda remat: deeplabv3plus.DeepLabV3Plus(
    4, 2, 4, (1, 1, 1, 1), norm="batch", remat=remat
  ),
  "image_v1": lambda remat: image_v1.ImageV1(
    **LEVELS, embedding=8, remat=remat
  ),
  "ddpmpp": lambda remat: ddpmpp.DDPMpp(**LEVELS, embedding=16, remat=remat),
}


@pytest.mark.parametrize(
  "name",
  [
    "image_v1",
    pytest.param("deeplabv3plus", marks=pytest.mark.slow),
    pytest.param("resnet_unet", marks=pytest.mark.slow),
    pytest.param("ddpmpp", marks=pytest.mark.slow),
  ],
)
def test_recomputing_blocks_changes_no_gradient(name):
  """Nor running statistics, nor the masks of dropout."""

  def run(network: nn.Module):
    encoder = isinstance(
      network, (resnet.ResNetUNet, deeplabv3plus.DeepLabV3Plus)
    )
    rest = () if encoder else (jnp.ones(2), IMAGES, jnp.zeros((2, 9)))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    init = jax.jit(network.init, static_argnames="train")
    variables = init(keys, IMAGES, *rest, train=False)
    # No output may be zero, as that of a fresh denoiser is.
    params = jax.tree.map(lambda x: x + 0.01, variables.pop("params"))

    def loss(params):
      out, updated = network.apply(
        {"params": params, **variables},
        IMAGES,
        *rest,
        train=True,
        rngs={"dropout": jax.random.key(2)},
        mutable=["batch_stats"],
      )
      return sum(jnp.mean(x**2) for x in jax.tree.leaves(out)), updated

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    again = str(gradient.trace(params).jaxpr).count("remat")
    return gradient(params), again

  build = NETWORKS[name]
  (ours, again), (theirs, never) = run(build(True)), run(build(False))
  assert again > 0 and never == 0
  assert_close(ours, theirs, 1e-4)
