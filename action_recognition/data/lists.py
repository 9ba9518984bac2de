"""List files: which videos make up a data set, and the label of each.

In: text with a line a video, `path label` (SlowFast, mmaction2; separated by space, comma or tab), `folder num_frames
label` (mmaction2's frame folders), UCF101's trainlist and testlist, a csv with a header (Kinetics' own among them), or
3D-ResNets' and ActivityNet's json. Out: a VideoList of paths that exist. Opens no video and lists each folder once.

Names are bytes of a file system, not words: none is cut, split or read as a comment. A video file and the folder of its
frames are one video, whichever of the two the list names.
"""

import csv
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from action_recognition.clip.video import SUFFIXES
from action_recognition.errors import DataError

Label = str | int
LIST_SUFFIXES = (".txt", ".csv", ".json")
CLASS_INDEX = "classInd.txt"  # UCF101's classes, `1 ApplyEyeMakeup`, beside its lists
_PATHS = ("path", "video", "file", "filename", "file_name", "video_path", "youtube_id")
_LABELS = ("label", "class", "class_name")
_SUBSETS = ("split", "subset")
_NO_LABEL = ("", "-1")  # of test sets whose answers are kept back
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")  # Python refuses to read those of 4300 digits
_MAX_CLASSES = 1_000_000  # each gets a name, so that an index without bound would take memory without bound


@dataclass(frozen=True, slots=True)
class ListEntry:
    """A video on disk (below the list's root), its class name or index, and the line that says so (json: the entry)."""

    path: str
    label: Label
    line: int


@dataclass(frozen=True)
class VideoList:
    """The videos of a list in its order, and the class names by index, None where it has indices only.

    `missing` are the videos that do not exist: (path, where it was listed).
    """

    entries: list[ListEntry]
    class_names: tuple[str, ...] | None
    missing: list[tuple[str, str]] = field(default_factory=list)


class _Row(NamedTuple):
    """An entry as it is written: the paths that it may mean, the likeliest first."""

    place: str
    line: int
    paths: tuple[str, ...]
    label: str
    subset: str = ""


class _Listing(NamedTuple):
    """What a file says: its rows, and the classes that it or the file beside it declares, in their order."""

    rows: list[_Row]
    classes: Sequence[str] = ()


def read_list(
    path: Path,
    root: Path | None = None,
    class_names: Sequence[str] | None = None,
    *,
    subset: str | None = None,
    allow_missing: bool = False,
) -> VideoList:
    """The videos of a list file.

    Paths are relative to `root`, by default the list's folder, and may not lead out of it. `class_names` are the only
    labels accepted, by name or index. `subset` (training, val ...) chooses from a list that holds several. Raises
    DataError that names file and line for what can't be read, and for videos that don't exist: all of them together,
    with `allow_missing` only where none exists.
    """
    rows, declared = _listing(path)
    rows = _of_subset(path, rows, subset)
    labels, names = _labels(rows, class_names or declared)
    files = _Files(path, path.parent if root is None else root)
    entries, missing = [], []
    for row, label in zip(rows, labels, strict=True):
        found = files.find(row)
        if found is None:
            missing.append((os.path.join(files.root, row.paths[0]), row.place))
        else:
            entries.append(ListEntry(found, label, row.line))
    if missing and not (allow_missing and entries):
        raise DataError(f"{path}: {len(missing)} of {len(rows)} videos do not exist:\n{_first_ten(missing)}")
    _check_repeated(path, entries)
    return VideoList(entries, names, missing)


def list_subsets(path: Path) -> dict[str, int]:
    """The subsets that a list names (json, csv with a split column), and how many of their videos have a label."""
    rows = _listing(path).rows
    return {
        subset: sum(row.subset == subset and row.label not in _NO_LABEL for row in rows) for subset in _subsets(rows)
    }


def video_stem(name: str) -> str:
    """A video's name without the extension of a video file, which alone is cut: a.b.avi is a.b, and a.b is a.b."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def _listing(path: Path) -> _Listing:
    listing = _json_listing(path) if path.suffix.lower() == ".json" else _text_listing(path)
    if not listing.rows:
        raise DataError(f"{path}: lists no video")
    return listing


def _content(path: Path) -> str:
    """The text of a file. Bytes that are no UTF-8 become what file names have for them."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: can't be read (it is no file)")  # of a device or a pipe there may be no end
    try:
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error


