"""From the scores of overlapping windows to events: smoothed, thresholded, with a start and an end."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Scores:
    """What the model says of one window: probabilities (K,), and its first and last frame (seconds, numbers)."""

    start_sec: float
    end_sec: float
    first_frame: int
    last_frame: int
    probabilities: np.ndarray


@dataclass(frozen=True)
class Event:
    """A label that held from `start_sec` to `end_sec`; `score` is the best of its smoothed probabilities.

    `track` is the id of who it is told of, where several are followed.
    """

    label: str
    start_sec: float
    end_sec: float
    score: float
    track: int | None = None


class Smoothing:
    """The mean of the latest `num_windows` probabilities; with `ema` in 0..1, p = ema * new + (1 - ema) * p instead."""

    def __init__(self, num_windows: int = 1, ema: float | None = None) -> None:
        if num_windows < 1 or (ema is not None and not 0 < ema <= 1):
            raise ValueError(f"smoothing: needs num_windows >= 1 and 0 < ema <= 1, got {num_windows} and {ema}")
        self._latest: deque[np.ndarray] = deque(maxlen=num_windows)
        self._ema, self._average = ema, None if ema is None else np.zeros(0)

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """The smoothed probabilities (K,)."""
        if self._ema is None or self._average is None:
            self._latest.append(probabilities)
            return np.mean(self._latest, axis=0)
        before = self._average if self._average.size else probabilities
        self._average = self._ema * probabilities + (1 - self._ema) * before
        return self._average


def labelled(probabilities: np.ndarray, class_names: tuple[str, ...], threshold: float) -> tuple[str, float]:
    """The best class and its probability; `unknown` where that is below the threshold."""
    best = int(probabilities.argmax())
    score = float(probabilities[best])
    return (class_names[best] if score >= threshold else UNKNOWN), score


class Timeline:
    """The label of one thing over time, and the events that it makes: runs of windows with one label but `unknown`.

    An event lasts from the middle of its first window to the middle of its last one: a window speaks of its middle.
    `label` (None before the first window), `score` and `probabilities` (K,) are those of the latest window, smoothed.
    """

    def __init__(
        self, class_names: tuple[str, ...], smoothing: Smoothing, threshold: float = 0.0, track: int | None = None
    ) -> None:
        self.label: str | None = None
        self.score, self.probabilities = 0.0, np.zeros(len(class_names))
        self._class_names, self._smoothing, self._threshold, self._track = class_names, smoothing, threshold, track
        self._current: Event | None = None

    def add(self, window: Scores) -> Event | None:
        """Take the next window. Returns the event that is over with it."""
        self.probabilities = self._smoothing(window.probabilities)
        label, self.score = labelled(self.probabilities, self._class_names, self._threshold)
        middle = (window.start_sec + window.end_sec) / 2
        if self._current and self._current.label == label:
            self._current = replace(self._current, end_sec=middle, score=max(self.score, self._current.score))
            return None
        over = self.close()
        self.label, self._current = label, Event(label, middle, middle, self.score, self._track)
        return over

    def close(self) -> Event | None:
        """Nothing more comes: the event that went on until now."""
        current, self._current = self._current, None
        return current if current and current.label != UNKNOWN else None


def events_of(
    windows: Iterable[Scores], class_names: tuple[str, ...], smoothing: Smoothing, threshold: float = 0.0
) -> Iterator[Event]:
    """The events of a Timeline, each when it is over."""
    timeline = Timeline(class_names, smoothing, threshold)
    for window in windows:
        if event := timeline.add(window):
            yield event
    if event := timeline.close():
        yield event
