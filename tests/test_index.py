"""From a folder to the list of its videos: order, what is refused, what is said, and that it is listed only once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from action_recognition.data.frames import open_frames
from action_recognition.data.index import (
    UNKNOWN,
    FrameFiles,
    Index,
    class_names_of,
    index_classes,
    index_videos,
    stop_if_too_many,
)
from action_recognition.errors import DataError

MakeTree = Callable[..., Path]


def files_in(folder: Path, *names: str) -> None:
    """Empty files: an index opens none."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def rgb_of(root: Path, class_names: tuple[str, ...] = ("a",), on_bad_video: str = "error") -> list[FrameFiles]:
    return [video.files["rgb"] for video in index_classes(root, class_names, ["rgb"], on_bad_video).videos]


# --- frame files ---


@pytest.mark.parametrize(
    ("names", "first_name", "pattern"),
    [
        (["000000.png", "000001.png", "000002.png"], "000000.png", True),
        (["000001.png", "000002.png"], "000001.png", True),
        (["img_0099.jpg", "img_0100.jpg"], "img_0099.jpg", True),
        (["v2_f7.JPEG", "v2_f8.JPEG"], "v2_f7.JPEG", True),
        (["7.png", "8.png", "9.png"], "7.png", True),
        (["50%_7.png", "50%_8.png"], "50%_7.png", True),
        (["000001.png", "000003.png"], "000001.png", False),  # a gap
        (["000000.jpg", "000000.png", "000001.png"], "000000.jpg", False),  # two kinds
        (["1.png", "10.png", "2.png"], "1.png", False),
        (["a.png", "b.png"], "a.png", False),
        (["\u0660.png", "\u0661.png"], "\u0660.png", False),  # digits, but not those that format() writes
    ],
)
def test_frame_files_give_back_every_name_in_text_order(names: list[str], first_name: str, pattern: bool) -> None:
    files = FrameFiles.of(reversed(names))
    assert files.count == len(names)
    assert [files.name(i) for i in range(files.count)] == names
    assert files.name(0) == first_name
    assert (files.names == ()) is pattern  # a pattern holds no string for each frame


def test_frame_files_of_nothing_count_none() -> None:
    assert FrameFiles.of([]).count == 0


@pytest.mark.parametrize(
    ("names", "doubtful"),
    [
        (["1.png", "10.png", "2.png"], True),
        (["f_9.png", "f_10.png"], True),
        (["000001.png", "000003.png"], False),
        (["a.png", "b.png"], False),
        (["s2_001.png", "s2_002.png", "s2_004.png"], False),
    ],
)
def test_frame_files_are_in_doubtful_order_when_text_and_numbers_disagree(names: list[str], doubtful: bool) -> None:
    assert FrameFiles.of(names).in_doubtful_order is doubtful


# --- what is found ---


def test_index_lists_videos_sorted_with_labels_from_the_class_names(tmp_path: Path, make_tree: MakeTree) -> None:
    root = make_tree(tmp_path / "tree", {"b": 1, "a": 2}, num_frames=[3, 4, 5])
    index = index_classes(root, ("b", "a"), ["rgb", "of"], "error")
    assert [(Path(v.path).relative_to(root).as_posix(), v.label, open_frames(v).num_frames) for v in index.videos] == [
        ("a/video_000", 1, 2),
        ("a/video_001", 1, 3),
        ("b/video_002", 0, 4),
    ]
    assert index.class_names == ("b", "a")
    assert index.skipped == index.notes == []


def test_index_is_sorted_whatever_order_the_system_lists_in(
    tmp_path: Path, make_tree: MakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_tree(tmp_path / "tree", {"a": 3, "b": 2}, num_frames=3)
    expected = index_classes(root, ("a", "b"), ["rgb"], "error")
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: Path | str) -> None:
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    assert index_classes(root, ("a", "b"), ["rgb"], "error") == expected
    assert class_names_of(None, root) == ("a", "b")


@pytest.mark.parametrize(("first", "suffix"), [(0, ".png"), (1, ".png"), (1, ".jpg"), (0, ".JPEG")])
def test_index_finds_frames_from_0_or_1_in_any_image_format(
    tmp_path: Path, make_tree: MakeTree, first: int, suffix: str
) -> None:
    root = make_tree(tmp_path / "tree", {"a": 1}, num_frames=4, first=first, suffix=suffix)
    (video,) = index_classes(root, ("a",), ["rgb", "of"], "error").videos
    assert open_frames(video).num_frames == 3
    assert [video.files["rgb"].name(i) for i in (0, 3)] == [f"00000{first}{suffix}", f"00000{first + 3}{suffix}"]


