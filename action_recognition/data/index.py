"""From a dataset folder to a sorted list of videos. The folder is listed once; nothing lists it again.

In: root/<class>/<video>, a folder with rgb, u, v in it or a video file (or root/<video> for inference), or a list file
of such videos, and the modalities that a model needs. Out: an Index of Video values that know their frame files without
holding a string for each. Opens no image and no video. Folders are listed by several threads at once, since network
disks answer slowly, but many at a time; data/index_cache.py saves most of that from the second run on.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeVar

from action_recognition.clip.video import SUFFIXES as VIDEO_SUFFIXES
from action_recognition.data.lists import VideoList, read_list
from action_recognition.errors import DataError

FOLDERS = {"rgb": ("rgb",), "of": ("u", "v")}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
UNKNOWN = -1  # the label of a video of no known class
MAX_BAD_SHARE = 0.05
_NUMBERED = re.compile(r"(.*?)(\d+)(\.[A-Za-z]+)", re.DOTALL)
_NUM_THREADS = 16
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """The names of a folder's images in text order; as a pattern where they are numbered without a gap."""

    count: int
    prefix: str = ""
    first: int = 0
    digits: int = 0
    suffix: str = ""
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str]) -> "FrameFiles":
        """The files of a folder from its listing."""
        ordered = tuple(sorted(names))
        match = _NUMBERED.fullmatch(ordered[0]) if ordered else None
        if match:
            prefix, number, suffix = match.groups()
            pattern, first = f"{prefix.replace('%', '%%')}%0{len(number)}d{suffix}", int(number)
            if ordered == tuple(map(pattern.__mod__, range(first, first + len(ordered)))):
                return cls(len(ordered), prefix, first, len(number), suffix)
        return cls(len(ordered), names=ordered)

    def name(self, frame_id: int) -> str:
        """The file name of frame `frame_id`, counted from 0."""
        if self.names:
            return self.names[frame_id]
        return f"{self.prefix}{self.first + frame_id:0{self.digits}d}{self.suffix}"

    @property
    def in_doubtful_order(self) -> bool:
        """True where text order is not the order of the numbers in the names (9.png after 10.png)."""
        numbers = [int(match[-1]) for name in self.names if (match := re.findall(r"\d+", name))]
        return numbers != sorted(numbers)


ListFrames = Callable[[str, str], FrameFiles]  # the images in a sub-folder of a video; OSError if it can't be listed


def list_frames(video: str, folder: str) -> FrameFiles:
    """The images in a sub-folder of a video, as the disk lists them. OSError where it can't be listed."""
    with os.scandir(os.path.join(video, folder)) as entries:
        names = [e.name for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES) and not e.name.startswith(".")]
    return FrameFiles.of(names)


@dataclass(frozen=True, slots=True)
class Video:
    """A video: its path, its label (UNKNOWN where it has none), and where its frames are.

    `files` are the images by sub-folder (rgb, u, v); a video file has none. `packed` is the file of the frame cache
    that holds all frames, if there is one.
    """

    path: str
    label: int
    files: Mapping[str, FrameFiles] = field(default_factory=dict)
    packed: str = ""

    @property
    def is_file(self) -> bool:
        """True for a video file, False for a folder of images."""
        return not self.files


@dataclass(frozen=True)
class Index:
    """The videos of a dataset folder, sorted by path, and what was left out: (video path, reason)."""

    videos: list[Video]
    class_names: tuple[str, ...]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def class_folders(root: str | Path) -> list[str]:
    """The names of root's sub-folders, sorted. OSError where root can't be listed."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def videos_in(folder: str | Path) -> list[str]:
    """The names of a class folder's videos, sorted: sub-folders and video files. OSError where it can't be listed."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and (e.is_dir() or is_video_file(e.name)))


def is_video_file(name: str) -> bool:
    """True where a name ends as those of video files do."""
    return name.lower().endswith(VIDEO_SUFFIXES)


def class_names_of(label_map: Mapping[str, int] | None, root: str | Path) -> tuple[str, ...]:
    """The class names by index: those of the label map, else root's sorted sub-folders or a list's own.

    A list that has indices only gives them as names: 0, 1 ... OSError where a folder can't be listed, DataError where a
    list can't be read.
    """
    if label_map:
        return tuple(sorted(label_map, key=lambda name: label_map[name]))
    if not os.path.isfile(root):
        return tuple(class_folders(root))
    found = read_list(Path(root), allow_missing=True)  # what is missing is index_classes' to tell
    return found.class_names or tuple(map(str, range(1 + max(int(entry.label) for entry in found.entries))))


