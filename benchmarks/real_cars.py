"""Real car models, for trying what synthetic cars taught a model.

  apt-get install torcs-data
  python -m benchmarks.real_cars --source=/usr/share/games/torcs/cars \\
    --output=DIR

docs/results.md has the commands that go on from there.

Writes the bodies of TORCS's cars, AC3D files that trimesh does not read, as
GLB, and a list that makes all of them test scenes. Their wheels, which the game
adds, are round bodies of the same place and size here.
"""

import pathlib
import re
from collections.abc import Iterator

import numpy as np
import trimesh
from absl import app
from absl import flags
from absl import logging
from PIL import Image

_SOURCE = flags.DEFINE_string("source", None, "Folder of cars of TORCS.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder that receives them.")

_STRIP = 4  # kind of a surface: each corner makes a triangle with two before
# Places of the axles and sizes of the wheels in a car's XML file.
_WHEELS = ("Front Right", "Front Left", "Rear Right", "Rear Left")


def main(argv):
  del argv
  output = pathlib.Path(_OUTPUT.value)
  output.mkdir(parents=True, exist_ok=True)
  names = []
  for folder in sorted(pathlib.Path(_SOURCE.value).iterdir()):
    path = folder / f"{folder.name}.acc"
    if not path.exists():
      continue
    scene = trimesh.Scene([*read_acc(path), *wheels(folder)])
    scene.export(output / f"{folder.name}.glb")
    names.append(folder.name)
    logging.info("%s: %d parts", folder.name, len(scene.geometry))
  lines = [f"test {name}" for name in names]
  (output / "splits.txt").write_text("\n".join(lines) + "\n")


def read_acc(path: pathlib.Path) -> Iterator[trimesh.Trimesh]:
  """The surfaces of an AC3D file, with their pictures."""
  lines = iter(path.read_text("latin-1").splitlines())
  picture, corners = "", np.zeros((0, 3))
  for line in lines:
    word, _, rest = line.strip().partition(" ")
    if word == "OBJECT":
      picture, corners = "", np.zeros((0, 3))
    elif word == "texture" and not picture:
      picture = rest.split('"')[1] if '"' in rest else rest.split()[0]
    elif word == "numvert":
      rows = [next(lines).split()[:3] for _ in range(int(rest))]
      corners = np.array(rows, float)
    elif word == "numsurf":
      faces, uv = [], []
      for _ in range(int(rest)):
        refs, kind = _read_surface(lines)
        index = np.arange(len(refs))
        if kind == _STRIP:
          order = [
            (i, i + 1, i + 2) if i % 2 == 0 else (i + 1, i, i + 2)
            for i in index[:-2]
          ]
        else:
          order = [(0, i, i + 1) for i in index[1:-1]]
        for triangle in order:
          faces.append([int(refs[i][0]) for i in triangle])
          uv.append([refs[i][1:3] for i in triangle])
      if faces:
        yield _mesh(corners[np.array(faces)], np.array(uv), path, picture)


def _read_surface(lines: Iterator[str]) -> tuple[list[list[float]], int]:
  """The corners (index, u, v) of a surface, and its kind."""
  kind = 0
  for line in lines:
    word, _, rest = line.strip().partition(" ")
    if word == "SURF":
      kind = int(rest, 16) & 0xF
    elif word == "refs":
      rows = [next(lines).split() for _ in range(int(rest))]
      return [[float(v) for v in row[:3]] for row in rows], kind
  raise ValueError("a surface without refs")


def _mesh(
  triangles: np.ndarray, uv: np.ndarray, path: pathlib.Path, picture: str
) -> trimesh.Trimesh:
  """Triangles [n,3,3] with texture coordinates [n,3,2]."""
  material = trimesh.visual.material.PBRMaterial(
    baseColorFactor=[60, 60, 60, 255]
  )
  file = path.parent / picture
  if picture and file.exists():
    image = Image.open(file).convert("RGB")
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
  return trimesh.Trimesh(
    triangles.reshape(-1, 3),
    np.arange(3 * len(triangles)).reshape(-1, 3),
    visual=trimesh.visual.TextureVisuals(
      uv=uv.reshape(-1, 2), material=material
    ),
    process=False,
  )


def wheels(folder: pathlib.Path) -> Iterator[trimesh.Trimesh]:
  """Tyres where the car's XML file has its wheels; y is up, x forward."""
  text = (folder / f"{folder.name}.xml").read_text("latin-1")
  for name in _WHEELS:
    x = _number(text, f"{name.split()[0]} Axle", "xpos")
    section = f"{name} Wheel"
    y = _number(text, section, "ypos")
    # Inches, and the height of the tyre as a share of its width.
    rim = _number(text, section, "rim diameter") * 0.0254 / 2
    width = _number(text, section, "tire width") / 1000
    share = _number(text, section, "tire height-width ratio")
    radius = rim + share * width
    if not radius > 0:
      continue
    for size, wide, grey in ((radius, width, 25), (rim, 1.04 * width, 150)):
      wheel = trimesh.creation.cylinder(size, wide, sections=32)
      wheel.apply_translation((x, radius, -y))
      wheel.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.PBRMaterial(
          baseColorFactor=[grey, grey, grey, 255]
        )
      )
      yield wheel


def _number(text: str, section: str, name: str) -> float:
  """A number of a section of a car's XML file, in its own units."""
  match = re.search(
    rf'<section name="{section}">.*?name="{name}"[^>]*?val="([-\d.]+)"',
    text,
    re.S,
  )
  return float(match[1]) if match else 0.0


if __name__ == "__main__":
  flags.mark_flags_as_required(["source", "output"])
  app.run(main)
