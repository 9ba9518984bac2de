"""Which videos become which folders."""

from pathlib import Path

import pytest

from action_recognition.errors import DataError
from action_recognition.preprocess.jobs import Job, jobs_of_entries, jobs_of_frames, jobs_of_tree


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_jobs_of_tree_lists_the_videos_of_class_folders_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.avi", "a/z.MP4", "a/y.mov", "a/._y.mov", ".old/x.avi")
    out = tmp_path / "out"
    found = jobs_of_tree(tmp_path, out)
    assert found.jobs == [
        Job(tmp_path / "a/y.mov", out / "a/y"),
        Job(tmp_path / "a/z.MP4", out / "a/z"),
        Job(tmp_path / "b/1.avi", out / "b/1"),
    ]
    assert found.notes == []


def test_jobs_of_tree_names_a_loose_video_unlabelled(tmp_path: Path) -> None:
    touch(tmp_path, "x.avi")
    assert jobs_of_tree(tmp_path, Path("out")).jobs == [Job(tmp_path / "x.avi", Path("out/unlabelled/x"))]


def test_jobs_of_tree_tells_what_it_passes_over(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.avi", "a/notes.txt", "a/b/c.avi")
    assert jobs_of_tree(tmp_path, Path("out")).notes == [
        f"{tmp_path}: 1 videos lie deeper than <class>/<video> and are left out (such as {tmp_path}/a/b/c.avi)",
        f"{tmp_path}: 1 files are no videos by their names and are left out (such as {tmp_path}/a/notes.txt)",
    ]


def test_jobs_of_tree_cuts_the_extension_alone(tmp_path: Path) -> None:
    touch(tmp_path, "wave/20060723sfjffb#Spirit_[v]_wave_f_cm.np1.fr;med_0.avi")
    (job,) = jobs_of_tree(tmp_path, Path("out")).jobs
    assert job.target == Path("out/wave/20060723sfjffb#Spirit_[v]_wave_f_cm.np1.fr;med_0")


def test_jobs_of_tree_refuses_two_files_that_would_share_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.avi", "a/x.mp4")
    with pytest.raises(DataError, match=r"a/x\.mp4 and .*a/x\.avi would both become out/a/x; rename one of them"):
        jobs_of_tree(tmp_path, Path("out"))


def test_jobs_of_tree_without_videos_says_what_it_expects(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no video file found; expected <class>/<video>\{\.avi, \.mp4, "):
        jobs_of_tree(tmp_path, Path("out"))


def test_jobs_of_entries_go_to_their_class_or_unlabelled() -> None:
    found = jobs_of_entries([(Path("v/x.avi"), "walk"), (Path("w/y.avi"), "")], Path("out"))
    assert [job.target for job in found.jobs] == [Path("out/unlabelled/y"), Path("out/walk/x")]


def test_jobs_of_entries_refuses_two_sources_of_one_name() -> None:
    with pytest.raises(DataError, match=r"w/x\.avi and v/x\.avi would both become out/walk/x"):
        jobs_of_entries([(Path("v/x.avi"), "walk"), (Path("w/x.avi"), "walk")], Path("out"))


def test_jobs_of_frames_finds_the_folders_with_rgb(tmp_path: Path) -> None:
    touch(tmp_path, "a/x/rgb/0.png", "a/y/u/0.jpg", "b/z/rgb/0.png")
    found = jobs_of_frames(tmp_path, tmp_path, flo=Path("flo")).jobs
    assert found == [
        Job(tmp_path / "a/x", tmp_path / "a/x", Path("flo/a/x")),
        Job(tmp_path / "b/z", tmp_path / "b/z", Path("flo/b/z")),
    ]


def test_jobs_of_frames_without_frames_says_what_it_expects(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no frames found; expected <class>/<video>/rgb"):
        jobs_of_frames(tmp_path, tmp_path)
