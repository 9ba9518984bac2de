"""Runs of tiny_run seen from outside: started under torchrun, waited for, killed, compared."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
import tiny_run
import torch

from action_recognition.training.checkpoint import read_checkpoint

FORKED = multiprocessing.get_context("forkserver")  # torch is loaded once: a run starts in a fraction of a second
FORKED.set_forkserver_preload(["tiny_run", "torch.distributed.run"])


class Started(Protocol):
    """What is asked of a run from outside: the part of Popen that both ways of starting one have."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...


class Forked:
    """A function in a forked process."""

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self._process = FORKED.Process(target=function, args=arguments)
        self._process.start()
        self.pid: int = self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        return self._process.exitcode or 0


def ready_to_fork() -> None:
    """Start the process that runs are forked from. It finds modules by PYTHONPATH alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        process = FORKED.Process(target=time.sleep, args=(0,))
        process.start()
        process.join()


def start(data: Path, results: Path, *more: str) -> Forked:
    """tiny_run in a process of its own; what it says goes to `log`."""
    (results.parent / "moment").unlink(missing_ok=True)
    return Forked(tiny_run.run_and_exit, data, results, more, results.parent / "log")


def start_two(data: Path, results: Path, *more: str) -> Forked:
    """`launch`, but torchrun and its two processes are forked: they need not load torch, which takes them seconds."""
    _forget(results)
    return Forked(tiny_run.run_two_and_exit, data, results, more, results.parent / "log")


def _forget(results: Path) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    for path in (*results.parent.glob("pid.*"), *results.parent.glob("moment*")):
        path.unlink()


def wait_for(process: Started, results: Path, aim: str | None, delay_sec: float = 0) -> bool:
    """Until `delay_sec` are over, and then until the run is in the middle of `aim`; False where it has ended before."""
    until = time.monotonic() + delay_sec
    while process.poll() is None and (time.monotonic() < until or aim not in (None, moment_of(results))):
        time.sleep(0.001)
    return process.poll() is None


def moment_of(results: Path) -> str:
    """What a run is in the middle of."""
    path = results.parent / "moment"
    return path.read_text().strip() if path.exists() else ""


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


def launch(data: Path, results: Path, *more: str, options: tuple[str, ...] = (), **environment: str) -> Started:
    """tiny_run in two processes under torchrun, with `options` of torchrun's; what they say goes to `log`."""
    _forget(results)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with (results.parent / "log").open("ab") as log:
        command = [*torchrun, tiny_run.__file__, str(data), str(results), *more]
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def ranks_of(results: Path) -> list[int]:
    return [int(path.read_text()) for path in sorted(results.parent.glob("pid.*")) if path.read_text()]


def kill_all(process: Started, pids: list[int]) -> None:
    """End torchrun and its processes, also those that have not said yet who they are."""
    if process.poll() is None:
        os.kill(process.pid, signal.SIGSTOP)  # so that it starts no more of them
        pids = [*pids, *children_of(process.pid)]
    for pid in (*pids, process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    wait_for_end(pids)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started, by all its threads."""
    with suppress(OSError):
        return [
            int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
    return []


def wait_for_end(pids: list[int], seconds: float = 60) -> bool:
    """Until no such process is left; False where one still is after `seconds`."""
    until = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def said(results: Path) -> str:
    """What a run has written on its terminal, all its starts together."""
    return (results.parent / "log").read_text()
