"""Frames of whatever has frames: arrays, a folder of images, a video file, a camera, a network stream.

Files are read as fast as they are asked for. Cameras and streams bring frames at their own pace: a thread keeps the
newest few and counts those that nobody came for. Needs PyAV for all but arrays and folders. Runs without torch.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from action_recognition.clip.image import read_image
from action_recognition.clip.video import Damage, load_av, read_video
from action_recognition.errors import DataError

FOLDERS = {"rgb": ("rgb",), "of": ("u", "v")}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
DEFAULT_FPS = 25.0
_STREAMS = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://")


@dataclass(frozen=True)
class Frame:
    """One moment: the time since the first frame in seconds, its number, and the image of each modality."""

    time_sec: float
    number: int
    images: Mapping[str, np.ndarray]


@dataclass
class Dropped:
    """How many frames of a live source came and were never looked at."""

    frames: int = 0


@dataclass
class LatestFrames:
    """The frames of a live source, read by a thread. At most `most` wait; the oldest makes room for the newest."""

    frames: Iterator[Frame]
    most: int
    dropped: Dropped
    _waiting: deque[Frame] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _is_over: bool = False
    _error: BaseException | None = None

    def __iter__(self) -> Iterator[Frame]:
        threading.Thread(target=self._read, daemon=True).start()
        try:
            while (frame := self._next()) is not None:
                yield frame
        finally:
            self._is_over = True  # the thread ends with its next frame
        if self._error:
            raise self._error

    def _next(self) -> Frame | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_over)
            return self._waiting.popleft() if self._waiting else None

    def _read(self) -> None:
        try:
            for frame in self.frames:
                with self._changed:
                    if self._is_over:
                        return
                    if len(self._waiting) == self.most:
                        self._waiting.popleft()
                        self.dropped.frames += 1
                    self._waiting.append(frame)
                    self._changed.notify()
        except BaseException as error:  # handed on to who iterates
            self._error = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify()


def frames_of(
    source: Any, modalities: tuple[str, ...], dropped: Dropped, fps: float | None = None, most_waiting: int = 2
) -> Iterator[Frame]:
    """The frames of a source, in order.

    `source` is a path of a video file or of a folder of images (with rgb, or u and v, in or below it), the number of a
    camera, the address of a stream, or an iterable of frames: uint8 (H, W, 3), for flow (H, W, 2), for both {rgb, of}.
    `fps` gives the times of folders and iterables (25 where it is None). DataError where there is nothing to be read.
    """
    if isinstance(source, int) or (isinstance(source, str) and source.lower().startswith(_STREAMS)):
        _only_rgb(source, modalities)
        return iter(LatestFrames(_live(source), most_waiting, dropped))
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
    damage = Damage()
    for number, image in enumerate(read_video(path, damage)):
        yield Frame(number / (fps or damage.fps or DEFAULT_FPS), number, {"rgb": image})


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


def _live(source: int | str) -> Iterator[Frame]:
    """A camera's or a stream's frames with the time at which they came."""
    where, how = _device(source) if isinstance(source, int) else (source, None)
    av = load_av(where)
    first = None
    try:
        with av.open(where, format=how, timeout=(10.0, 10.0), metadata_errors="ignore") as container:
            for number, frame in enumerate(container.decode(video=0)):
                now = time.monotonic()
                first = first or now
                yield Frame(now - first, number, {"rgb": frame.to_ndarray(format="rgb24")})
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DataError(f"{where}: {'broke off' if first else 'can not be opened'} ({error})") from error


def _device(number: int) -> tuple[str, str]:
    """FFmpeg's name of a camera, and of the system's way to it."""
    if sys.platform == "darwin":
        return str(number), "avfoundation"
    return (f"video={number}", "dshow") if sys.platform == "win32" else (f"/dev/video{number}", "v4l2")
