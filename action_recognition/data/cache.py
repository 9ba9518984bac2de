"""The frame cache: frames of a video decoded and resized once, then read as plain bytes in every epoch.

In: videos, the size that their frames are kept at, a folder. Out: one file of packed frames a video, whole or not at
all, and made anew when the video or the size has changed. The kept size is the one that the transform resizes to
anyway, so that a clip has the same pixels with a cache and without: within one grey level (Pillow rounds a window's
place in the source, and data/quick.py resizes training images), in evaluation of whole frames bit for bit. Only
multi_scale_crop resizes twice, as the reference does. Says nothing and asks no other process: tasks/packing.py does.
"""

import glob
import hashlib
import os
import shutil
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from math import prod
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from action_recognition.clip.contract import Contract
from action_recognition.clip.transform import fit_frame, short_side_to, view_edge
from action_recognition.data.augment import Augmentation
from action_recognition.data.frames import FileFrames, FolderFrames, Size, open_source
from action_recognition.data.index import Video
from action_recognition.data.packed import HEADER_BYTES, read_header, write_packed
from action_recognition.errors import DataError

_MAX_PROBED = 100  # video files whose headers are looked at to estimate the disk that all will take
_ABANDONED_SEC = 3600.0


@dataclass(frozen=True)
class KeptSize:
    """The size of packed frames: the short side, or where that is 0, (width, height) whatever the frame's shape."""

    short_side: int
    size: Size

    @property
    def name(self) -> str:
        return f"short{self.short_side}" if self.short_side else f"{self.size[0]}x{self.size[1]}"

    def of(self, frame_size: Size) -> Size:
        """The size that a frame of (width, height) `frame_size` is kept at."""
        return short_side_to(frame_size, self.short_side) if self.short_side else self.size


def kept_for_training(augmentation: Augmentation) -> KeptSize:
    is_cropped = augmentation.crop_type != "no_crop"
    return KeptSize(augmentation.smaller_edge if is_cropped else 0, augmentation.size)


def kept_for_evaluation(contract: Contract, num_views: int = 1) -> KeptSize:
    is_cut = contract.center_crop or num_views > 1
    return KeptSize(view_edge(contract) if is_cut else 0, (contract.width, contract.height))


@dataclass(frozen=True)
class Job:
    """One video and the file that its frames are packed into."""

    video: Video
    kept: KeptSize
    path: str

    @property
    def folders(self) -> tuple[str, ...]:
        return tuple(self.video.files) or ("rgb",)


def default_cache_dir() -> Path:
    """Where frames are kept if the spec doesn't say: a folder in the user's cache."""
    by_system = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_CACHE_HOME")
    return Path(by_system or Path.home() / ".cache") / "action_recognition" / "frames"


def job_of(video: Video, kept: KeptSize, cache_dir: str | Path) -> Job:
    """The file is <kept size>-<folders>/<name and hash of the video's root>/<class>/<video>.frames in `cache_dir`."""
    source = Path(os.path.abspath(video.path))
    root = source.parent.parent
    what = f"{kept.name}-{'-'.join(video.files) or 'rgb'}"
    tag = hashlib.sha256(os.fsencode(root)).hexdigest()[:12]
    return Job(
        video, kept, str(Path(cache_dir, what, f"{root.name}-{tag}", source.parent.name, f"{source.name}.frames"))
    )


def look_up(job: Job) -> tuple[bool, str]:
    """Whether the file holds the frames of the video as it is now, and what is wrong with it where it is damaged."""
    if not os.path.exists(job.path):
        return False, ""
    try:
        header = read_header(job.path)
    except DataError as error:
        return False, str(error)
    try:
        return header is not None and (header.source, header.kept) == (fingerprint(job.video), job.kept.name), ""
    except DataError:
        return False, ""  # the video has gone; packing it will tell


def fingerprint(video: Video) -> str:
    """Changes with the size or the time of a video file, or the name, size or time of an image. DataError if gone."""
    images = [f"{folder}/{files.name(i)}" for folder, files in video.files.items() for i in range(files.count)]
    digest = hashlib.sha256()
    for name in images or [""]:
        path = os.path.join(video.path, name) if name else video.path
        try:
            stat = os.stat(path)
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error.strerror})") from error
        digest.update(os.fsencode(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
    return digest.hexdigest()


def pack_all(jobs: Sequence[Job], num_workers: int) -> Generator[tuple[Job, str], None, None]:
    """Write each job's file, in `num_workers` processes (0: in this one): (job, why its video can't be read, or '').

    DataError where a file can't be written.
    """
    if not num_workers or not jobs:
        yield from ((job, pack(job)) for job in jobs)
        return
    # Workers leave Ctrl-C to this process: it drops what has not begun and waits for the rest.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(min(num_workers, len(jobs)), get_context("spawn"), signal.signal, ignore)
    try:
        yield from zip(jobs, pool.map(pack, jobs), strict=True)
    except BrokenProcessPool as error:
        raise DataError(
            "a process that packs frames was ended from outside, mostly for want of memory; set dataset.workers lower"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def pack(job: Job) -> str:
    """Write the job's file. Returns why its video can't be read, or ''. DataError where the file can't be written."""
    frames, path = open_source(job.video), Path(job.path)
    try:
        _remove_abandoned(path)
        folders = {folder: _resized(frames, folder, job.kept) for folder in job.folders}
        write_packed(path, folders, fingerprint(job.video), job.kept.name)
    except DataError as error:
        return str(error)
    except OSError as error:
        raise DataError(
            f"{path}: can't be written ({error.strerror}); set dataset.cache_dir=FOLDER to one with room"
        ) from error
    return ""


def _resized(frames: FolderFrames | FileFrames, folder: str, kept: KeptSize) -> Iterator[np.ndarray]:
    for image in frames.images(folder):
        yield fit_frame(image, (0, 0, *image.size), kept.of(image.size))


def _remove_abandoned(path: Path) -> None:
    """Remove what a killed process has left of this file. One that is being written is never an hour old."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if time.time() - left.stat().st_mtime > _ABANDONED_SEC:
            left.unlink(missing_ok=True)


# --- the disk that it takes ---


def disk_needed(jobs: Sequence[Job]) -> int:
    """The bytes of the jobs' files: exact for folders of images, for video files an estimate from their headers."""
    files = [job for job in jobs if job.video.is_file]
    probed = files[:: max(1, len(files) // _MAX_PROBED)]
    in_files = sum(map(_bytes_of_file, probed)) * len(files) // max(1, len(probed))
    return in_files + sum(_bytes_of_folders(job) for job in jobs if not job.video.is_file)


def disk_free(folder: str | Path) -> int:
    """The bytes that are free where `folder` is or will be."""
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def _bytes_of_folders(job: Job) -> int:
    num_bytes = HEADER_BYTES
    for folder, files in job.video.files.items():
        try:
            image = next(open_source(job.video).images(folder, [0]))
        except DataError:
            continue  # packing it will tell
        num_bytes += files.count * prod(job.kept.of(image.size)) * len(image.getbands())
    return num_bytes


def _bytes_of_file(job: Job) -> int:
    import av

    try:
        with av.open(job.video.path, metadata_errors="ignore") as container:
            stream = container.streams.video[0]
            num_frames = (container.duration or 0) / av.time_base * float(stream.average_rate or 0)
            return HEADER_BYTES + round(num_frames * prod(job.kept.of((stream.width, stream.height))) * 3)
    except (av.FFmpegError, OSError, IndexError, ZeroDivisionError):
        return 0  # packing it will tell
