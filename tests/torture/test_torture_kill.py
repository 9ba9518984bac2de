"""kill -9: a training run that is killed again and again goes on by itself and ends as if nothing had been.

A run saves every step. It is killed at moments drawn at random, or when it says that it is in the middle of something.
"""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import Amount, Ledger
from outside import check_equal, damaged, kill_all, launch, ranks_of, ready_to_fork, start, wait_for
from tiny import MakeTree

AIMS = ("checkpoint write", "rename", "validation", "start-up", None, "step")  # taken in turn; None: any moment


@pytest.fixture(scope="module")
def data(make_tree: MakeTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 videos: 6 steps of 2 clips an epoch, the last one of 1; with two processes 3 steps."""
    return make_tree(tmp_path_factory.mktemp("kill") / "data", {"a": 6, "b": 5}, num_frames=3, modalities=("rgb",))


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> None:
    ready_to_fork()


def test_run_killed_at_any_moment_ends_in_the_weights_of_an_undisturbed_run(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    kills, how, rng = amount(4, 70), ("train.num_epochs=3", "train.optim.lr=0.05"), random.Random(1)
    undisturbed = tmp_path / "undisturbed" / "results"
    began = time.monotonic()
    process = start(data, undisturbed, *how)
    process.join()
    life_sec, faults, seen, runs = time.monotonic() - began, list[str](), Counter[str](), 0
    assert process.exitcode == 0, (undisturbed.parent / "log").read_text()
    while seen.total() < kills:
        results, runs = tmp_path / f"run{runs}" / "results", runs + 1
        for attempt in range(100):
            process = start(data, results, *how)
            aim = AIMS[seen.total() % len(AIMS)] if attempt < 12 and seen.total() < kills else "never"
            wait_for(results.parent / "moment", aim, rng.uniform(0, life_sec / 2), process.is_alive)
            if not process.is_alive():
                break
            where = (results.parent / "moment").read_text().strip() if (results.parent / "moment").exists() else ""
            process.kill()
            process.join()
            seen[where or "elsewhere"] += 1
            faults += damaged(results)
        process.join()
        log = (results.parent / "log").read_text()
        faults += [f"run {runs}: exit code {process.exitcode}: {log[-500:]}"] * (process.exitcode != 0)
        faults += [f"run {runs}: {fault}" for fault in check_equal(results, undisturbed, 3)]
    print(f"{seen.total()} kills in {runs} runs: {dict(seen)}; {faults}")
    ledger.close("kill -9 of a training process", seen.total(), len(faults), "checkpoints are written in place")


# --- under torchrun ---


@pytest.mark.slow
def test_run_under_torchrun_killed_at_any_moment_ends_in_the_weights_of_an_undisturbed_run(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    kills, how, rng = amount(2, 30), ("train.num_epochs=10", "train.optim.lr=0.05"), random.Random(2)
    undisturbed, results = tmp_path / "undisturbed" / "results", tmp_path / "killed" / "results"
    began = time.monotonic()
    assert launch(data, undisturbed, *how).wait() == 0, (undisturbed.parent / "log").read_text()
    life_sec, faults, seen = time.monotonic() - began, list[str](), Counter[str]()
    while seen.total() < kills:
        process = launch(data, results, *how)
        aim = AIMS[seen.total() % len(AIMS)]
        wait_for(
            results.parent / "moment",
            aim,
            rng.uniform(0, life_sec / 2) if aim is None else 0,
            lambda: process.poll() is None,  # noqa: B023
        )
        if process.poll() is not None:
            faults.append(f"exit code {process.returncode}")
            break
        pids = ranks_of(results)
        where = (results.parent / "moment").read_text().strip() if (results.parent / "moment").exists() else ""
        if pids and rng.random() < 0.5:  # one of them, and the launcher ends the others
            os.kill(rng.choice(pids), signal.SIGKILL)
            process.wait()
            seen[f"one: {where}"] += 1
        else:
            seen[f"all: {where}"] += 1
        kill_all(process, ranks_of(results))
        faults += damaged(results)
    code = launch(data, results, *how).wait()
    faults += [f"exit code {code}: {(results.parent / 'log').read_text()[-500:]}"] * (code != 0)
    faults += check_equal(results, undisturbed, 10)
    print(f"{seen.total()} kills: {dict(seen)}; {faults}")
    ledger.close("kill -9 under torchrun, 2 processes", seen.total(), len(faults), "NOT YET")
