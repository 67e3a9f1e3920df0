"""Where compiled programs are kept."""

import jax
import pytest

from configs import base
from genvs_jax.runtime import compilation_cache

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
  compilation_cache.enable(
    DEFAULT.compilation_cache, DEFAULT.compilation_cache_gib
  )
  assert updates == {
    "jax_compilation_cache_dir": "/somewhere/genvs_jax/compiled",
    "jax_compilation_cache_max_size": 4 * 2**30,
  }


def test_the_config_names_another_folder_or_none(updates, monkeypatch):
  compilation_cache.enable("", 1.0)
  assert not updates
  compilation_cache.enable("gs://bucket/cache", 1.0)
  assert updates["jax_compilation_cache_dir"] == "gs://bucket/cache"
  updates.clear()
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/mine")
  compilation_cache.enable("auto", 1.0)
  assert not updates
