"""Which videos train, which validate and which test: official splits, random ones, and the files that say so.

In: the videos of a tree as "<class>/<name>". Out: a Split, and from it either list files or a tree of links. Moves and
copies nothing, overwrites nothing. The same seed gives the same split on any machine, in whatever order folders are
listed: the order is that of a hash of seed and name.
"""

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from action_recognition.clip.video import SUFFIXES
from action_recognition.errors import DataError, SpecError

VIDEOS_LINK = "videos"  # beside the lists: where their paths begin
_HMDB51_PARTS = {"0": "", "1": "train", "2": "test"}
_SUBSET_PARTS = {"training": "train", "validation": "val", "validate": "val", "testing": "test"}


@dataclass(frozen=True)
class Member:
    """A video of a part: its path below the tree, and its class."""

    path: str
    class_name: str

    @classmethod
    def of(cls, video: str) -> "Member":
        """The member for "<class>/<name>"."""
        return cls(video, video.partition("/")[0])


@dataclass(frozen=True)
class Split:
    """The videos of each part (train, val, test), and what did not come to lie in one.

    `unused` are videos that the official lists leave out, `unlisted` those that they do not know, `missing` those that
    they name and the tree does not have, `absent` their classes of which the tree has nothing.
    """

    parts: dict[str, list[Member]]
    unused: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        """What a person should know of the split, a line each."""
        all_classes = {member.class_name for members in self.parts.values() for member in members}
        for part, members in self.parts.items():
            classes = {member.class_name for member in members}
            yield f"{part}: {len(members)} videos of {len(classes)} classes"
            if classes < all_classes:
                yield _counted(f"{part} has no video of", "classes", sorted(all_classes - classes))
        if self.unused:
            yield f"{len(self.unused)} videos are in no part by the official lists"
        yield from (
            _counted(what, kind, names)
            for what, kind, names in (
                ("in no part, as no list names them:", "videos", self.unlisted),
                ("listed, but missing:", "videos", self.missing),
                ("listed, but without any video:", "classes", self.absent),
            )
            if names
        )


# --- official splits ---


def hmdb51_split(videos: Sequence[str], folder: Path, number: int) -> Split:
    """HMDB51's split 1, 2 or 3 from its folder of <class>_test_split<number>.txt files (`name.avi 0|1|2`)."""
    ending = f"_test_split{number}.txt"
    files = sorted(folder.glob(f"*{ending}"))
    if not files:
        raise DataError(f"{folder}: holds no <class>{ending}; expected HMDB51's folder testTrainMulti_7030_splits")
    listed: dict[str, str] = {}
    for file in files:
        for place, text in _lines(file):
            name, _, tag = text.rpartition(" ")
            if tag not in _HMDB51_PARTS or not name.strip():
                raise DataError(f"{place}: expected `name.avi` and 0 (unused), 1 (train) or 2 (test)")
            _note(listed, f"{file.name.removesuffix(ending)}/{name.strip()}", _HMDB51_PARTS[tag], place)
    return _official(videos, listed, folder)


def ucf101_split(videos: Sequence[str], folder: Path, number: int) -> Split:
    """UCF101's split 1, 2 or 3 from its folder of trainlist0<number>.txt and testlist0<number>.txt."""
    classes = _class_index(folder / "classInd.txt")
    listed: dict[str, str] = {}
    for part in ("train", "test"):
        for place, text in _lines(folder / f"{part}list{number:02d}.txt"):
            match = re.fullmatch(r"([^/]+)/(.+?)(?: +([0-9]+))?", text)
            if not match:
                raise DataError(f"{place}: expected Class/video.avi, in the training list with the class's number")
            if classes and match[3] and classes.get(match[3]) != match[1]:
                raise DataError(f"{place}: class {match[3]} is {classes.get(match[3])} in classInd.txt, not {match[1]}")
            _note(listed, f"{match[1]}/{match[2]}", part, place)
    return _official(videos, listed, folder)


def _class_index(file: Path) -> dict[str, str]:
    """{number: class} where the file is there: it only confirms what the folders say."""
    if not file.is_file():
        return {}
    return {number: name.strip() for _, text in _lines(file) for number, _, name in [text.partition(" ")]}


