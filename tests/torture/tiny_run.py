"""A training run of the tiny network that damage is done to, in a process of its own, slowed where it is of interest.

Beside the results folder, `moment` holds what the run is in the middle of, and `pid.<rank>` its processes. Nothing of
this is in the program: the process that is killed slows itself. With TINY_RUN_LATE=1:9 rank 1 comes 9 s late; with
TINY_RUN_TURN_SEC=2 processes that lost others wait 2 s before they tell of it.

  python tiny_run.py DATA RESULTS [section.key=value ...]
"""

import io
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.run as torchrun

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import BASE, use_tiny_models

from action_recognition import files
from action_recognition.command_line import run_tool
from action_recognition.data.agreement import training_problems
from action_recognition.tasks import train
from action_recognition.training import checkpoint, distributed

MOMENTS = ("start-up", "checkpoint write", "rename", "validation", "step")
PAUSE_SEC = float(os.environ.get("TINY_RUN_PAUSE_SEC", "0.02"))
STEPS = ("train.checkpoint_interval_unit=step", "train.checkpoint_interval=1", "dataset.batch_size=2")


class Moments:
    """Says in a file what a run is in the middle of, and makes it last."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        os.pwrite(self._file, name.ljust(20).encode(), 0)
        time.sleep(PAUSE_SEC)
        yield
        os.pwrite(self._file, b" " * 20, 0)


def slowed(patch: pytest.MonkeyPatch, moment: Moments) -> None:
    """A checkpoint is written in two parts with a pause between; renames, steps and validations take their time."""
    write, replace, windows = checkpoint.CheckpointManager._write, os.replace, train.window_batches
    step_done, resume = train.Trainer.step_done, train.Trainer.resume

    def in_two_parts(self: Any, content: Any, file: Any) -> None:
        whole = io.BytesIO()
        write(self, content, whole)
        half = len(whole.getvalue()) // 2
        file.write(whole.getvalue()[:half])
        file.flush()
        with moment("checkpoint write"):
            file.write(whole.getvalue()[half:])

    def slow_replace(source: Any, target: Any) -> None:
        with moment("rename"):
            replace(source, target)
        with moment("rename"):
            pass

    def slow_windows(*args: Any) -> Iterator[Any]:
        for batch in windows(*args):
            with moment("validation"):
                yield batch

    patch.setattr(checkpoint.CheckpointManager, "_write", in_two_parts)
    patch.setattr(files.os, "replace", slow_replace)
    patch.setattr(train, "window_batches", slow_windows)
    patch.setattr(train.Trainer, "step_done", _within(step_done, moment, "step"))
    patch.setattr(train.Trainer, "resume", _within(resume, moment, "start-up"))


def _within(method: Callable[..., None], moment: Moments, name: str) -> Callable[..., None]:
    def slow(self: Any, *args: Any) -> None:
        with moment(name):
            pass
        method(self, *args)

    return slow


def overrides_of(data: Path, results: Path, *more: str) -> list[str]:
    where = (f"dataset.train_dataset_dir={data}", f"dataset.val_dataset_dir={data}", f"results_dir={results}")
    return [*where, *BASE, *STEPS, "train.device=cpu", "dataset.index_cache=false", *more]


def run(data: Path, results: Path, *more: str, log: Path | None = None) -> int:
    """The train tool, as its users start it but for the network; returns its exit code. `log`: where to say what."""
    rank = os.environ.get("RANK", "0")
    torch.set_num_threads(1)
    late_rank, _, late_sec = os.environ.get("TINY_RUN_LATE", "").partition(":")
    distributed._TURN_SEC = float(os.environ.get("TINY_RUN_TURN_SEC", distributed._TURN_SEC))
    results.parent.mkdir(parents=True, exist_ok=True)
    (results.parent / f"pid.{rank}").write_text(str(os.getpid()))
    if log:
        _say_into(log)
    if rank == late_rank:
        time.sleep(float(late_sec))
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_models(patch)
        slowed(patch, Moments(results.parent / (f"moment.{rank}" if rank != "0" else "moment")))
        words = overrides_of(data, results, *more)
        return run_tool(__file__, "", "train", [training_problems], _perform, words)


def _perform(spec: Any) -> None:
    train.train(spec, lambda text: print(text, flush=True))


def _say_into(log: Path) -> None:
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1, closefd=False), os.fdopen(2, "w", 1, closefd=False)


def run_and_exit(data: Path, results: Path, more: tuple[str, ...], log: Path) -> None:
    """`run`, as the work of a process that was forked."""
    multiprocessing.set_start_method("fork", force=True)  # readers start as they do in a process of its own
    os._exit(run(data, results, *more, log=log))


def run_two_and_exit(data: Path, results: Path, more: tuple[str, ...], log: Path) -> None:
    """torchrun with two processes, which are forked and not started anew."""
    _say_into(log)
    command = ["--standalone", "--nproc-per-node=2", __file__]
    config, _, _ = torchrun.config_from_args(torchrun.parse_args(command))
    config.start_method, config.rdzv_backend, config.rdzv_endpoint = "fork", "c10d", "localhost:0"
    torchrun.elastic_launch(config, run_as_rank)(data, results, more)


def run_as_rank(data: Path, results: Path, more: tuple[str, ...]) -> None:
    if code := run(data, results, *more):
        sys.exit(code)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
