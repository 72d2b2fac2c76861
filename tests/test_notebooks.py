"""Executes every notebook at toy size, in a folder of its own, and looks for the files that it promises."""

import json

import pytest

from tests.commands import ENVIRONMENT, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FILES = {
    "the_whole_path": (
        "notebook_config.py",
        "runs/notebook/curves.png",
        "runs/notebook/report/report.json",
        "runs/notebook/report/index.html",
    ),
    "tpu_pretrain": ("tpu_pretrain_config.py", "runs/tpu_pretrain/curves.png"),
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_stored_without_outputs(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs_to_its_end(path, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for name, value in {**ENVIRONMENT, "LLM_JAX_NOTEBOOK_SCALE": "tiny"}.items():
        monkeypatch.setenv(name, value)  # the kernel inherits it
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()  # raises CellExecutionError at the first cell that fails
    counts = [cell["execution_count"] for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    for name in FILES[path.stem]:
        assert (tmp_path / name).stat().st_size > 0, name
