"""A source to labels as they change, events, a video and a page, with the time that each label took.

In: frames, a TrackRecognizer, and where its results go. Out: lines, by `say`; files and the page are the caller's to
open and close. Runs without torch.
"""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from action_recognition.clip.contract import Contract
from action_recognition.deploy.events import Event
from action_recognition.deploy.overlay import OverlayVideo, drawn
from action_recognition.deploy.page import Page, event_to_plain
from action_recognition.deploy.sources import Dropped, Frame
from action_recognition.deploy.tracks import WHOLE_PICTURE, Boxes, Mark, Told, TrackRecognizer
from action_recognition.files import write_errors_told

_REMEMBERED = 10_000  # the latencies of the latest windows, for median and 95 %
_FACTS_EVERY_SEC = 0.5


class Latency:
    """How long labels took: the median and 95 % of the latest windows, and the longest of all, in seconds."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_REMEMBERED)
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        self._latest.append(seconds)
        self.longest = max(self.longest, seconds)

    def __str__(self) -> str:
        if not self._latest:
            return "no full window yet"
        median, most = np.percentile(self._latest, (50, 95), method="inverted_cdf")
        return f"median {_ms(median)}, 95 % within {_ms(most)}, at most {_ms(self.longest)}"


class EventLog:
    """Events as lines of JSON, added to a file as they end, each on disk at once."""

    def __init__(self, path: str | Path) -> None:
        """OutputError where the file can't be opened."""
        self.path = path
        with write_errors_told(path):
            # What a name has that is no text becomes \udcXX, which is how JSON writes it.
            self._file = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 # closed by the block

    def write(self, plain: Mapping[str, Any]) -> None:
        with write_errors_told(self.path):
            self._file.write(json.dumps(plain, ensure_ascii=False) + "\n")
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


