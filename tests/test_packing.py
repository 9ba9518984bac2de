"""The frame cache around a task: when it is used, what is said of it, and the same figures with it and without."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lossless import write_video_tree
from test_distributed import free_ports, in_two_processes
from tiny import MakeTree, run_evaluate, run_infer, run_train, save_sigmoid_model, use_tiny_models

from action_recognition.data.packed import HEADER_BYTES
from action_recognition.errors import DataError
from action_recognition.tasks import packing

pytest.importorskip("av", reason="needs PyAV: pip install .[video]")

SIZE = (12, 10)  # the short side is the crop's, so that clips are equal bit for bit
CLASSES = {"a": 4, "b": 3}
NO_FLOW: dict[str, Any] = {"num_frames": 3, "size": SIZE, "modalities": ("rgb",)}
HOW = ("train.num_epochs=1", "dataset.batch_size=2")


@pytest.fixture(autouse=True)
def user_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's cache folder, and tiny models."""
    use_tiny_models(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user/action_recognition/frames"


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """7 video files of 3 frames."""
    return write_video_tree(tmp_path / "videos", CLASSES, 3, SIZE)


@pytest.fixture
def folders(tmp_path: Path, make_tree: MakeTree) -> Path:
    """The same as folders of images."""
    return make_tree(tmp_path / "folders", CLASSES, **NO_FLOW)


def packed_in(folder: Path) -> list[str]:
    return sorted("/".join((p.parts[-4], *p.parts[-2:])) for p in folder.rglob("*") if p.is_file())


def about_packing(lines: list[str]) -> list[str]:
    """What was said of the cache, without amounts that differ from run to run."""
    lines = [line for line in lines if re.search(r"^pack(ing|ed) |kept in|packing it again", line)]
    return [re.sub(r"[\d,.]+ [GM]B free", "N free", re.sub(r"packed in .*", "packed", line)) for line in lines]


def untimed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The epochs' figures without how long they took."""
    return [{name: value for name, value in row.items() if not name.endswith("_sec")} for row in history]


# --- training ---


def test_training_on_video_files_equals_that_on_their_frames(videos: Path, folders: Path, tmp_path: Path) -> None:
    expected, _ = run_train(folders, tmp_path / "1", *HOW, f"dataset.val_dataset_dir={folders}")
    history, lines = run_train(videos, tmp_path / "2", *HOW, f"dataset.val_dataset_dir={videos}")
    assert untimed(history) == untimed(expected)
    assert [line for line in lines if "frames" in line and "videos, " in line] == [f"{videos}: 7 videos, 21 frames"] * 2


def test_training_and_evaluation_on_lists_equal_those_on_the_folders(
    videos: Path, folders: Path, tmp_path: Path
) -> None:
    """Four of the listed videos are folders of images, three are files."""
    expected, _ = run_train(folders, tmp_path / "1", *HOW)
    lines = [f"folders/a/video_00{i} a\n" for i in range(4)] + [f"videos/b/video_00{i}.avi b\n" for i in (4, 5, 6)]
    (tmp_path / "list.txt").write_text("".join(lines))
    history, said = run_train(tmp_path / "list.txt", tmp_path / "2", *HOW)
    assert said[0] == "classes, from the list: a, b"
    assert untimed(history) == untimed(expected)
    checkpoint = tmp_path / "1/train/ar_model_latest.pth"
    results = [run_evaluate(checkpoint, root, tmp_path)[0] for root in (folders, tmp_path / "list.txt")]
    assert results[0] == results[1]


def test_training_on_video_files_packs_them_once_into_the_users_cache_and_says_so(
    videos: Path, tmp_path: Path, user_cache: Path
) -> None:
    _, lines = run_train(videos, tmp_path / "1", *HOW, f"dataset.val_dataset_dir={videos}")
    kept = f"the frames of video files are kept in {user_cache}; dataset.cache_dir=FOLDER keeps them elsewhere"
    assert about_packing(lines) == [kept, f"packing 14 videos: about 0 MB of N free in {user_cache}", "packed"]
    names = [f"{c}/video_00{i}.avi.frames" for c, ids in (("a", (0, 1, 2, 3)), ("b", (4, 5, 6))) for i in ids]
    assert packed_in(user_cache) == [f"{size}-rgb/{name}" for size in ("8x8", "short10") for name in names]
    before = {path: path.stat().st_mtime_ns for path in user_cache.rglob("*.frames")}
    _, lines = run_train(videos, tmp_path / "2", *HOW, f"dataset.val_dataset_dir={videos}")
    assert about_packing(lines) == [kept]
    assert {path: path.stat().st_mtime_ns for path in user_cache.rglob("*.frames")} == before


def test_training_on_frame_folders_packs_nothing_unless_a_cache_is_given(
    folders: Path, tmp_path: Path, user_cache: Path
) -> None:
    expected, lines = run_train(folders, tmp_path / "1", *HOW)
    assert about_packing(lines) == []
    assert not user_cache.exists()
    cache = tmp_path / "cache"
    history, lines = run_train(folders, tmp_path / "2", *HOW, f"dataset.cache_dir={cache}")
    assert about_packing(lines) == [f"packing 7 videos: 0 MB of N free in {cache}", "packed"]
    assert untimed(history) == untimed(expected)
    assert len(packed_in(cache)) == 7
    assert not user_cache.exists()


@pytest.mark.parametrize("model_type", ["of", "joint"])
def test_training_with_flow_out_of_the_cache_equals_that_on_folders(
    model_type: str, make_tree: MakeTree, tmp_path: Path
) -> None:
    tree = make_tree(tmp_path / "data", CLASSES, num_frames=4, size=SIZE)
    how = (*HOW, f"model.model_type={model_type}", f"dataset.val_dataset_dir={tree}")
    expected, _ = run_train(tree, tmp_path / "1", *how)
    history, _ = run_train(tree, tmp_path / "2", *how, f"dataset.cache_dir={tmp_path}/cache")
    assert untimed(history) == untimed(expected)


def test_training_with_workers_packs_in_processes(videos: Path, tmp_path: Path, user_cache: Path, monkeypatch) -> None:
    monkeypatch.setattr("action_recognition.tasks.train.workers_here", lambda *_: 0)
    run_train(videos, tmp_path, *HOW, "dataset.workers=2")
    assert len(packed_in(user_cache)) == 7


def test_damaged_file_is_packed_again_with_a_line(videos: Path, tmp_path: Path, user_cache: Path) -> None:
    run_train(videos, tmp_path / "1", *HOW)
    (path,) = user_cache.rglob("video_003.avi.frames")
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    _, lines = run_train(videos, tmp_path / "2", *HOW)
    assert about_packing(lines)[1:] == [
        f"{path}: is damaged: it has {len(content) - 5:,} bytes in place of {len(content):,}; packing it again",
        f"packing 1 videos: about 0 MB of N free in {user_cache}",
        "packed",
    ]
    assert path.read_bytes() == content


def test_videos_that_have_no_room_are_an_error_before_anything_is_written(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 7 * (HEADER_BYTES + 3 * 12 * 10 * 3)  # exact
    cache = tmp_path / "cache"
    monkeypatch.setattr(packing, "disk_free", lambda folder: size - 1)
    with pytest.raises(
        DataError, match=rf"^packing 7 videos takes 0 MB of 0 MB free in {cache}; set dataset\.cache_dir=FOLDER to a"
    ):
        run_train(folders, tmp_path, *HOW, f"dataset.cache_dir={cache}")
    assert not cache.exists()
    monkeypatch.setattr(packing, "disk_free", lambda folder: size)
    run_train(folders, tmp_path, *HOW, f"dataset.cache_dir={cache}")


# --- videos that can't be read ---


@pytest.fixture
def twenty(tmp_path: Path) -> Path:
    """20 video files: one of them may be bad."""
    return write_video_tree(tmp_path / "twenty", {"a": 10, "b": 10}, 2, SIZE)


def spoil(root: Path, video_id: int) -> Path:
    (path,) = root.glob(f"*/video_{video_id:03d}.avi")
    path.write_bytes(b"no video")
    return path


def test_training_on_a_bad_video_file_stops_and_names_it(twenty: Path, tmp_path: Path) -> None:
    path = spoil(twenty, 3)
    with pytest.raises(
        DataError,
        match=rf"^{path}: can't be opened as a video .*\nmend or remove the video {path}, or set dataset\.on_",
    ):
        run_train(twenty, tmp_path, *HOW)


def test_training_that_skips_a_bad_video_file_counts_it(twenty: Path, tmp_path: Path) -> None:
    path = spoil(twenty, 3)
    _, lines = run_train(twenty, tmp_path, *HOW, "dataset.on_bad_video=skip")
    assert [line for line in lines if line.startswith(f"skipped {path}: {path}: can't be opened as a video")]
    assert f"{twenty}: 19 videos, 38 frames" in lines


def test_training_that_skips_more_than_5_percent_of_the_video_files_stops(twenty: Path, tmp_path: Path) -> None:
    spoil(twenty, 3)
    spoil(twenty, 11)
    with pytest.raises(DataError, match=r"^2 of 20 videos can't be used, more than the 5% .*\n.*video_003"):
        run_train(twenty, tmp_path, *HOW, "dataset.on_bad_video=skip")


# --- evaluation and inference ---


def test_evaluation_and_inference_use_a_cache_only_where_one_is_given(
    videos: Path, tmp_path: Path, user_cache: Path
) -> None:
    checkpoint, cache = tmp_path / "model.pth", tmp_path / "cache"
    save_sigmoid_model(checkpoint)
    run: tuple[Callable[..., tuple[Any, list[str]]], ...] = (run_evaluate, run_infer)
    for task, root, name in zip(run, (videos, videos / "a"), ("evaluate", "infer"), strict=True):
        expected, lines = task(checkpoint, root, tmp_path / f"{name}1")
        assert about_packing(lines) == []
        results, lines = task(checkpoint, root, tmp_path / f"{name}2", f"dataset.cache_dir={cache}")
        assert results == expected
    assert about_packing(lines) == []  # the evaluation packed them
    assert [name.partition("/")[0] for name in packed_in(cache)] == ["8x8-rgb"] * 7
    assert not user_cache.exists()


# --- several processes ---


def train_twice(rank: int, folder: Path, videos: Path, ports: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_models(patch)
        patch.setattr(packing, "_ROUND", 2)
        patch.setattr("action_recognition.training.distributed._TURN_SEC", 0.0)
        packed: list[str] = []
        pack_all = packing.pack_all
        patch.setattr(
            packing, "pack_all", lambda jobs, n: packed.extend(j.video.path for j in jobs) or pack_all(jobs, n)
        )
        os.environ["MASTER_PORT"] = ports[0]
        found["history"], found["lines"] = run_train(videos, folder / "1", *HOW, f"dataset.cache_dir={folder}/cache")
        found["packed"] = list(packed)
        os.environ["MASTER_PORT"] = ports[1]
        if rank == 0:
            spoil(videos, 3)
        how = (*HOW, "dataset.on_bad_video=skip", f"dataset.cache_dir={folder}/cache2")
        try:
            run_train(videos, folder / "2", *how)
        except DataError as error:
            found["error"] = str(error)
    return found


@pytest.mark.slow
def test_two_processes_pack_half_of_the_videos_each_and_know_of_all_that_are_bad(videos: Path, tmp_path: Path) -> None:
    first, second = in_two_processes(train_twice, tmp_path, videos, free_ports(2))
    assert [len(part["packed"]) for part in (first, second)] == [4, 3]
    assert len({*first["packed"], *second["packed"]}) == 7
    assert first["history"] == second["history"]
    assert about_packing(first["lines"])[0].startswith("packing 7 videos: about 0 MB of N free in ")
    assert second["lines"] == []
    assert first["error"].startswith("1 of 7 videos can't be used, more than the 5%")
    assert first["error"] == second["error"]