# --- text ---


def _text_listing(path: Path) -> _Listing:
    lines = _lines(path)
    separator = _separator([text for _, text in lines])
    fields = [(number, text, _fields(path, number, text, separator)) for number, text in lines]
    columns = _columns(fields[0][2]) if fields else {}
    if columns:
        return _Listing([_row_by_columns(path, number, text, values, columns) for number, text, values in fields[1:]])
    classes = _class_index(path)
    rows = [_row(_place(path, number, text), number, values, classes) for number, text, values in fields]
    return _Listing(rows, [classes[number] for number in sorted(classes)])


def _lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that are not blank."""
    content = _content(path)
    if "\0" in content:
        raise DataError(f"{path}: is not a list of videos but a binary file")
    # not splitlines(), which also splits at characters that names may hold
    return [(number, text) for number, text in enumerate(content.split("\n"), start=1) if text.strip()]


def _separator(lines: Sequence[str]) -> str:
    if any("\t" in text.strip() for text in lines):
        return "\t"
    return "," if lines and all("," in text for text in lines) else " "


def _fields(path: Path, number: int, text: str, separator: str) -> list[str]:
    """The fields of a line. Between spaces there are two, the last word and what is before it: paths hold spaces."""
    if separator == " ":
        return [_unquoted(part.strip(" ")) for part in text.strip().rsplit(" ", 1)]
    if separator == "\t":
        return [part.strip() for part in text.split("\t")]
    try:
        return [part.strip() for part in next(csv.reader([text], skipinitialspace=True, strict=True))]
    except csv.Error as error:
        raise DataError(f"{_place(path, number, text)}: can't be read as comma-separated ({error})") from None


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text


def _row(place: str, number: int, fields: Sequence[str], classes: Mapping[int, str]) -> _Row:
    """`path label`, `path num_frames label`, or a path whose first folder is one of `classes`."""
    first_folder = fields[0].partition("/")[0]
    if len(fields) == 1 and first_folder in classes.values():
        return _Row(place, number, (fields[0],), first_folder)
    if len(fields) == 3 and _WHOLE_NUMBER.fullmatch(fields[1]):
        fields = (fields[0], fields[2])
    if len(fields) != 2 or not all(fields):
        raise DataError(f"{place}: expected a path and a label (between them, a number of frames)")
    path, label = fields
    counted = re.fullmatch(r"(.+?) +[0-9]+", path)  # `folder num_frames label` between spaces
    if classes and _WHOLE_NUMBER.fullmatch(label):
        label = _class_of(place, int(label), classes)
    return _Row(place, number, (path, counted[1]) if counted else (path,), label)


def _class_of(place: str, number: int, classes: Mapping[int, str]) -> str:
    if number not in classes:
        raise DataError(f"{place}: {CLASS_INDEX} has the classes {min(classes)}..{max(classes)}, got {number}")
    return classes[number]


def _columns(fields: Sequence[str]) -> dict[str, int]:
    """What the columns of a header are: path, label, subset, start, end; nothing where the line is no header."""
    names = [name.lower() for name in fields]
    wanted = {"path": _PATHS, "label": _LABELS, "subset": _SUBSETS, "start": ("time_start",), "end": ("time_end",)}
    columns = {what: names.index(name) for what, known in wanted.items() for name in known if name in names}
    return columns if "path" in columns and "label" in columns else {}


def _row_by_columns(path: Path, number: int, text: str, fields: Sequence[str], columns: Mapping[str, int]) -> _Row:
    place = _place(path, number, text)
    if len(fields) <= max(columns.values()):
        raise DataError(f"{place}: has {len(fields)} fields, too few for the header in line 1")
    values = {what: fields[column] for what, column in columns.items()}
    name, label, subset = values["path"], values["label"], values.get("subset", "")
    if "start" not in values or "end" not in values:
        return _Row(place, number, (name,), label, subset)
    try:  # Kinetics' files are named by the cut they are from
        start, end = (int(float(values[what])) for what in ("start", "end"))
    except (ValueError, OverflowError):  # OverflowError: infinity
        raise DataError(f"{place}: time_start and time_end must be seconds") from None
    return _Row(place, number, _in_folders(f"{name}_{start:06d}_{end:06d}", label, subset), label, subset)


def _class_index(path: Path) -> dict[int, str]:
    """The classes that UCF101's classInd.txt beside the list numbers from 1, or nothing."""
    index_path = path.with_name(CLASS_INDEX)
    if not index_path.is_file():
        return {}
    classes = {}
    for number, text in _lines(index_path):
        match = re.fullmatch(r"([0-9]{1,18}) +(.+)", text.strip())
        if not match:
            raise DataError(f"{_place(index_path, number, text)}: expected `number class`")
        classes[int(match[1])] = match[2]
    return classes


