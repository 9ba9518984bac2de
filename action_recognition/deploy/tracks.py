"""Several people in one picture: each tracked box becomes a clip of its own, and all clips one batch.

In: frames in order, and the boxes of each, by track id: of a file (`read_tracks`) or of a tracker in your own program.
Out: a label for each track that is in the picture, and its events. Clips are kept by id, so boxes may move at will.
Finds and tracks nobody itself. Runs without torch.

    follow = TrackRecognizer(Recognizer.from_onnx("model.onnx"), stride=4)
    for frame, boxes in ...:                       # {7: (left, top, right, bottom), ...} of your tracker
        for mark in follow.push(frame, boxes).labelled:
            print(mark.track, mark.label, mark.score)
"""

import csv
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from action_recognition.clip.transform import Box, fit_clip
from action_recognition.deploy.events import Event, Scores, Smoothing, Timeline
from action_recognition.deploy.recognizer import Recognizer
from action_recognition.deploy.sources import Frame
from action_recognition.deploy.window import checked_rate, frames_spanned
from action_recognition.errors import DataError, SpecError

Boxes = Mapping[int, Box | None]  # track id -> left, top, right, bottom in pixels; None is the whole picture
WHOLE_PICTURE: Boxes = {0: None}
_CSV = ("frame", "track", "x1", "y1", "x2", "y2")
_MOT = ("frame", "id", "x", "y", "w", "h")
_MOT_CONFIDENCE = 6
_ACCEPTED = (
    f"accepted are lines of MOTChallenge, {','.join(_MOT)}[,conf,...] with frames from 1, "
    f"or a csv file whose first line is {','.join(_CSV)}, with frames from 0"
)
_LARGEST = 2**53  # whole numbers up to here are exact as float


# --- files of boxes ---


def read_tracks(path: str | Path) -> dict[int, dict[int, Box]]:
    """The boxes of a file: frame number, from 0 -> track id -> (left, top, right, bottom) in pixels.

    A file of MOTChallenge (no header, frames from 1; boxes of confidence 0 are left out, as its ground truth means
    them), or a csv file with a header (frames from 0; further columns are ignored). DataError names line and value.
    """
    boxes: dict[int, dict[int, Box]] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for line, number, track, box in _lines(csv.reader(file), path):
                if track in boxes.setdefault(number, {}):
                    raise DataError(f"{path}: line {line}: a second box of track {track} in one frame; it has one")
                boxes[number][track] = box
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no text of boxes ({error}); {_ACCEPTED}") from error
    if not boxes:
        raise DataError(f"{path}: holds no box; {_ACCEPTED}")
    return boxes


def _lines(rows: Iterable[list[str]], path: str | Path) -> Iterator[tuple[int, int, int, Box]]:
    """Line number, frame number, track id and box."""
    filled = ((line, [cell.strip() for cell in row]) for line, row in enumerate(rows, 1) if any(map(str.strip, row)))
    columns: dict[str, int] = {name: i for i, name in enumerate(_MOT)}
    is_mot = True
    for line, cells in filled:
        where = f"{path}: line {line}"
        if is_mot and cells[0][:1].isalpha() and line == 1:
            columns, is_mot = _header(cells, where), False
            continue
        frame, track, *corners = _numbers(cells, columns, where)
        left, top, right, bottom = corners
        if is_mot:
            confidence = cells[_MOT_CONFIDENCE : _MOT_CONFIDENCE + 1]
            if confidence not in ([], [""]) and _number(confidence[0], "conf", None, where) == 0:
                continue
            frame, right, bottom = frame - 1, left + right, top + bottom
        if right <= left or bottom <= top:
            raise DataError(f"{where}: the box {','.join(cells[columns[n]] for n in list(columns)[2:])} is empty")
        yield line, int(frame), int(track), (left, top, right, bottom)


def _header(cells: Sequence[str], where: str) -> dict[str, int]:
    missing = [name for name in _CSV if name not in cells]
    if missing:
        raise DataError(f"{where}: has no column {', '.join(missing)}: {','.join(cells)[:200]}; {_ACCEPTED}")
    return {name: cells.index(name) for name in _CSV}