@dataclass
class Session:
    """One run over a source.

    `boxes` by frame number, or None to look at whole pictures. What is None of the rest is left out.
    """

    follow: TrackRecognizer
    dropped: Dropped
    boxes: Mapping[int, Boxes] | None = None
    log: EventLog | None = None
    video: OverlayVideo | None = None
    page: Page | None = None
    font: str | None = None  # of the video's labels, as drawn takes it
    say: Callable[[str], None] = print
    latency: Latency = field(default_factory=Latency)
    num_frames: int = 0
    num_boxed: int = 0
    num_looks: int = 0
    num_events: int = 0
    is_at_end: bool = False  # of the source
    _is_waiting: bool = False
    _interrupted: KeyboardInterrupt | None = None
    _last: Frame | None = None
    _began_at: float | None = None
    _facts: Mapping[str, Any] = field(default_factory=dict)
    _facts_sec: float = -math.inf

    def run(self, frames: Iterator[Frame], seconds: float = math.inf) -> None:
        """Take all frames of the first `seconds` of the source. However it ends, events that go on are told."""
        try:
            while (frame := self._next(frames)) is not None and frame.time_sec < seconds:
                self._take(frame)
                if self._interrupted:
                    raise self._interrupted
            self.is_at_end = frame is None
        finally:
            self._tell(self.follow.close())

    def interrupt(self, error: KeyboardInterrupt) -> None:
        """For signal handlers: end the run by `error` while it waits for a frame, else when it is done with this one.

        Asked twice, it ends where it is.
        """
        if self._is_waiting or self._interrupted:
            raise error
        self._interrupted = error

    def _next(self, frames: Iterator[Frame]) -> Frame | None:
        self._is_waiting = True
        try:
            return next(frames, None)
        finally:
            self._is_waiting = False

    def _take(self, frame: Frame) -> None:
        came_sec = time.monotonic() if frame.came_sec is None else frame.came_sec
        if frame.came_sec is not None and self._began_at is None:
            waited_sec = time.monotonic() - frame.came_sec
            self._began_at = time.time() - waited_sec - frame.time_sec
        self._last, self.num_frames = frame, self.num_frames + 1
        boxes = WHOLE_PICTURE if self.boxes is None else self.boxes.get(frame.number, {})
        self.num_boxed += bool(boxes)
        told = self.follow.push(frame, boxes)
        if told.labelled:
            self.latency.add(time.monotonic() - came_sec)
        self._tell(told)
        self._show(frame)

    def _tell(self, told: Told) -> None:
        for event in told.events:  # before the lines, whose reader may be gone
            self.num_events += 1
            event = event if self.boxes is not None else replace(event, track=None)
            if self.log:
                self.log.write(event_to_plain(event) | self._clock_time(event))
            if self.page:
                self.page.tell(event)
        self.num_looks += bool(told.labelled)
        for mark in told.labelled:
            if mark.is_new and self._last:
                self.say(line(self._last.time_sec, mark))

    def _clock_time(self, event: Event) -> dict[str, str]:
        """When an event of a live source began, by the clock on the wall."""
        if self._began_at is None:
            return {}
        return {"at": datetime.fromtimestamp(self._began_at + event.start_sec, UTC).isoformat(timespec="milliseconds")}

    def _show(self, frame: Frame) -> None:
        if self.video:
            self.video.write(drawn(picture_of(frame), self.follow.marks, self.font), frame.time_sec)
        if self.page:
            if time.monotonic() >= self._facts_sec + _FACTS_EVERY_SEC:
                self._facts, self._facts_sec = {"text": self.facts(frame)}, time.monotonic()
            self.page.show(picture_of(frame), self.follow.marks, self._facts)

    def facts(self, frame: Frame) -> str:
        """Where the run is, in a line."""
        return f"{frame.time_sec:.0f} s, {self.num_frames:,} frames{self._lost()}; frame to label: {self.latency}"

    def summary(self) -> str:
        """What the run was, in a line or two."""
        length = self._last.time_sec if self._last else 0.0
        return (
            f"{self.num_frames:,} frames of {length:.1f} s{self._lost()}; looked at {self.num_looks:,} times, "
            f"events: {self.num_events:,}\nframe to label: {self.latency}"
        )

    def misfit(self) -> str | None:
        """What is odd about the boxes, if something is."""
        if not self.follow.num_outside or self._last is None:
            return None
        height, width = picture_of(self._last).shape[:2]
        outside = f"{self.follow.num_outside:,} of {self.follow.num_boxes:,} boxes"
        return f"{outside} lie outside the {width}x{height} picture; are they of another size?"

    def _lost(self) -> str:
        dropped = f", {self.dropped.frames:,} dropped" if self.dropped.frames else ""
        damaged = f", {self.dropped.damaged:,} damaged packets left out" if self.dropped.damaged else ""
        lost = f", connections lost: {self.dropped.connections:,}" if self.dropped.connections else ""
        return dropped + damaged + lost


def line(time_sec: float, mark: Mark) -> str:
    """A change of label: "12.4 s  fall 0.97", of a track "12.4 s  track 7: fall 0.97"."""
    who = f"track {mark.track}: " if mark.box else ""
    return f"{time_sec:.1f} s  {who}{mark.label} {mark.score:.2f}"


def default_stride(contract: Contract, rate: int) -> int:
    """Four looks while a window passes."""
    return max(1, max(contract.lengths.values()) * rate // 4)


def paced(frames: Iterator[Frame]) -> Iterator[Frame]:
    """The frames of a file at its own pace, for who wants to look on."""
    start = time.monotonic()
    for frame in frames:
        time.sleep(max(0.0, start + frame.time_sec - time.monotonic()))
        yield frame


def picture_of(frame: Frame) -> np.ndarray:
    """What is shown of a frame, uint8 (H, W, 3): its picture, or of flow the horizontal part in grey."""
    rgb = frame.images.get("rgb")
    return rgb if rgb is not None else np.repeat(frame.images["of"][..., :1], 3, axis=2)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