# --- json ---


def _json_listing(path: Path) -> _Listing:
    content = _json(path)
    database, labels = content.get("database"), content.get("labels", [])
    if not isinstance(database, dict) or not isinstance(labels, list):
        raise DataError(f"{path}: expected a list `labels` and a mapping `database` of videos to subset, annotations")
    rows = [_json_row(f"{path}, video {_shown(name)}", i, name, about)
            for i, (name, about) in enumerate(database.items(), start=1)]  # fmt: skip
    return _Listing(rows, sorted(map(str, labels)))


def _json(path: Path) -> dict[str, Any]:
    text = _content(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no json ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be a mapping with `labels` and `database`, is a {type(content).__name__}")
    return content


def _json_row(place: str, number: int, name: str, about: Any) -> _Row:
    """A video of one label; several segments of one class are that class."""
    annotations: Any = about.get("annotations", {}) if isinstance(about, dict) else None
    segments: list[Any] = annotations if isinstance(annotations, list) else [annotations]
    if not all(isinstance(segment, dict) for segment in segments):
        raise DataError(f"{place}: expected a subset and annotations with a label")
    labels = sorted({str(segment.get("label", "")) for segment in segments}) or [""]
    if len(labels) > 1:
        raise DataError(f"{place}: has the labels {', '.join(labels)}; a video needs one")
    subset = str(about.get("subset", ""))
    return _Row(place, number, _in_folders(name, labels[0], subset), labels[0], subset)


def _in_folders(name: str, label: str, subset: str) -> tuple[str, ...]:
    """Where a video that is known by its name alone may lie: in a folder of its class, of its subset, of both."""
    classes = [label, label.replace(" ", "_")] if label else []
    folders = [*classes, *(os.path.join(subset, c) for c in classes if subset), subset, ""]
    return tuple(dict.fromkeys(os.path.join(folder, name) for folder in folders))


# --- subsets and labels ---


def _subsets(rows: Iterable[_Row]) -> list[str]:
    return list(dict.fromkeys(row.subset for row in rows if row.subset))


def _of_subset(path: Path, rows: list[_Row], subset: str | None) -> list[_Row]:
    known = _subsets(rows)
    if subset is None and len(known) <= 1:
        return rows
    if subset is None:
        raise DataError(
            f"{path}: holds the subsets {_few(known)}, and one is needed; "
            f"python tools/dataset.py split VIDEOS DST --list {path} makes a list of each"
        )
    if subset not in known:
        raise DataError(f"{path}: holds no subset {subset!r}, but {_few(known) or 'no subsets at all'}")
    return [row for row in rows if row.subset == subset]


def _labels(rows: Sequence[_Row], class_names: Sequence[str]) -> tuple[list[Label], tuple[str, ...] | None]:
    """The label of each row, all names or all indices, and the class names by index where they are known."""
    unlabelled = next((row for row in rows if row.label in _NO_LABEL), None)
    if unlabelled:
        raise DataError(f"{unlabelled.place}: has no label; training and evaluation need one for every video")
    labels = [row.label for row in rows]
    if not class_names:
        return _free_labels(rows)
    strangers = set(labels) - set(class_names)
    if not strangers:
        return list(labels), tuple(class_names)
    for row in (row for row in rows if row.label in strangers):
        _index_of(row, class_names)  # where others are names, the fault is with the first that is none
    return [_index_of(row, class_names) for row in rows], tuple(class_names)


def _free_labels(rows: Sequence[_Row]) -> tuple[list[Label], tuple[str, ...] | None]:
    numbers = [row for row in rows if _WHOLE_NUMBER.fullmatch(row.label)]
    if not numbers:
        return [row.label for row in rows], tuple(sorted({row.label for row in rows}))
    if len(numbers) < len(rows):
        name = next(row for row in rows if not _WHOLE_NUMBER.fullmatch(row.label))
        raise DataError(f"{name.place}: label {_shown(name.label)} is a name and that of line {numbers[0].line} "
                        "a number; use one kind in all lines")  # fmt: skip
    negative = next((row for row in rows if row.label.startswith("-")), None)
    if negative:
        raise DataError(f"{negative.place}: a label is a class name or an index >= 0, got {negative.label}")
    largest = max(rows, key=lambda row: int(row.label))
    if int(largest.label) >= _MAX_CLASSES:
        raise DataError(
            f"{largest.place}: label {largest.label} is no index of a class: those are below {_MAX_CLASSES}"
        )
    return [int(row.label) for row in rows], None


def _index_of(row: _Row, class_names: Sequence[str]) -> int:
    last = len(class_names) - 1
    if not _WHOLE_NUMBER.fullmatch(row.label):
        raise DataError(f"{row.place}: label {_shown(row.label)} is not one of the classes {_few(class_names)}")
    if not 0 <= int(row.label) <= last:
        raise DataError(f"{row.place}: label {row.label} is not one of 0..{last}, the indices of the classes")
    return int(row.label)


# --- files ---


class _Folder(NamedTuple):
    names: set[str]
    by_stem: dict[str, str]


class _Files:
    """What is there below a list's root. Each folder is listed once, when the first entry asks for it."""

    def __init__(self, list_path: Path, root: Path) -> None:
        self.root, self._absolute = os.fspath(root), os.path.abspath(root)
        self._folders: dict[str, _Folder] = {}
        if not os.path.isdir(root):
            raise DataError(f"{list_path}: its videos should be below {root}, which is no folder")

    def find(self, row: _Row) -> str | None:
        """The first of a row's paths that exists, by its name or else by its stem, or None."""
        for path in row.paths:
            folder, name = os.path.split(self._inside(row, path))
            there = self._list(folder)
            found = name if name in there.names else there.by_stem.get(video_stem(name))
            if found is not None:
                return os.path.join(self.root, folder, found)
        return None

    def _inside(self, row: _Row, path: str) -> str:
        """`path` relative to the root. DataError where it leads out of it."""
        relative = os.path.relpath(path, self._absolute) if os.path.isabs(path) else os.path.normpath(path)
        if relative.split(os.sep)[0] in (os.pardir, os.curdir):
            raise DataError(
                f"{row.place}: {_cut(path)} leads out of {self.root}, the folder that the list's videos are in"
            )
        return relative

    def _list(self, folder: str) -> _Folder:
        if folder not in self._folders:
            try:
                with os.scandir(os.path.join(self.root, folder)) as entries:
                    found = sorted((os.path.isdir(entry), entry.name) for entry in entries)
            except (OSError, ValueError):  # ValueError: a name that no disk can have
                found = []
            # of two with one stem the later stays: folders, whose frames are ready to be read, go before files
            self._folders[folder] = _Folder({name for _, name in found}, {video_stem(name): name for _, name in found})
        return self._folders[folder]


def _check_repeated(path: Path, entries: Iterable[ListEntry]) -> None:
    """DataError where a video stands in the list with two labels; twice with one is a wish to see it twice."""
    first: dict[str, ListEntry] = {}
    for entry in entries:
        before = first.setdefault(entry.path, entry)
        if before.label != entry.label:
            raise DataError(f"{path}, line {entry.line}: {entry.path} is {entry.label!r} here and "
                            f"{before.label!r} in line {before.line}")  # fmt: skip


def _place(path: Path, number: int, text: str) -> str:
    return f"{path}, line {number} {_shown(text.strip())}"


def _shown(text: str) -> str:
    return repr(_cut(text))


def _cut(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(_cut, names[:10])) + ", ..." * (len(names) > 10)


def _first_ten(missing: Sequence[tuple[str, str]]) -> str:
    lines = [f"  {place}" for _, place in missing[:10]]
    return "\n".join(lines + [f"  ... and {len(missing) - 10} more"] * (len(missing) > 10))
