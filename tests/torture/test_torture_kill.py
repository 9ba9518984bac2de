"""kill -9: a training run that is killed again and again goes on by itself and ends as if nothing had been.

A run saves every step. It is killed at moments drawn at random, or when it says that it is in the middle of something.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Amount, Ledger
from tiny import MakeTree

from action_recognition.training.checkpoint import read_checkpoint

sys.path.insert(0, str(Path(__file__).parent))
import tiny_run

AIMS = ("checkpoint write", "rename", "validation", "start-up", None, "step")  # taken in turn; None: any moment
FORKED = multiprocessing.get_context("forkserver")  # torch is loaded once: a run starts in a fraction of a second
FORKED.set_forkserver_preload(["tiny_run"])
Alive = Callable[[], bool]


@pytest.fixture(scope="module")
def data(make_tree: MakeTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 videos: 6 steps of 2 clips an epoch, the last one of 1; with two processes 3 steps."""
    return make_tree(tmp_path_factory.mktemp("kill") / "data", {"a": 6, "b": 5}, num_frames=3, modalities=("rgb",))


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> None:
    """Start the process that runs are forked from. It finds modules by PYTHONPATH alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(Path(tiny_run.__file__).parent), os.environ.get("PYTHONPATH", "")])
        )
        process = FORKED.Process(target=time.sleep, args=(0,))
        process.start()
        process.join()


def start(data: Path, results: Path, *more: str) -> Any:
    (results.parent / "moment").unlink(missing_ok=True)
    process = FORKED.Process(target=tiny_run.run_and_exit, args=(data, results, more, results.parent / "log"))
    process.start()
    return process


def wait_for(moment: Path, aim: str | None, delay_sec: float, is_alive: Alive) -> None:
    """Until `delay_sec` are over, and then until the run is in the middle of `aim`."""
    until = time.monotonic() + delay_sec
    while is_alive() and time.monotonic() < until:
        time.sleep(0.001)
    while aim and is_alive() and not (moment.exists() and moment.read_text().strip() == aim):
        time.sleep(0.001)


def weights_and_figures(results: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What must not differ by a bit: the weights, what the optimizer keeps, the figures that were not timed."""
    content = read_checkpoint(results / "train" / "ar_model_latest.pth")
    rows = [json.loads(line) for line in (results / "train" / "metrics.jsonl").read_text().splitlines()]
    rows = [{name: value for name, value in row.items() if not name.endswith("_sec")} for row in rows]
    momenta = [state["momentum_buffer"] for state in content["optimizer"]["state"].values()]
    return {**content["state_dict"], **{f"momentum {i}": m for i, m in enumerate(momenta)}}, rows


def check_equal(results: Path, undisturbed: Path, num_epochs: int) -> list[str]:
    """What differs from the run that nothing has disturbed, and what was left lying about."""
    (weights, rows), (expected, expected_rows) = weights_and_figures(results), weights_and_figures(undisturbed)
    faults = [name for name in expected if not torch.equal(weights[name], expected[name])]
    faults += ["metrics.jsonl"] * (rows != expected_rows or [row["epoch"] for row in rows] != [*range(num_epochs)])
    names, expected_names = (sorted(os.listdir(folder / "train")) for folder in (results, undisturbed))
    return faults + ["files: " + ", ".join(set(names) ^ set(expected_names))] * (names != expected_names)


def damaged(results: Path) -> list[str]:
    """The checkpoints that can't be read: none, whenever a run was killed."""
    found = []
    for path in (results / "train").glob("*.pth"):
        try:
            read_checkpoint(path)
        except Exception as error:
            found.append(f"{path.name}: {error}")
    return found


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


def launch(data: Path, results: Path, *more: str) -> "subprocess.Popen[bytes]":
    results.parent.mkdir(parents=True, exist_ok=True)
    for path in (*results.parent.glob("pid.*"), *results.parent.glob("moment*")):
        path.unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", tiny_run.__file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (results.parent / "log").open("ab") as log:
        command = [*torchrun, str(data), str(results), *more]
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def ranks_of(results: Path) -> list[int]:
    return [int(path.read_text()) for path in sorted(results.parent.glob("pid.*")) if path.read_text()]


def kill_all(process: "subprocess.Popen[bytes]", pids: list[int]) -> None:
    for pid in (process.pid, *pids):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.01)


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
    ledger.close("kill -9 under torchrun, 2 processes", seen.total(), len(faults), "checkpoints are written in place")
