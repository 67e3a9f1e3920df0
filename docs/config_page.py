"""Writes docs/config.md, the page of all config fields, from configs/base.py.

python docs/config_page.py
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from configs import base  # noqa: E402
from genvs_jax import config_fields  # noqa: E402

_HEAD = """# Config fields

Every field of `configs/base.py` with its default; recipes override some. Any of
them can be set on the command line: `--config.train.steps=1000`. This page is
written by `python docs/config_page.py`.
"""
_TABLE = ["", "| field | default | meaning |", "|---|---|---|"]
_SECTION = re.compile(r"  (?:(\w+) = )?([\w.]+) = ml_collections\.ConfigDict\(")
_FIELD = re.compile(r"  ([\w.]+) = .*?(?:  # (.*))?$")


def page() -> str:
  """The text of the page."""
  values = config_fields.flatten(base.get_config())
  paths = {"config": ""}  # what the variables of base.py stand for
  tables: dict[str, list[str]] = {"": ["", "Beside the sections:", *_TABLE]}
  comment: list[str] = []
  for line in (ROOT / "configs" / "base.py").read_text().splitlines():
    section, field = _SECTION.match(line), _FIELD.match(line)
    if line.startswith("  # "):
      comment.append(line[4:])
      continue
    if section:
      parent, _, name = section[2].rpartition(".")
      if not parent:  # the config itself
        continue
      paths[section[1]] = f"{paths[parent]}{name}."
      if not paths[parent]:
        heading = [f"\n## {name}", "", " ".join(comment)]
        tables[name] = [*heading, *_TABLE]
    elif field:
      variable, _, name = field[1].rpartition(".")
      path = f"{paths[variable]}{name}"
      meaning = " ".join([*comment, field[2] or ""]).strip()
      value = values.pop(path)
      default = tuple(value) if isinstance(value, list) else value
      row = f"| `{path}` | `{default!r}` | {meaning} |"
      tables[path.split(".")[0] if "." in path else ""].append(row)
    comment = []
  assert not values, f"not found in base.py: {', '.join(values)}"
  beside = tables.pop("")
  lines = [_HEAD.rstrip(), *beside, *(x for t in tables.values() for x in t)]
  return "\n".join(lines) + "\n"


if __name__ == "__main__":
  (ROOT / "docs" / "config.md").write_text(page())
