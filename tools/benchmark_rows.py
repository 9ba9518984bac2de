"""Rows of a benchmark, and how they are measured: several ways of doing one thing take turns.

Shared by the tools/benchmark*.py; measures nothing by itself.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measurement: medians in `unit`; limit is ours over the physical limit, or None.

    A cost (seconds, megabytes) is better when it is smaller, a rate when it is larger. What is wanted of the row is a
    ratio, a share of the limit, or for a cost how much it may be at most.
    """

    name: str
    unit: str
    ours: float
    reference: float
    limit: float | None = None
    is_cost: bool = False
    wanted_ratio: float | None = None
    wanted_limit: float | None = None
    at_most: float | None = None

    @property
    def ratio(self) -> float:
        """How many times better than the reference ours is."""
        return self.reference / self.ours if self.is_cost else self.ours / self.reference

    @property
    def wanted(self) -> str:
        """What the row should reach, and whether it does."""
        targets: list[tuple[str, bool]] = []
        if self.wanted_ratio is not None:
            targets.append((f"ratio {self.wanted_ratio:g}", self.ratio >= self.wanted_ratio))
        if self.wanted_limit is not None:
            targets.append((f"{self.wanted_limit:.0%} of the limit", (self.limit or 0) >= self.wanted_limit))
        if self.at_most is not None:
            targets.append((f"at most {self.at_most:g} {self.unit}", self.ours <= self.at_most))
        return "; ".join(text if holds else f"{text}: **falls short**" for text, holds in targets)

    def to_plain(self) -> dict[str, Any]:
        """The row for JSON. More than the limit is noise of the measurement and becomes 1 here; the table has it."""
        limit = None if self.limit is None else min(1.0, self.limit)
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "reference": self.reference,
            "ratio": self.ratio,
            "limit": limit,
        }


@dataclass
class Result:
    """What a subcommand found: rows, and what must be said beside them."""

    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def rates(
    ways: Mapping[str, Callable[[], float]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """The median rate of each way, in what it returns for a second; the ways take turns, after one round unmeasured."""
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, way in ways.items():
            start = clock()
            work = way()
            elapsed = max(clock() - start, 1e-9)
            if i > 0:
                measured[name].append(work / elapsed)
    return {name: statistics.median(values) for name, values in measured.items()}


def table(result: Result) -> str:
    """The rows as Markdown, and the notes below them."""
    lines = ["| what | unit | ours | reference | ratio | of the limit | wanted |", "|---|---|---|---|---|---|---|"]
    for row in result.rows:
        limit = "" if row.limit is None else f"{row.limit:.1%}"
        ours, reference = (f"{x:.3g}" if abs(x) < 100 else f"{x:.0f}" for x in (row.ours, row.reference))
        lines.append(f"| {row.name} | {row.unit} | {ours} | {reference} | {row.ratio:.2f} | {limit} | {row.wanted} |")
    if any((row.limit or 0) > 1 for row in result.rows):
        result.notes.append("More than 100 % of the limit is noise of the measurement.")
    return "\n".join([*lines, *(f"\n{note}" for note in result.notes)])
