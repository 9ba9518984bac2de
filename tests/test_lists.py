"""List files of every form that people have: what is read, what is refused, which file on disk is meant."""

import json
import os
from pathlib import Path

import pytest

from action_recognition.data.lists import ListEntry, VideoList, list_subsets, read_list, video_stem
from action_recognition.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a/1.avi, a/2.avi, b/3.mp4 and the frame folder b/4."""
    touch(tmp_path, "a/1.avi", "a/2.avi", "b/3.mp4", "b/4/rgb/0.png")
    return tmp_path


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def read(root: Path, text: str | bytes, name: str = "list.txt", **how: object) -> VideoList:
    """The list of this text in `root`."""
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_list(path, **how)  # type: ignore[arg-type]


def labelled(videos: VideoList, root: Path) -> list[tuple[str, str | int]]:
    return [(os.path.relpath(entry.path, root), entry.label) for entry in videos.entries]


# --- text ---


@pytest.mark.parametrize(
    "text",
    [
        "a/1.avi 0\nb/3.mp4 1\n",  # SlowFast, mmaction2
        "a/1.avi\t0\nb/3.mp4\t1",
        "a/1.avi,0\nb/3.mp4,1\n",  # VideoMAE, UniFormer
        '"a/1.avi", "0"\n"b/3.mp4", "1"\n',
        "path,label\na/1.avi,0\nb/3.mp4,1\n",
        "label,frames,video\n0,9,a/1.avi\n1,9,b/3.mp4\n",
        "\ufeffa/1.avi 0\r\n\r\n  b/3.mp4   1 \r\n",  # written on Windows, with blanks
        "a/1.avi 25 0\nb/3.mp4 25 1\n",
        "a/1.avi,25,0\nb/3.mp4,25,1\n",
        "./a/1.avi 0\na/../b/3.mp4 1\n",
    ],
)
def test_text_list_of_each_form_gives_paths_and_indices(root: Path, text: str) -> None:
    videos = read(root, text)
    assert labelled(videos, root) == [("a/1.avi", 0), ("b/3.mp4", 1)]
    assert videos.class_names is None


def test_text_list_with_class_names_sorts_them_and_keeps_its_own_order(root: Path) -> None:
    videos = read(root, "b/3.mp4 walk\na/1.avi fall\n")
    assert videos.entries == [ListEntry(f"{root}/b/3.mp4", "walk", 1), ListEntry(f"{root}/a/1.avi", "fall", 2)]
    assert videos.class_names == ("fall", "walk")


def test_space_separated_list_takes_the_last_word_as_label_and_the_rest_as_path(tmp_path: Path) -> None:
    touch(tmp_path, "my videos/the first one.avi")
    assert labelled(read(tmp_path, "my videos/the first one.avi 3\n"), tmp_path) == [("my videos/the first one.avi", 3)]
    quoted = read(tmp_path, '"my videos/the first one.avi" 3\n')
    assert labelled(quoted, tmp_path) == [("my videos/the first one.avi", 3)]


def test_tabs_leave_spaces_and_commas_in_paths_and_labels_alone(tmp_path: Path) -> None:
    touch(tmp_path, "a, b/c d.avi")
    assert labelled(read(tmp_path, "a, b/c d.avi\triding a bike\n"), tmp_path) == [("a, b/c d.avi", "riding a bike")]


def test_quoted_csv_keeps_commas_and_doubled_quotes_in_paths(tmp_path: Path) -> None:
    touch(tmp_path, 'a,"b".avi')
    assert labelled(read(tmp_path, '"a,""b"".avi",0\n', "list.csv"), tmp_path) == [('a,"b".avi', 0)]


def test_frame_count_of_mmaction2_is_no_part_of_the_path_unless_such_a_folder_is_there(root: Path) -> None:
    touch(root, "c/take 2/rgb/0.png", "c/take/rgb/0.png")
    videos = read(root, "b/4 163 1\nc/take 2 0\nc/take 99 0\n")
    assert labelled(videos, root) == [("b/4", 1), ("c/take 2", 0), ("c/take", 0)]


@pytest.mark.parametrize(
    "name",
    [
        "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi",
        "21_&_22_[x]+(y);z!_0.avi",
        "a.b.c.avi",
        "'quoted'.avi",
        "50%_$HOME_*?.avi",
        "na\u00efve \u2028 \u65e5\u672c.avi",
    ],
)
def test_odd_characters_of_names_stay_as_they_are(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"clap/{name}")
    assert labelled(read(tmp_path, f"clap/{name} 1\n"), tmp_path) == [(f"clap/{name}", 1)]


def test_name_that_is_no_utf8_survives(tmp_path: Path) -> None:
    raw = b"caf\xe9.avi"
    try:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), raw))).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    videos = read(tmp_path, raw + b" 0\n")
    assert [os.fsencode(entry.path) for entry in videos.entries] == [os.fsencode(tmp_path) + b"/caf\xe9.avi"]


# --- which file is meant ---


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.b.avi", "a.b"),
        ("a.b", "a.b"),
        ("x.AVI", "x"),
        ("x", "x"),
        ("x.png", "x.png"),
        (".avi", ".avi"),
        ("x.", "x."),
    ],
)
def test_stem_cuts_the_extension_of_a_video_file_alone(name: str, stem: str) -> None:
    assert video_stem(name) == stem


@pytest.mark.parametrize(
    ("listed", "there", "found"),
    [
        ("c/x.avi", ["c/x/rgb/0.png"], "c/x"),
        ("c/x", ["c/x.avi"], "c/x.avi"),
        ("c/x.avi", ["c/x.mp4"], "c/x.mp4"),
        ("c/a.b.avi", ["c/a.b/rgb/0.png", "c/a/rgb/0.png"], "c/a.b"),
        ("c/a.b", ["c/a.b.avi", "c/a.avi"], "c/a.b.avi"),
        ("c/x.avi", ["c/x.avi", "c/x/rgb/0.png"], "c/x.avi"),  # the very name goes first
        ("c/x.mp4", ["c/x.avi", "c/x/rgb/0.png"], "c/x"),
    ],
)
def test_list_names_a_video_file_or_its_frame_folder_and_means_what_is_there(
    tmp_path: Path, listed: str, there: list[str], found: str
) -> None:
    touch(tmp_path, *there)
    assert labelled(read(tmp_path, f"{listed} 0\n"), tmp_path) == [(found, 0)]


def test_missing_videos_are_told_together_with_their_lines(root: Path) -> None:
    text = "a/1.avi 0\n" + "".join(f"a/none_{i}.avi 0\n" for i in range(12))
    with pytest.raises(DataError, match=r"list\.txt: 12 of 13 videos do not exist:") as caught:
        read(root, text)
    said = str(caught.value).splitlines()
    assert said[1] == f"  {root}/list.txt, line 2 'a/none_0.avi 0'"
    assert said[11:] == ["  ... and 2 more"]


def test_missing_videos_may_be_allowed_and_are_then_named_in_the_result(root: Path) -> None:
    videos = read(root, "a/1.avi 0\na/none.avi 1\n", allow_missing=True)
    assert labelled(videos, root) == [("a/1.avi", 0)]
    assert videos.missing == [(f"{root}/a/none.avi", f"{root}/list.txt, line 2 'a/none.avi 1'")]


def test_list_of_missing_videos_alone_is_an_error_even_where_they_are_allowed(root: Path) -> None:
    with pytest.raises(DataError, match="1 of 1 videos do not exist"):
        read(root, "a/none.avi 1\n", allow_missing=True)


def test_each_folder_is_listed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scan(path))
    read(root, "a/1.avi 0\na/2.avi 0\nb/3.mp4 0\na/2.avi 0\n")
    assert [os.path.basename(path) for path in listed] == ["a", "b"]


def test_paths_are_relative_to_a_given_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("lists") / "list.txt"
    path.write_text("a/1.avi 0\n")
    assert labelled(read_list(path, root), root) == [("a/1.avi", 0)]


def test_absolute_path_below_the_root_is_accepted(root: Path) -> None:
    assert labelled(read(root, f"{root}/a/1.avi 0\n"), root) == [("a/1.avi", 0)]


@pytest.mark.parametrize("listed", ["../x.avi", "a/../../x.avi", "/etc/passwd", "..", "."])
def test_path_that_leads_out_of_the_root_is_refused(root: Path, listed: str) -> None:
    touch(root.parent, "x.avi")
    with pytest.raises(DataError, match=r"list\.txt, line 2 '.*1': \S+ leads out of .*, the folder that"):
        read(root, f"a/1.avi 0\n{listed} 1\n")


def test_name_that_begins_with_two_dots_does_not_lead_out(tmp_path: Path) -> None:
    touch(tmp_path, "..x/1.avi")
    assert labelled(read(tmp_path, "..x/1.avi 0\n"), tmp_path) == [("..x/1.avi", 0)]


# --- labels ---


def test_indices_with_class_names_stay_indices_and_the_names_are_kept(root: Path) -> None:
    videos = read(root, "a/1.avi 1\n", class_names=["fall", "walk"])
    assert (labelled(videos, root), videos.class_names) == ([("a/1.avi", 1)], ("fall", "walk"))


def test_classes_named_by_numbers_are_names_where_they_are_given(root: Path) -> None:
    videos = read(root, "a/1.avi 10\n", class_names=["7", "10"])
    assert labelled(videos, root) == [("a/1.avi", "10")]


@pytest.mark.parametrize(
    ("text", "class_names", "message"),
    [
        ("a/1.avi run\n", ["fall", "walk"], r"line 1 'a/1.avi run': label 'run' is not one of the classes fall, walk"),
        ("a/1.avi fall\na/2.avi run\n", ["fall"], r"line 2 'a/2.avi run': label 'run' is not one of the classes fall"),
        ("a/1.avi 2\n", ["fall", "walk"], r"line 1 .*: label 2 is not one of 0\.\.1, the indices of the classes"),
        ("a/1.avi 0\na/2.avi walk\n", None, r"line 2 .*: label 'walk' is a name and that of line 1 a number"),
        ("a/1.avi -3\n", None, r"line 1 .*: a label is a class name or an index >= 0, got -3"),
        ("a/1.avi 0\na/2.avi -1\n", None, r"line 2 .*: has no label"),
        ("a/1.avi 0\na/1.avi 1\n", None, r"line 2: .*a/1\.avi is 1 here and 0 in line 1"),
    ],
)
def test_label_that_cannot_be_is_refused_naming_the_line(
    root: Path, text: str, class_names: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(root, text, class_names=class_names)


def test_video_that_is_listed_twice_with_one_label_is_there_twice(root: Path) -> None:
    assert [entry.line for entry in read(root, "a/1.avi 0\na/1.avi 0\n").entries] == [1, 2]


# --- data sets' own forms ---


def test_ucf101_lists_get_their_labels_from_class_ind_and_folders(tmp_path: Path) -> None:
    touch(tmp_path, "Archery/v_1.avi", "Zumba/v_2.avi", "Billiards/v_3.avi")
    (tmp_path / "classInd.txt").write_text("1 Archery\r\n2 Zumba\r\n3 Billiards\r\n")
    train = read(tmp_path, "Archery/v_1.avi 1\r\nZumba/v_2.avi 2\r\n")
    assert labelled(train, tmp_path) == [("Archery/v_1.avi", "Archery"), ("Zumba/v_2.avi", "Zumba")]
    test = read(tmp_path, "Billiards/v_3.avi\n")
    assert labelled(test, tmp_path) == [("Billiards/v_3.avi", "Billiards")]
    assert train.class_names == test.class_names == ("Archery", "Zumba", "Billiards")
    with pytest.raises(DataError, match=r"line 1 .*: classInd\.txt has the classes 1\.\.3, got 0"):
        read(tmp_path, "Archery/v_1.avi 0\n")


KINETICS = "label,youtube_id,time_start,time_end,split,is_cc\n"


@pytest.mark.parametrize(
    "there", ["riding a bike", "riding_a_bike", "train/riding a bike", "train/riding_a_bike", "train", "."]
)
def test_kinetics_csv_finds_the_cut_by_its_name_wherever_it_lies(tmp_path: Path, there: str) -> None:
    touch(tmp_path, f"{there}/-x_Y_000012_000022.mp4")
    videos = read(tmp_path, f"{KINETICS}riding a bike,-x_Y,12,22,train,0\n", "train.csv")
    assert labelled(videos, tmp_path) == [(os.path.normpath(f"{there}/-x_Y_000012_000022.mp4"), "riding a bike")]
    assert videos.class_names == ("riding a bike",)


def test_kinetics_csv_with_a_time_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2 .*: time_start and time_end must be seconds"):
        read(tmp_path, f"{KINETICS}a,x,?,22,train,0\n", "train.csv")


def hmdb_json(path: Path) -> Path:
    about = {"a.b_1": ("training", "clap"), "c_2": ("training", "wave"), "d_3": ("validation", "clap")}
    database = {n: {"subset": s, "annotations": {"label": k, "segment": [1, 9]}} for n, (s, k) in about.items()}
    path.write_text(json.dumps({"labels": ["wave", "clap", "run"], "database": database}))
    return path


def test_json_database_gives_one_subset_with_all_its_classes(tmp_path: Path) -> None:
    touch(tmp_path, "clap/a.b_1/0.jpg", "wave/c_2.avi")
    path = hmdb_json(tmp_path / "hmdb51_1.json")
    videos = read_list(path, subset="training")
    assert labelled(videos, tmp_path) == [("clap/a.b_1", "clap"), ("wave/c_2.avi", "wave")]
    assert videos.class_names == ("clap", "run", "wave")
    assert list_subsets(path) == {"training": 2, "validation": 1}


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (None, r"holds the subsets training, validation, and one is needed; python tools/dataset\.py split"),
        ("val", r"holds no subset 'val', but training, validation"),
    ],
)
def test_json_database_without_the_right_subset_says_which_there_are(
    tmp_path: Path, subset: str | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_list(hmdb_json(tmp_path / "x.json"), subset=subset)


def test_activitynet_segments_of_one_label_are_that_label_and_of_two_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "v1.mp4")
    segments = [{"label": "skiing", "segment": [0, 1]}, {"label": "skiing", "segment": [5, 9]}]
    database = {"v1": {"subset": "training", "annotations": segments}}
    assert labelled(read(tmp_path, json.dumps({"database": database}), "x.json"), tmp_path) == [("v1.mp4", "skiing")]
    segments[1]["label"] = "surfing"
    with pytest.raises(DataError, match=r"x\.json, video 'v1': has the labels skiing, surfing; a video needs one"):
        read(tmp_path, json.dumps({"database": database}), "x.json")


# --- what is no list ---


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"", r"x\.txt: lists no video"),
        ("x.txt", b"a/1.avi\n", r"x\.txt, line 1 'a/1\.avi': expected a path and a label"),
        ("x.csv", b"a/1.avi,0\na/2.avi,1,2,3\n", r"x\.csv, line 2 'a/2\.avi,1,2,3': expected a path and a label"),
        ("x.csv", b'"a/1.avi,0\n', r"x\.csv, line 1 .*: can't be read as comma-separated"),
        ("x.csv", b"path,label\na/1.avi\n", r"x\.csv, line 1 'path,label': expected a path and a label"),
        ("x.csv", b"path,label,split\na/1.avi,0\n", r"line 2 .*: has 2 fields, too few for the header in line 1"),
        ("x.avi", b"RIFF\0\0\0\0", r"x\.avi: is not a list of videos but a binary file"),
        ("x.json", b"{", r"x\.json: is no json"),
        ("x.json", b"[]", r"x\.json: must be a mapping with `labels` and `database`, is a list"),
        ("x.json", b'{"database": []}', r"x\.json: expected a list `labels` and a mapping `database`"),
        ("x.json", b'{"database": {"v": 1}}', r"x\.json, video 'v': expected a subset and annotations with a label"),
        ("x.json", b'{"database": {"v": {"annotations": {}}}}', r"x\.json, video 'v': has no label"),
    ],
)
def test_what_is_no_list_is_refused_saying_why(root: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(root, content, name)


def test_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt: can't be read \(No such file or directory\)"):
        read_list(tmp_path / "none.txt")


def test_list_with_a_root_that_is_no_folder_says_so(root: Path) -> None:
    read(root, "a/1.avi 0\n")
    with pytest.raises(DataError, match=r"list\.txt: its videos should be below .*/gone, which is no folder"):
        read_list(root / "list.txt", root / "gone")


def test_subset_of_a_list_without_subsets_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"holds no subset 'val', but no subsets at all"):
        read(root, "a/1.avi 0\n", subset="val")