def _numbers(cells: Sequence[str], columns: Mapping[str, int], where: str) -> list[float]:
    """The values of `columns`; DataError for what is no number, no whole one where it counts, or not there."""
    if len(cells) <= max(columns.values()):
        raise DataError(f"{where}: has {len(cells)} values, too few: {','.join(cells)[:200]}; {_ACCEPTED}")
    least = {"frame": 1 if "id" in columns else 0, "id": 0, "track": 0}
    return [_number(cells[column], name, least.get(name), where) for name, column in columns.items()]


def _number(text: str, name: str, least: int | None, where: str) -> float:
    """A finite number; with `least` a whole one from there."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > _LARGEST:
        raise DataError(f"{where}: {name} is {text[:100]!r}, which is no number; {_ACCEPTED}")
    if least is not None and (value < least or value != int(value)):
        hint = "; -1 marks boxes that no tracker has joined: give a tracker's output" if name == "id" else ""
        raise DataError(f"{where}: {name} is {text[:100]}; it must be a whole number from {least}{hint}")
    return value


# --- the picture of a track ---


def crop_of(box: Box, size: tuple[int, int], margin: float) -> tuple[int, int, int, int] | None:
    """The part (left, top, right, bottom) of a (width, height) picture that shows a box with its surroundings.

    A square about the box's middle, as wide as its longer side and `margin` of that more on each side. Where it would
    stick out of the picture it is moved inside; where the picture is too small for it, it is cut to the picture, and
    is no square. None for a box that lies outside the picture.
    """
    left, top, right, bottom = box
    if right <= 0 or bottom <= 0 or left >= size[0] or top >= size[1]:
        return None
    side = max(right - left, bottom - top) * (1 + 2 * margin)
    starts, ends = [], []
    for middle, full in zip(((left + right) / 2, (top + bottom) / 2), size, strict=True):
        length = max(1, min(round(side), full))
        start = min(max(round(middle - length / 2), 0), full - length)
        starts.append(start)
        ends.append(start + length)
    return starts[0], starts[1], ends[0], ends[1]


# --- following ---


@dataclass(frozen=True)
class Mark:
    """A track in the picture and its label: smoothed, `unknown` below the threshold, None before the first window.

    `probabilities` (K,) are the smoothed ones. `is_new` where the label is another one than before.
    """

    track: int
    box: Box | None
    label: str | None
    score: float
    probabilities: np.ndarray
    is_new: bool = False


@dataclass(frozen=True)
class Told:
    """What a frame brought: the tracks that were looked at, and the events that are over."""

    labelled: list[Mark]
    events: list[Event]


@dataclass
class _Track:
    """A track's latest frames at the model's size, as many as a window spans, each with its time and number."""

    id: int
    timeline: Timeline
    frames: deque[tuple[float, int, dict[str, np.ndarray]]]
    box: Box | None = None
    num_missing: int = 0

    def mark(self, is_new: bool = False) -> Mark:
        line = self.timeline
        return Mark(self.id, self.box, line.label, line.score, line.probabilities, is_new)


class TrackRecognizer:
    """Labels each track of a stream by a window of its own pictures.

    Every `stride` frames all tracks that fill a window are looked at, in one batch. `rate` is Recognizer.windows',
    `margin` crop_of's; `ema` (Smoothing's) and `threshold` are as in Recognizer.stream. While a box is missing, its
    track goes on where it was, and is not looked at; after more than `most_missing` frames it is over and forgotten. A
    track that is over before it was looked at is looped to one window where it fills half of one.

    `num_boxes` and `num_outside` count the boxes that were given, and those that lie outside the picture.
    """

    def __init__(
        self,
        recognize: Recognizer,
        stride: int = 1,
        rate: int | None = None,
        margin: float = 0.2,
        most_missing: int = 15,
        ema: float | None = None,
        threshold: float = 0.0,
    ) -> None:
        for name, value, least in (("stride", stride, 1), ("margin", margin, 0), ("most_missing", most_missing, 0)):
            if not value >= least:
                raise SpecError(f"{name}: must be at least {least}, got {value}")
        self.rate = checked_rate(recognize.contract, rate)
        self.num_frames = frames_spanned(recognize.contract, self.rate)
        self._recognize, self.stride, self._margin, self._most_missing = recognize, stride, margin, most_missing
        self._ema, self._threshold = ema, threshold
        self._tracks: dict[int, _Track] = {}
        self._since_look, self._connection = stride - 1, 0
        self.num_boxes, self.num_outside = 0, 0

    def push(self, frame: Frame, boxes: Boxes) -> Told:
        """Take the next frame and the boxes in it; with a new connection of a live source all that went on is over."""
        before = self.close() if frame.connection != self._connection else Told([], [])
        self._connection = frame.connection
        self._since_look += 1
        self.num_boxes += len(boxes)
        for track_id in boxes:
            if track_id not in self._tracks:
                self._tracks[track_id] = self._new(track_id)
        for track in self._tracks.values():
            self._see(track, frame, boxes)
        gone = [track for track in self._tracks.values() if track.num_missing > self._most_missing]
        told = self._look(self._due() + self._never_looked_at(gone))
        return Told(before.labelled + told.labelled, before.events + told.events + self._forget(gone))

    def close(self) -> Told:
        """Nothing more comes: all tracks are over, and their events are told."""
        tracks = list(self._tracks.values())
        told = self._look(self._never_looked_at(tracks))
        return Told(told.labelled, told.events + self._forget(tracks))

    @property
    def marks(self) -> list[Mark]:
        """The tracks in the latest picture, by id."""
        return [track.mark() for _, track in sorted(self._tracks.items()) if not track.num_missing]

    def _new(self, track_id: int) -> _Track:
        timeline = Timeline(self._recognize.contract.class_names, Smoothing(ema=self._ema), self._threshold, track_id)
        return _Track(track_id, timeline, deque(maxlen=self.num_frames))

    def _see(self, track: _Track, frame: Frame, boxes: Boxes) -> None:
        contract = self._recognize.contract
        height, width = frame.images[contract.modalities[0]].shape[:2]
        box = boxes.get(track.id, track.box)
        crop = self._crop(box, (width, height))
        is_there = track.id in boxes and crop is not None
        self.num_outside += track.id in boxes and crop is None
        track.num_missing = 0 if is_there else track.num_missing + 1
        if is_there:
            track.box = box
        elif not track.frames:  # it has never been inside the picture
            return
        sizes = {m: frame.images[m].shape[1::-1] for m in contract.modalities}
        if track.box and len(set(sizes.values())) > 1:
            raise DataError(f"frame {frame.number}: boxes are for images of one size, got {sizes}")
        left, top, right, bottom = crop or self._crop(track.box, (width, height)) or (0, 0, width, height)
        fitted = {m: fit_clip(frame.images[m][None, top:bottom, left:right], contract)[0] for m in contract.modalities}
        track.frames.append((frame.time_sec, frame.number, fitted))

    def _crop(self, box: Box | None, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        return crop_of(box, size, self._margin) if box else (0, 0, *size)

    def _due(self) -> list[_Track]:
        if self._since_look < self.stride:
            return []
        due = [t for t in self._tracks.values() if not t.num_missing and len(t.frames) == self.num_frames]
        self._since_look = 0 if due else self._since_look
        return due

    def _never_looked_at(self, tracks: Iterable[_Track]) -> list[_Track]:
        """Those without a label, cut to where they were last seen, if enough of a window is left."""
        found = []
        for track in tracks:
            if track.timeline.label is None:
                for _ in range(min(track.num_missing, len(track.frames))):
                    track.frames.pop()
                if len(track.frames) >= (self.num_frames / 2 if track.box else 1):
                    found.append(track)
        return found

    def _look(self, tracks: Sequence[_Track]) -> Told:
        told = Told([], [])
        if tracks:
            clips = {m: np.stack([self._clip(t, m) for t in tracks]) for m in self._recognize.contract.modalities}
            for track, probabilities in zip(tracks, self._recognize.classify(clips), strict=True):
                before = track.timeline.label
                (start, first, _), (end, last, _) = track.frames[0], track.frames[-1]
                event = track.timeline.add(Scores(start, end, first, last, probabilities))
                told.labelled.append(track.mark(is_new=track.timeline.label != before))
                told.events.extend([event] if event else [])
        return told

    def _clip(self, track: _Track, modality: str) -> np.ndarray:
        """uint8 (T, H, W, C): every rate-th frame up to the latest; a track shorter than a window is looped."""
        length = self._recognize.contract.lengths[modality]
        ids = range(self.num_frames - 1 - (length - 1) * self.rate, self.num_frames, self.rate)
        return np.stack([track.frames[i % len(track.frames)][2][modality] for i in ids])

    def _forget(self, tracks: Iterable[_Track]) -> list[Event]:
        events = []
        for track in tracks:
            del self._tracks[track.id]
            if event := track.timeline.close():
                events.append(event)
        return events
