"""kill -9: a training run that is killed again and again goes on by itself and ends as if nothing had been.

A run saves every step. It is killed at moments drawn at random, or when it says that it is in the middle of something.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Amount, Ledger
from outside import (
    Forked,
    check_equal,
    damaged,
    kill_all,
    moment_of,
    ranks_of,
    ready_to_fork,
    said,
    start,
    start_two,
    wait_for,
)
from tiny import MakeTree

AIMS = ("checkpoint write", "rename", "validation", "start-up", None, "step")  # taken in turn; None: any moment


@pytest.fixture(scope="module")
def data(make_tree: MakeTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 videos: 6 steps of 2 clips an epoch, the last one of 1; with two processes 3 steps."""
    return make_tree(tmp_path_factory.mktemp("kill") / "data", {"a": 6, "b": 5}, num_frames=3, modalities=("rgb",))


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> None:
    ready_to_fork()


def killed_again_and_again(
    begin: Callable[[Path], Forked], strike: Callable[[Forked, Path], str], folder: Path, kills: int, epochs: int
) -> tuple[list[str], Counter[str], int]:
    """Runs that are begun again after each of up to 12 kills: what was lost, how often each moment was hit, how many
    runs there were.
    """
    undisturbed, rng, began = folder / "undisturbed" / "results", random.Random(1), time.monotonic()
    assert begin(undisturbed).wait() == 0, said(undisturbed)
    life_sec, faults, seen, runs = time.monotonic() - began, list[str](), Counter[str](), 0
    while seen.total() < kills:
        results, runs = folder / f"run{runs}" / "results", runs + 1
        for _ in range(min(12, kills - seen.total())):
            process, aim = begin(results), AIMS[seen.total() % len(AIMS)]
            if not wait_for(process, results, aim, 0 if aim == "start-up" else rng.uniform(0, life_sec / 2)):
                break
            seen[strike(process, results)] += 1
            faults += damaged(results)
        code = begin(results).wait()
        faults += [f"run {runs}: exit code {code}: {said(results)[-500:]}"] * (code != 0)
        faults += [f"run {runs}: {fault}" for fault in check_equal(results, undisturbed, epochs)]
    print(f"{seen.total()} kills in {runs} runs: {dict(seen)}; {faults}")
    return faults, seen, runs


def test_run_killed_at_any_moment_ends_in_the_weights_of_an_undisturbed_run(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    def strike(process: Forked, results: Path) -> str:
        where = moment_of(results) or "elsewhere"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return where

    how = ("train.num_epochs=3", "train.optim.lr=0.05")
    faults, seen, _ = killed_again_and_again(
        lambda results: start(data, results, *how), strike, tmp_path, amount(4, 70), 3
    )
    ledger.close("kill -9 of a training process", seen.total(), len(faults), "checkpoints are written in place")


@pytest.mark.slow
def test_run_under_torchrun_killed_at_any_moment_ends_in_the_weights_of_an_undisturbed_run(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    rng = random.Random(2)

    def strike(process: Forked, results: Path) -> str:
        where, pids = moment_of(results) or "elsewhere", ranks_of(results)
        one = bool(pids) and rng.random() < 0.5  # one of them, and the launcher ends the others
        if one:
            os.kill(rng.choice(pids), signal.SIGKILL)
            process.wait()
        kill_all(process, pids)
        return f"{where}, {'one' if one else 'all'}"

    how = ("train.num_epochs=6", "train.optim.lr=0.05")
    faults, seen, _ = killed_again_and_again(
        lambda results: start_two(data, results, *how), strike, tmp_path, amount(2, 30), 6
    )
    ledger.close("kill -9 under torchrun, 2 processes", seen.total(), len(faults), "checkpoints are written in place")
