"""tools/benchmark_ddp.py: what counts as hidden. How fast anything is, is not tested here."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import benchmark_ddp
from benchmark_ddp import Exchange, ddp


@pytest.mark.parametrize(
    ("spans", "share"),
    [
        ([(0, 2), (1, 4), (3, 5)], 4 / 7),  # all is computed at 3: 2 + 2 + 0 of 2 + 3 + 2 seconds
        ([(0, 1), (1, 2), (2, 3)], 2 / 3),
        ([(0, 5)], 0),  # one bucket leaves when all is computed
    ],
)
def test_hidden_is_what_passes_before_the_last_bucket_leaves(spans: list[tuple[float, float]], share: float) -> None:
    exchange = Exchange()
    exchange.spans = spans
    assert exchange.hidden() == pytest.approx(share)


@pytest.mark.slow
def test_ddp_has_a_row_for_each_way_and_the_share_that_it_hides() -> None:
    result = ddp(rounds=1)
    assert [row.name for row in result.rows] == [f"two processes, {name}" for name in benchmark_ddp.WAYS]
    assert len(result.notes) == len(benchmark_ddp.WAYS) - 1
    assert all(row.ours > 0 for row in result.rows)