def _lines(file: Path) -> list[tuple[str, str]]:
    """(place, text) of the lines that are not blank."""
    try:
        content = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror})") from error
    lines = enumerate((text.strip() for text in content.split("\n")), start=1)
    return [(f"{file}, line {number} {text[:80]!r}", text) for number, text in lines if text]


def _note(listed: dict[str, str], video: str, part: str, place: str) -> None:
    if listed.setdefault(_stem(video), part) != part:
        raise DataError(f"{place}: {video} is listed for {part or 'no part'} and for {listed[_stem(video)] or 'none'}")


def _official(videos: Sequence[str], listed: Mapping[str, str], folder: Path) -> Split:
    """The videos by the part that a list gives their class and name; extensions do not matter."""
    there = _by_stem(videos)
    present = {_class(video) for video in videos}
    if not there.keys() & listed.keys():
        raise DataError(
            f"{folder}: none of its {len(listed)} videos (such as {next(iter(listed), '')}) is among the {len(videos)} "
            f"that are there (such as {min(videos, default='none')})"
        )
    parts = {part: [Member.of(there[v]) for v in sorted(listed.keys() & there.keys()) if listed[v] == part]
             for part in ("train", "test")}  # fmt: skip
    return Split(
        parts,
        unused=[there[v] for v in sorted(listed.keys() & there.keys()) if not listed[v]],
        unlisted=sorted(there[v] for v in there.keys() - listed.keys()),
        missing=sorted(v for v in listed.keys() - there.keys() if listed[v] and _class(v) in present),
        absent=sorted({_class(v) for v in listed} - present),
    )


# --- own splits ---


def random_split(
    videos: Sequence[str], val: float, test: float = 0.0, seed: int = 0, group: str | None = None
) -> Split:
    """A split by chance with the shares `val` and `test` of each class, as near as its number of videos allows.

    `group` is a regular expression that is searched for in "<class>/<name>"; its first group, or else the whole match,
    names what must stay on one side (a person, a recording). DataError names the videos that it does not match.
    """
    shares = _shares(val, test)
    of_group = _groups(videos, group) if group else {video: [video] for video in _by_stem(videos).values()}
    wanted = {part: {c: share * n for c, n in Counter(map(_class, videos)).items()} for part, share in shares.items()}
    lacking = {part: dict(counts) for part, counts in wanted.items()}
    parts: dict[str, list[Member]] = {part: [] for part in shares}
    for name in sorted(of_group, key=lambda name: _shuffled(seed, name)):
        counts = Counter(map(_class, of_group[name]))
        # the side that lacks the greatest share of what it should have; of equals the first, which is train
        part = max(shares, key=lambda p: sum(n * lacking[p][c] / wanted[p][c] for c, n in counts.items()))
        for class_name, n in counts.items():
            lacking[part][class_name] -= n
        parts[part] += map(Member.of, of_group[name])
    return Split({part: sorted(members, key=lambda member: member.path) for part, members in parts.items()})


def split_by_subset(subsets: Mapping[str, Iterable[Member]], missing: Sequence[str]) -> Split:
    """The split that a list with subsets makes: training is train, validation val, testing test."""
    parts = {_SUBSET_PARTS.get(name, name): list(members) for name, members in subsets.items()}
    for part in parts:
        if not re.fullmatch(r"\w[\w.-]*", part) or part == VIDEOS_LINK:
            raise DataError(f"subset {part!r} can't become the name of a file; rename it in the list")
    return Split(parts, missing=sorted(missing))


def _shares(val: float, test: float) -> dict[str, float]:
    for name, share in (("val", val), ("test", test)):
        if not 0 <= share < 1:
            raise SpecError(f"--{name}: must be a share from 0 to less than 1, got {share:g}")
    if not 0 < val + test < 1:
        raise SpecError(f"--val and --test: together they must leave something on both sides, got {val:g} + {test:g}")
    shares = {"train": 1 - val - test, "val": val, "test": test}
    return {part: share for part, share in shares.items() if share}


def _groups(videos: Sequence[str], pattern: str) -> dict[str, list[str]]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise SpecError(f"--group: {pattern!r} is no regular expression ({error})") from None
    matches = {video: expression.search(video) for video in _by_stem(videos).values()}
    unmatched = sorted(video for video, match in matches.items() if not match)
    if unmatched:
        raise DataError(_counted(f"--group {pattern}: does not match", "videos", unmatched))
    groups: dict[str, list[str]] = {}
    for video, match in matches.items():
        if match:
            groups.setdefault((match[1] if expression.groups else match[0]) or "", []).append(video)
    if len(groups) == 1:
        raise DataError(f"--group {pattern}: all {len(videos)} videos are of one group, {next(iter(groups))!r}")
    return groups


