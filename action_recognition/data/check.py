"""Every frame of every video decoded: what can't be read, and what can but looks wrong.

In: Found videos of one or more data sets. Out: a Finding of each, twins (two videos with the same content), and lists
of the good and the bad. The frames come from the readers that training uses, so what passes here can be trained on.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from action_recognition.clip.video import Damage, read_video
from action_recognition.data.frames import open_source
from action_recognition.data.index import UNKNOWN, FrameFiles, Video
from action_recognition.data.survey import FRAME_FOLDERS, Found, image_names
from action_recognition.errors import DataError
from action_recognition.files import write_whole

FLAT_LEVELS = 2.0  # a picture whose channels spread less (standard deviation, of 255) is of one colour
BLACK_LEVEL = 20.0  # video's black is level 16
STILL_LEVELS = 0.5  # mean difference to the first picture; less is noise of the encoder
_EVERY_PX = 4  # pixels looked at, across and down


@dataclass(frozen=True)
class Finding:
    """What became known of a video: frames decoded, why it can't be read, what looks wrong, a hash of its bytes."""

    video: Found
    num_frames: int = 0
    problem: str = ""
    suspicions: tuple[str, ...] = ()
    digest: str = ""


@dataclass
class _Pictures:
    """What the pictures of one folder, or of a video file, have looked like so far."""

    count: int = 0
    flat: list[int] = field(default_factory=list)
    black: list[int] = field(default_factory=list)
    is_still: bool = True
    _first: np.ndarray | None = None

    def add(self, picture: np.ndarray) -> None:
        """Look at the next picture, (H, W) or (H, W, C) uint8."""
        part = picture[::_EVERY_PX, ::_EVERY_PX].reshape(-1, picture.shape[2] if picture.ndim == 3 else 1).astype(float)
        if part.std(axis=0).max() < FLAT_LEVELS:
            (self.black if part.mean() < BLACK_LEVEL else self.flat).append(self.count)
        if self._first is None:
            self._first = part
        elif self.is_still and np.abs(part - self._first).mean() > STILL_LEVELS:
            self.is_still = False
        self.count += 1


