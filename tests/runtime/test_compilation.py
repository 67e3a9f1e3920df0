"""Compiled programs: what is said of them, and where they are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from configs import base
from genvs_jax.runtime import compilation
from genvs_jax.runtime import flops

DEFAULT = base.get_config()


@pytest.fixture
def updates(monkeypatch):
  """What is set of JAX's config."""
  result = {}
  monkeypatch.setattr(jax.config, "update", result.__setitem__)
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
  return result


def test_it_is_on_in_the_users_cache_folder_and_bounded(updates):
  compilation.keep_programs(
    DEFAULT.compilation_cache, DEFAULT.compilation_cache_gib
  )
  assert updates == {
    "jax_compilation_cache_dir": "/somewhere/genvs_jax/compiled",
    "jax_compilation_cache_max_size": 4 * 2**30,
  }


def test_the_config_names_another_folder_or_none(updates, monkeypatch):
  compilation.keep_programs("", 1.0)
  assert not updates
  compilation.keep_programs("gs://bucket/cache", 1.0)
  assert updates["jax_compilation_cache_dir"] == "gs://bucket/cache"
  updates.clear()
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/mine")
  compilation.keep_programs("auto", 1.0)
  assert not updates


def test_a_program_is_compiled_once_for_its_shapes_and_says_so(monkeypatch):
  lines = []
  monkeypatch.setattr(compilation, "_WORTH_TELLING", 0.0)
  monkeypatch.setattr(logging, "info", lambda m, *a: lines.append(m % a))
  program = compilation.Program(lambda x, y: x @ y["of"] + 1, "product")
  for size in (2, 2, 3):
    x = np.ones((size, 4), np.float32)
    y = {"of": jnp.full((4, 5), 2.0)}
    np.testing.assert_array_equal(program(x, y), np.full((size, 5), 9.0))
  assert program.count == 2
  assert [line.split(",")[0].split(" in ")[0] for line in lines] == [
    "compiling the product",
    "compiled",
  ] * 2


def test_a_program_runs_where_its_arrays_are():
  first, second = jax.devices()[:2]
  program = compilation.Program(lambda x: x * 2, "double")
  for device in (first, second, first):
    result = program(jax.device_put(np.arange(3.0), device))
    assert result.devices() == {device}
  assert program.count == 2


def test_the_time_it_takes_follows_the_length_of_the_program():
  def repeated(times):
    def function(x):
      for _ in range(times):
        x = jnp.sin(x)
      return x

    return flops.operations(jax.make_jaxpr(function)(1.0))

  assert (repeated(3), repeated(30)) == (3, 30)
  loop = jax.make_jaxpr(
    lambda x: jax.lax.scan(lambda c, _: (c + 1, c * 2), x, length=9)
  )(1.0)
  assert flops.operations(loop) == 2  # of the body, compiled once
