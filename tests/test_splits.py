"""Which videos come to lie on which side, what is said of the others, that nothing is moved, copied or overwritten."""

import os
from collections import Counter
from pathlib import Path

import pytest

from action_recognition.data.lists import read_list
from action_recognition.errors import DataError, SpecError
from action_recognition.preprocess.splits import (
    Member,
    Split,
    hmdb51_split,
    random_split,
    split_by_subset,
    ucf101_split,
    write_links,
    write_lists,
)


def paths(split: Split) -> dict[str, list[str]]:
    return {part: [member.path for member in members] for part, members in split.parts.items()}


def tree(root: Path, *videos: str) -> Path:
    """Video files, and frame folders of the names without an extension."""
    for video in videos:
        path = root / video if "." in video else root / video / "rgb/0.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(video)
    return root


def everything_below(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


# --- official splits ---


@pytest.fixture
def hmdb51(tmp_path: Path) -> Path:
    folder = tmp_path / "testTrainMulti_7030_splits"
    folder.mkdir()
    (folder / "clap_test_split1.txt").write_text("#20_Rhythm_clap.avi 1 \na.b [x]+(y)&z;.avi 2 \nunused.avi 0 \n")
    (folder / "fall_floor_test_split1.txt").write_text("one.v2.avi 2\r\ntwo.avi 1\r\ngone.avi 1\r\ngone too.avi 0\r\n")
    (folder / "wave_test_split1.txt").write_text("w.avi 1\n")
    (folder / "clap_test_split2.txt").write_text("#20_Rhythm_clap.avi 2\na.b [x]+(y)&z;.avi 1\n")
    return folder


CLAPS = ["clap/#20_Rhythm_clap.avi", "clap/a.b [x]+(y)&z;.avi", "clap/unused.avi"]
FALLS = ["fall_floor/one.v2", "fall_floor/two", "fall_floor/own"]  # frame folders


def test_hmdb51_split_puts_videos_and_frame_folders_where_the_lists_say(hmdb51: Path) -> None:
    split = hmdb51_split([*FALLS, *CLAPS], hmdb51, 1)
    assert paths(split) == {
        "train": ["clap/#20_Rhythm_clap.avi", "fall_floor/two"],
        "test": ["clap/a.b [x]+(y)&z;.avi", "fall_floor/one.v2"],
    }
    assert split.parts["test"][1] == Member("fall_floor/one.v2", "fall_floor")


def test_hmdb51_split_accounts_for_every_other_video(hmdb51: Path) -> None:
    split = hmdb51_split([*FALLS, *CLAPS], hmdb51, 1)
    assert split.unused == ["clap/unused.avi"]
    assert split.unlisted == ["fall_floor/own"]
    assert split.missing == ["fall_floor/gone"]  # "gone too" is in no part anyway
    assert split.absent == ["wave"]
    assert list(split.notes()) == [
        "train: 2 videos of 2 classes",
        "test: 2 videos of 2 classes",
        "1 videos are in no part by the official lists",
        "in no part, as no list names them: 1 videos: fall_floor/own",
        "listed, but missing: 1 videos: fall_floor/gone",
        "listed, but without any video: 1 classes: wave",
    ]


def test_hmdb51_split_of_another_number_reads_its_own_lists(hmdb51: Path) -> None:
    assert paths(hmdb51_split(CLAPS, hmdb51, 2)) == {"train": CLAPS[1:2], "test": CLAPS[:1]}
    with pytest.raises(DataError, match=r"holds no <class>_test_split3\.txt; expected HMDB51's folder testTrainMulti"):
        hmdb51_split(CLAPS, hmdb51, 3)


@pytest.mark.parametrize("line", ["x.avi 3", "x.avi", "1", "x.avi one"])
def test_hmdb51_line_that_says_no_part_is_refused_naming_it(hmdb51: Path, line: str) -> None:
    (hmdb51 / "clap_test_split1.txt").write_text(f"y.avi 1\n{line}\n")
    with pytest.raises(DataError, match=rf"clap_test_split1\.txt, line 2 '{line}': expected `name\.avi` and 0"):
        hmdb51_split(CLAPS, hmdb51, 1)


def test_hmdb51_video_of_two_parts_is_refused(hmdb51: Path) -> None:
    (hmdb51 / "clap_test_split1.txt").write_text("y.avi 1\ny.avi 2\n")
    with pytest.raises(DataError, match=r"line 2 .*: clap/y\.avi is listed for test and for train"):
        hmdb51_split(CLAPS, hmdb51, 1)


def test_split_of_videos_that_no_list_names_is_refused(hmdb51: Path) -> None:
    with pytest.raises(DataError, match=r"none of its 8 videos \(such as clap/#20_\S+\) is among the 1 .* clap/x\)"):
        hmdb51_split(["clap/x"], hmdb51, 1)


def test_missing_videos_are_counted_and_ten_of_them_named(hmdb51: Path) -> None:
    lines = ["#20_Rhythm_clap.avi 1", *(f"n{i:02d}.avi 2" for i in range(12))]
    (hmdb51 / "clap_test_split1.txt").write_text("\n".join(lines))
    *_, note, _ = hmdb51_split(CLAPS[:1], hmdb51, 1).notes()
    named = ", ".join(f"clap/n{i:02d}" for i in range(10))
    assert note == f"listed, but missing: 12 videos: {named} and 2 more"


@pytest.fixture
def ucf101(tmp_path: Path) -> Path:
    folder = tmp_path / "ucfTrainTestlist"
    folder.mkdir()
    (folder / "classInd.txt").write_text("1 Archery\r\n2 YoYo\r\n")
    train = "Archery/v_Archery_g08_c01.avi 1\r\nYoYo/v_YoYo_g08_c01.avi 2\r\n"
    (folder / "trainlist01.txt").write_text(train)
    (folder / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\r\nYoYo/v_YoYo_g01_c01.avi\r\n")
    return folder


def test_ucf101_split_reads_train_and_test_lists(ucf101: Path) -> None:
    videos = ["Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g08_c01.avi", "YoYo/v_YoYo_g08_c01"]
    split = ucf101_split(videos, ucf101, 1)
    assert paths(split) == {"train": [videos[1], videos[2]], "test": [videos[0]]}
    assert split.missing == ["YoYo/v_YoYo_g01_c01"]
    assert "test has no video of 1 classes: YoYo" in list(split.notes())


def test_ucf101_list_that_contradicts_the_class_index_is_refused(ucf101: Path) -> None:
    (ucf101 / "trainlist01.txt").write_text("YoYo/v.avi 1\n")
    with pytest.raises(DataError, match=r"trainlist01\.txt, line 1 .*: class 1 is Archery in classInd\.txt, not YoYo"):
        ucf101_split(["YoYo/v.avi"], ucf101, 1)


def test_ucf101_folder_without_the_lists_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trainlist02\.txt: can't be read \(No such file"):
        ucf101_split(["YoYo/v.avi"], tmp_path, 2)


# --- random splits ---


def numbered(**counts: int) -> list[str]:
    return [f"{name}/{i:03d}.avi" for name, count in counts.items() for i in range(count)]


@pytest.mark.parametrize(
    ("videos_of_a_class", "val", "test", "expected"),
    [
        (10, 0.2, 0.0, {"train": 8, "val": 2}),
        (10, 0.0, 0.3, {"train": 7, "test": 3}),
        (10, 0.2, 0.1, {"train": 7, "val": 2, "test": 1}),
        (100, 0.25, 0.0, {"train": 75, "val": 25}),
        (2, 0.2, 0.0, {"train": 1, "val": 1}),
        (3, 0.2, 0.1, {"train": 1, "val": 1, "test": 1}),
        (1, 0.2, 0.0, {"train": 1, "val": 0}),
    ],
)
def test_random_split_takes_its_share_of_each_class(
    videos_of_a_class: int, val: float, test: float, expected: dict[str, int]
) -> None:
    split = random_split(numbered(a=videos_of_a_class, b=videos_of_a_class), val, test)
    counts = {part: Counter(member.class_name for member in members) for part, members in split.parts.items()}
    assert counts == {part: Counter({"a": n, "b": n}) if n else Counter() for part, n in expected.items()}


def test_random_split_has_every_video_once() -> None:
    videos = numbered(a=17, b=4)
    assert sorted(path for part in paths(random_split(videos, 0.3, 0.2)).values() for path in part) == videos


def test_random_split_is_the_same_for_the_same_seed_in_any_order_of_listing() -> None:
    videos = numbered(a=10)
    assert random_split(videos, 0.2, seed=3) == random_split(videos[::-1], 0.2, seed=3)
    assert paths(random_split(videos, 0.2, seed=3))["val"] == ["a/003.avi", "a/007.avi"]  # on every machine
    assert paths(random_split(videos, 0.2, seed=4))["val"] == ["a/003.avi", "a/004.avi"]


def test_random_split_keeps_groups_on_one_side_across_classes() -> None:
    videos = [f"{c}/seq{recording:02d}_{take}.avi" for c in "abc" for recording in range(10) for take in range(2)]
    for seed in range(5):
        split = random_split(videos, 0.2, seed=seed, group=r"seq(\d+)")
        groups = {part: {path[2:7] for path in of_part} for part, of_part in paths(split).items()}
        assert not groups["train"] & groups["val"]
        assert (len(groups["train"]), len(groups["val"])) == (8, 2)


def test_random_split_of_groups_keeps_classes_in_balance_where_groups_hold_one_class_each() -> None:
    videos = [f"{c}/{c}_g{group:02d}_c{take}.avi" for c in "ab" for group in range(10) for take in range(3)]
    for seed in range(5):
        split = random_split(videos, 0.2, seed=seed, group=r"^.*_g\d+")  # the whole match names the group
        counts = Counter(member.class_name for member in split.parts["val"])
        assert counts == {"a": 6, "b": 6}


def test_group_that_does_not_match_names_the_videos() -> None:
    with pytest.raises(DataError, match=r"--group seq\(\\d\+\): does not match 2 videos: a/x\.avi, b/y\.avi"):
        random_split(["a/seq1.avi", "b/y.avi", "a/x.avi"], 0.2, group=r"seq(\d+)")


def test_group_that_is_the_same_for_all_is_refused() -> None:
    with pytest.raises(DataError, match=r"--group a: all 3 videos are of one group, 'a'"):
        random_split(numbered(a=3), 0.2, group="a")


def test_group_that_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(SpecError, match=r"--group: '\(' is no regular expression"):
        random_split(numbered(a=3), 0.2, group="(")


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (1.0, 0.0, r"--val: must be a share from 0 to less than 1, got 1"),
        (0.2, -0.1, r"--test: must be a share from 0 to less than 1, got -0\.1"),
        (0.0, 0.0, r"--val and --test: together they must leave something on both sides, got 0 \+ 0"),
        (0.6, 0.4, r"--val and --test: together .*, got 0\.6 \+ 0\.4"),
    ],
)
def test_shares_that_leave_nothing_are_refused(val: float, test: float, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        random_split(numbered(a=3), val, test)


def test_file_beside_the_folder_of_its_frames_is_refused() -> None:
    with pytest.raises(DataError, match=r"a/x and a/x\.avi are one video twice; move one of them away"):
        random_split(["a/x.avi", "a/x", "a/y"], 0.5)


def test_split_by_subset_gives_parts_their_usual_names() -> None:
    subsets = {"training": [Member("x.mp4", "a")], "validation": [Member("y.mp4", "a")], "extra": []}
    split = split_by_subset(subsets, ["gone"])
    assert (list(split.parts), split.missing) == (["train", "val", "extra"], ["gone"])
    with pytest.raises(DataError, match=r"subset '\.\./x' can't become the name of a file"):
        split_by_subset({"../x": []}, [])


# --- what is written ---

ODD = ["a b/#1 [x], (y)&z.avi", "a b/q\u2028.b.avi", "c/frames"]


@pytest.mark.parametrize("videos", [["a/1.avi", "c/2.avi", "c/frames"], ODD])
def test_lists_are_read_back_as_they_were_meant(tmp_path: Path, videos: list[str]) -> None:
    source, target = tree(tmp_path / "in/videos", *videos), tmp_path / "out/split"
    split = Split({"train": [Member.of(video) for video in videos[:2]], "test": [Member.of(videos[2])]})
    write_lists(split, source, target)
    for part, members in split.parts.items():
        entries = read_list(target / f"{part}.txt").entries
        assert [(e.path, e.label) for e in entries] == [(f"{target}/videos/{m.path}", m.class_name) for m in members]


def test_lists_have_a_tab_between_path_and_class_and_begin_at_a_link(tmp_path: Path) -> None:
    source = tree(tmp_path / "videos", "walk/1.avi", "walk/2.avi")
    write_lists(random_split(["walk/1.avi", "walk/2.avi"], 0.5), source, tmp_path / "split")
    assert sorted(os.listdir(tmp_path / "split")) == ["train.txt", "val.txt", "videos"]
    assert (tmp_path / "split/train.txt").read_text() == "videos/walk/1.avi\twalk\n"
    assert os.readlink(tmp_path / "split/videos") == "../videos"


def test_name_with_a_tab_can_not_stand_in_a_list(tmp_path: Path) -> None:
    source = tree(tmp_path / "videos", "a/x\ty.avi")
    with pytest.raises(DataError, match=r"'a/x\\ty\.avi': a name with a tab or a line break can't stand in a list"):
        write_lists(Split({"train": [Member.of("a/x\ty.avi")]}), source, tmp_path / "split")


def test_links_make_a_tree_that_reads_like_the_source_and_survives_a_move_of_both(tmp_path: Path) -> None:
    source = tree(tmp_path / "all/videos", "a/1.avi", "b/2.b", "b/frames")
    split = Split({"train": [Member.of("a/1.avi"), Member.of("b/frames")], "val": [Member.of("b/2.b")]})
    assert write_links(split, source, tmp_path / "all/splits/one") == "symbolic links"
    assert os.readlink(tmp_path / "all/splits/one/train/a/1.avi") == "../../../../videos/a/1.avi"
    (tmp_path / "all").rename(tmp_path / "moved")
    target = tmp_path / "moved/splits/one"
    assert (target / "train/a/1.avi").read_text() == "a/1.avi"
    assert (target / "train/b/frames/rgb/0.png").read_text() == "b/frames"
    assert (target / "val/b/2.b").read_text() == "b/2.b"


def test_where_symbolic_links_are_impossible_files_get_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tree(tmp_path / "videos", "a/1.avi", "b/frames")
    split = Split({"train": [Member.of("a/1.avi")], "val": [Member.of("b/frames")]})

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert write_links(split, source, tmp_path / "split") == "hard links"
    for place, path in (("train/a/1.avi", "a/1.avi"), ("val/b/frames/rgb/0.png", "b/frames/rgb/0.png")):
        assert (tmp_path / "split" / place).stat().st_ino == (source / path).stat().st_ino
    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(DataError, match=r"other: no links to .* can be made there \(.*not permitted\); use the disk"):
        write_links(split, source, tmp_path / "other")
    with pytest.raises(DataError, match=r"other: no link to .* can be made there \(.*\); use --as links"):
        write_lists(split, source, tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["split", "videos"]  # nothing half-made


@pytest.mark.parametrize("write", [write_lists, write_links])
def test_target_that_exists_is_left_alone(tmp_path: Path, write: object) -> None:
    source, target = tree(tmp_path / "videos", "a/1.avi"), tree(tmp_path / "split", "mine.txt")
    with pytest.raises(DataError, match=r"split: exists already; choose another DST"):
        write(Split({"train": [Member.of("a/1.avi")]}), source, target)  # type: ignore[operator]
    assert everything_below(target) == ["mine.txt"]


def test_target_inside_the_source_is_refused(tmp_path: Path) -> None:
    source = tree(tmp_path / "videos", "a/1.avi")
    with pytest.raises(DataError, match=r"split: lies in .*videos and would become one of its classes"):
        write_links(Split({"train": [Member.of("a/1.avi")]}), source, source / "split")


def test_source_is_as_it_was_after_a_split(tmp_path: Path) -> None:
    source = tree(tmp_path / "videos", "a/1.avi", "a/frames")
    before = [(path, (source / path).stat().st_ino) for path in everything_below(source)]
    write_links(random_split(["a/1.avi", "a/frames"], 0.5), source, tmp_path / "links")
    write_lists(random_split(["a/1.avi", "a/frames"], 0.5), source, tmp_path / "lists")
    assert [(path, (source / path).stat().st_ino) for path in everything_below(source)] == before


def test_links_of_two_videos_that_would_share_a_name_are_refused(tmp_path: Path) -> None:
    members = [Member("one/x.avi", "a"), Member("two/x.avi", "a")]
    with pytest.raises(DataError, match=r"1 videos share part, class and name with another; use --as lists"):
        write_links(Split({"train": members}), tree(tmp_path / "v", "one/x.avi", "two/x.avi"), tmp_path / "split")
