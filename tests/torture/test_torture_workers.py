"""Processes that read data: killed, hung, without shared memory. The run ends in time, says why, and goes on."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run
from conftest import Amount, Ledger
from outside import check_equal, children_of, kill_all, ready_to_fork, said, start, wait_for, wait_for_end
from tiny import MakeTree

HOW = ("train.num_epochs=3", "train.optim.lr=0.05", "dataset.workers=2")
PATIENT, HASTY = "dataset.timeout_sec=60", "dataset.timeout_sec=3"
LARGE = ("dataset.output_shape=[64, 64]", "dataset.augmentation_config.crop_smaller_edge=66")


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> None:
    ready_to_fork()


@pytest.fixture(scope="module")
def data(make_tree: MakeTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 videos: 6 steps of 2 clips an epoch, the last one of 1."""
    return make_tree(tmp_path_factory.mktemp("workers") / "data", {"a": 6, "b": 5}, num_frames=3, modalities=("rgb",))


def harm_a_reader(data: Path, results: Path, number: int, patience: str, rng: random.Random) -> tuple[int, list[int]]:
    """A signal to one reader of a run. Returns the run's exit code, and its readers."""
    process = start(data, results, *HOW, patience)
    wait_for(process, results, "step")
    wait_for(process, results, "step", rng.uniform(0, 0.3))
    readers = children_of(process.pid)
    for reader in rng.sample(readers, min(1, len(readers))):
        os.kill(reader, number)
    if not wait_for_end([process.pid], 60):
        kill_all(process, readers)
    return process.wait(), readers


@pytest.mark.parametrize(
    ("number", "what", "patience", "message", "fails_when"),
    [
        (
            signal.SIGKILL,
            "killed",
            PATIENT,
            "error: a process that reads data has ended (",
            "torch's error is told as it is",
        ),
        (
            signal.SIGSTOP,
            "stopped (hangs)",
            HASTY,
            "error: no data came for 3 s (dataset.timeout_sec). ",
            "the wait for a batch's memory has no alarm",
        ),
    ],
)
def test_reader_that_is_lost_ends_the_run_in_time_with_its_reason_and_the_run_goes_on(
    number: int,
    what: str,
    patience: str,
    message: str,
    fails_when: str,
    data: Path,
    tmp_path: Path,
    amount: Amount,
    ledger: Ledger,
) -> None:
    times, rng, lost = amount(1, 20 if number == signal.SIGKILL else 12), random.Random(8), list[str]()
    undisturbed, made, i = tmp_path / "undisturbed" / "results", 0, 0
    assert start(data, undisturbed, *HOW, PATIENT).wait() == 0, said(undisturbed)
    while made < times:
        results, i = tmp_path / f"run{i}" / "results", i + 1
        code, readers = harm_a_reader(data, results, number, patience, rng)
        if code == 0:
            continue  # all was read already
        made += 1
        if code != 1 or message not in said(results):
            lost.append(f"run {i}: exit code {code}: {said(results)[-800:]}")
        lost += [f"run {i}: a reader is left"] * (not wait_for_end(readers, 10))
        start(data, results, *HOW, PATIENT).wait()
        lost += [f"run {i}: {fault}" for fault in check_equal(results, undisturbed, 3)]
    print(made, i, lost)
    ledger.close(f"a reader is {what}", made, len(lost), fails_when)


@pytest.mark.slow
def test_shared_memory_that_is_used_up_ends_the_run_in_time_with_its_reason_and_the_run_goes_on(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger
) -> None:
    """In a mount namespace of its own, with a /dev/shm of a few pages."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own (unshare -m), which this user may not make")
    times, lost, how = amount(1, 4), list[str](), (*HOW, PATIENT, *LARGE)
    undisturbed = tmp_path / "undisturbed" / "results"
    assert start(data, undisturbed, *how).wait() == 0, said(undisturbed)
    for i in range(times):
        results, size = tmp_path / f"run{i}" / "results", 8 * (2 * i + 3)
        run = [sys.executable, tiny_run.__file__, str(data), str(results), *how]
        command = [
            "unshare",
            "-m",
            "sh",
            "-c",
            f'mount -t tmpfs -o size={size}k none /dev/shm && exec "$@"',
            "sh",
            *run,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode != 1 or "error: the readers' shared memory is full: /dev/shm has " not in done.stderr:
            lost.append(f"{size} KiB: exit code {done.returncode}: {done.stderr[-1500:]}")
        start(data, results, *how).wait()
        lost += [f"run {i}: {fault}" for fault in check_equal(results, undisturbed, 3)]
    print(lost)
    ledger.close("/dev/shm used up", times, len(lost), "what failed in shared memory is told as it comes from torch")
