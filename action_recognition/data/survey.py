"""What a data set holds: its videos, and their lengths and sizes by class. Looks at names and headers, decodes nothing.

In: a tree of class folders, a folder with such trees for train, val and test, or a list file. Out: Found videos, a
Measure of each, a summary of plain numbers, and that as a table or a plot. The frames and seconds of a video file are
what its header says; check.py is what decodes.
"""

import json
import os
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from action_recognition.data.index import IMAGE_SUFFIXES, class_folders, videos_in
from action_recognition.data.lists import read_list
from action_recognition.errors import DataError

PARTS = ("train", "val", "valid", "validation", "test")
FRAME_FOLDERS = ("rgb", "u", "v")
_COLUMNS = ("videos", "frames", "min", "median", "max", "seconds")


@dataclass(frozen=True)
class Found:
    """A video of a data set, a file or a folder of frames, and its class."""

    path: str
    class_name: str

    @property
    def is_file(self) -> bool:
        return not os.path.isdir(self.path)


@dataclass(frozen=True)
class Measure:
    """A video's frames, flow images, (width, height) and seconds as names and headers have them, or why they can't."""

    video: Found
    num_rgb: int = 0
    num_flow: int = 0
    size: tuple[int, int] | None = None
    seconds: float | None = None
    problem: str = ""

    @property
    def num_frames(self) -> int:
        """The frames; of a folder of flow alone as many as it was made from."""
        return self.num_rgb or self.num_flow + 1


def parts_of(root: Path) -> dict[str, Path]:
    """{part: tree or list} of a folder that holds train.txt, val.txt ... or nothing but folders train, val ...

    {"": root} of anything else.
    """
    folders = _listed(root, class_folders) if root.is_dir() else []
    lists = {part: root / f"{part}.txt" for part in PARTS if (root / f"{part}.txt").is_file()}
    if lists:
        return lists
    if folders and set(folders) <= set(PARTS):
        return {part: root / part for part in sorted(folders, key=PARTS.index)}
    return {"": root}


def find_videos(root: Path) -> list[Found]:
    """The videos of a tree <class>/<video>, sorted, or of a list file in its order. DataError where there are none."""
    if root.is_file():
        return [Found(entry.path, str(entry.label)) for entry in read_list(root).entries]
    found = [
        Found(os.path.join(root, class_name, name), class_name)
        for class_name in _listed(root, class_folders)
        for name in _listed(root / class_name, videos_in)
    ]
    if not found:
        raise DataError(f"{root}: holds no video; expected <class>/<video file>, or <class>/<video>/rgb (and u, v)")
    return found


def _listed(folder: Path, names_in: Callable[[Path], list[str]]) -> list[str]:
    try:
        return names_in(folder)
    except OSError as error:
        raise DataError(f"{folder}: can't be listed ({error.strerror})") from error


def image_names(folder: str) -> list[str] | None:
    """The names of a folder's images, sorted; None where it is no folder."""
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    return sorted(n for n in names if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith("."))


# --- one video ---


def measure(video: Found) -> Measure:
    """A video's length and size, without decoding it."""
    return _measure_file(video) if video.is_file else _measure_folder(video)


def _measure_folder(video: Found) -> Measure:
    names = {folder: image_names(os.path.join(video.path, folder)) or [] for folder in FRAME_FOLDERS}
    filled = [folder for folder in FRAME_FOLDERS if names[folder]]
    if not filled:
        return Measure(video, problem=f"no folder {', '.join(FRAME_FOLDERS)} with images")
    first = os.path.join(video.path, filled[0], names[filled[0]][0])
    try:
        with Image.open(first) as image:
            size = image.size
    except (OSError, ValueError, SyntaxError) as error:
        return Measure(video, problem=f"{first}: {error}")
    num_rgb, num_flow = len(names["rgb"]), min(len(names["u"]), len(names["v"]))
    fps = _recorded_fps(video.path)
    return Measure(video, num_rgb, num_flow, size, (num_rgb or num_flow + 1) / fps if fps else None)


def _recorded_fps(folder: str) -> float | None:
    """The frame rate that preprocessing left in the folder, if it did."""
    try:
        outcome = json.loads(Path(folder, "preprocess.json").read_text())["outcome"]
        return float(outcome["fps"]) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measure_file(video: Found) -> Measure:
    try:
        import av
    except ModuleNotFoundError:
        raise DataError(f"{video.path}: a video file needs PyAV: pip install av") from None
    try:
        with av.open(video.path, metadata_errors="ignore") as container:
            if not container.streams.video:
                return Measure(video, problem="no video stream")
            stream = container.streams.video[0]
            size, seconds = (stream.width, stream.height), _duration_sec(container, stream)
            num_frames = stream.frames or round((seconds or 0) * float(stream.average_rate or 0))
            problem = "" if num_frames else "its header does not say how long it is"
            return Measure(video, num_frames, 0, size, seconds, problem)
    except (av.FFmpegError, OSError) as error:
        return Measure(video, problem=str(error))


