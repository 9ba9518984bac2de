"""Readers that die, hang or lack memory: what is said of it, and that nothing waits for ever."""

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from action_recognition.data import workers
from action_recognition.data.dataset import Sample
from action_recognition.data.index import Video
from action_recognition.data.workers import Watched, in_time, reader_errors_told, start_reader
from action_recognition.errors import DataError


class Videos:
    """20 videos; `strange` says what reading one of them does."""

    def __init__(self, strange: Callable[[int], object]) -> None:
        self.videos = [Video(f"videos/{i}", 0, {}) for i in range(20)]
        self.strange = strange

    def __len__(self) -> int:
        return len(self.videos)

    def video_id(self, key: int) -> int:
        return key

    def __getitem__(self, key: int) -> Sample:
        self.strange(key)
        return Sample(self.videos[key], key, {"rgb": np.zeros((1, 1, 2, 2, 3), np.uint8)})


def read_all(strange: Callable[[int], object], timeout_sec: float = 60, num_workers: int = 2) -> list[int]:
    """The ids of all videos, read by workers that do something strange."""
    watched = Watched(Videos(strange), num_workers)
    how: dict[str, Any] = {"worker_init_fn": start_reader, "timeout": timeout_sec, "collate_fn": lambda s: s.video_id}
    loader: Any = DataLoader(watched, None, num_workers=num_workers, multiprocessing_context="fork", **how)
    with reader_errors_told([watched], timeout_sec):
        return list(loader)


class Started:
    """A loader whose readers run until `ready` before the first item is taken."""

    def __init__(self, loader: Any, ready: Callable[[], bool]) -> None:
        self.loader, self.ready = loader, ready

    def __iter__(self) -> Iterator[Any]:
        items = iter(self.loader)
        while not self.ready():
            time.sleep(0.01)
        time.sleep(0.1)
        return items


@pytest.fixture(autouse=True)
def no_reader_is_left() -> Iterator[None]:
    yield
    until = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


def at(video_id: int, do: Callable[[], object]) -> Callable[[int], object]:
    return lambda key: do() if key == video_id else None


def test_reader_that_is_killed_is_an_error_that_names_its_video() -> None:
    with pytest.raises(
        DataError,
        match=r"^a process that reads data has ended \(Killed\) at videos/7\. Killed mostly means too little memory: "
        r"set dataset\.workers lower",
    ):
        read_all(at(7, lambda: os.kill(os.getpid(), signal.SIGKILL)))


def test_reader_that_hangs_is_an_error_that_names_its_video_and_is_ended() -> None:
    with pytest.raises(
        DataError, match=r"^no data came for 1 s \(dataset\.timeout_sec\)\. The readers are at: videos/6\. Look at the"
    ):
        read_all(at(6, lambda: time.sleep(600)), timeout_sec=1)


def test_reader_that_stops_before_its_batch_was_fetched_is_no_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first item is announced by then, but its memory is still the reader's to hand out."""
    monkeypatch.setattr(workers, "_ALARM_LATER_SEC", 0.1)
    watched = Watched(Videos(at(2, lambda: os.kill(os.getpid(), signal.SIGSTOP))), 2)
    how: dict[str, Any] = {"worker_init_fn": start_reader, "timeout": 0.5, "multiprocessing_context": "fork"}
    loader: Any = DataLoader(watched, None, num_workers=2, collate_fn=lambda s: torch.tensor(s.video_id), **how)
    loader = Started(loader, lambda: watched.at.tolist()[0] == 2)
    told = r"^no data came for 0\.5 s \(.*The readers are at: videos/2\."
    with pytest.raises(DataError, match=told), reader_errors_told([watched], 0.5):
        list(in_time(loader, 0.5))


def test_shared_memory_too_small_for_readers_to_start_is_told_as_that() -> None:
    class Loader:
        def __iter__(self) -> Iterator[int]:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"^the readers' shared memory is full: /dev/shm has "):
        list(in_time(Loader(), 60))


def test_reader_that_dies_while_it_hands_out_a_batch_is_told_as_torch_tells_of_its_death() -> None:
    def tell(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 9) is killed by signal: Killed. ")

    def lost() -> Iterator[int]:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        raise ConnectionResetError("Connection reset by peer")
        yield 0

    before = signal.signal(signal.SIGUSR1, tell)
    with (
        pytest.raises(DataError, match=r"^a process that reads data has ended \(Killed\)\. "),
        reader_errors_told([], 60),
    ):
        list(in_time(lost(), 60))
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_that_all_processes_get_do_not_end_a_reader(number: int) -> None:
    assert read_all(at(7, lambda: os.kill(os.getpid(), number))) == list(range(20))


@pytest.mark.parametrize(
    ("text", "opening"),
    [
        (
            "DataLoader worker (pid 9) is killed by signal: Bus error. It is possible that ...",
            "the readers' shared memory is full: /dev/shm has ",
        ),
        (
            "Caught RuntimeError in DataLoader worker process 0.\nunable to allocate shared memory(shm) for file </x>",
            "the readers' shared memory is full: /dev/shm has ",
        ),
        (
            "DataLoader worker (pid(s) 9, 10) exited unexpectedly",
            "a process that reads data has ended (exit) at videos/3.",
        ),
    ],
)
def test_error_of_torchs_is_told_in_our_words_also_where_another_error_came_of_it(text: str, opening: str) -> None:
    watched = Watched(Videos(print), 2)
    watched.pids[:], watched.at[:] = torch.tensor([10, 11]), torch.tensor([3, 4])

    def fail() -> None:
        try:
            raise RuntimeError(text)
        except RuntimeError as error:
            raise OSError("can't write") from error

    with pytest.raises(DataError) as caught, reader_errors_told([watched], 60):
        fail()
    assert str(caught.value).startswith(opening)


def test_error_that_is_no_readers_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), reader_errors_told([], 60):
        raise RuntimeError("shapes differ")
