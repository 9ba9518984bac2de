"""Processes of a run that die, hang or come late: all stop in time and it is said which one it was; a launcher that
starts them again, or another number of them, goes on from the newest checkpoint.
"""

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
from conftest import Amount, Ledger
from outside import (
    Started,
    check_equal,
    kill_all,
    launch,
    ranks_of,
    ready_to_fork,
    said,
    start_two,
    wait_for,
    wait_for_end,
)
from tiny import MakeTree

pytestmark = pytest.mark.slow
HOW = ("train.num_epochs=4", "train.optim.lr=0.05")
ENDLESS = ("train.num_epochs=10000",)
TIMEOUT_SEC, TURN_SEC, KILL_SEC = 5, 2, 30  # train.timeout_sec, the turn to tell, torchrun's grace before SIGKILL


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> None:
    ready_to_fork()


@pytest.fixture(scope="module")
def data(make_tree: MakeTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 videos: 3 steps of 2 clips an epoch for each of two processes."""
    return make_tree(tmp_path_factory.mktemp("ranks") / "data", {"a": 6, "b": 5}, num_frames=3, modalities=("rgb",))


def wait_for_steps(process: Started, results: Path) -> None:
    """Until a run has checkpoints and is in the middle of a step."""
    while process.poll() is None and not (results / "train" / "ar_model_latest.pth").exists():
        time.sleep(0.02)
    wait_for(process, results, "step", 0.2)


def ended_within(process: Started, results: Path, seconds: float) -> bool:
    """True where all its processes have ended in time."""
    pids, until = ranks_of(results), time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    in_time = process.poll() is not None and wait_for_end(pids, 5)
    kill_all(process, pids)
    return in_time


def test_rank_that_dies_ends_all_within_25_seconds_and_is_named(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    times, lost = amount(1, 4), list[str]()
    for i in range(times):
        results, rank = tmp_path / f"run{i}" / "results", i % 2
        process = launch(data, results, *ENDLESS)
        wait_for_steps(process, results)
        os.kill(ranks_of(results)[rank], signal.SIGKILL)
        if not ended_within(process, results, 25):  # less than torchrun's grace: nobody had to be killed
            lost.append(f"run {i} did not end")
        if f"failed (exitcode: -9) local_rank: {rank}" not in said(results):
            lost.append(f"run {i} does not name rank {rank}: {said(results)[-1500:]}")
    print(lost)
    ledger.close(
        "a rank dies: all end in 25 s, it is named",
        times,
        len(lost),
        "SIGTERM stays caught while a process that lost another waits a minute for its turn to tell",
    )


def test_ranks_whose_launcher_was_killed_stop_saved_and_the_run_goes_on(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    times, lost = amount(1, 2), list[str]()
    for i in range(times):
        results = tmp_path / f"run{i}" / "results"
        process = launch(data, results, *ENDLESS)
        wait_for_steps(process, results)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if not wait_for_end(ranks_of(results), 30):
            lost.append(f"run {i} went on without its launcher")
            kill_all(process, ranks_of(results))
        epochs = len((results / "train" / "metrics.jsonl").read_text().splitlines()) + 1
        code = start_two(data, results, f"train.num_epochs={epochs}").wait()
        told = re.findall(r"^error: stopped by the end of its launcher \(torchrun\) at (.*): sav", said(results), re.M)
        if code or len(told) != 1 or f" at {told[0].removesuffix(', step 0')}\n" not in said(results):
            lost.append(f"run {i}: exit code {code}: {said(results)[-1500:]}")
        lost += [f"run {i}: {fault}" for fault in check_epochs(results, epochs)]
    print(lost)
    ledger.close(
        "torchrun is killed, its ranks are not", times, len(lost), "nobody looks whether the launcher is there"
    )


def test_rank_that_hangs_ends_all_in_time_and_is_named(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    times, lost = amount(1, 4), list[str]()
    for i in range(times):
        results, rank = tmp_path / f"run{i}" / "results", i % 2
        how = (*ENDLESS, f"train.timeout_sec={TIMEOUT_SEC}")
        process = launch(data, results, *how, TINY_RUN_TURN_SEC=str(TURN_SEC))
        wait_for_steps(process, results)
        pid = ranks_of(results)[rank]
        os.kill(pid, signal.SIGSTOP)
        if not ended_within(process, results, TIMEOUT_SEC + 2 * TURN_SEC + KILL_SEC + 10):
            lost.append(f"run {i} did not end")
        told = (
            f", pid {pid}) has ended, or has not answered for {TIMEOUT_SEC} s (train.timeout_sec): all stop. The same"
        )
        if f"error: rank {rank} (" not in said(results) or told not in said(results):
            lost.append(f"run {i} does not name rank {rank}: {said(results)[-1500:]}")
    print(lost)
    ledger.close(
        "a rank hangs: all end in time, it is named", times, len(lost), "train.timeout_sec is not handed on to torch"
    )


def test_rank_that_comes_late_ends_all_in_time_and_is_named(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    times, lost = amount(1, 2), list[str]()
    for i in range(times):
        results, rank = tmp_path / f"run{i}" / "results", i % 2
        process = launch(data, results, *HOW, f"train.timeout_sec={TIMEOUT_SEC}", TINY_RUN_LATE=f"{rank}:600")
        if not ended_within(process, results, TIMEOUT_SEC + KILL_SEC + 60):  # the start of Python and torch is in it
            lost.append(f"run {i} did not end")
        if f"error: rank {rank} did not start within {TIMEOUT_SEC} s: all stop" not in said(results):
            lost.append(f"run {i} does not name rank {rank}: {said(results)[-1500:]}")
    print(lost)
    ledger.close(
        "a rank comes late: all end in time, it is named",
        times,
        len(lost),
        "processes leave no word that they are there",
    )


def test_torchrun_with_restarts_carries_on_from_the_newest_checkpoint(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    times, rng = amount(1, 6), random.Random(3)
    undisturbed, results = tmp_path / "undisturbed" / "results", tmp_path / "killed" / "results"
    assert launch(data, undisturbed, *HOW).wait() == 0, said(undisturbed)
    process = launch(data, results, *HOW, options=(f"--max-restarts={times}",))
    for _ in range(times):
        wait_for_steps(process, results)
        pid = rng.choice(ranks_of(results))
        for path in results.parent.glob("pid.*"):
            path.unlink()
        os.kill(pid, signal.SIGKILL)
        while process.poll() is None and len(ranks_of(results)) < 2:
            time.sleep(0.02)
        (results.parent / "moment").write_text("")
    code = process.wait()
    faults = [f"exit code {code}: {said(results)[-1500:]}"] * (code != 0) or check_equal(results, undisturbed, 4)
    faults += ["it did not resume"] * (said(results).count("resuming from ") != times)
    print(faults)
    ledger.close(
        "torchrun --max-restarts after kill -9 of a rank",
        times,
        len(faults),
        "a restart finds the addresses of the dead",
    )


def test_run_resumed_with_another_number_of_processes_goes_on_with_its_epoch_and_says_so(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    times, faults = amount(1, 2), list[str]()
    for i in range(times):
        results = tmp_path / f"run{i}" / "results"
        process = launch(data, results, *ENDLESS)
        wait_for_steps(process, results)
        while process.poll() is None and len((results / "train" / "metrics.jsonl").read_text().splitlines()) < 2:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.wait()
        alone = ("--nproc-per-node=1",)  # the later of two options counts
        epochs = len((results / "train" / "metrics.jsonl").read_text().splitlines()) + 1
        code = launch(data, results, f"train.num_epochs={epochs}", options=alone).wait()
        text = said(results).rpartition("torchrun started 1 processes here")[2]
        stopped = re.search(r"error: stopped by SIGTERM at (epoch \d+), step (\d+): ", said(results))
        if not stopped or (stopped[2] != "0" and f"since the checkpoint: {stopped[1]} starts over" not in text):
            faults.append(f"run {i} does not start its epoch over: {text[-1500:]}")
        if code or "changed since the checkpoint: processes: 2 -> 1; a step has 1/2 of the clips" not in text:
            faults.append(f"run {i}: exit code {code}: {text[-1500:]}")
        faults += [f"run {i}: {fault}" for fault in check_epochs(results, epochs)]
    print(faults)
    ledger.close(
        "resumed with another number of processes",
        times,
        len(faults),
        "the step of the other number of processes is kept",
    )


def check_epochs(results: Path, num_epochs: int) -> list[str]:
    """What is wrong with metrics.jsonl, where each epoch is to be there once."""
    lines = (results / "train" / "metrics.jsonl").read_text().splitlines()
    found = [line.partition(",")[0] for line in lines]
    return ["metrics.jsonl"] * (found != [f'{{"epoch": {epoch}' for epoch in range(num_epochs)])
