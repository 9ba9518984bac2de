"""What the index of a large data set costs: listed, and out of what is remembered of it. Used by tools/benchmark.py.

The data set exists in the answers of os.scandir and os.stat only, which come at once: what is measured is the work
around them. A disk adds its own time, mostly for each folder asked: os.stat took 3.5 microseconds of a local ext4 disk.

  python tools/benchmark_index.py FOLDER [VIDEOS]    # one JSON object; the first call fills FOLDER, later ones use it
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from zlib import crc32

ROOT = "/simulated/kinetics400/train"
NUM_CLASSES = 400
NUM_VIDEOS = 240_000


@dataclass(frozen=True)
class Cost:
    """What a process took to make the index, the largest memory it ever had, and how many videos there were."""

    seconds: float
    cpu_seconds: float
    megabytes: float
    videos: int


def index_costs(num_videos: int = NUM_VIDEOS) -> tuple[Cost, Cost]:
    """The cost of listing every folder of the simulated data set, and of the index out of memory, each in a process."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = (_in_a_process(folder, num_videos) for _ in range(2))
    return first, second


def _in_a_process(folder: str, num_videos: int) -> Cost:
    done = subprocess.run(
        [sys.executable, __file__, folder, str(num_videos)], capture_output=True, text=True, check=True
    )
    return Cost(**json.loads(done.stdout))


@contextmanager
def simulated_disk(num_videos: int) -> Iterator[None]:
    """A disk with ROOT: classes of as many videos, each with 20 to 99 frames in rgb. All else is the real one."""
    scandir, stat = os.scandir, os.stat
    videos = [f"{number * 2654435761 % 2**32:08x}_{number:06d}" for number in range(num_videos // NUM_CLASSES)]
    levels = [[f"class_{label:03d}" for label in range(NUM_CLASSES)], videos, ["rgb"]]
    folders = [[_Entry(name, True) for name in level] for level in levels]  # made before anything is measured
    times = SimpleNamespace(st_mode=0o40755, st_mtime_ns=10**18, st_ctime_ns=10**18)

    def simulated_scandir(path: Any) -> Any:
        _, is_ours, inside = os.fspath(path).partition(ROOT)
        if not is_ours:
            return scandir(path)
        depth = inside.count("/")
        if depth < len(folders):
            return _Entries(iter(folders[depth]))
        return _Entries(_Entry(f"{number:06d}.jpg", False) for number in range(20 + crc32(inside.encode()) % 80))

    def simulated_stat(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> Any:
        if type(path) is str and path.startswith(ROOT):
            return times
        return stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    with patch("os.scandir", simulated_scandir), patch("os.stat", simulated_stat):
        yield


class _Entry:
    __slots__ = ("_is_folder", "name")

    def __init__(self, name: str, is_folder: bool) -> None:
        self.name, self._is_folder = name, is_folder

    def is_dir(self) -> bool:
        return self._is_folder


@dataclass
class _Entries:
    entries: Iterator[_Entry]

    def __enter__(self) -> Iterator[_Entry]:
        return self.entries

    def __exit__(self, *error: object) -> None:
        pass


def _measure(cache_dir: str, num_videos: int) -> Cost:
    from action_recognition.config import DatasetSpec
    from action_recognition.data.index import class_folders, index_classes
    from action_recognition.data.index_cache import with_memory

    with simulated_disk(num_videos):
        start, cpu_start = time.perf_counter(), time.process_time()
        find = partial(index_classes, ROOT, class_folders(ROOT), ["rgb"], "error")
        index = with_memory(find, ROOT, DatasetSpec(cache_dir=cache_dir))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    assert "torch" not in sys.modules
    return Cost(seconds, cpu_seconds, _largest_memory() / 1e6, len(index.videos))


def _largest_memory() -> int:
    """The most bytes that this process had. Linux' ru_maxrss counts those of the process that started it, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    cost = _measure(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else NUM_VIDEOS)
    print(json.dumps(vars(cost)))