def _duration_sec(container: Any, stream: Any) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration else None  # of sound and picture, in microseconds


# --- all of them ---


def summarise(measures: Sequence[Measure]) -> dict[str, Any]:
    """The figures of a data set as plain values: of all videos, and of each class by its name."""
    good = [m for m in measures if not m.problem]
    of_class: dict[str, list[Measure]] = {name: [] for name in sorted({m.video.class_name for m in measures})}
    for m in good:
        of_class[m.video.class_name].append(m)
    sizes = Counter(f"{m.size[0]}x{m.size[1]}" for m in good if m.size)
    return {
        **_figures(good),
        "video_files": sum(m.video.is_file for m in good),
        "with_flow": sum(m.num_flow > 0 for m in good),
        "sizes": dict(sizes.most_common()),
        "unreadable": {m.video.path: m.problem for m in measures if m.problem},
        "classes": {name: _figures(of_its) for name, of_its in of_class.items()},
    }


def _figures(measures: Sequence[Measure]) -> dict[str, Any]:
    """`seconds` is None where one video's is not known: a sum of some would mislead."""
    lengths = [m.num_frames for m in measures] or [0]
    seconds = [m.seconds for m in measures if m.seconds is not None]
    return {
        "videos": len(measures),
        "frames": sum(lengths),
        "min": min(lengths),
        "median": statistics.median(lengths),
        "max": max(lengths),
        "seconds": round(sum(seconds), 1) if measures and len(seconds) == len(measures) else None,
    }


def table(summary: Mapping[str, Any]) -> list[str]:
    """A summary as lines: a row a class, a row for all, and what does not fit into columns."""
    rows: list[tuple[str, ...]] = [("class", *_COLUMNS)]
    for name, figures in (*summary["classes"].items(), ("all", summary)):
        rows.append((printable(name), *("-" if figures[c] is None else f"{figures[c]:.10g}" for c in _COLUMNS)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(-1, "-" * len(lines[0]))
    return [*lines, *_remarks(summary)]


def _remarks(summary: Mapping[str, Any]) -> list[str]:
    sizes, folders = summary["sizes"], summary["videos"] - summary["video_files"]
    lines = [f"width x height (videos): {', '.join(f'{size} ({n})' for size, n in sizes.items())}"]
    if len(sizes) > 8:
        widths, heights = zip(*(map(int, size.split("x")) for size in sizes), strict=True)
        lines = [f"{len(sizes)} sizes: width {min(widths)}..{max(widths)}, height {min(heights)}..{max(heights)}"]
    lines.append(f"{summary['video_files']} video files, {folders} folders of frames, {summary['with_flow']} with flow")
    if summary["video_files"]:
        lines.append("frames and seconds of video files are what their headers say")
    lines += [f"unreadable: {path}: {problem}" for path, problem in list(summary["unreadable"].items())[:10]]
    if len(summary["unreadable"]) > 10:
        lines.append(f"... and {len(summary['unreadable']) - 10} more unreadable")
    return [printable(line) for line in lines]


def plot(summaries: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A picture of each data set's classes: how many videos, and how long they are (shortest, median, longest).

    Needs matplotlib (the extra `report`); DataError says so.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise DataError('plots need matplotlib: pip install ".[report]"') from None
    classes = sorted({name for summary in summaries.values() for name in summary["classes"]})
    figure = Figure(figsize=(10, max(2.5, 1 + 0.25 * len(classes) * len(summaries))), layout="constrained")
    count_axes, length_axes = figure.subplots(1, 2, sharey=True)
    height = 0.8 / len(summaries)
    for i, (name, summary) in enumerate(summaries.items()):
        rows = [(y + i * height, summary["classes"][c]) for y, c in enumerate(classes) if c in summary["classes"]]
        places, figures = [y for y, _ in rows], [f for _, f in rows]
        colour, label = f"C{i}", printable(f"{name} ({summary['videos']} videos)")
        count_axes.barh(places, [f["videos"] for f in figures], height * 0.9, color=colour, label=label)
        length_axes.hlines(places, [f["min"] for f in figures], [f["max"] for f in figures], colour)
        length_axes.plot([f["median"] for f in figures], places, "o", color=colour)
    count_axes.set_yticks([y + 0.4 - height / 2 for y in range(len(classes))], [printable(c) for c in classes])
    count_axes.invert_yaxis()
    count_axes.set_xlabel("videos")
    length_axes.set_xlabel("frames: shortest, median, longest")
    length_axes.set_xlim(left=0)
    figure.legend(loc="outside upper left")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the plot can't be written ({error})") from error


def printable(text: str) -> str:
    """A name for the eye: what no terminal can show (line breaks, bytes that are no UTF-8) becomes question marks."""
    return "".join(c if c.isprintable() else "?" for c in text)
