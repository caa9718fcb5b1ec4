"""The notebook of the examples runs, and shows its tables and pictures."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def test_the_notebook_runs_and_shows_what_it_makes(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    preprocessors = pytest.importorskip("nbconvert.preprocessors")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # what is kept is the code
    preprocessors.ExecutePreprocessor(timeout=300, kernel_name="python3").preprocess(notebook, {"metadata": {"path": tmp_path}})
    assert all(cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "Warning" not in "".join(output["text"] for output in outputs if output.output_type == "stream")
    shown = [output for output in outputs if output.output_type == "execute_result"]
    tables = [output.data["text/html"] for output in shown if "text/html" in output.data]
    pictures = [output for output in shown if "image/png" in output.data]
    assert [table.count("<table") for table in tables] == [1, 1, 1]
    assert "chosen on a held-out 10% of each experience" in tables[-1]
    assert len(pictures) == 3
    for picture in pictures:
        assert base64.b64decode(picture.data["image/png"]).startswith(b"\x89PNG")
        assert picture.metadata["image/png"]["width"] > 300
