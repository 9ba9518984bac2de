"""Many videos at once: local worker processes, or a share for each process of a torchrun job.

In: Jobs and Settings. Out: an Outcome for each, and preprocess.jsonl, which tells the same to other programs.
"""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path

from action_recognition.errors import DataError, UserError
from action_recognition.files import write_text
from action_recognition.machine import place
from action_recognition.preprocess.extract import Outcome, Settings, extract
from action_recognition.preprocess.flow import FlowMethod, flow_method
from action_recognition.preprocess.jobs import Job
from action_recognition.preprocess.nvof import num_gpus

SUMMARY = "preprocess.jsonl"


def run_jobs(jobs: Sequence[Job], settings: Settings, num_workers: int) -> Iterator[Outcome]:
    """The outcomes of all jobs as they finish, by `num_workers` processes; in this process where it is 1.

    Stopped half-way (an error, Ctrl-C), the workers leave what they are at and take their temporary folders with them.
    """
    if num_workers == 1:
        yield from (_run(job, settings) for job in jobs)
        return
    # spawn: a child forked from a process that has opened the GPU's driver can't use it
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(num_workers, len(jobs)), context, _leave_on_sigterm)
    try:
        for future in as_completed([pool.submit(_run, job, settings) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        advice = "finished videos stay; start again, with fewer --workers"
        raise UserError(f"a worker process was killed, perhaps for want of memory; {advice}") from error
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def write_summary(target: Path, outcomes: Iterable[Outcome]) -> None:
    """target/preprocess.jsonl: a line a video, sorted; lines of earlier runs about other videos stay."""
    path = target / SUMMARY
    lines = {str(line["video"]): line for line in _lines(path)} if path.exists() else {}
    lines |= {outcome.video: outcome.line() for outcome in outcomes}
    write_text(path, "".join(json.dumps(lines[video]) + "\n" for video in sorted(lines)))


def _lines(path: Path) -> list[dict[str, object]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); remove it and start again") from error


def _run(job: Job, settings: Settings) -> Outcome:
    """One job with this process's flow method."""
    wants_method = settings.flow not in ("none", "flo")
    return extract(job, settings, _method(settings) if wants_method else None)


@lru_cache(maxsize=1)
def _method(settings: Settings) -> FlowMethod:
    """The flow method of this process: made once, as RAFT's weights and the hardware's handles take a while."""
    device = place().local_rank % max(1, num_gpus()) if settings.flow != "dis" else 0
    return flow_method(settings.flow, settings.flow_preset, settings.raft_weights, device)


def _leave_on_sigterm() -> None:
    """In a worker: Ctrl-C is for the parent to handle, which then terminates the workers by SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