def _shuffled(seed: int, name: str) -> bytes:
    """A sort key: an order by chance that depends on nothing but the seed and the names."""
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


# --- files ---


def write_lists(split: Split, source: Path, target: Path) -> None:
    """target/<part>.txt with `videos/<path><tab><class>` lines, and target/videos, a link to `source`.

    DataError where target exists.
    """
    for member in (member for part in split.parts.values() for member in part):
        if re.search(r"[\t\r\n]", member.path + member.class_name):
            raise DataError(f"{member.path!r}: a name with a tab or a line break can't stand in a list; rename it")
    with _new_folder(source, target) as folder:
        try:
            (folder / VIDEOS_LINK).symlink_to(os.path.relpath(source.resolve(), target.resolve()), True)
        except (OSError, NotImplementedError) as error:
            raise DataError(f"{target}: no link to {source} can be made there ({error}); use --as links") from error
        for part, of_part in split.parts.items():
            lines = [f"{VIDEOS_LINK}/{m.path}\t{m.class_name}\n" for m in of_part]
            (folder / f"{part}.txt").write_text("".join(lines), encoding="utf-8", errors="surrogateescape")


def write_links(split: Split, source: Path, target: Path) -> str:
    """target/<part>/<class>/<video> as links into `source`. Returns their kind: "symbolic links" or "hard links".

    Hard links (of a frame folder: its files) are made where the system has no symbolic ones. DataError where target
    exists.
    """
    links = {(part, m.class_name, os.path.basename(m.path)): m.path for part in split.parts for m in split.parts[part]}
    num_members = sum(map(len, split.parts.values()))
    if len(links) < num_members:
        raise DataError(f"{num_members - len(links)} videos share part, class and name with another; use --as lists")
    reason = ""
    for kind, link in (("symbolic links", _symbolic_link), ("hard links", _hard_link)):
        try:
            with _new_folder(source, target) as folder:
                _make_links(links, source, folder, target, link)
            return kind
        except _NoLinks as error:
            reason = str(error)
    raise DataError(f"{target}: no links to {source} can be made there ({reason}); use the disk of SRC, or --as lists")


class _NoLinks(Exception):
    """The system can't make links of one kind."""


def _make_links(
    links: Mapping[tuple[str, str, str], str], source: Path, folder: Path, target: Path, link: Callable[..., None]
) -> None:
    for place, path in links.items():
        folder.joinpath(*place).parent.mkdir(parents=True, exist_ok=True)
        try:
            link(source.resolve() / path, folder.joinpath(*place), target.resolve().joinpath(*place).parent)
        except (OSError, NotImplementedError) as error:
            raise _NoLinks(str(error)) from error


def _symbolic_link(video: Path, link: Path, seen_from: Path) -> None:
    link.symlink_to(os.path.relpath(video, seen_from), target_is_directory=video.is_dir())


def _hard_link(video: Path, link: Path, seen_from: Path) -> None:
    if video.is_dir():
        shutil.copytree(video, link, copy_function=os.link)
    else:
        os.link(video, link)


@contextmanager
def _new_folder(source: Path, target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its name when the block ends well, and is gone when it does not."""
    if os.path.lexists(target):
        raise DataError(f"{target}: exists already; choose another DST or remove it")
    if target.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{target}: lies in {source} and would become one of its classes; choose another DST")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _by_stem(videos: Sequence[str]) -> dict[str, str]:
    """{video without extension: video}. DataError where two are one: they could come to lie on both sides."""
    there: dict[str, str] = {}
    for video in sorted(videos):
        other = there.setdefault(_stem(video), video)
        if other != video:
            raise DataError(f"{other} and {video} are one video twice; move one of them away")
    return there


def _stem(video: str) -> str:
    """Without the extension of a video file, which alone is cut: names hold dots."""
    stem, suffix = os.path.splitext(video)
    return stem if suffix.lower() in SUFFIXES else video


def _class(video: str) -> str:
    return video.partition("/")[0]


def _counted(what: str, kind: str, names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" * (len(names) > most)
    return f"{what} {len(names)} {kind}: {', '.join(names[:most])}{more}"