def test_index_of_mixed_png_and_jpg_holds_all_in_text_order(tmp_path: Path) -> None:
    files_in(tmp_path / "a/v/rgb", "0003.jpg", "0001.png", "0002.jpeg")
    (files,) = rgb_of(tmp_path)
    assert [files.name(i) for i in range(3)] == ["0001.png", "0002.jpeg", "0003.jpg"]


def test_index_leaves_out_hidden_names_and_other_files(tmp_path: Path) -> None:
    files_in(tmp_path / "a/v/rgb", "0.png", ".1.png", "._0.png", "Thumbs.db", "1.txt", "1.png.part")
    files_in(tmp_path / "a/.v.123.tmp/rgb", "0.png")
    files_in(tmp_path / ".git/v/rgb", "0.png")
    files_in(tmp_path, "README.txt")
    files_in(tmp_path / "a", "notes.txt")
    (files,) = rgb_of(tmp_path)
    assert files.count == 1
    assert class_names_of(None, tmp_path) == ("a",)


def test_index_of_rgb_alone_needs_no_flow(tmp_path: Path, make_tree: MakeTree) -> None:
    root = make_tree(tmp_path / "tree", {"a": 1}, num_frames=4, modalities=["rgb"])
    files_in(root / "a/video_000/u")
    (video,) = index_classes(root, ("a",), ["rgb"], "error").videos
    assert (open_frames(video).num_frames, list(video.files)) == (4, ["rgb"])


def test_index_videos_lists_a_class_folder_without_labels(tmp_path: Path, make_tree: MakeTree) -> None:
    root = make_tree(tmp_path / "tree", {"a": 2}, num_frames=3)
    index = index_videos(root / "a", ("x", "y"), ["rgb"], "error")
    assert [(Path(v.path).name, v.label) for v in index.videos] == [("video_000", UNKNOWN), ("video_001", UNKNOWN)]
    assert index.class_names == ("x", "y")


def test_class_names_of_a_label_map_are_in_the_order_of_its_indices(tmp_path: Path) -> None:
    assert class_names_of({"walk": 1, "sits": 0, "fall": 2}, tmp_path) == ("sits", "walk", "fall")


# --- video files ---


def test_index_finds_video_files_of_every_suffix_beside_other_files(tmp_path: Path) -> None:
    files_in(tmp_path / "a", "1.avi", "2.MP4", "3.webm", "4.txt", ".5.avi", "6.avi.part")
    files_in(tmp_path / "b", "x.mov")
    index = index_classes(tmp_path, ("a", "b"), ["rgb"], "error")
    assert [(Path(v.path).name, v.label, v.is_file) for v in index.videos] == [
        ("1.avi", 0, True),
        ("2.MP4", 0, True),
        ("3.webm", 0, True),
        ("x.mov", 1, True),
    ]
    assert index.notes == index.skipped == []


def test_index_videos_finds_video_files_without_labels(tmp_path: Path) -> None:
    files_in(tmp_path, "1.avi", "2.mp4")
    index = index_videos(tmp_path, ("a",), ["rgb"], "error")
    assert [(Path(v.path).name, v.label, v.is_file) for v in index.videos] == [
        ("1.avi", UNKNOWN, True),
        ("2.mp4", UNKNOWN, True),
    ]


def test_index_of_video_files_and_frame_folders_uses_both_and_says_so(tmp_path: Path) -> None:
    files_in(tmp_path / "a", "1.avi", "2.avi")
    files_in(tmp_path / "a/3.avi/rgb", "0.png")  # a folder, whatever its name
    index = index_classes(tmp_path, ("a",), ["rgb"], "error")
    assert [video.is_file for video in index.videos] == [True, True, False]
    assert index.notes == [f"{tmp_path}: 2 video files and 1 folders of frames, both are used"]


def test_index_refuses_a_video_file_beside_the_folder_of_its_frames(tmp_path: Path) -> None:
    files_in(tmp_path / "a", "1.avi")
    files_in(tmp_path / "a/1/rgb", "0.png")
    with pytest.raises(DataError, match=r"a/1\.avi and the folder .*/a/1 are one video twice; move one of them away"):
        index_classes(tmp_path, ("a",), ["rgb"], "skip")


@pytest.mark.parametrize("modalities", [["of"], ["rgb", "of"]])
def test_index_refuses_video_files_for_a_model_that_needs_flow(tmp_path: Path, modalities: list[str]) -> None:
    files_in(tmp_path / "a", "1.avi", "2.avi")
    with pytest.raises(
        DataError,
        match=r"holds 2 video files \(such as .*/a/1\.avi\), which have no optical flow; make folders with "
        r"tools/preprocess\.py SRC DST --flow dis and give DST, or set model\.model_type=rgb$",
    ):
        index_classes(tmp_path, ("a",), modalities, "skip")


