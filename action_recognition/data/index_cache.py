"""What frame folders held when they were last listed, so that only those that have changed are listed again.

In: the dataset section of a spec, the root of a data set, and the function that makes its index. Out: the same index,
to the last name. Class folders are always listed; a frame folder is taken to hold what it held while its times are what
they were, since adding, removing or renaming a file changes them. That is one question to the disk for a folder, in
place of all of its names. For 240,000 videos on a disk that answers at once it took 1.5 to 1.8 s and 165 MB of memory,
where listing every folder took 36 s (tools/benchmark_index.py, CPU time of a busy core).

One file a root, in the folder of the frame cache: a checksum, then lines of JSON. A file that is damaged or of another
format is made anew. Small roots have none: listing them takes no time.
"""

import functools
import gc
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

from action_recognition.config import DatasetSpec
from action_recognition.data.cache import default_cache_dir
from action_recognition.data.index import FrameFiles, Index, ListFrames, list_frames
from action_recognition.files import write_whole

MIN_VIDEOS = 1000
_FORMAT = b"action_recognition index 1"
_UNSETTLED_NS = 2_000_000_000  # the coarsest clock of a file system (FAT's) ticks every 2 s
_NOTHING = (-1, FrameFiles(0))  # in place of what is not known; no state is negative


def with_memory(find: Callable[[ListFrames], Index], root: str | Path, dataset: DatasetSpec) -> Index:
    """The index that `find` makes of `root` with the way to list frame folders that it is given.

    What is learnt of a large root is kept for the next time, also where `find` fails or is interrupted. A file that
    can't be used or kept is a note of the index, never an error.
    """
    if not dataset.index_cache:
        return find(list_frames)
    path = cache_path(root, dataset.cache_dir or default_cache_dir())
    with _no_search_for_cycles():
        known, trouble = _read(path)
        try:
            index = find(known.frames_in)
        except BaseException:
            _write(path, known)
            raise
    videos = [*(video.path for video in index.videos), *(path for path, _ in index.skipped)]
    trouble += _write(path, known, videos)
    index.notes.extend(f"{path}: {text}" for text in trouble)
    return index


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Among a million new objects that all stay, Python would look for them again and again: a sixth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def cache_path(root: str | Path, cache_dir: str | Path) -> Path:
    """The file of a data set: its name and a hash of its place."""
    place = Path(os.path.abspath(root))
    return Path(cache_dir, "index", f"{place.name[:50]}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:12]}.jsonl")


class FrameFolders:
    """What is known of frame folders: {(place of the videos, sub-folder): {video: (state, what it held then)}}."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], dict[str, tuple[int, FrameFiles]]] = {}
        self.has_learnt = False
        self._distinct: dict[FrameFiles, FrameFiles] = {}
        self._absolute = functools.cache(os.path.abspath)

    def frames_in(self, video: str, folder: str) -> FrameFiles:
        """list_frames, but asking the disk for names only where that is needed. For several threads at once."""
        times = os.stat(f"{video}{os.sep}{folder}")  # before it is listed: a change in between shows the next time
        # Archives and copies bring the time of change along, but not that of the entry (on Windows: of creation).
        state = times.st_mtime_ns + times.st_ctime_ns
        place, _, name = video.rpartition(os.sep)
        place = self._absolute(place)
        state_then, files = self.known.get((place, folder), {}).get(name, _NOTHING)
        if state == state_then:
            return files
        files = list_frames(video, folder)
        files = self._distinct.setdefault(files, files)
        if _is_settled(times):
            self.known.setdefault((place, folder), {})[name] = state, files
            self.has_learnt = True
        return files

    def names(self) -> dict[str, list[str]]:
        """All videos that something is known of: {place: names}."""
        found: dict[str, set[str]] = {}
        for (place, _), videos in self.known.items():
            found.setdefault(place, set()).update(videos)
        return {place: sorted(names) for place, names in found.items()}

    def names_of(self, videos: Iterable[str]) -> dict[str, list[str]]:
        """These videos as {place: names}."""
        found: dict[str, list[str]] = {}
        for place, _, name in sorted(video.rpartition(os.sep) for video in videos):
            found.setdefault(self._absolute(place), []).append(name)
        return found


def _is_settled(times: os.stat_result) -> bool:
    """False for a folder that changed a moment ago, as it may change again within one tick of the disk's clock.

    False, too, on disks that date no folder.
    """
    return times.st_mtime_ns > 0 and max(times.st_mtime_ns, times.st_ctime_ns) < time.time_ns() - _UNSETTLED_NS


# --- the file ---


def _read(path: Path) -> tuple[FrameFolders, list[str]]:
    """What the file says, and what is wrong with it. Nothing is known where there is none."""
    found = FrameFolders()
    try:
        with path.open("rb") as file:
            start = file.readline()
            if start != _start(hashlib.file_digest(file, "sha256").hexdigest()):
                return found, ["is damaged or of another version: all folders are listed again"]
            file.seek(len(start))
            distinct = [_frame_files(*fields) for fields in json.loads(file.readline())]
            for line in file:
                place, names, folders = json.loads(line)
                for folder, (states, ids) in folders.items():
                    rows = zip(names, states, ids, strict=True)
                    found.known[place, folder] = {name: (state, distinct[i]) for name, state, i in rows if state >= 0}
    except FileNotFoundError:
        pass
    except OSError as error:
        return FrameFolders(), [f"can't be read ({error.strerror}): all folders are listed again"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):  # a checksum proves no origin
        return FrameFolders(), ["was not written by this program: all folders are listed again"]
    return found, []


def _frame_files(count: int, prefix: str, first: int, digits: int, suffix: str, names: list[str]) -> FrameFiles:
    return FrameFiles(count, prefix, first, digits, suffix, tuple(names))


def _write(path: Path, known: FrameFolders, videos: list[str] | None = None) -> list[str]:
    """Keep what is new of a large root, of these videos only where they are given. Returns what went wrong."""
    if not known.has_learnt:
        return []
    names = known.names() if videos is None else known.names_of(videos)
    if sum(map(len, names.values())) < MIN_VIDEOS:
        return []
    content = b"".join(_lines(known, names))
    start = _start(hashlib.sha256(content).hexdigest())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.writelines((start, content)))
    except OSError as error:
        return [f"can't be written ({error.strerror}): all folders are listed again next time"]
    return []


def _start(checksum: str) -> bytes:
    return _FORMAT + b" " + checksum.encode() + b"\n"


def _lines(known: FrameFolders, names: dict[str, list[str]]) -> Iterator[bytes]:
    """The distinct contents of folders, then a line for each place: [place, names, {folder: [states, ids]}]."""
    ids: dict[FrameFiles, int] = {}
    folders: dict[str, dict[str, tuple[list[int], list[int]]]] = {place: {} for place in names}
    for (place, folder), videos in known.known.items():
        if place in names:
            rows = [videos.get(name, _NOTHING) for name in names[place]]
            folders[place][folder] = [state for state, _ in rows], [ids.setdefault(f, len(ids)) for _, f in rows]
    lines = [json.dumps([place, names[place], folders[place]]).encode() + b"\n" for place in names]
    yield json.dumps([astuple(files) for files in ids]).encode() + b"\n"
    yield from lines
