"""What README and docs show is run."""

import importlib.util
import pathlib
import re

import numpy as np
from PIL import Image

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_page_of_config_fields_is_that_of_base():
  path = README.parent / "docs" / "config_page.py"
  spec = importlib.util.spec_from_file_location("config_page", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  assert (path.parent / "config.md").read_text() == module.page(), (
    "python docs/config_page.py writes it anew"
  )


def example(path: pathlib.Path) -> str:
  (code,) = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
  return code


def test_three_lines_end_in_a_film(trained_workdir, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  Image.new("RGB", (64, 64), "white").save("car.png")
  code = example(README)
  exec(code.replace("cars64-small", trained_workdir), {})
  assert pathlib.Path("car.mp4").read_bytes()[4:8] == b"ftyp"


def test_the_python_example_runs_on_a_checkpoint(trained_workdir):
  code = example(README.parent / "docs" / "python.md")
  names: dict = {}
  exec(code.replace("/data/runs/cars64", trained_workdir), names)
  size = names["size"]
  assert names["estimate"].shape == (1, size, size, 3)
  views = names["views"]
  assert views.sample.shape == views.rgb.shape == (1, 2, size, size, 3)
  assert views.weighted_depth.shape == views.opacity.shape == (1, 2, size, size)
  assert 0 <= views.sample.min() <= views.sample.max() <= 1
  features = names["features"]
  assert np.isfinite(features).all() and features.shape[1:3] == (size, size)


def test_the_readme_is_short_and_points_to_pages_that_are_there():
  text = README.read_text()
  assert len(text.splitlines()) <= 200
  for page in set(re.findall(r"docs/[\w.]+\.(?:md|png)", text)):
    assert (README.parent / page).exists(), page
