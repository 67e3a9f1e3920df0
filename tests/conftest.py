"""Eight simulated devices, and small scenes and runs shared by the tests."""

import importlib.metadata
import os
import pathlib
import shutil
import sys

# Compiling is most of the suite's time, and tiny networks need no optimising.
_FLAGS = (
  "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
if importlib.metadata.version("jaxlib") < "0.11":
  _FLAGS += " --xla_cpu_use_fusion_emitters=false"  # 30 % less; newer lack it
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import filelock  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

from configs import debug  # noqa: E402
from genvs_jax.data import datasets  # noqa: E402
from genvs_jax.models import builders  # noqa: E402
from genvs_jax.training import loop  # noqa: E402
from genvs_jax.training import startup  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
_errors: list[tuple] = []


def pytest_addoption(parser):
  parser.addoption(
    "--golden",
    default=str(ROOT / "tests" / "golden"),
    help="folder of the reference's arrays for tests/parity",
  )


def pytest_collection_modifyitems(items):
  """The longest files first, so that two processes end together."""
  order = [
    *("test_devices.py", "test_launch.py", "test_convert.py"),
    *("test_rollouts.py", "test_stages.py", "test_conditioning.py"),
    *("test_drawing.py", "test_faults.py", "test_evaluate.py"),
  ]
  items.sort(key=lambda item: (order + [item.path.name]).index(item.path.name))


def pytest_runtest_logreport(report):
  if report.when == "call":
    _errors.extend(v for k, v in report.user_properties if k == "golden")


def pytest_terminal_summary(terminalreporter):
  """Every error that the parity tests found."""
  if _errors:
    terminalreporter.section("errors against the golden arrays")
    terminalreporter.write_line(
      f"{'file':24s} {'array':44s} {'error':>9s} {'allowed':>9s}"
    )
  for name, key, error, allowed in _errors:
    terminalreporter.write_line(
      f"{name:24s} {key:44s} {error:9.1e} {allowed:9.1e}"
    )


def pytest_configure(config):
  del config
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> pathlib.Path:
  """A folder of all test processes."""
  own = tmp_path_factory.getbasetemp()
  return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(shared_folder):
  """Programs that several tests compile are compiled once."""
  folder = str(shared_folder / "compilation_cache")
  jax.config.update("jax_compilation_cache_dir", folder)
  # With a limit, JAX locks the folder while it reads or writes.
  jax.config.update("jax_compilation_cache_max_size", 2**32)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
  os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**32)
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
  return folder


@pytest.fixture(scope="session")
def debug_workdir(tmp_path_factory) -> str:
  """A workdir with the debug dataset prepared."""
  workdir = str(tmp_path_factory.mktemp("debug"))
  datasets.prepare(debug.get_config(), workdir)
  return workdir


@pytest.fixture
def debug_config(debug_workdir):
  """configs/debug.py on the shared dataset, without pictures and scores."""
  config = debug.get_config()
  config.data.data_dir = f"{debug_workdir}/data"
  config.train.image_grid_scenes = 0
  config.validation.scenes = 0
  config.train.batch_size = 8
  return config


@pytest.fixture(scope="session")
def trained_workdir(debug_workdir, shared_folder, tmp_path_factory) -> str:
  """A workdir that holds a finished debug run of 8 steps on one device.

  The first test process that needs it trains; each has a copy of its own.
  """
  once = shared_folder / "trained_once"
  done = shared_folder / "trained_once.done"
  with filelock.FileLock(f"{once}.lock"):
    if not done.exists():
      config = debug.get_config()
      config.data.data_dir = f"{debug_workdir}/data"
      config.train.batch_size = 8
      config.train.profile = (6, 7)
      loop.train_and_evaluate(config, str(once), devices=jax.devices()[:1])
      done.touch()
  workdir = tmp_path_factory.mktemp("trained")
  return str(shutil.copytree(once, workdir, dirs_exist_ok=True))


@pytest.fixture(scope="module")
def drawing(debug_workdir):
  """(config, model, variables) of debug whose denoiser is not zero."""
  config = debug.get_config()
  config.data.data_dir = f"{debug_workdir}/data"
  model = builders.build_model(config)
  state = startup.init_on_devices(config, model)
  kernel = state.params["denoiser"]["output"]["kernel"]
  state.params["denoiser"]["output"]["kernel"] = 0.1 * jax.random.normal(
    jax.random.key(0), kernel.shape
  )
  return config, model, state.variables("raw")
