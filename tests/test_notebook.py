"""The notebook runs top to bottom on a CPU."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs/tour.ipynb"


@pytest.mark.slow
def test_notebook_runs_top_to_bottom_and_its_export_answers(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason='needs nbformat: pip install ".[dev]"')
    client = pytest.importorskip("nbclient", reason='needs nbclient: pip install ".[dev]"')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    said = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    lines = [line for line in said.splitlines() if "_person" in line]
    assert len(lines) == 5
    assert sum(line.split("_")[0] == line.split()[1] for line in lines) >= 3  # after six short epochs
