"""Initial variables."""

import jax
import numpy as np
import pytest

from configs import debug
from genvs_jax.models import builders


def test_a_part_starts_the_same_whatever_else_there_is():
  """Pinned too: a run from a seed starts where it always started."""
  model = builders.build_model(debug.get_config())
  key = jax.random.key(0)

  def field_of(*parts):
    return jax.jit(lambda: builders.init_variables(model, key, parts)["field"])

  alone, beside = field_of("field")(), field_of("encoder", "field")()
  jax.tree.map(np.testing.assert_array_equal, alone, beside)
  np.testing.assert_allclose(
    alone["params"]["out"]["kernel"][0, :3],
    [-0.00598485, 0.28407514, -0.26891804],
    rtol=1e-5,
  )


@pytest.mark.parametrize(
  "fields, sentence",
  [
    ({"rendering.coarse_samples": 2}, "coarse_samples is 2, expected 3"),
    ({"rendering.fine_samples": 0}, "fine_samples is 0, expected 1"),
    ({"frustum.near": 1.8}, "near is 1.8 and frustum.far 1.8, expected 0 <"),
  ],
)
def test_samples_and_planes_that_cannot_be_are_refused(fields, sentence):
  config = debug.get_config()
  config.update_from_flattened_dict(fields)
  with pytest.raises(ValueError, match=sentence):
    builders.build_model(config)


@pytest.mark.parametrize(
  "fields, sentence",
  [
    ({"model.denoiser.conditional": False}, "is trained by 'diffusion'"),
    (
      {"augment.background": 0.5, "objective.rgb_input": 0.01},
      "background is 0.5, which colours the input views, but",
    ),
  ],
)
def test_losses_that_the_model_or_the_data_cannot_serve(fields, sentence):
  config = debug.get_config()
  builders.check_objective(config)
  config.update_from_flattened_dict(fields)
  with pytest.raises(ValueError, match=sentence):
    builders.check_objective(config)
