"""Imports go one way between folders; no TensorFlow, no torch at run time."""

import ast
import importlib
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "genvs_jax"

# A folder may import those of lower floors. `modes` and those that begin with
# `config_` are modules beside the folders.
FLOORS = (
  (
    "geometry",
    "diffusion",
    "images",
    "runtime",
    "config_fields",
    "config_history",
  ),
  ("models", "data"),
  ("sampling", "perceptual"),
  ("checkpointing",),
  ("training", "evaluation", "viewer"),
  ("aot",),
  ("convert", "modes"),
)
MOST_MODULES = 12  # in a folder, its __init__ aside
MOST_LINES = 400  # of a file
MOST_FUNCTION_LINES = 80


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


def functions(path: pathlib.Path):
  """All functions of a file."""
  return [
    node
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef)
  ]


def sources():
  """The project's own code, tests and benchmarks aside."""
  folders = ("genvs_jax", "tfds_srn", "configs")
  paths = [p for name in folders for p in (ROOT / name).rglob("*.py")]
  return [*paths, ROOT / "launch.py"]


def test_functions_fit_on_a_page():
  """Configs aside, which are lists of fields."""
  for path in sources():
    if path.parent.name == "configs":
      continue
    for node in functions(path):
      lines = node.end_lineno - node.lineno + 1
      assert lines <= MOST_FUNCTION_LINES, f"{path}:{node.name} has {lines}"
  launcher = (ROOT / "launch.py").read_text().splitlines()
  assert len(launcher) <= 150


def test_classes_take_options_instead_of_a_config():
  """The config is read where a mode is put together, and in build_*."""
  for path in PACKAGE.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ClassDef) and node.name not in (
        *("Command", "_Run"),  # what a command is and what a loop shares
        *("Pretrained",),  # hands the config of a checkpoint on
      ):
        names = {
          n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)
        } | {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
        fields = {
          n.target.id
          for n in node.body
          if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
        }
        takes = {"config", "_config"} & (names | fields)
        assert not takes or node.name == "Checkpointer", f"{path}:{node.name}"


def test_the_method_is_narrated():
  for folder in ("geometry", "diffusion", "models", "training"):
    comments = code = 0
    for path in (PACKAGE / folder).rglob("*.py"):
      text = path.read_text()
      docstring_lines = set()
      for node in ast.walk(ast.parse(text)):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node):
          first = node.body[0]
          docstring_lines |= set(range(first.lineno, first.end_lineno + 1))
      for number, line in enumerate(text.splitlines(), 1):
        if number in docstring_lines:
          continue
        comments += line.strip().startswith("#") or "  # " in line
        code += bool(line.strip()) and not line.strip().startswith("#")
    assert comments >= 0.08 * code, f"{folder}: {comments} in {code} lines"


def test_names_are_nouns():
  """No bare participles as variables; see the list."""
  bare = {
    *("given", "found", "kept", "told", "wanted", "shown", "nothing"),
    *("drawn", "written", "chosen", "loaded", "picked", "restored"),
    *("placed", "dropped", "raised", "added", "averaged"),
  }
  for path in sources():
    for node in ast.walk(ast.parse(path.read_text())):
      names = set()
      if isinstance(node, ast.Name):
        names = {node.id}
      elif isinstance(node, ast.arg):
        names = {node.arg}
      assert not names & bare, f"{path}:{node.lineno}: {names}"