def test_index_of_video_files_without_pyav_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files_in(tmp_path / "a", "1.avi")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"holds video files \(such as .*1\.avi\), which need PyAV: pip install av$"):
        index_classes(tmp_path, ("a",), ["rgb"], "error")


# --- lists ---


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """tmp_path/x.txt with a video file and a folder of frames."""
    files_in(tmp_path / "clips", "2.avi")
    files_in(tmp_path / "clips/1/rgb", "0.png", "1.png")
    (tmp_path / "x.txt").write_text("clips/2.avi walk\nclips/1 fall\n")
    return tmp_path / "x.txt"


def labels_of(index: Index) -> list[tuple[str, int, bool]]:
    return [(Path(video.path).name, video.label, video.is_file) for video in index.videos]


def test_index_of_a_list_holds_its_folders_and_files_with_their_labels(listed: Path) -> None:
    names = class_names_of(None, listed)
    assert names == ("fall", "walk")
    index = index_classes(listed, names, ["rgb"], "error")
    assert labels_of(index) == [("1", 0, False), ("2.avi", 1, True)]
    assert index.notes == [f"{listed}: 1 video files and 1 folders of frames, both are used"]
    assert labels_of(index_classes(listed, ("walk", "x", "fall"), ["rgb"], "error")) == [
        ("1", 2, False),
        ("2.avi", 0, True),
    ]


def test_index_of_a_list_of_indices_names_the_classes_by_them_or_by_the_label_map(listed: Path) -> None:
    listed.write_text("clips/2.avi 2\nclips/1 0\n")
    names = class_names_of(None, listed)
    assert names == ("0", "1", "2")
    index = index_classes(listed, names, ["rgb"], "error")
    assert labels_of(index) == [("1", 0, False), ("2.avi", 2, True)]
    assert index.notes[-1] == f"{listed}: no video of 1 of 3 classes: 1"
    named = index_classes(listed, class_names_of({"a": 0, "b": 1, "c": 2}, listed), ["rgb"], "error")
    assert labels_of(named) == labels_of(index)


def test_index_of_a_list_with_a_label_of_no_class_names_the_line(listed: Path) -> None:
    with pytest.raises(DataError, match=r"x\.txt, line 2 .*: label 'fall' is not one of the classes walk, sits"):
        index_classes(listed, ("walk", "sits"), ["rgb"], "error")


def test_index_of_a_list_with_skip_leaves_out_what_does_not_exist_up_to_5_percent(tmp_path: Path) -> None:
    files_in(tmp_path, *(f"{i}.avi" for i in range(19)))
    path = tmp_path / "x.txt"
    path.write_text("".join(f"{i}.avi a\n" for i in range(20)))
    with pytest.raises(DataError, match=r"1 of 20 videos do not exist:\n .*x\.txt, line 20 '19\.avi a'"):
        index_classes(path, ("a",), ["rgb"], "error")
    index = index_classes(path, ("a",), ["rgb"], "skip")
    assert len(index.videos) == 19
    assert index.skipped == [(f"{tmp_path}/19.avi", f"does not exist ({path}, line 20 '19.avi a')")]
    (tmp_path / "0.avi").unlink()
    with pytest.raises(DataError, match=r"2 of 20 videos can't be used, more than the 5%"):
        index_classes(path, ("a",), ["rgb"], "skip")


def test_index_of_a_list_of_video_files_is_refused_for_flow(listed: Path) -> None:
    with pytest.raises(
        DataError, match=r"x\.txt: holds 1 video files \(such as .*2\.avi\), which have no optical flow"
    ):
        index_classes(listed, ("walk", "fall"), ["rgb", "of"], "error")


# --- notes ---


def test_index_notes_classes_without_a_folder(tmp_path: Path, make_tree: MakeTree) -> None:
    root = make_tree(tmp_path / "tree", {"b": 1}, num_frames=2)
    index = index_classes(root, ("a", "b", "c"), ["rgb"], "error")
    assert index.notes == [f"{root}: no video of 2 of 3 classes: a, c"]
    assert [video.label for video in index.videos] == [1]


def test_index_notes_videos_whose_frame_order_is_doubtful(tmp_path: Path) -> None:
    files_in(tmp_path / "a/v1/rgb", "9.png", "10.png")
    files_in(tmp_path / "a/v2/rgb", "09.png", "10.png")
    index = index_classes(tmp_path, ("a",), ["rgb"], "error")
    assert index.notes == [
        f"{tmp_path}: 1 videos have frames whose text order is not their number order (such as "
        f"{tmp_path}/a/v1); frames are read in text order: pad the numbers with zeros"
    ]


# --- what can't be used ---


