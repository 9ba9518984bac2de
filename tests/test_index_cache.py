"""What is remembered of frame folders: the index is always the one that listing everything gives."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tiny import BASE, MakeTree, run_train, use_tiny_models

from action_recognition.config import DatasetSpec
from action_recognition.data import index_cache
from action_recognition.data.index import FrameFiles, Index, index_classes, index_videos, list_frames
from action_recognition.data.index_cache import cache_path, with_memory
from action_recognition.errors import DataError

JOINT = ("rgb", "of")


class Disk:
    """Which frame folders were listed: the sub-folders of `listed`, as <video>/<folder>, since the last look."""

    def __init__(self) -> None:
        self._listed: list[str] = []

    def list_frames(self, video: str, folder: str) -> FrameFiles:
        self._listed.append(f"{Path(video).name}/{folder}")
        return list_frames(video, folder)

    @property
    def listed(self) -> list[str]:
        found, self._listed = sorted(self._listed), []
        return found


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Every root is worth a file here, and every folder has settled as soon as it is written."""
    disk = Disk()
    monkeypatch.setattr(index_cache, "MIN_VIDEOS", 1)
    monkeypatch.setattr(index_cache, "_UNSETTLED_NS", 0)
    monkeypatch.setattr(index_cache, "list_frames", disk.list_frames)
    return disk


@pytest.fixture
def root(make_tree: MakeTree, tmp_path: Path) -> Path:
    """Classes a and b of three videos each, with rgb, u and v."""
    root = make_tree(tmp_path / "data", num_frames=[3, 3, 4, 4, 5, 5])
    tick()
    return root


def tick() -> None:
    """Wait until the disk's clock shows another time than that of the last change."""
    time.sleep(0.02)


def indexed(
    root: Path, cache: Path, modalities: Sequence[str] = ("rgb",), on_bad_video: str = "error", **dataset: bool
) -> Index:
    spec = DatasetSpec(cache_dir=str(cache), **dataset)
    names = ("a", "b")
    return with_memory(lambda frames_in: index_classes(root, names, modalities, on_bad_video, frames_in), root, spec)


def plain(root: Path, modalities: Sequence[str] = ("rgb",), on_bad_video: str = "error") -> Index:
    return index_classes(root, ("a", "b"), modalities, on_bad_video)


# --- the same index ---


def test_index_out_of_memory_is_the_one_that_the_disk_gives_and_lists_no_frame_folder(
    root: Path, tmp_path: Path, disk: Disk
) -> None:
    assert indexed(root, tmp_path, JOINT) == plain(root, JOINT)
    assert len(disk.listed) == 18
    assert indexed(root, tmp_path, JOINT) == plain(root, JOINT)
    assert disk.listed == []


def test_index_out_of_memory_has_the_same_gaps_doubts_files_and_skipped_videos(
    root: Path, tmp_path: Path, disk: Disk
) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    (root / "a/video_000/rgb/000001.png").unlink()
    for name in ("9.png", "10.png"):
        (root / "a/video_001/rgb" / name).touch()
    (root / "b/clip.avi").touch()
    for number in range(20):
        shutil.copytree(root / "b/video_004", root / f"b/more_{number:02d}")
    shutil.rmtree(root / "b/more_07/rgb")
    tick()
    index = plain(root, on_bad_video="skip")
    assert (len(index.videos), len(index.skipped), len(index.notes)) == (26, 1, 2)
    for _ in range(2):
        assert indexed(root, tmp_path, on_bad_video="skip") == index


@pytest.mark.skipif(os.name == "nt", reason="names are text on Windows")
def test_index_out_of_memory_has_names_of_any_bytes(root: Path, tmp_path: Path, disk: Disk) -> None:
    os.rename(os.fsencode(root / "a/video_000"), os.fsencode(root / "a") + b"/\xff\n\xe9")
    os.rename(os.fsencode(root / "b/video_003/rgb/000000.png"), os.fsencode(root / "b/video_003/rgb") + b"/\xfe.png")
    tick()
    first, second = indexed(root, tmp_path), indexed(root, tmp_path)
    assert second == first == plain(root)
    assert os.fsencode(first.videos[2].path) == os.fsencode(root / "a") + b"/\xff\n\xe9"
    assert disk.listed == sorted(f"{os.path.basename(video.path)}/rgb" for video in first.videos)


