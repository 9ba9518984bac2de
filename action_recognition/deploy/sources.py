"""Frames of whatever has frames: arrays, a folder of images, a video file, a camera, a network stream.

Files are read as fast as they are asked for. Cameras and streams bring frames at their own pace: a thread keeps the
newest few and counts those that nobody came for. A stream that is lost can be opened again. Needs PyAV for all but
arrays and folders. Runs without torch.
"""

import math
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from action_recognition.clip.image import read_image
from action_recognition.clip.video import MAX_STILL_SEC, Damage, load_av, read_timed_video
from action_recognition.errors import DataError

FOLDERS = {"rgb": ("rgb",), "of": ("u", "v")}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
DEFAULT_FPS = 25.0
LONGEST_WAIT_SEC = 30.0  # between two attempts to open a lost stream
MOST_DAMAGED_SEC = 10.0  # a stream that sends nothing which can be decoded for so long is lost
_STREAMS = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://", "srt://", "rtp://")


@dataclass(frozen=True)
class Frame:
    """One moment: the time since the first frame in seconds, its number, and the image of each modality.

    Of live sources also when it came, by the clock of time.monotonic, and which connection brought it.
    """

    time_sec: float
    number: int
    images: Mapping[str, np.ndarray]
    came_sec: float | None = None
    connection: int = 0


@dataclass
class Dropped:
    """What a live source lost.

    Frames that came and were never looked at, connections that were opened anew, packets that could not be decoded.
    """

    frames: int = 0
    connections: int = 0
    damaged: int = 0


@dataclass(frozen=True)
class Live:
    """How a live source is read.

    `most_waiting` frames wait at most, each for `most_wait_sec` at most; the oldest makes room. An address that is lost
    is opened again, up to `retries` times in a row, after 1, 2, 4 ... LONGEST_WAIT_SEC seconds; `tell` hears of it.
    """

    most_waiting: int = 2
    most_wait_sec: float = math.inf
    retries: int = 0
    tell: Callable[[str], None] = lambda text: None


@dataclass
class LatestFrames:
    """The frames of a live source, read by a thread. At most `most` wait; the oldest makes room for the newest."""

    frames: Iterator[Frame]
    most: int
    dropped: Dropped
    most_wait_sec: float = math.inf
    is_over: threading.Event = field(default_factory=threading.Event)
    _waiting: deque[Frame] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _error: BaseException | None = None

    def __iter__(self) -> Iterator[Frame]:
        threading.Thread(target=self._read, daemon=True).start()
        try:
            while (frame := self._next()) is not None:
                yield frame
        finally:
            self.is_over.set()  # the thread ends with its next frame
        if self._error:
            raise self._error

    def _next(self) -> Frame | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.is_over.is_set())
            self._drop_old()
            return self._waiting.popleft() if self._waiting else None

    def _read(self) -> None:
        try:
            for frame in self.frames:
                with self._changed:
                    if self.is_over.is_set():
                        return
                    if len(self._waiting) == self.most:
                        self._drop()
                    self._waiting.append(frame)
                    self._drop_old()
                    self._changed.notify()
        except BaseException as error:  # handed on to who iterates
            self._error = error
        finally:
            with self._changed:
                self.is_over.set()
                self._changed.notify()

    def _drop_old(self) -> None:
        """All that waited too long but the newest, which is always looked at."""
        oldest = time.monotonic() - self.most_wait_sec
        while len(self._waiting) > 1 and (self._waiting[0].came_sec or math.inf) < oldest:
            self._drop()

    def _drop(self) -> None:
        self._waiting.popleft()
        self.dropped.frames += 1


def source_of(text: str) -> int | str:
    """A source as it stands on a command line: a camera's number, or a path or an address.

    0, /dev/video0 and links to it (/dev/v4l/by-id/..., which keep their names) are cameras.
    """
    if re.fullmatch(r"\d+", text, re.ASCII):
        return int(text)
    device = re.fullmatch(r"/dev/video(\d+)", os.path.realpath(text), re.ASCII)
    return int(device[1]) if device else text


