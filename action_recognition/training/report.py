"""What a run writes down besides weights: status.json, metrics.jsonl, a progress bar.

status.json is TAO's: one JSON object a line. metrics.jsonl holds each finished epoch once, also after a resume.
"""

import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from action_recognition.files import write_text

Item = TypeVar("Item")


class StatusFile:
    """Appends to <folder>/status.json. With `enabled` false it does nothing (all processes but the first)."""

    def __init__(self, folder: str | Path, enabled: bool = True) -> None:
        self.path, self.enabled = Path(folder, "status.json"), enabled

    def write(self, status: str, message: str, kpi: Mapping[str, float] | None = None) -> None:
        """One line. `status` is STARTED, RUNNING, SUCCESS or FAILURE.

        A disk that takes no more ends no run here, and hides no error that is being told: checkpoints tell of it.
        """
        if not self.enabled:
            return
        now = datetime.now()
        level = "ERROR" if status == "FAILURE" else "INFO"
        line: dict[str, Any] = {
            "date": f"{now:%m/%d/%Y}",
            "time": f"{now:%H:%M:%S}",
            "status": status,
            "verbosity": level,
        }
        line |= {"message": message}
        if kpi is not None:
            line["kpi"] = finite_or_none(kpi)
        with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def write_metrics(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """metrics.jsonl from the whole history, so that no epoch is there twice however often a run was cut off."""
    write_text(path, "".join(json.dumps(finite_or_none(row)) + "\n" for row in history))


def finite_or_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """NaN and infinity are no JSON: null in their place."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


class ProgressBar:
    """Clips of one epoch on a terminal: rate, time left, loss, accuracy, lr. Silent where stderr is no terminal."""

    def __init__(self, title: str, total: int, unit: str = "clip", enabled: bool = True) -> None:
        silent = not (enabled and sys.stderr.isatty())
        self._bar = tqdm(total=total, desc=title, unit=unit, disable=silent, leave=False, dynamic_ncols=True)

    def advance(self, count: int, **figures: float) -> None:
        """`count` more are done; show the figures beside the bar."""
        if figures:
            self._bar.set_postfix({k: f"{v:.4g}" for k, v in figures.items()}, refresh=False)
        self._bar.update(count)

    def close(self) -> None:
        self._bar.close()


class Stopwatch:
    """Seconds since it was made, on top of `already`."""

    def __init__(self, already: float = 0.0) -> None:
        self._lap = time.perf_counter()
        self._start = self._lap - already

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def lap(self) -> float:
        """Seconds since the last lap, or since it was made."""
        before, self._lap = self._lap, time.perf_counter()
        return self._lap - before


@dataclass
class Times:
    """Seconds of a pass over data: spent waiting for batches, and on the rest."""

    data_sec: float = 0.0
    compute_sec: float = 0.0

    def spent_on(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches as they come, while the seconds before and after each are counted."""
        watch = Stopwatch()
        for batch in batches:
            self.data_sec += watch.lap()
            yield batch
            self.compute_sec += watch.lap()
        self.data_sec += watch.lap()


def what_limits(data_sec: float, compute_sec: float, num_workers: int) -> str:
    """Where the time of an epoch went: "data 4 s, computing 1 min 11 s: computing limits".

    Without workers, reading and computing take turns, and the longer limits. Workers read meanwhile, so waiting for
    them says that they don't keep up; a tenth is allowed for the start of the epoch.
    """
    share = 0.1 if num_workers else 0.5
    limit = "data" if data_sec > share * (data_sec + compute_sec) else "computing"
    return f"data {duration(data_sec)}, computing {duration(compute_sec)}: {limit} limits"


def duration(seconds: float) -> str:
    """Seconds as people write them: 43 s, 5 min 02 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
