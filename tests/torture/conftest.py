"""What the damage tests share: how much damage to do, and the ledger of what was done and lost.

`make test` does a little of each; AR_TORTURE=long does all of it, and with AR_TORTURE_LEDGER=FILE each test leaves its
line there, which tools/torture.py makes docs/reliability.md of.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
Amount = Callable[[int, int], int]


@pytest.fixture(scope="session")
def amount() -> Amount:
    """amount(few, many): how often to do damage in the short and in the long form."""
    is_long = os.environ.get("AR_TORTURE") == "long"
    return lambda few, many: many if is_long else few


class Ledger:
    """Notes what a test did, then fails it where anything was lost."""

    def __init__(self, part: str) -> None:
        self.part = part

    def close(self, damage: str, made: int, lost: int, fails_when: str) -> None:
        """`made` faults of a kind, of which `lost` lost something. `fails_when`: the break that the test was seen to
        find.
        """
        line = {"part": self.part, "damage": damage, "made": made, "lost": lost, "fails_when": fails_when}
        if path := os.environ.get("AR_TORTURE_LEDGER"):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        assert made > 0, f"{damage}: none was made"
        assert lost == 0, f"{damage}: {lost} of {made} lost something"


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> Ledger:
    """The ledger of a test's part: the name of its file after test_torture_."""
    return Ledger(request.path.stem.removeprefix("test_torture_"))
