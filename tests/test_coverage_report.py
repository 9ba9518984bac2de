"""tools/coverage_report.py on a file of a few lines and what coverage would say of it."""

import runpy
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "coverage_report.py"
CODE = """def f(x):
    if x:
        return 1

    # not of the code
    y = 2
    if x.is_cuda:
        y = 3
    return y
"""


def test_report_lists_lines_not_run_in_stretches_and_marks_those_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.py").write_text(CODE)
    summary = {"num_statements": 7, "covered_lines": 4, "missing_lines": 3, "percent_covered": 57.1}
    measured = {"executed_lines": [1, 2, 7, 9], "missing_lines": [3, 6, 8], "summary": summary}
    text = runpy.run_path(str(TOOL))["report"]({"totals": summary, "files": {"f.py": measured}})
    assert "4 of 7 lines are run: 57.1 %. Of the 3 others, 1 are marked GPU below." in text
    assert "| f.py | 7 | 3 | 57.1 |\n" in text
    assert text.endswith("**f.py**\n\n- 3-6: `return 1`\n- 8, GPU: `y = 3`\n")