def test_videos_of_a_list_and_of_one_folder_are_remembered_too(root: Path, tmp_path: Path, disk: Disk) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("data/a/video_000 0\ndata/b/video_003 1\n")
    spec = DatasetSpec(cache_dir=str(tmp_path))

    def of_folder() -> Index:
        return with_memory(lambda f: index_videos(root / "a", ("a",), ["rgb"], "error", f), root / "a", spec)

    assert indexed(listing, tmp_path) == plain(listing)
    assert of_folder() == index_videos(root / "a", ("a",), ["rgb"], "error")
    assert len(disk.listed) == 5
    indexed(listing, tmp_path), of_folder()
    assert disk.listed == []


# --- what has changed ---


def add_frame(root: Path) -> None:
    (root / "b/video_003/rgb/000004.png").touch()


def remove_frame(root: Path) -> None:
    (root / "b/video_003/rgb/000003.png").unlink()


def rename_frame(root: Path) -> None:
    (root / "b/video_003/rgb/000003.png").rename(root / "b/video_003/rgb/000004.png")


def put_another_of_the_same_time_in_its_place(root: Path) -> None:
    ours, other = root / "b/video_003/rgb", root / "b/video_004/rgb"
    times = os.stat(ours)
    ours.rename(root.parent / "old")
    shutil.copytree(other, ours)
    os.utime(ours, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "change", [add_frame, remove_frame, rename_frame, put_another_of_the_same_time_in_its_place]
)  # fmt: skip
def test_a_folder_that_has_changed_is_listed_again_and_no_other(
    root: Path, tmp_path: Path, disk: Disk, change: Callable[[Path], None]
) -> None:
    before = indexed(root, tmp_path, JOINT)
    assert len(disk.listed) == 18
    change(root)
    tick()
    for listed in (["video_003/rgb"], []):
        index = indexed(root, tmp_path, JOINT)
        assert index == plain(root, JOINT) != before
        assert disk.listed == listed


def test_videos_that_came_and_went_are_noticed(root: Path, tmp_path: Path, disk: Disk) -> None:
    indexed(root, tmp_path)
    shutil.rmtree(root / "a/video_001")
    shutil.copytree(root / "b/video_004", root / "a/video_009")
    tick()
    assert disk.listed
    index = indexed(root, tmp_path)
    assert index == plain(root)
    assert [Path(video.path).name for video in index.videos[:3]] == ["video_000", "video_002", "video_009"]
    assert disk.listed == ["video_009/rgb"]
    assert b"video_001" not in cache_path(root, tmp_path).read_bytes()  # what has gone is forgotten


def test_a_folder_that_is_gone_is_told_as_ever(root: Path, tmp_path: Path, disk: Disk) -> None:
    indexed(root, tmp_path)
    shutil.rmtree(root / "b/video_003/rgb")
    with pytest.raises(DataError, match=r"video_003: has no folder 'rgb'"):
        indexed(root, tmp_path)


def test_a_folder_that_changed_a_moment_ago_is_not_relied_on(
    root: Path, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_cache, "_UNSETTLED_NS", 10**9 * 3600)
    for _ in range(2):
        indexed(root, tmp_path)
        assert len(disk.listed) == 6
    assert not cache_path(root, tmp_path).exists()


def test_a_folder_without_a_date_is_not_relied_on(root: Path, tmp_path: Path, disk: Disk) -> None:
    os.utime(root / "b/video_003/rgb", (0, 0))
    tick()
    indexed(root, tmp_path)
    assert len(disk.listed) == 6
    indexed(root, tmp_path)
    assert disk.listed == ["video_003/rgb"]


# --- what is kept ---


def test_what_was_learnt_of_other_folders_is_kept(root: Path, tmp_path: Path, disk: Disk) -> None:
    indexed(root, tmp_path, JOINT)
    add_frame(root)
    tick()
    assert len(disk.listed) == 18
    indexed(root, tmp_path, ["rgb"])
    indexed(root, tmp_path, JOINT)
    assert disk.listed == ["video_003/rgb"]


def test_what_was_learnt_is_kept_where_the_index_can_not_be_made(root: Path, tmp_path: Path, disk: Disk) -> None:
    empty = root / "a/video_000/rgb"
    for image in empty.iterdir():
        image.unlink()
    tick()
    with pytest.raises(DataError, match=r"video_000: folder 'rgb' holds no .png or .jpg image"):
        indexed(root, tmp_path)
    assert len(disk.listed) == 6
    (empty / "000000.png").touch()
    tick()
    assert indexed(root, tmp_path) == plain(root)
    assert disk.listed == ["video_000/rgb"]


