"""From the scores of overlapping windows to events: smoothed, thresholded, with a start and an end."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
    """A label that held from `start_sec` to `end_sec`; `score` is the best of its smoothed probabilities."""

    label: str
    start_sec: float
    end_sec: float
    score: float


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


def events_of(
    windows: Iterable[Scores], class_names: tuple[str, ...], smoothing: Smoothing, threshold: float = 0.0
) -> Iterator[Event]:
    """An event for each run of windows with one label but `unknown`, when the run is over.

    It lasts from the middle of its first window to the middle of its last one: a window speaks of its middle.
    """
    current: Event | None = None
    for window in windows:
        label, score = labelled(smoothing(window.probabilities), class_names, threshold)
        middle = (window.start_sec + window.end_sec) / 2
        if current and current.label == label:
            current = Event(label, current.start_sec, middle, max(score, current.score))
            continue
        if current and current.label != UNKNOWN:
            yield current
        current = Event(label, middle, middle, score)
    if current and current.label != UNKNOWN:
        yield current
