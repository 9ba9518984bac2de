"""The processes that read data: what each of them is reading, and what is said where one dies, hangs or lacks memory.

In: the dataset of a DataLoader. Out: the same samples, and DataErrors that name the video in place of torch's errors.
"""

import errno
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, Protocol, TypeVar

import torch
from torch.utils.data import Dataset, get_worker_info

from action_recognition.data.dataset import Sample
from action_recognition.data.index import Video
from action_recognition.errors import DataError

_SHARED_MEMORY = "/dev/shm"
_ENDED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed|exited)")
_SIGNAL = re.compile(r"is killed by signal: (.*?)\.")
_NO_SHARED_MEMORY = re.compile(r"Bus error|unable to \w+ shared memory", re.I)
_ALARM_LATER_SEC = 1.0  # torch's own timeout comes first, where it does come
_DEATH_SEC = 5.0  # from the loss of a process to the word of its death, which cuts this short
Item = TypeVar("Item")


class Readable(Protocol):
    """A dataset that can say which video a key is of."""

    videos: Sequence[Video]

    def video_id(self, key: Any) -> int: ...
    def __getitem__(self, key: Any) -> Sample: ...
    def __len__(self) -> int: ...


class Watched(Dataset[Sample]):
    """A dataset whose readers note in shared memory who they are and which video they are at."""

    def __init__(self, dataset: Readable, num_workers: int) -> None:
        self.dataset = dataset
        self.pids = torch.zeros(num_workers, dtype=torch.int64)
        self.at = torch.full((num_workers,), -1)
        if num_workers:
            with _lack_of_memory_told():
                self.pids.share_memory_()
                self.at.share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Sample:
        worker = get_worker_info()
        if worker is None:
            return self.dataset[key]
        self.at[worker.id] = self.dataset.video_id(key)
        sample = self.dataset[key]
        self.at[worker.id] = -1
        return sample

    def reading(self, pids: Sequence[int] = ()) -> list[str]:
        """The videos that the readers, or those among `pids`, are in the middle of."""
        pairs = zip(self.pids.tolist(), self.at.tolist(), strict=True)
        return [self.dataset.videos[at].path for pid, at in pairs if at >= 0 and (not pids or pid in pids)]


def start_reader(worker_id: int) -> None:
    """What a reader does first: it leaves it to the process it reads for to end on Ctrl-C, or where all are told to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    worker = get_worker_info()
    if worker is not None and isinstance(worker.dataset, Watched):
        worker.dataset.pids[worker_id] = os.getpid()


@contextmanager
def reader_errors_told(watched: Sequence[Watched], timeout_sec: float) -> Iterator[None]:
    """In the block, a reader that dies or hangs is a DataError. Whatever ends it early ends the readers, too.

    torch tells of a reader's death wherever the program is at that moment, so this stands around all of it.
    """
    try:
        yield
    except BaseException as error:
        text = _told(error, watched, timeout_sec)
        _end_readers(watched)
        if text:
            raise DataError(text) from error
        raise


def in_time(loader: Iterable[Item], timeout_sec: float) -> Iterator[Item]:
    """The items of a DataLoader with readers; RuntimeError as torch's where one does not come, by an alarm.

    A reader hands the memory of its batches out itself, and torch's own timeout ends before it asks for that: one that
    is stopped as a whole would be waited for without end.
    """
    end: Any = object()
    with _lack_of_memory_told(), _death_awaited(), _alarm(timeout_sec):
        items = iter(loader)
    while True:
        with _death_awaited(), _alarm(timeout_sec):
            item = next(items, end)
        if item is end:
            return
        yield item


@contextmanager
def _lack_of_memory_told() -> Iterator[None]:
    """Locks and queues lie in shared memory, too: DataError where there is no room for what readers need to start."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if getattr(error, "errno", 0) != errno.ENOSPC and not _NO_SHARED_MEMORY.search(str(error)):
            raise
        raise DataError(_shared_memory_is_full()) from error


@contextmanager
def _death_awaited() -> Iterator[None]:
    """Where a reader is lost that was to hand out memory, torch's error, which says of what it died, is waited for."""
    try:
        yield
    except (ConnectionError, EOFError):
        time.sleep(_DEATH_SEC)
        raise


@contextmanager
def _alarm(timeout_sec: float) -> Iterator[None]:
    """RuntimeError where the block takes longer, 0 = any time. Off where there are no alarms, or one is set already."""
    is_main = threading.current_thread() is threading.main_thread()
    if not (timeout_sec and is_main and hasattr(signal, "setitimer")) or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> NoReturn:
        raise RuntimeError(f"DataLoader timed out after {timeout_sec:g} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, timeout_sec + _ALARM_LATER_SEC)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _told(error: BaseException | None, watched: Sequence[Watched], timeout_sec: float) -> str:
    """What is to be said of an error that came of a reader; "" of others."""
    text = ""
    while error is not None:  # an error may be the reader's, or have come of it
        text, error = f"{text}\n{error}", error.__cause__ or error.__context__
    if "DataLoader" not in text:
        return ""
    if _NO_SHARED_MEMORY.search(text):
        return _shared_memory_is_full()
    if ended := _ENDED.search(text):
        pids, by = [int(pid) for pid in ended[1].split(",")], _SIGNAL.search(text)
        videos = _some([path for w in watched for path in w.reading(pids)])
        return (
            f"a process that reads data has ended ({by[1] if by else 'exit'}){f' at {videos}' if videos else ''}. "
            "Killed mostly means too little memory: set dataset.workers lower; else look at that video. The same "
            "command goes on from the newest checkpoint"
        )
    if "DataLoader timed out" in text:
        videos = _some([path for w in watched for path in w.reading()])
        return (
            f"no data came for {timeout_sec:g} s (dataset.timeout_sec). The readers are at: {videos or 'nothing'}. "
            f"Look at the disk and at these videos, or allow more time. {_shared_memory()}"
        )
    return ""


def _shared_memory_is_full() -> str:
    return f"the readers' shared memory is full: {_shared_memory()}"


def _shared_memory() -> str:
    try:
        usage = shutil.disk_usage(_SHARED_MEMORY)
    except OSError:
        return "set dataset.workers=0"
    sizes = f"{usage.free / 2**20:,.0f} of {usage.total / 2**20:,.0f} MiB"
    return (
        f"{_SHARED_MEMORY} has {sizes} free; where that is too little, enlarge it (docker run --shm-size=8g) or set "
        + ("dataset.workers or dataset.batch_size lower")
    )


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")


def _end_readers(watched: Sequence[Watched]) -> None:
    """Kill them: one that hangs would be waited for when this process ends."""
    pids = {pid for w in watched for pid in w.pids.tolist()}
    readers = [child for child in multiprocessing.active_children() if child.pid in pids]
    is_main = threading.current_thread() is threading.main_thread()
    if readers and is_main:
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise at each
    for reader in readers:
        reader.kill()
    for reader in readers:
        reader.join(5)  # one that waits for a dead disk can't even be killed
    if readers and is_main:
        signal.signal(signal.SIGCHLD, before)