def test_a_root_is_the_same_however_it_is_written(
    root: Path, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(root, tmp_path)
    assert len(disk.listed) == 6
    monkeypatch.chdir(tmp_path)
    assert indexed(Path("data"), tmp_path) == plain(Path("data"))
    monkeypatch.chdir(root)
    assert indexed(Path("../data"), tmp_path) == plain(Path("../data"))
    assert disk.listed == []


def test_without_a_cache_folder_it_is_in_the_users_cache(
    root: Path, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", str(tmp_path / "user"))
    with_memory(lambda frames_in: index_classes(root, ("a", "b"), ["rgb"], "error", frames_in), root, DatasetSpec())
    (file,) = (tmp_path / "user/action_recognition/frames/index").iterdir()
    assert file == cache_path(root, tmp_path / "user/action_recognition/frames")
    assert file.name.startswith("data-")


def test_nothing_is_kept_of_a_small_root(
    root: Path, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_cache, "MIN_VIDEOS", 7)
    indexed(root, tmp_path)
    assert not (tmp_path / "index").exists()


def test_with_index_cache_false_nothing_is_read_or_kept(root: Path, tmp_path: Path, disk: Disk) -> None:
    indexed(root, tmp_path / "1", index_cache=False)
    assert not (tmp_path / "1").exists()
    indexed(root, tmp_path)
    os.utime(root / "a/video_000/rgb", (1, 1))
    cache_path(root, tmp_path).write_text("nothing that could be read")
    assert indexed(root, tmp_path, index_cache=False) == plain(root)


# --- a file that can't be used ---


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def change_a_digit(content: bytes) -> bytes:
    return content.replace(b'"video_000"', b'"video_001"')


def next_version(content: bytes) -> bytes:
    return content.replace(b"index 1 ", b"index 2 ")


@pytest.mark.parametrize(
    "spoil", [cut, change_a_digit, next_version, lambda content: b"", lambda content: b"\x00" * 4096],
    ids=["cut", "digit", "version", "empty", "zeros"],
)  # fmt: skip
def test_a_file_that_is_damaged_or_foreign_is_noted_and_made_anew(
    root: Path, tmp_path: Path, disk: Disk, spoil: Callable[[bytes], bytes]
) -> None:
    indexed(root, tmp_path)
    path = cache_path(root, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    index = indexed(root, tmp_path)
    assert index.videos == plain(root).videos
    assert index.notes == [f"{path}: is damaged or of another version: all folders are listed again"]
    assert path.read_bytes() == whole
    assert len(disk.listed) == 12


def test_a_folder_in_the_place_of_the_file_is_a_note(root: Path, tmp_path: Path, disk: Disk) -> None:
    path = cache_path(root, tmp_path)
    path.mkdir(parents=True)
    assert indexed(root, tmp_path).notes == [
        f"{path}: can't be read (Is a directory): all folders are listed again",
        f"{path}: can't be written (Is a directory): all folders are listed again next time",
    ]


def test_a_file_that_can_not_be_written_is_a_note(
    root: Path, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, write: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_cache, "write_whole", full)
    index, path = indexed(root, tmp_path), cache_path(root, tmp_path)
    assert index.videos == plain(root).videos
    assert index.notes == [
        f"{path}: can't be written (No space left on device): all folders are listed again next time"
    ]


def test_the_file_holds_a_distinct_folder_once(root: Path, tmp_path: Path, disk: Disk) -> None:
    indexed(root, tmp_path)
    _, distinct, *lines = cache_path(root, tmp_path).read_text().splitlines()
    assert json.loads(distinct) == [[n, "", 0, 6, ".png", []] for n in (3, 4, 5)]
    assert [json.loads(line)[:2] for line in lines] == [
        [str(root / "a"), ["video_000", "video_001", "video_002"]],
        [str(root / "b"), ["video_003", "video_004", "video_005"]],
    ]


# --- who uses it ---


def test_the_second_training_run_lists_no_frame_folder(
    root: Path, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch)
    how = (*BASE, f"dataset.cache_dir={tmp_path}", f"dataset.val_dataset_dir={root}", "train.num_epochs=1")
    first, _ = run_train(root, tmp_path / "1", *how)
    assert len(disk.listed) == 6
    second, _ = run_train(root, tmp_path / "2", *how)
    assert disk.listed == []
    assert second[0]["train_loss"] == first[0]["train_loss"]


@pytest.mark.parametrize("num_videos", [4000, pytest.param(240_000, marks=pytest.mark.slow)])
def test_a_large_index_out_of_memory_takes_less_than_300_mb(tmp_path: Path, num_videos: int) -> None:
    """On a simulated disk, in a process of its own."""
    tool = Path(__file__).parents[1] / "tools/benchmark_index.py"
    command = [sys.executable, str(tool), str(tmp_path), str(num_videos)]
    first, second = (
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout)
        for _ in range(2)
    )
    assert first["videos"] == second["videos"] == num_videos
    assert second["cpu_seconds"] < first["cpu_seconds"]
    assert second["megabytes"] < 300