def index_classes(
    root: str | Path,
    class_names: Sequence[str],
    modalities: Sequence[str],
    on_bad_video: str,
    frames_in: ListFrames = list_frames,
) -> Index:
    """The videos of root/<class>/<video>, or of a list file. A class without videos is a note, another is an error.

    `frames_in` lists their frame folders, from several threads at once. Raises DataError for videos that can't be used
    (with on_bad_video skip: only above 5 % of all), an empty class folder, and a root without videos.
    """
    if os.path.isfile(root):
        found = read_list(Path(root), class_names=class_names, allow_missing=on_bad_video == "skip")
        candidates, missing = _in_list(found, class_names), found.missing
    else:
        candidates, missing = _in_class_folders(root, class_names), []
    index = _index(root, sorted(candidates), tuple(class_names), modalities, on_bad_video, frames_in, missing)
    labels = {label for _, label in candidates}
    absent = [name for label, name in enumerate(class_names) if label not in labels]
    if absent:
        index.notes.append(f"{root}: no video of {len(absent)} of {len(class_names)} classes: {', '.join(absent)}")
    return index


def _in_list(found: VideoList, class_names: Sequence[str]) -> list[tuple[str, int]]:
    """(path, label) of a list's entries, whose labels are names or ids."""
    ids = {name: label for label, name in enumerate(class_names)}
    return [(e.path, ids[e.label] if isinstance(e.label, str) else e.label) for e in found.entries]


def _in_class_folders(root: str | Path, class_names: Sequence[str]) -> list[tuple[str, int]]:
    """(path, label) of what lies in root's class folders."""
    present = _listed(root, class_folders)
    unknown = [name for name in present if name not in class_names]
    if unknown:
        raise DataError(
            f"{root}: class folder {unknown[0]!r} is not one of the classes {', '.join(class_names)}; "
            "add it to dataset.label_map or move it away"
        )
    candidates = []
    labels = [label for label, name in enumerate(class_names) if name in set(present)]
    folders = [str(Path(root, class_names[label])) for label in labels]
    names_of_all = in_threads(lambda folder: _listed(folder, videos_in), folders, at_once=1)
    for label, folder, names in zip(labels, folders, names_of_all, strict=True):
        if not names:
            raise DataError(f"{folder}: the class folder holds no video; add videos or remove it")
        candidates += [(f"{folder}{os.sep}{name}", label) for name in names]
    return candidates


def index_videos(
    root: str | Path,
    class_names: Sequence[str],
    modalities: Sequence[str],
    on_bad_video: str,
    frames_in: ListFrames = list_frames,
) -> Index:
    """The videos of a class-level folder, root/<video>, without labels. Otherwise as index_classes."""
    candidates = [(str(Path(root, name)), UNKNOWN) for name in _listed(root, videos_in)]
    return _index(root, candidates, tuple(class_names), modalities, on_bad_video, frames_in)


def stop_if_too_many(skipped: Sequence[tuple[str, str]], num_videos: int, what: str = "videos") -> None:
    """DataError where more than 5 % of the videos were skipped: such a data set needs a person's look.

    `what` says which videos were counted.
    """
    if len(skipped) > MAX_BAD_SHARE * num_videos:
        raise DataError(
            f"{len(skipped)} of {num_videos} {what} can't be used, more than the {MAX_BAD_SHARE:.0%} that "
            f"dataset.on_bad_video=skip allows:\n{_listing(skipped)}"
        )


def in_threads(look: Callable[[_Item], _Found], items: Sequence[_Item], at_once: int = 256) -> list[_Found]:
    """`look` of each item, in their order. Each thread takes `at_once` items at a time."""
    from concurrent.futures import ThreadPoolExecutor  # not needed for -h, and slow to load

    parts = [items[i : i + at_once] for i in range(0, len(items), at_once)]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return list(chain.from_iterable(pool.map(lambda part: [look(item) for item in part], parts)))


def _listed(folder: str | Path, names_in: Callable[[str | Path], list[str]]) -> list[str]:
    try:
        return names_in(folder)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: can't be listed ({error.strerror})") from error


