"""Initial variables."""

import jax
import numpy as np

from configs import debug
from genvs_jax.models import builders


def test_a_part_starts_the_same_whatever_else_there_is():
  """Pinned too: a run from a seed starts where it always started."""
  model = builders.build_model(debug.get_config())
  key = jax.random.key(0)
  alone = builders.init_variables(model, key, ("field",))["field"]
  beside = builders.init_variables(model, key, ("encoder", "field"))["field"]
  jax.tree.map(np.testing.assert_array_equal, alone, beside)
  np.testing.assert_allclose(
    alone["params"]["out"]["kernel"][0, :3],
    [-0.00598485, 0.28407514, -0.26891804],
    rtol=1e-5,
  )
