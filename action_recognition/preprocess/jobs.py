"""What there is to do: videos (or folders of frames) and the folder that each one's frames and flow go to.

In: a tree of class folders, one video, or the entries of a list file. Out: Jobs, sorted by target; two sources with one
target are an error, and so is finding nothing. Opens no video.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from action_recognition.clip.video import SUFFIXES
from action_recognition.errors import DataError

UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Job:
    """A video file, or a folder with rgb frames below it, and the video folder that is to be made from it.

    `flo` is the folder of .flo files that are taken for its flow, where there is one.
    """

    source: Path
    target: Path
    flo: Path | None = None

    @property
    def name(self) -> str:
        """<class>/<video>."""
        return f"{self.target.parent.name}/{self.target.name}"


@dataclass
class Jobs:
    """The jobs of a run, and a line for each kind of thing that was passed over."""

    jobs: list[Job]
    notes: list[str] = field(default_factory=list)


def jobs_of_tree(source: Path, target: Path, flo: Path | None = None) -> Jobs:
    """source/<class>/<video file> -> target/<class>/<stem>; files directly in source become `unlabelled`."""
    found: list[tuple[Path, str]] = []
    deeper, others = [], []
    for path in _files_below(source):
        folders = path.relative_to(source).parts[:-1]
        if path.suffix.lower() not in SUFFIXES:
            others.append(path)
        elif len(folders) > 1:
            deeper.append(path)
        else:
            found.append((path, folders[0] if folders else UNLABELLED))
    if not found:
        kinds = ", ".join(SUFFIXES[:4])
        raise DataError(f"{source}: no video file found; expected <class>/<video>{{{kinds},...}}")
    return Jobs(
        _jobs(found, target, flo),
        _left_out(source, deeper, "videos lie deeper than <class>/<video>")
        + _left_out(source, others, "files are no videos by their names"),
    )


def _left_out(source: Path, paths: list[Path], what: str) -> list[str]:
    return [f"{source}: {len(paths)} {what} and are left out (such as {paths[0]})"] if paths else []


def jobs_of_entries(entries: Iterable[tuple[Path, str]], target: Path, flo: Path | None = None) -> Jobs:
    """(video file, class name or "") -> target/<class, or "unlabelled">/<stem>."""
    return Jobs(_jobs([(path, label or UNLABELLED) for path, label in entries], target, flo))


def jobs_of_frames(source: Path, target: Path, flo: Path | None = None) -> Jobs:
    """source/<class>/<video>/rgb -> target/<class>/<video>; source and target may be one."""
    folders = sorted(path.parent for path in source.glob("[!.]*/[!.]*/rgb") if path.is_dir())
    if not folders:
        raise DataError(f"{source}: no frames found; expected <class>/<video>/rgb")
    return Jobs([Job(f, target / f.parent.name / f.name, _flo_folder(flo, f.parent.name, f.name)) for f in folders])


def _files_below(source: Path) -> list[Path]:
    """All files below a folder but hidden ones, sorted. Links to folders are followed at the first level only."""
    files = []
    for entry in sorted(source.iterdir()):
        if entry.name.startswith("."):
            continue
        below = entry.rglob("*") if entry.is_dir() else [entry]
        inside = [
            p for p in below if p.is_file() and not any(part.startswith(".") for part in p.relative_to(entry).parts)
        ]
        files += sorted(inside)
    return files


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _jobs(found: Iterable[tuple[Path, str]], target: Path, flo: Path | None) -> list[Job]:
    jobs: dict[Path, Job] = {}
    for path, label in found:
        folder = target / label / path.stem  # the extension alone is cut: names may hold dots
        if folder in jobs:
            raise DataError(f"{path} and {jobs[folder].source} would both become {folder}; rename one of them")
        jobs[folder] = Job(path, folder, _flo_folder(flo, label, path.stem))
    return [jobs[folder] for folder in sorted(jobs)]


def _flo_folder(root: Path | None, label: str, name: str) -> Path | None:
    return root / label / name if root else None
