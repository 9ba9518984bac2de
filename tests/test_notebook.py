"""The notebook runs top to bottom on a CPU, and holds what it printed and drew."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs/tour.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
TEXT_OF_CELLS = {
    cell["id"]: [line for out in cell.get("outputs", ()) for line in out.get("text", ())] for cell in CELLS
}


def test_notebook_holds_outputs_of_one_run_with_pictures_below_400_kb() -> None:
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    pictures = [output for cell in code for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    assert {output.get("name", "stdout") for cell in code for output in cell["outputs"]} == {"stdout"}
    assert NOTEBOOK.stat().st_size < 400_000


def test_notebook_names_no_path_of_a_machine_and_no_time_of_day() -> None:
    said = "".join(line for lines in TEXT_OF_CELLS.values() for line in lines)
    assert re.findall(r"(?<![\w.])/\w+/\S*|\d{4}-\d\d-\d\d|\d\d:\d\d", said) == []
    assert [cell["metadata"] for cell in CELLS if cell["metadata"]] == []  # where the times of a run would stand


@pytest.mark.slow
def test_notebook_runs_top_to_bottom_and_its_export_answers(tmp_path: Path) -> None:
    pytest.importorskip("nbformat", reason='needs nbformat: pip install ".[dev]"')
    pytest.importorskip("nbclient", reason='needs nbclient: pip install ".[dev]"')
    sys.path.insert(0, str(ROOT / "tools"))
    import run_notebook

    (tmp_path / "docs").mkdir()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    cells = run_notebook.executed(NOTEBOOK, tmp_path / "docs").cells
    said = "".join(output.get("text", "") for output in cells[-1].outputs)
    lines = [line for line in said.splitlines() if "_person" in line]
    assert len(lines) == 5
    assert sum(line.split("_")[0] == line.split()[1] for line in lines) >= 3  # after six short epochs
