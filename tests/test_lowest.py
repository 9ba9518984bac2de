"""tools/lowest.py: requirements of the package to the lowest versions they admit."""

import runpy
from pathlib import Path

import pytest

lowest = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "lowest.py"))["lowest"]


def test_lowest_of_core_and_runtime_extras_is_named_once_and_dev_tools_are_left_out() -> None:
    needs = [
        "torch>=2.10",
        'cv>=4.11.0.86; extra == "flow"',
        'cv>=4.11.0.86; extra == "video"',
        'ruff>=1; extra == "dev"',
    ]
    assert lowest(needs) == ["cv==4.11.0.86", "torch==2.10"]


@pytest.mark.parametrize("need", ["numpy", "numpy<3,>=1.26", 'av; extra == "video"'])
def test_lowest_of_a_need_without_one_plain_lower_bound_is_an_error(need: str) -> None:
    with pytest.raises(ValueError, match=r"^setup\.py: .* is not of the form name>=version"):
        lowest([need])