@pytest.mark.parametrize(
    ("folders", "modalities", "reason"),
    [
        ({}, ["rgb"], "has no folder 'rgb'"),
        ({"rgb": 0}, ["rgb"], "folder 'rgb' holds no .png or .jpg image"),
        ({"rgb": 3, "u": 2}, ["rgb", "of"], "has no folder 'v'"),
        ({"u": 0, "v": 2}, ["of"], "folder 'u' holds no .png or .jpg image"),
        ({"u": 3, "v": 2}, ["of"], "u holds 3 images and v 2; they must be as many"),
        ({"rgb": 2, "u": 3, "v": 3}, ["rgb", "of"], "rgb holds 2 frames and u, v 3; N frames have N-1 flow images"),
    ],
)
def test_index_refuses_a_video_that_can_t_be_used_and_says_why(
    tmp_path: Path, folders: dict[str, int], modalities: list[str], reason: str
) -> None:
    (tmp_path / "a/v").mkdir(parents=True)
    for folder, count in folders.items():
        files_in(tmp_path / "a/v" / folder, *(f"{i}.png" for i in range(count)))
    with pytest.raises(DataError) as caught:
        index_classes(tmp_path, ("a",), modalities, "error")
    assert str(caught.value) == (
        f"{tmp_path}: 1 of 1 videos can't be used (dataset.on_bad_video=skip leaves such videos out, up to 5%):\n"
        f"  {tmp_path}/a/v: {reason}"
    )


def test_index_refuses_frames_that_are_a_file(tmp_path: Path) -> None:
    files_in(tmp_path / "a/v", "rgb")
    with pytest.raises(DataError, match=r"a/v: folder 'rgb' can't be listed \(Not a directory\)"):
        rgb_of(tmp_path)


@pytest.mark.parametrize(("num_good", "num_bad", "is_error"), [(19, 1, False), (18, 1, True), (38, 2, False)])
def test_index_with_skip_leaves_out_up_to_5_percent(
    tmp_path: Path, num_good: int, num_bad: int, is_error: bool
) -> None:
    for i in range(num_good):
        files_in(tmp_path / f"a/good_{i}/rgb", "0.png")
    for i in range(num_bad):
        files_in(tmp_path / f"a/bad_{i}/rgb")
    if is_error:
        with pytest.raises(DataError, match=r"1 of 19 videos can't be used, more than the 5% that dataset\.on_bad"):
            index_classes(tmp_path, ("a",), ["rgb"], "skip")
        return
    index = index_classes(tmp_path, ("a",), ["rgb"], "skip")
    assert len(index.videos) == num_good
    reason = "folder 'rgb' holds no .png or .jpg image"
    assert index.skipped == [(f"{tmp_path}/a/bad_{i}", reason) for i in range(num_bad)]


def test_stop_if_too_many_says_what_was_counted() -> None:
    with pytest.raises(DataError, match=r"^2 of 3 training and validation videos can't be used, more than the 5% that"):
        stop_if_too_many([("/v", "is bad")] * 2, 3, "training and validation videos")


def test_stop_if_too_many_lists_the_first_ten() -> None:
    skipped = [(f"/v{i}", "is bad") for i in range(12)]
    with pytest.raises(
        DataError, match=r"12 of 100 videos .*\n  /v0: is bad\n(  .*\n){8}  /v9: is bad\n  \.\.\. and 2 more$"
    ):
        stop_if_too_many(skipped, 100)


def test_index_refuses_a_class_folder_without_videos(tmp_path: Path) -> None:
    files_in(tmp_path / "a/v/rgb", "0.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="b: the class folder holds no video; add videos or remove it"):
        index_classes(tmp_path, ("a", "b"), ["rgb"], "skip")


def test_index_refuses_a_folder_of_no_class(tmp_path: Path) -> None:
    files_in(tmp_path / "wlak/v/rgb", "0.png")
    with pytest.raises(DataError, match="class folder 'wlak' is not one of the classes walk, sits; add it to"):
        index_classes(tmp_path, ("walk", "sits"), ["rgb"], "error")


def test_index_refuses_an_empty_or_missing_root(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no video found; expected video files, or <video>/rgb \(and u, v\) folders of frames"
    ):
        index_classes(tmp_path, ("a",), ["rgb"], "error")
    with pytest.raises(DataError, match=r"absent: can't be listed \(No such file or directory\)"):
        index_classes(tmp_path / "absent", ("a",), ["rgb"], "error")
    with pytest.raises(DataError, match=r"absent: can't be listed \(No such file or directory\)"):
        index_videos(tmp_path / "absent", ("a",), ["rgb"], "error")


def test_index_videos_of_a_folder_of_classes_asks_for_the_level(tmp_path: Path, make_tree: MakeTree) -> None:
    root = make_tree(tmp_path / "data", {"a": 1, "b": 1}, modalities=("rgb",))
    with pytest.raises(DataError, match="none of the 2 videos has rgb folders; is this the right level"):
        index_videos(root, ["a", "b"], ["rgb"], "skip")
