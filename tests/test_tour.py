"""The notebook runs from its first cell to its last."""

import pathlib

import pytest

from genvs_jax.checkpointing import checkpoints

NOTEBOOK = pathlib.Path(__file__).parents[1] / "docs" / "tour.ipynb"
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


@pytest.mark.slow
def test_the_tour_runs(tmp_path, monkeypatch):
  monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
  notebook = nbformat.read(NOTEBOOK, 4)
  client = nbclient.NotebookClient(
    notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}
  )
  client.execute()
  shown = [
    output["data"]
    for cell in notebook.cells
    for output in cell.get("outputs", [])
    if output["output_type"] in ("display_data", "execute_result")
  ]
  assert sum("image/png" in data or "image/gif" in data for data in shown) == 6
  assert (tmp_path / "car.gif").exists() and (tmp_path / "mine.gif").exists()


def test_the_tour_is_stored_without_outputs():
  notebook = nbformat.read(NOTEBOOK, 4)
  assert not any(cell.get("outputs") for cell in notebook.cells)
  assert not any(cell.get("execution_count") for cell in notebook.cells)
  assert "cars64-small" in checkpoints.packaged_names()
