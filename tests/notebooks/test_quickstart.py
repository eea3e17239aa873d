"""Every notebook is the pair of its script, installs what it needs, and runs to its end in its small setting."""

import os
import pathlib

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def test_the_quickstart_is_there():
    assert "quickstart" in {path.stem for path in NOTEBOOKS}


@every_notebook
def test_it_is_the_pair_of_its_script(path):
    notebook, script = nbformat.read(path, as_version=4), jupytext.read(path.with_suffix(".py"))
    cells = [[(cell.cell_type, cell.source) for cell in document.cells] for document in (notebook, script)]
    assert cells[0] == cells[1], "run `make notebooks`"


@every_notebook
def test_it_opens_in_colab(path):
    notebook = nbformat.read(path, as_version=4)
    assert f"colab.research.google.com/github/moejax/moejax/blob/main/notebooks/{path.name}" in notebook.cells[0].source
    assert notebook.metadata.kernelspec.name == "python3"
    assert any("pip" in cell.source for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.slow
@every_notebook
def test_it_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("MOEJAX_SMOKE", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own backend puts figures into the notebook
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path.parents[1]), str(path.parents[1] / "kernels")]))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 3