def is_live(source: object) -> bool:
    """Whether frames come at the source's own pace: cameras and addresses."""
    return isinstance(source, int) or (isinstance(source, str) and source.lower().startswith(_STREAMS))


def frames_of(
    source: Any, modalities: tuple[str, ...], dropped: Dropped, fps: float | None = None, live: Live | None = None
) -> Iterator[Frame]:
    """The frames of a source, in order.

    `source` is a path of a video file or of a folder of images (with rgb, or u and v, in or below it), the number of a
    camera, the address of a stream, or an iterable of frames: uint8 (H, W, 3), for flow (H, W, 2), for both {rgb, of}.
    `fps` gives the times of folders and iterables (25 where it is None), and of video files in place of their own.
    DataError where there is nothing to be read.
    """
    if is_live(source):
        _only_rgb(source, modalities)
        live, is_over = live or Live(), threading.Event()
        frames = _connected(source, live, dropped, is_over)
        return iter(LatestFrames(frames, live.most_waiting, dropped, live.most_wait_sec, is_over))
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            return _timed(_images(path, modalities), fps)
        _only_rgb(source, modalities)
        return _video(path, fps)
    return _timed((_as_images(item, modalities) for item in source), fps)


def _only_rgb(source: object, modalities: tuple[str, ...]) -> None:
    if modalities != ("rgb",):
        raise DataError(
            f"{source}: has pictures only, and the model takes {' and '.join(modalities)}; make the flow with "
            "tools/preprocess.py --flow dis and give the folder that it makes"
        )


def _timed(images: Iterable[Mapping[str, np.ndarray]], fps: float | None) -> Iterator[Frame]:
    for number, image in enumerate(images):
        yield Frame(number / (fps or DEFAULT_FPS), number, image)