def check_videos(videos: Sequence[Found], clip_length: int = 1, num_workers: int = 1) -> Iterator[Finding]:
    """The findings in the order of the videos, by `num_workers` processes; in this process where it is 1."""
    check = partial(check_video, clip_length=clip_length)
    if num_workers == 1:
        yield from map(check, videos)
        return
    with ProcessPoolExecutor(num_workers, get_context("spawn")) as pool:
        finished = 0
        try:
            for finding in pool.map(check, videos):
                finished += 1
                yield finding
        except BrokenProcessPool as error:
            nearby = ", ".join(video.path for video in videos[finished : finished + num_workers])
            raise DataError(
                f"a worker process died at one of {nearby}; check these with --workers 1, or use fewer workers if "
                "memory was short"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def check_video(video: Found, clip_length: int = 1) -> Finding:
    """Decode all of a video. It is suspicious, among other things, where it has fewer frames than `clip_length`."""
    damage = Damage()
    try:
        pictures = _decode_file(video.path, damage) if video.is_file else _decode_folder(video.path)
        digest = _digest(video)
    except DataError as error:
        return Finding(video, problem=str(error).removeprefix(video.path).lstrip(": /"))
    except OSError as error:
        return Finding(video, problem=f"{error.filename}: {error.strerror}")
    counts = {folder: seen.count for folder, seen in pictures.items()}
    num_frames = counts.get("rgb") or max(counts.values()) + 1
    suspicions = [*_wrong_counts(counts, num_frames, clip_length), *_dull_pictures(pictures)]
    if damage.packets_skipped:
        suspicions.append(f"{damage.packets_skipped} damaged packets had to be left out")
    if damage.frames_patched:
        suspicions.append(f"{damage.frames_patched} frames are damaged, and made up in part")
    return Finding(video, num_frames, "", tuple(suspicions), digest)


def twins(data_sets: Mapping[str, Sequence[Finding]]) -> list[str]:
    """A line for each content that several videos share; worst are those on both sides of a split."""
    same: dict[str, list[tuple[str, Found]]] = {}
    for name, findings in data_sets.items():
        for finding in findings:
            if finding.digest:
                same.setdefault(finding.digest, []).append((name, finding.video))
    lines = []
    for videos in same.values():
        if len(videos) > 1:
            names, classes = {name for name, _ in videos}, {video.class_name for _, video in videos}
            where = "on both sides" if len(names) > 1 else "in two classes" if len(classes) > 1 else "twice"
            lines.append(f"the same content {where}: {', '.join(video.path for _, video in videos)}")
    return lines


def write_ok_list(path: Path, findings: Iterable[Finding]) -> None:
    """The videos that can be read as a list that training takes, `path<tab>class`; paths from its own folder on."""
    _write_list(path, [(f.video.path, f.video.class_name) for f in findings if not f.problem])


def write_bad_list(path: Path, findings: Iterable[Finding]) -> None:
    """The videos that can't be read, `path<tab>reason`; paths from the list's folder on."""
    _write_list(path, [(f.video.path, " ".join(f.problem.split())) for f in findings if f.problem])


def _write_list(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    lines = "".join(f"{_seen_from(path.parent, video)}\t{text}\n" for video, text in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(lines.encode("utf-8", "surrogateescape")))


def _seen_from(folder: Path, video: str) -> str:
    """A path from `folder` on where it lies below it, else from the file system's root on."""
    relative = os.path.relpath(video, folder)
    return os.path.abspath(video) if relative.split(os.sep)[0] == os.pardir else relative


# --- one video ---


def _decode_file(path: str, damage: Damage) -> dict[str, _Pictures]:
    seen, shape = _Pictures(), None
    for frame in read_video(path, damage):
        shape = shape or frame.shape
        if frame.shape != shape:  # training refuses it, too
            raise DataError(f"frame {seen.count} is {_size(frame.shape)} pixels, earlier frames are {_size(shape)}")
        seen.add(frame)
    return {"rgb": seen}


def _decode_folder(path: str) -> dict[str, _Pictures]:
    names = {folder: image_names(os.path.join(path, folder)) for folder in FRAME_FOLDERS}
    files = {folder: FrameFiles.of(of_folder) for folder, of_folder in names.items() if of_folder}
    if not files:
        raise DataError(f"has no folder {', '.join(FRAME_FOLDERS)} with images")
    source = open_source(Video(path, UNKNOWN, files))
    pictures = {folder: _Pictures() for folder in files}
    for folder, seen in pictures.items():
        for image in source.images(folder):
            seen.add(np.asarray(image))
    return pictures


def _digest(video: Found) -> str:
    """A hash of a video's content: of the file, or of its images in their order, whatever their names."""
    if video.is_file:
        with open(video.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for folder in FRAME_FOLDERS:
        for name in image_names(os.path.join(video.path, folder)) or []:
            content = Path(video.path, folder, name).read_bytes()
            digest.update(f"{folder} {len(content)} ".encode() + content)
    return digest.hexdigest()


# --- what looks wrong ---


def _wrong_counts(counts: Mapping[str, int], num_frames: int, clip_length: int) -> Iterator[str]:
    u, v = counts.get("u", 0), counts.get("v", 0)
    if (u or v) and not u == v == num_frames - 1:
        yield f"u holds {u} and v {v} images for {num_frames} frames; N frames have N-1 of each"
    if num_frames < clip_length:
        yield f"{num_frames} frames, fewer than a clip of {clip_length}"


def _dull_pictures(pictures: Mapping[str, _Pictures]) -> Iterator[str]:
    frames = pictures.get("rgb")
    if frames:
        for what, ids in (("black", frames.black), ("of one colour", frames.flat)):
            if ids:
                yield f"{len(ids)} of {frames.count} frames are {what} (the first is frame {ids[0]})"
        if frames.is_still and frames.count > len(frames.black) + len(frames.flat) and frames.count > 1:
            yield f"all {frames.count} frames show the same picture"
    flow = [pictures[folder] for folder in ("u", "v") if folder in pictures]
    if flow and all(len(seen.flat) + len(seen.black) == seen.count for seen in flow):
        yield "the flow shows no motion in any frame"


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"
