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
from typing import Any

import pytest
import tiny_run
import torch

from action_recognition.training.checkpoint import read_checkpoint

Alive = Callable[[], bool]
Torchrun = subprocess.Popen[bytes]
FORKED = multiprocessing.get_context("forkserver")  # torch is loaded once: a run starts in a fraction of a second
FORKED.set_forkserver_preload(["tiny_run"])


def ready_to_fork() -> None:
    """Start the process that runs are forked from. It finds modules by PYTHONPATH alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
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


def launch(data: Path, results: Path, *more: str, options: tuple[str, ...] = (), **environment: str) -> Torchrun:
    """tiny_run in two processes under torchrun, with `options` of torchrun's; what they say goes to `log`."""
    results.parent.mkdir(parents=True, exist_ok=True)
    for path in (*results.parent.glob("pid.*"), *results.parent.glob("moment*")):
        path.unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with (results.parent / "log").open("ab") as log:
        command = [*torchrun, tiny_run.__file__, str(data), str(results), *more]
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def ranks_of(results: Path) -> list[int]:
    return [int(path.read_text()) for path in sorted(results.parent.glob("pid.*")) if path.read_text()]


def kill_all(process: Torchrun, pids: list[int]) -> None:
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