def _as_images(item: Any, modalities: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    return item if isinstance(item, Mapping) else {modalities[0]: item}


def _video(path: Path, fps: float | None) -> Iterator[Frame]:
    for number, (time_sec, image) in enumerate(read_timed_video(path, Damage())):
        yield Frame(number / fps if fps else time_sec, number, {"rgb": image})


def _images(folder: Path, modalities: tuple[str, ...]) -> Iterator[Mapping[str, np.ndarray]]:
    """The images of a video folder, in text order; a folder of rgb images itself will do for an rgb model."""
    names = {sub: _image_files(_folder_of(folder, sub, modalities)) for m in modalities for sub in FOLDERS[m]}
    counts = {sub: len(files) for sub, files in names.items()}
    if "u" in counts and counts["u"] != counts["v"]:
        raise DataError(f"{folder}: u holds {counts['u']} images and v {counts['v']}; they must be as many")
    for i in range(min(counts.values())):
        images = {sub: np.asarray(read_image(files[i], "RGB" if sub == "rgb" else "L")) for sub, files in names.items()}
        yield {m: images["rgb"] if m == "rgb" else np.dstack([images["u"], images["v"]]) for m in modalities}


def _folder_of(folder: Path, sub: str, modalities: tuple[str, ...]) -> Path:
    if (folder / sub).is_dir() or modalities != ("rgb",):
        return folder / sub
    return folder


def _image_files(folder: Path) -> list[Path]:
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
    except OSError as error:
        raise DataError(f"{folder}: can't be listed ({error.strerror})") from error
    if not files:
        raise DataError(f"{folder}: holds no png or jpg image")
    return files


class _StreamEnd(DataError):
    """A stream that has no end of its own came to one."""


def _connected(source: int | str, live: Live, dropped: Dropped, is_over: threading.Event) -> Iterator[Frame]:
    """The frames of a live source over all its connections, numbered and timed from the first one's first frame."""
    start, number, num_failed = time.monotonic(), 0, 0
    while True:
        try:
            for frame in _live(source, dropped):
                now = time.monotonic()
                start = start if number else now
                if num_failed:
                    live.tell(f"{without_password(str(source))}: is back")
                yield replace(frame, time_sec=now - start, number=number, came_sec=now, connection=dropped.connections)
                number, num_failed = number + 1, 0
            return
        except DataError as error:
            if isinstance(source, int) or not number or num_failed >= live.retries:
                if isinstance(error, _StreamEnd) and not live.retries:
                    return
                raise
            why = str(error)
        if not num_failed:
            dropped.connections += 1
        wait_sec = min(2.0**num_failed, LONGEST_WAIT_SEC)
        num_failed += 1
        live.tell(f"{why}; attempt {num_failed} of {live.retries} to open it again in {wait_sec:g} s")
        if is_over.wait(wait_sec):
            return


def _live(source: int | str, dropped: Dropped) -> Iterator[Frame]:
    """The frames of one connection, as they come; a recording behind an address at its own pace.

    DataError where it can't be opened or breaks off; _StreamEnd where an address ends that is no recording.
    """
    where, how = _device(source) if isinstance(source, int) else (source, None)
    av = load_av(without_password(where))
    start = None
    try:
        with av.open(
            where, format=how, options=_options(where, how), timeout=(10.0, 10.0), metadata_errors="ignore"
        ) as container:
            comes_in_pieces = container.duration or container.format.name == "hls"  # at the network's pace, no camera's
            for number, frame in enumerate(_decoded(container, dropped)):
                shown_sec = frame.time or 0.0
                start = time.monotonic() - shown_sec if start is None else start
                if comes_in_pieces:
                    time.sleep(min(max(start + shown_sec - time.monotonic(), 0), MAX_STILL_SEC))
                yield Frame(time.monotonic() - start, number, {"rgb": frame.to_ndarray(format="rgb24")})
            is_endless = isinstance(source, str) and not container.duration
    except (av.FFmpegError, OSError, IndexError) as error:
        what = without_password(f"{where}: {'can not be opened' if start is None else 'broke off'} ({error})")
        raise DataError(what) from error
    if is_endless:
        raise _StreamEnd(f"{without_password(where)}: has ended")


def _options(where: str, how: str | None) -> dict[str, str]:
    """What FFmpeg is told to open a live source with."""
    if how or where.lower().startswith("http"):
        return {}
    # What FFmpeg reads to learn the format it would hand on as old frames, seconds of them; of a recording those are
    # its beginning.
    options = {"fflags": "nobuffer"}
    if where.lower().startswith("rtsp") and not where.endswith(("?udp", "&udp")):
        options["rtsp_transport"] = "tcp"  # FFmpeg tries UDP first, where each lost packet damages pictures
    return options


def _decoded(container: Any, dropped: Dropped) -> Iterator[Any]:
    """The frames of a connection; a packet that can't be decoded is counted and left out.

    OSError after MOST_DAMAGED_SEC in which packets came and no frame. Other errors are the connection's.
    """
    import av

    latest = time.monotonic()
    for packet in container.demux(video=0):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            dropped.damaged, frames = dropped.damaged + 1, []
        if not frames and time.monotonic() - latest > MOST_DAMAGED_SEC:
            raise OSError(f"nothing could be decoded for {MOST_DAMAGED_SEC:g} s")
        for frame in frames:
            yield frame
            latest = time.monotonic()


def without_password(text: str) -> str:
    """An address, or a text with one, without the name and the password in it, for the eyes of others."""
    return re.sub(r"(\w://)[^/\s]*@", r"\1", text)


def _device(number: int) -> tuple[str, str]:
    """FFmpeg's name of a camera, and of the system's way to it."""
    if sys.platform == "darwin":
        return str(number), "avfoundation"
    return (f"video={number}", "dshow") if sys.platform == "win32" else (f"/dev/video{number}", "v4l2")
