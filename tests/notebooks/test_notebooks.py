"""Every notebook is the pair of its script, installs what it needs, and runs to its end in its small setting."""

import os
import pathlib

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def test_the_notebooks_are_there():
    assert {
        "quickstart",
        "your_own_router",
        "smaller_experts",
        "dit_moe",
        "many_devices",
        "gating_rates",
        "grouped_matmul",
    } <= {path.stem for path in NOTEBOOKS}


@every_notebook
def test_the_list_has_it_with_its_badge(path):
    lines = (path.parent / "README.md").read_text().splitlines()
    own = [line for line in lines if f"({path.name})" in line]
    assert len(own) == 1 and f"colab.research.google.com/github/moejax/moejax/blob/main/notebooks/{path.name}" in own[0]


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
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert "pip" in code[0] and "import jax" not in code[0], "what installs comes first"


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
    NotebookClient(
        notebook, timeout=600, startup_timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 3