def _index(
    root: str | Path,
    candidates: list[tuple[str, int]],
    class_names: tuple[str, ...],
    modalities: Sequence[str],
    on_bad_video: str,
    frames_in: ListFrames,
    missing: Sequence[tuple[str, str]] = (),
) -> Index:
    """List each candidate's frame folders and keep those that can be used. `missing`: (path, where it was listed)."""
    if not candidates:
        raise DataError(f"{root}: no video found; expected video files, or <video>/rgb (and u, v) folders of frames")
    video_files = [path for path, _ in candidates if is_video_file(path) and not os.path.isdir(path)]
    _check_video_files(root, video_files, modalities)
    _check_doubles(video_files, candidates)
    index, is_file = Index([], class_names), set(video_files)
    index.skipped.extend((path, f"does not exist ({place})") for path, place in missing)
    folders = [folder for modality in modalities for folder in FOLDERS[modality]]
    seen: dict[tuple[FrameFiles, ...], dict[str, FrameFiles]] = {}  # videos with as many frames share it, mostly

    def look(candidate: tuple[str, int]) -> dict[str, FrameFiles] | str:
        """The frame files of a video, or the reason why it can't be used."""
        path, _ = candidate
        found = () if path in is_file else _frame_files(path, folders, frames_in)
        if isinstance(found, str):
            return found
        return seen.get(found) or seen.setdefault(found, dict(zip(folders, found, strict=False)))

    for (path, label), files in zip(candidates, in_threads(look, candidates), strict=True):
        if isinstance(files, str):
            index.skipped.append((path, files))
        else:
            index.videos.append(Video(path, label, files))
    _check_usable(root, index, modalities, on_bad_video)
    in_doubt = {id(files) for of_each, files in seen.items() if any(f.in_doubtful_order for f in of_each)}
    doubtful = [video.path for video in index.videos if id(video.files) in in_doubt] if in_doubt else []
    if doubtful:
        index.notes.append(
            f"{root}: {len(doubtful)} videos have frames whose text order is not their number order (such as "
            f"{doubtful[0]}); frames are read in text order: pad the numbers with zeros"
        )
    if 0 < len(video_files) < len(candidates):
        num_folders = len(candidates) - len(video_files)
        index.notes.append(f"{root}: {len(video_files)} video files and {num_folders} folders of frames, both are used")
    return index


def _check_video_files(root: str | Path, paths: Sequence[str], modalities: Sequence[str]) -> None:
    """DataError where video files are there and the model needs flow, or nothing is there to decode them with."""
    if paths and "of" in modalities:
        raise DataError(
            f"{root}: holds {len(paths)} video files (such as {paths[0]}), which have no optical flow; make folders "
            "with tools/preprocess.py SRC DST --flow dis and give DST, or set model.model_type=rgb"
        )
    if paths and importlib.util.find_spec("av") is None:
        raise DataError(f"{root}: holds video files (such as {paths[0]}), which need PyAV: pip install av")


def _check_doubles(video_files: Sequence[str], candidates: Sequence[tuple[str, int]]) -> None:
    """DataError where a video file lies beside the folder of its own frames."""
    paths = {path for path, _ in candidates} if video_files else ()
    for path in video_files:
        folder = os.path.splitext(path)[0]
        if folder in paths:
            raise DataError(f"{path} and the folder {folder} are one video twice; move one of them away")


def _check_usable(root: str | Path, index: Index, modalities: Sequence[str], on_bad_video: str) -> None:
    """DataError where videos can't be used and may not be left out."""
    num_videos = len(index.videos) + len(index.skipped)
    if num_videos > 1 and all(reason.startswith("has no folder") for _, reason in index.skipped) and not index.videos:
        wanted = ", ".join(folder for modality in modalities for folder in FOLDERS[modality])
        raise DataError(f"{root}: none of the {num_videos} videos has {wanted} folders; is this the right level?")
    if index.skipped and on_bad_video != "skip":
        raise DataError(
            f"{root}: {len(index.skipped)} of {num_videos} videos can't be used (dataset.on_bad_video=skip leaves such "
            f"videos out, up to {MAX_BAD_SHARE:.0%}):\n{_listing(index.skipped)}"
        )
    stop_if_too_many(index.skipped, num_videos)


def _frame_files(path: str, folders: Sequence[str], frames_in: ListFrames) -> tuple[FrameFiles, ...] | str:
    """The files in these sub-folders of a video, or the reason why it can't be used."""
    found = []
    for folder in folders:
        try:
            files = frames_in(path, folder)
        except FileNotFoundError:
            return f"has no folder {folder!r}"
        except OSError as error:
            return f"folder {folder!r} can't be listed ({error.strerror})"
        if not files.count:
            return f"folder {folder!r} holds no {' or '.join(IMAGE_SUFFIXES[:2])} image"
        found.append(files)
    return ("u" in folders and _mismatch({f: files.count for f, files in zip(folders, found, strict=True)})) or tuple(
        found
    )


def _mismatch(counts: Mapping[str, int]) -> str:
    """What is wrong with the numbers of frames and of flow images, or an empty text."""
    if counts["u"] != counts["v"]:
        return f"u holds {counts['u']} images and v {counts['v']}; they must be as many"
    if "rgb" in counts and counts["rgb"] < counts["u"]:
        return f"rgb holds {counts['rgb']} frames and u, v {counts['u']}; N frames have N-1 flow images"
    return ""


def _listing(skipped: Sequence[tuple[str, str]], most: int = 10) -> str:
    lines = [f"  {path}: {reason}" for path, reason in skipped[:most]]
    return "\n".join(lines + [f"  ... and {len(skipped) - most} more"] * (len(skipped) > most))
