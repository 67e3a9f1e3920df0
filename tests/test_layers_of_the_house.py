"""Imports go one way, and training needs neither TensorFlow nor PyTorch."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]

# A module may import those of lower floors, and those of its own floor that
# stand before it here.
FLOORS = (
  # ground: arrays only
  ("cameras", "randomness", "flops", "files"),
  ("images", "edm", "samplers", "losses", "metrics", "camera_paths"),
  ("photos",),
  ("augmentation",),
  ("frustum", "rendering"),
  # networks
  ("models.layers", "models.convolution"),
  ("models.resnet34", "models.radiance_field"),
  ("models.image_v1", "models.ddpmpp"),
  ("models.resnet_unet", "models.deeplabv3plus"),
  ("models",),
  # where they meet
  ("pipeline",),
  ("objectives", "optimizers"),
  ("train_state",),
  # siblings that know nothing of each other
  ("data", "checkpoints", "sharding", "writers", "pictures"),
  ("guards", "workdir", "compilation_cache", "memory"),
  ("policies", "background", "compilation"),
  # use
  ("pretrained", "synthesis", "progress", "consistency"),
  ("warm_start", "validation", "rollouts", "exports", "sample_files"),
  ("sampling",),
  ("resume",),
  ("train",),
  # scores
  ("perceptual.weights", "perceptual.networks"),
  ("perceptual.distances",),
  ("perceptual",),
  ("evaluation.protocol", "evaluation.scorer", "evaluation.store"),
  ("evaluation.summary", "evaluation.drawing", "evaluation.rollout_scores"),
  ("evaluation.scene_scores",),
  ("evaluate",),
  ("evaluation",),
  # PyTorch weights
  ("convert.layouts", "convert.torch_file"),
  ("convert.names", "convert.recognize", "convert.metric_weights"),
  ("convert.variables",),
  ("convert",),
)


def imports(path: pathlib.Path) -> set[str]:
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def module_name(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT / "genvs_jax").with_suffix("").parts
  return ".".join(p for p in parts if p != "__init__")


def test_every_module_imports_only_lower_floors():
  floor = {name: i for i, names in enumerate(FLOORS) for name in names}
  seen = set()
  for path in (ROOT / "genvs_jax").rglob("*.py"):
    name = module_name(path)
    if not name:
      continue
    assert name in floor, f"{name} has no floor: add it to FLOORS"
    seen.add(name)
    for target in imports(path):
      local = target.removeprefix("genvs_jax.")
      if target.startswith("genvs_jax.") and local in floor:
        assert floor[local] < floor[name], f"{name} imports {local}"
  assert seen == set(floor)


def test_the_packages_meet_in_one_place():
  users = {
    module_name(path)
    for path in (ROOT / "genvs_jax").rglob("*.py")
    if any(t.split(".")[0] == "tfds_srn" for t in imports(path))
  }
  assert users == {"data"}
  for path in (ROOT / "tfds_srn").rglob("*.py"):
    assert not any(t.startswith("genvs_jax") for t in imports(path)), path


def test_only_a_few_modules_know_configs():
  """`config` is read in build_* functions and where a run is put together."""
  allowed = {
    "train",
    "synthesis",
    "sampling",
    "evaluate",
    "evaluation.protocol",
    "data",
    "train_state",
    "compilation",
    "warm_start",
    "resume",
    "validation",
    "convert",
  }
  for path in (ROOT / "genvs_jax").rglob("*.py"):
    if module_name(path) in allowed:
      continue
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.FunctionDef):
        takes = [a.arg for a in node.args.args]
        if takes and takes[0] == "config":
          assert node.name.startswith(("build_", "config_")), (
            f"{path.name}:{node.name} takes a config"
          )


def test_no_tensorflow_and_no_torch_at_run_time():
  """Everything imports without them, and one module asks for torch.

  (tensorboardX takes PyTorch if it is there, and does without.)
  """
  script = (
    "import sys; sys.modules['torch'] = None;"
    "from genvs_jax import train, evaluate, synthesis, convert, pretrained;"
    "import launch;"
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
  for path in (ROOT / "genvs_jax").rglob("*.py"):
    wanted = {target.split(".")[0] for target in imports(path)}
    assert "tensorflow" not in wanted
    assert "torch" not in wanted or module_name(path) == "convert.torch_file"


def test_files_keep_their_size():
  for folder in ("genvs_jax", "tfds_srn", "configs"):
    for path in (ROOT / folder).rglob("*.py"):
      lines = len(path.read_text().splitlines())
      assert lines <= 400, f"{path} has {lines} lines: split it"


def test_configs_override_fields_of_base_alone():
  import importlib  # noqa: PLC0415

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
