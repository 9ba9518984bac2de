"""SIGTERM and SIGINT: saved at the next step, 128 + signal, and the same command goes on with the next batch."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_run
from conftest import Amount, Ledger
from outside import check_equal, damaged, launch, ranks_of, ready_to_fork, said, start, wait_for
from tiny import MakeTree

AIMS = ("step", "checkpoint write", "validation", "rename")  # the moments of a run that has begun
BY_EPOCH = ("train.checkpoint_interval_unit=epoch", "train.optim.lr=0.05")  # only the signal saves within an epoch


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> None:
    ready_to_fork()


@pytest.fixture(scope="module")
def data(make_tree: MakeTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 videos: 6 steps of 2 clips an epoch, the last one of 1."""
    return make_tree(tmp_path_factory.mktemp("preempt") / "data", {"a": 6, "b": 5}, num_frames=3, modalities=("rgb",))


def halts(text: str) -> list[tuple[str, str]]:
    """Where a run was stopped, and where it went on after it."""
    stopped = re.findall(r"^error: stopped by SIG\w+ at (epoch \d+, step \d+): saved as", text, re.M)
    return list(zip(stopped, re.findall(r"^resuming from .* at (epoch \d+(?:, step \d+)?)$", text, re.M), strict=False))


def test_run_told_to_stop_saves_exits_with_128_and_the_signal_and_goes_on_with_the_next_batch(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    times, how, rng = amount(3, 60), ("train.num_epochs=3", *BY_EPOCH), random.Random(7)
    undisturbed, lost, made, runs = tmp_path / "undisturbed" / "results", list[str](), 0, 0
    start(data, undisturbed, *how).wait()
    while made < times:
        results, runs = tmp_path / f"run{runs}" / "results", runs + 1
        for _ in range(4):
            process, number = start(data, results, *how), (signal.SIGTERM, signal.SIGINT)[made % 2]
            wait_for(process, results, "step")
            if made < times and wait_for(process, results, AIMS[made % len(AIMS)], rng.uniform(0, 0.4)):
                os.kill(process.pid, number)
            code = process.wait()
            if code == 0:
                break
            made += 1
            lost += [f"run {runs}: exit code {code}"] * (code != 128 + number)
            lost += damaged(results)
        start(data, results, *how).wait()
        lost += [f"run {runs}: {a}, but {b}" for a, b in halts(said(results)) if a != b]
        lost += [f"run {runs}: {fault}" for fault in check_equal(results, undisturbed, 3)]
    print(made, runs, lost)
    ledger.close("SIGTERM and SIGINT in training", made, len(lost), "the step that is saved is one too many")


@pytest.mark.slow
def test_second_ctrl_c_leaves_at_once_with_whole_checkpoints(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    times, lost = amount(1, 5), list[str]()
    for i in range(times):
        results = tmp_path / f"run{i}" / "results"
        command = [sys.executable, tiny_run.__file__, str(data), str(results)]
        environment = {**os.environ, "TINY_RUN_PAUSE_SEC": "3"}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        wait_for(process, results, "checkpoint write")
        process.send_signal(signal.SIGINT)
        time.sleep(1.2)
        process.send_signal(signal.SIGINT)
        told = time.monotonic()
        _, error = process.communicate()
        seconds = time.monotonic() - told
        if (process.returncode, error) != (130, "left at once; the checkpoints are whole\n") or seconds > 1:
            lost.append(f"exit code {process.returncode} after {seconds:.1f} s: {error}")
        lost += damaged(results)
    print(lost)
    ledger.close("a second Ctrl-C", times, len(lost), "a second Ctrl-C is taken for the first one, passed on")


@pytest.mark.slow
def test_signal_to_one_process_or_to_torchrun_stops_both_at_the_same_step(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    times, how = amount(2, 6), ("train.num_epochs=25", "train.timeout_sec=60", *BY_EPOCH)
    undisturbed, results, lost = tmp_path / "undisturbed" / "results", tmp_path / "told" / "results", list[str]()
    assert launch(data, undisturbed, *how).wait() == 0, said(undisturbed)
    made = 0
    for i in range(times):
        process = launch(data, results, *how)
        wait_for(process, results, "step")
        if not wait_for(process, results, "step", 0.2):
            break
        pid = (process.pid, *ranks_of(results))[i % 3]
        os.kill(pid, signal.SIGTERM)
        process.wait()
        made += 1
    text = said(results)
    lost += [text[-1500:]] * (text.count("error: stopped by SIGTERM at epoch ") != made)
    code = launch(data, results, *how).wait()
    lost += [f"exit code {code}"] * (code != 0)
    lost += [f"{a}, but {b}" for a, b in halts(said(results)) if a != b] + check_equal(results, undisturbed, 25)
    print(made, lost)
    ledger.close(
        "SIGTERM to torchrun or one of 2 processes",
        made,
        len(lost),
        "a process stops when it is told, without asking the others",
    )
