"""A video file becomes a finished folder of frames, or none."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from action_recognition.clip.video import Damage
from action_recognition.data.index import index_classes
from action_recognition.errors import DataError
from action_recognition.preprocess import extract as extraction
from action_recognition.preprocess.extract import Job, extract, find_videos

FRAMES = [np.full((4, 6, 3), 10 * i, np.uint8) for i in range(5)]
Reader = Callable[[Path, Damage], Iterator[np.ndarray]]


def video_of(num_frames: int, error: BaseException | None = None, packets_skipped: int = 0) -> Reader:
    """A stand-in for read_video."""

    def read(path: Path, damage: Damage) -> Iterator[np.ndarray]:
        damage.packets_skipped = packets_skipped
        yield from FRAMES[:num_frames]
        if error:
            raise error

    return read


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "videos/a/x.avi", tmp_path / "train/a/x")


def everything_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir() or not any(p.iterdir()))


def test_extract_writes_every_frame_exactly(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "read_video", video_of(5, packets_skipped=2))
    outcome = extract(job)
    assert (outcome.num_frames, outcome.packets_skipped, outcome.was_there, outcome.problem) == (5, 2, False, "")
    assert everything_below(job.target) == [f"rgb/00000{i}.png" for i in range(5)]
    for i, frame in enumerate(FRAMES):
        np.testing.assert_array_equal(np.asarray(Image.open(job.target / f"rgb/00000{i}.png")), frame)


def test_extract_of_what_is_there_does_nothing(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    (job.target / "rgb").mkdir(parents=True)
    (job.target / "rgb/000000.png").write_bytes(b"mine")
    monkeypatch.setattr(extraction, "read_video", lambda *_: pytest.fail("was read again"))
    outcome = extract(job)
    assert (outcome.was_there, outcome.num_frames, outcome.problem) == (True, 0, "")
    assert (job.target / "rgb/000000.png").read_bytes() == b"mine"


def test_extract_of_a_source_that_breaks_midway_leaves_nothing(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "read_video", video_of(3, DataError("x.avi: is broken"), packets_skipped=7))
    outcome = extract(job)
    assert (outcome.problem, outcome.num_frames, outcome.packets_skipped) == ("x.avi: is broken", 0, 7)
    assert everything_below(job.target.parent) == []


def test_extract_interrupted_midway_leaves_nothing(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "read_video", video_of(3, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        extract(job)
    assert everything_below(job.target.parent) == []


def test_extract_onto_a_full_disk_is_a_problem_and_leaves_nothing(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(extraction, "read_video", video_of(3))
    monkeypatch.setattr(Image.Image, "save", full)
    assert extract(job).problem == f"{job.target}: can't be written (No space left on device)"
    assert everything_below(job.target.parent) == []


def test_extract_has_no_folder_of_the_video_s_name_before_its_last_frame(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, damage: Damage) -> Iterator[np.ndarray]:
        for frame in FRAMES:
            assert not job.target.exists()
            yield frame

    monkeypatch.setattr(extraction, "read_video", read)
    assert extract(job).num_frames == 5
    assert job.target.exists()


def test_extract_after_a_killed_run_of_the_same_process_id_starts_anew(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction.os, "getpid", lambda: 7)
    left_over = job.target.with_name(".x.7.tmp") / "rgb"
    left_over.mkdir(parents=True)
    (left_over / "000009.png").touch()
    monkeypatch.setattr(extraction, "read_video", video_of(2))
    assert extract(job).num_frames == 2
    assert everything_below(job.target.parent) == ["x/rgb/000000.png", "x/rgb/000001.png"]


def test_extract_of_a_file_that_is_no_video_says_so(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    (tmp_path / "x.avi").write_bytes(b"no video")
    outcome = extract(Job(tmp_path / "x.avi", tmp_path / "out/x"))
    assert outcome.problem.startswith(f"{tmp_path}/x.avi: can't be opened as a video")


def test_extract_of_a_real_video_makes_a_tree_that_can_be_indexed(tmp_path: Path, data_root: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    outcome = extract(Job(data_root / "data/malformed/video_90.mov", tmp_path / "a/video_90"))
    assert outcome.num_frames == 3
    (video,) = index_classes(tmp_path, ("a",), ["rgb"], "error").videos
    assert video.num_frames == 3
    assert Image.open(Path(video.path, "rgb", video.files["rgb"].name(0))).size == (320, 568)


# --- which videos ---


def test_find_videos_lists_video_files_of_class_folders_sorted(tmp_path: Path) -> None:
    for name in ("b/1.avi", "a/z.MP4", "a/y.mov", "a/notes.txt", "loose.avi", "a/._y.mov", ".old/x.avi", "a/c/d.avi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    out = tmp_path / "out"
    assert find_videos(tmp_path, out) == [
        Job(tmp_path / "a/y.mov", out / "a/y"),
        Job(tmp_path / "a/z.MP4", out / "a/z"),
        Job(tmp_path / "b/1.avi", out / "b/1"),
    ]


def test_find_videos_refuses_two_files_that_would_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("x.avi", "x.mp4"):
        (tmp_path / "a" / name).touch()
    with pytest.raises(DataError, match=r"a/x\.mp4 and .*a/x\.avi would both become .*out/a/x; rename one of them"):
        find_videos(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("exists", [True, False])
def test_find_videos_of_a_folder_without_videos_says_what_it_expects(tmp_path: Path, exists: bool) -> None:
    source = tmp_path if exists else tmp_path / "absent"
    with pytest.raises(
        DataError, match=r"no video file found; expected <class>/<video>\{\.avi,\.mp4,\.mov,\.mkv,\.\.\.\}"
    ):
        find_videos(source, tmp_path / "out")
