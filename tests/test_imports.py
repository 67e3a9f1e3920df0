"""Imports go one way between folders; no TensorFlow, no torch at run time."""

import ast
import importlib
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "genvs_jax"

# A folder may import those of lower floors. `config_fields` and `modes` are
# modules beside the folders.
FLOORS = (
  ("geometry", "diffusion", "images", "runtime", "config_fields"),
  ("models", "data"),
  ("checkpointing", "sampling"),
  ("training", "evaluation"),
  ("convert",),
  ("modes",),
)
MOST_MODULES = 12  # in a folder, its __init__ aside
MOST_LINES = 400  # of a file


def imports(path: pathlib.Path) -> set[str]:
  """Dotted names of all that a file imports."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


def folder_of(path: pathlib.Path) -> str:
  """The folder of genvs_jax that a file is in; its own name if it is beside."""
  parts = path.relative_to(PACKAGE).with_suffix("").parts
  return "" if parts == ("__init__",) else parts[0]


def test_folders_import_only_lower_floors():
  floor = {name: i for i, names in enumerate(FLOORS) for name in names}
  seen = {""}
  for path in PACKAGE.rglob("*.py"):
    folder = folder_of(path)
    seen.add(folder)
    assert folder == "" or folder in floor, f"{folder} has no floor"
    for name in imports(path):
      package, _, rest = name.partition(".")
      target = rest.split(".")[0]
      if package == "genvs_jax" and target not in (folder, "__version__"):
        assert target in floor, f"{path} imports {name}"
        assert folder and floor[target] < floor[folder], f"{path}: {name}"
  assert seen == {"", *floor}


def test_modules_of_a_folder_have_no_cycle():
  for folder in PACKAGE.iterdir():
    if not folder.is_dir() or folder.name == "__pycache__":
      continue
    graph = {}
    for path in folder.rglob("*.py"):
      name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
      graph[name] = imports(path)
    done: set[str] = set()
    while left := graph.keys() - done:
      free = {n for n in left if not graph[n] & (left - {n})}
      assert free, f"cycle among {sorted(left)}"
      done |= free


def test_the_packages_meet_in_one_place():
  users = {
    folder_of(path)
    for path in PACKAGE.rglob("*.py")
    if any(name.split(".")[0] == "tfds_srn" for name in imports(path))
  }
  assert users == {"data"}
  for path in (ROOT / "tfds_srn").rglob("*.py"):
    assert not any(name.startswith("genvs_jax") for name in imports(path)), path


def test_no_tensorflow_and_no_torch_at_run_time():
  """Everything imports without them, and one module asks for torch.

  (tensorboardX takes PyTorch if it is there, and does without.)
  """
  names = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
  ]
  script = (
    "import sys; sys.modules['torch'] = None;"
    f"import launch, {', '.join(names)};"
    "sys.exit('imported TensorFlow' if 'tensorflow' in sys.modules else 0)"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  for path in PACKAGE.rglob("*.py"):
    wanted = {name.split(".")[0] for name in imports(path)}
    assert "tensorflow" not in wanted
    assert "torch" not in wanted or path.name == "torch_file.py"


def test_folders_and_files_keep_their_size():
  for package in ("genvs_jax", "tfds_srn", "configs"):
    for path in (ROOT / package).rglob("*.py"):
      lines = len(path.read_text().splitlines())
      assert lines <= MOST_LINES, f"{path} has {lines} lines: split it"
  for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
    modules = {p.name for p in folder.glob("*.py")} - {"__init__.py"}
    most = 3 if folder == PACKAGE else MOST_MODULES
    assert len(modules) <= most, f"{folder} has {len(modules)} modules"


def test_configs_override_fields_of_base_alone():
  def fields(config, prefix=""):
    for key, value in config.items():
      if hasattr(value, "items"):
        yield from fields(value, f"{prefix}{key}.")
      else:
        yield f"{prefix}{key}", type(value)

  base = dict(fields(importlib.import_module("configs.base").get_config()))
  for path in (ROOT / "configs").glob("*.py"):
    module = importlib.import_module(f"configs.{path.stem}")
    assert dict(fields(module.get_config())) == base, path
