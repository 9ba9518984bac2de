"""tools/dataset.py and what it stands on: figures, checks, pictures and first specs of small made data sets."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lossless import noise, write_lossless
from PIL import Image
from tiny import BASE, MakeTree, use_tiny_models

from action_recognition.clip.flow_encoding import encode_clip20, encode_max_rad
from action_recognition.config import load_spec
from action_recognition.data.agreement import training_problems
from action_recognition.data.check import Finding, check_video, check_videos, twins
from action_recognition.data.draft import Draft, draft_of, spec_text
from action_recognition.data.index import index_classes
from action_recognition.data.lists import read_list
from action_recognition.data.sheet import Strip, animation, contact_sheet, flow_in_colours
from action_recognition.data.survey import Found, find_videos, measure, parts_of, summarise, table
from action_recognition.errors import DataError
from action_recognition.tasks import train
from action_recognition.tasks.show import spec_for, training_strips
from action_recognition.training.distributed import connected

ROOT = Path(__file__).parents[1]
main: Callable[[list[str]], int] = runpy.run_path(str(ROOT / "tools" / "dataset.py"))["main"]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def frames_into(folder: Path, frames: np.ndarray, kind: str = "rgb") -> None:
    """Images 000000.png ... of frames (T, H, W, 3) or (T, H, W)."""
    (folder / kind).mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / kind / f"{i:06d}.png")


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """data/{fall,walk}/<video>/rgb with nothing to complain of: frames of noise, each video its own."""
    for seed, video in enumerate(("fall/f1", "fall/f2", "walk/w1", "walk/w2")):
        frames_into(tmp_path / "data" / video, noise(6, seed=seed))
    return tmp_path / "data"


# --- the command line ---


def test_help_of_the_tool_and_its_commands_loads_no_torch() -> None:
    code = (
        "import io, runpy, sys\n"
        "from contextlib import redirect_stdout, suppress\n"
        "said = io.StringIO()\n"
        "for command in ([], ['split'], ['stats'], ['check'], ['show'], ['init']):\n"
        "    sys.argv = ['tools/dataset.py', *command, '-h']\n"
        "    with suppress(SystemExit), redirect_stdout(said):\n"
        "        runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "print('torch' in sys.modules, said.getvalue().count('usage: '))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("False 6\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["split", "a", "b"], "one of the arguments --hmdb51 --ucf101 --list --random is required"),
        (["split", "a", "b", "--ucf101", "c", "--val", "0.1"], "--val, --test and --group are for --random"),
        (["split", "a", "b", "--ucf101", "c", "--split", "4"], "argument --split: invalid choice: 4"),
        (["show", "a", "-o", "b.png", "--num", "0"], "argument --num: must be at least 1, got 0"),
        (["stats", "a", "--jsn"], "unrecognized arguments: --jsn"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_command_line_that_means_nothing_exits_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        run(*arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["stats", "none"], ["check", "none"], ["split", "none", "b", "--random"]])
def test_data_set_that_is_not_there_is_an_error_that_names_it(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 1
    assert capsys.readouterr().err.startswith("error: none: no such f")


# --- split ---


def test_split_tool_writes_lists_that_training_takes_and_says_what_it_did(
    noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("split", noisy, tmp_path / "split", "--random", "--val", 0.5) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train: 2 videos of 2 classes",
        "val: 2 videos of 2 classes",
        f"{tmp_path}/split holds train.txt, val.txt, and videos, a link to {noisy}",
    ]
    index = index_classes(tmp_path / "split/train.txt", ("fall", "walk"), ["rgb"], "error")
    assert [(Path(video.path).parent.name, video.label) for video in index.videos] == [("fall", 0), ("walk", 1)]


def test_split_tool_with_links_makes_a_tree_that_training_takes(
    noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("split", noisy, tmp_path / "split", "--random", "--test", 0.5, "--as", "links") == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path}/split holds symbolic links to {noisy}\n")
    assert len(index_classes(tmp_path / "split/test", ("fall", "walk"), ["rgb"], "error").videos) == 2


def test_split_tool_reads_official_lists(noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "official").mkdir()
    (tmp_path / "official/fall_test_split2.txt").write_text("f1.avi 1\nf2.avi 2\n")
    (tmp_path / "official/walk_test_split2.txt").write_text("w1.avi 1\ngone.avi 2\n")
    assert run("split", noisy, tmp_path / "split", "--hmdb51", tmp_path / "official", "--split", 2) == 0
    said = capsys.readouterr().out
    assert "in no part, as no list names them: 1 videos: walk/w2\n" in said
    assert "listed, but missing: 1 videos: walk/gone\n" in said
    assert (tmp_path / "split/test.txt").read_text() == "videos/fall/f2\tfall\n"


def test_split_tool_makes_a_list_of_each_subset_that_a_json_names(
    noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {"f1": ("training", "fall"), "w2": ("validation", "walk"), "gone": ("validation", "walk")}
    database = {name: {"subset": s, "annotations": {"label": k}} for name, (s, k) in about.items()}
    database["secret"] = {"subset": "testing", "annotations": {}}
    (tmp_path / "all.json").write_text(json.dumps({"labels": ["fall", "walk"], "database": database}))
    assert run("split", noisy, tmp_path / "split", "--list", tmp_path / "all.json") == 0
    said = capsys.readouterr().out
    assert "testing is left out: its videos have no labels\n" in said
    assert f"listed, but missing: 1 videos: {noisy}/walk/gone\n" in said
    assert (tmp_path / "split/val.txt").read_text() == "videos/walk/w2\twalk\n"


def test_split_tool_does_not_overwrite_and_says_nothing_else(
    noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("split", noisy, tmp_path, "--random") == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", f"error: {tmp_path}: exists already; choose another DST or remove it\n")


# --- stats ---


def test_stats_are_a_row_a_class_and_one_for_all(make_tree: MakeTree, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "data", {"walk": 1, "fall_floor": 3}, num_frames=[4, 7, 6, 100])
    assert table(summarise([measure(video) for video in find_videos(root)])) == [
        "class       videos  frames  min  median  max  seconds",
        "fall_floor       3      17    4       6    7        -",
        "walk             1     100  100     100  100        -",
        "-----------------------------------------------------",
        "all              4     117    4     6.5  100        -",
        "width x height (videos): 20x16 (4)",
        "0 video files, 4 folders of frames, 4 with flow",
    ]


def test_stats_as_json_have_a_data_set_a_part(
    make_tree: MakeTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tree(tmp_path / "data/train", {"a": 2}, num_frames=4, modalities=("rgb",))
    make_tree(tmp_path / "data/val", {"a": 1}, num_frames=9, modalities=("rgb",))
    (tmp_path / "data/val/a/video_000/preprocess.json").write_text('{"outcome": {"fps": 30.0}}')
    assert run("stats", tmp_path / "data", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert list(figures) == [f"{tmp_path}/data/train", f"{tmp_path}/data/val"]
    assert figures[f"{tmp_path}/data/val"] == {
        "videos": 1, "frames": 9, "min": 9, "median": 9, "max": 9, "seconds": 0.3, "video_files": 0, "with_flow": 0,
        "sizes": {"20x16": 1}, "unreadable": {},
        "classes": {"a": {"videos": 1, "frames": 9, "min": 9, "median": 9, "max": 9, "seconds": 0.3}},
    }  # fmt: skip


def test_stats_of_a_video_file_are_what_its_header_says(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    write_lossless(tmp_path / "a/1.avi", noise(5))
    (tmp_path / "a/2.avi").write_bytes(b"no video")
    good, bad = (measure(video) for video in find_videos(tmp_path))
    assert (good.num_frames, good.size, good.seconds) == (5, (20, 16), 0.2)  # at 25 frames a second
    assert bad.problem
    said = table(summarise([good, bad]))
    assert said[-1].startswith(f"unreadable: {tmp_path}/a/2.avi: ")
    assert "1 video files, 0 folders of frames, 0 with flow" in said


def test_stats_of_lists_beside_one_another_are_told_apart(noisy: Path, tmp_path: Path) -> None:
    run("split", noisy, tmp_path / "split", "--random", "--val", 0.5)
    assert parts_of(tmp_path / "split") == {p: tmp_path / f"split/{p}.txt" for p in ("train", "val")}
    assert {video.class_name for video in find_videos(tmp_path / "split/val.txt")} == {"fall", "walk"}


def test_seconds_are_not_summed_where_some_are_unknown(make_tree: MakeTree, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "data", {"a": 2, "b": 1}, num_frames=10, modalities=("rgb",))
    for video in ("a/video_000", "b/video_002"):
        (root / video / "preprocess.json").write_text('{"outcome": {"fps": 5}}')
    summary = summarise([measure(video) for video in find_videos(root)])
    assert (summary["seconds"], summary["classes"]["a"]["seconds"], summary["classes"]["b"]["seconds"]) == (
        None,
        None,
        2,
    )


def test_class_named_train_among_others_is_a_class(make_tree: MakeTree, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "data", {"train": 1, "ship": 1}, modalities=("rgb",))
    assert parts_of(root) == {"": root}


def test_video_folder_without_images_is_counted_as_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a/x/rgb").mkdir(parents=True)
    summary = summarise([measure(video) for video in find_videos(tmp_path)])
    assert summary["unreadable"] == {f"{tmp_path}/a/x": "no folder rgb, u, v with images"}
    assert summary["classes"]["a"]["videos"] == 0


def test_plot_is_a_picture_of_all_data_sets(noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install .[report]")
    assert run("stats", noisy, "--plot", tmp_path / "plot.png") == 0
    with Image.open(tmp_path / "plot.png") as image:
        assert (image.format, image.width) == ("PNG", 1200)
    assert run("stats", noisy, "--plot", tmp_path / "plot.doc") == 1
    assert "plot.doc: the plot can't be written" in capsys.readouterr().err


def test_plot_without_matplotlib_is_one_sentence(
    noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run("stats", noisy, "--plot", tmp_path / "plot.png") == 1
    assert capsys.readouterr().err == 'error: plots need matplotlib: pip install ".[report]"\n'


# --- check ---


def test_check_of_good_videos_says_how_much_was_decoded_and_exits_with_0(
    noisy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", noisy, "--workers", 1) == 0
    assert capsys.readouterr().out == "4 videos, 24 frames decoded: 0 unreadable, 0 suspicious\n"


def test_check_tells_unreadable_from_suspicious_and_lists_both(
    noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (noisy / "fall/f1/rgb/000003.png").write_bytes(b"no image")
    (noisy / "walk/w1/rgb/000005.png").unlink()
    how = ("--clip-length", 6, "--ok", tmp_path / "ok.txt", "--bad", tmp_path / "lists/bad.txt", "--workers", 1)
    assert run("check", noisy, *how) == 1
    unreadable, suspicious, total = capsys.readouterr().out.splitlines()
    assert unreadable.startswith(f"unreadable: {noisy}/fall/f1: rgb/000003.png: the image can't be read (")
    assert suspicious == f"suspicious: {noisy}/walk/w1: 5 frames, fewer than a clip of 6"
    assert total == "4 videos, 17 frames decoded: 1 unreadable, 1 suspicious"
    assert (tmp_path / "ok.txt").read_text() == "data/fall/f2\tfall\ndata/walk/w1\twalk\ndata/walk/w2\twalk\n"
    assert len(read_list(tmp_path / "ok.txt").entries) == 3
    assert (tmp_path / "lists/bad.txt").read_text().startswith(f"{noisy}/fall/f1\trgb/000003.png: the image can't be")


def findings_of(folder: Path, clip_length: int = 1) -> Finding:
    return check_video(Found(str(folder), "a"), clip_length)


@pytest.mark.parametrize(
    ("frames", "suspicion"),
    [
        (
            np.concatenate([np.full((2, 16, 20, 3), 3, np.uint8), noise(4)]),
            "2 of 6 frames are black (the first is frame 0)",
        ),
        (
            np.concatenate([noise(4), np.full((1, 16, 20, 3), (9, 200, 40), np.uint8)]),
            "1 of 5 frames are of one colour (the first is frame 4)",
        ),
        (np.repeat(noise(1), 5, axis=0), "all 5 frames show the same picture"),
    ],
)
def test_dull_frames_are_suspicious(tmp_path: Path, frames: np.ndarray, suspicion: str) -> None:
    frames_into(tmp_path / "x", frames)
    assert findings_of(tmp_path / "x").suspicions == (suspicion,)


@pytest.mark.parametrize(("num_u", "num_v", "is_wrong"), [(5, 5, False), (6, 6, True), (5, 4, True), (0, 5, True)])
def test_flow_images_must_be_one_fewer_than_frames(tmp_path: Path, num_u: int, num_v: int, is_wrong: bool) -> None:
    frames_into(tmp_path / "x", noise(6))
    for kind, count in (("u", num_u), ("v", num_v)):
        frames_into(tmp_path / "x", noise(count)[..., 0], kind)
    text = f"u holds {num_u} and v {num_v} images for 6 frames; N frames have N-1 of each"
    assert findings_of(tmp_path / "x").suspicions == ((text,) if is_wrong else ())


def test_flow_without_motion_in_any_frame_is_suspicious_and_in_some_is_not(tmp_path: Path) -> None:
    still = np.full((3, 16, 20), 128, np.uint8)
    for name, last in (("still", still[:1]), ("moving", noise(1)[..., 0])):
        frames_into(tmp_path / name, np.concatenate([still, last]), "u")
        frames_into(tmp_path / name, np.concatenate([still, still[:1]]), "v")
    assert findings_of(tmp_path / "still").suspicions == ("the flow shows no motion in any frame",)
    moving = findings_of(tmp_path / "moving")
    assert (moving.suspicions, moving.num_frames) == ((), 5)


def test_frames_of_two_sizes_are_what_training_says_of_them(tmp_path: Path) -> None:
    frames_into(tmp_path / "x", noise(3))
    Image.new("RGB", (8, 8)).save(tmp_path / "x/rgb/000001.png")
    assert findings_of(tmp_path / "x").problem == "rgb/000001.png is 8x8 pixels, earlier frames are 20x16"


def test_video_file_is_decoded_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    write_lossless(tmp_path / "x.avi", noise(6))
    assert (findings_of(tmp_path / "x.avi").num_frames, findings_of(tmp_path / "x.avi").suspicions) == (6, ())
    (tmp_path / "y.avi").write_bytes((tmp_path / "x.avi").read_bytes()[:-2000])
    assert findings_of(tmp_path / "y.avi").problem.startswith("is cut off: it holds ")
    (tmp_path / "z.avi").write_bytes(b"")
    assert findings_of(tmp_path / "z.avi").problem.startswith("can't be opened as a video")


def test_damaged_packets_are_suspicious(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: str, damage: Any) -> Any:
        damage.packets_skipped = 3
        return iter(noise(4))

    monkeypatch.setattr("action_recognition.data.check.read_video", read)
    (tmp_path / "x.avi").touch()
    assert findings_of(tmp_path / "x.avi").suspicions == ("3 damaged packets had to be left out",)


def test_real_videos_are_read_to_the_last_frame(data_root: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    finding = findings_of(data_root / "data/ut_interaction/punch/set1_seq08_44_8_4.avi", 64)
    assert (finding.num_frames, finding.problem) == (59, "")  # its header says 61
    assert finding.suspicions == ("59 frames, fewer than a clip of 64",)


def finding(path: str, class_name: str, digest: str) -> Finding:
    return Finding(Found(path, class_name), 1, digest=digest)


@pytest.mark.parametrize(
    ("data_sets", "lines"),
    [
        ({"t": [finding("1", "a", "x"), finding("2", "a", "y")]}, []),
        ({"t": [finding("1", "a", "x"), finding("2", "a", "x")]}, ["the same content twice: 1, 2"]),
        ({"t": [finding("1", "a", "x"), finding("2", "b", "x")]}, ["the same content in two classes: 1, 2"]),
        (
            {"t": [finding("1", "a", "x")], "v": [finding("2", "a", "x"), finding("3", "a", "")]},
            ["the same content on both sides: 1, 2"],
        ),
        ({"t": [finding("1", "a", ""), finding("2", "a", "")]}, []),  # both unreadable
    ],
)
def test_twins_are_told_by_where_they_are(data_sets: dict[str, list[Finding]], lines: list[str]) -> None:
    assert twins(data_sets) == lines


def test_check_of_two_data_sets_finds_a_video_that_is_in_both_under_another_name(
    noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames_into(tmp_path / "val/fall/other", noise(6, seed=1))  # f2's
    frames_into(tmp_path / "val/fall/own", noise(6, seed=9))
    assert run("check", noisy, tmp_path / "val", "--workers", 1) == 0
    said = capsys.readouterr().out.splitlines()
    twin = f"the same content on both sides: {noisy}/fall/f2, {tmp_path}/val/fall/other"
    assert said == [f"suspicious: {twin}", "6 videos, 36 frames decoded: 0 unreadable, 1 suspicious"]


def test_check_in_worker_processes_finds_the_same_in_the_same_order(noisy: Path) -> None:
    (noisy / "fall/f1/rgb/000003.png").write_bytes(b"no image")
    videos = find_videos(noisy)
    assert list(check_videos(videos, 7, num_workers=2)) == list(check_videos(videos, 7))


class Deadly(Found):
    """A video that kills the process that looks at it."""

    @property
    def is_file(self) -> bool:
        os._exit(1)


def test_worker_that_dies_is_an_error_that_says_where(noisy: Path) -> None:
    videos = [Deadly(str(noisy / "fall/f1"), "fall")]
    with pytest.raises(DataError, match=r"a worker process died at one of \S+/fall/f1; check these with --workers 1"):
        list(check_videos(videos, num_workers=2))


# --- show ---


@pytest.mark.parametrize("augmentation", [(), ("dataset.augmentation_config.color_jitter=[0.4, 0.4, 0.4, 0.1]",)])
def test_shown_clips_are_those_that_training_gets(
    augmentation: tuple[str, ...], noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch)
    data = (f"dataset.train_dataset_dir={noisy}", "dataset.batch_size=4", "dataset.clips_per_video=2")
    how = (*data, *BASE, *augmentation)
    spec = load_spec(None, [*how, f"results_dir={tmp_path}", "train.device=cpu"], task="train")
    with connected("cpu", (0,), "train.device") as process:
        trainer = train.Trainer(spec, process, lambda text: None)
        trained = [clip.numpy() for batch in trainer._training_batches() for clip in batch.inputs["rgb"]]
    shown = [strip.frames for strip in training_strips(spec, 8)]
    assert (len(shown), shown[0].shape) == (8, (2, 8, 8, 3))
    assert sorted(clip.tobytes() for clip in shown) == sorted(clip.tobytes() for clip in trained)
    assert [clip.tobytes() for clip in shown] != [strip.frames.tobytes() for strip in training_strips(spec, 8, seed=1)]


def test_contact_sheet_has_a_row_a_clip_and_its_own_pixels() -> None:
    frames = noise(5, (30, 24))
    sheet = np.asarray(contact_sheet([Strip(("a",), frames[:2]), Strip(("b", "name"), frames)], 3))
    assert sheet.shape[0] == 2 * (16 + 24 + 4)  # a line of text, the frames, a gap
    np.testing.assert_array_equal(sheet[16:40, :30], frames[0])
    for column, frame_id in enumerate((0, 2, 4)):
        np.testing.assert_array_equal(sheet[60:84, column * 34 : column * 34 + 30], frames[frame_id])
    assert (sheet[:16] < 128).any()  # the caption
    assert (sheet[:40, 68:] == 255).all()  # no third frame in the first row


def test_animation_shows_all_clips_at_once_and_slows_the_shorter_one_down() -> None:
    frames = noise(4, (30, 24))
    pictures = [np.asarray(p) for p in animation([Strip(("a", "b"), frames[:2]), Strip(("c", "d"), frames)])]
    assert len(pictures) == 4
    for t, short in enumerate((0, 0, 1, 1)):
        np.testing.assert_array_equal(pictures[t][32:56, :30], frames[short])
        np.testing.assert_array_equal(pictures[t][32:56, 154:184], frames[t])


@pytest.mark.parametrize(
    ("x", "y", "colour"),
    [
        (0, 0, (255, 255, 255)),
        (1, 0, (255, 0, 0)),  # to the right: red
        (-1, 0, (0, 197, 255)),  # half-way round, 2.5 of 11 steps from cyan to blue
        (0.5, 0, (255, 127, 127)),  # half as fast: half as strong
    ],
)
@pytest.mark.parametrize("encoding", ["max_rad", "clip20"])
def test_flow_has_the_colour_of_its_direction(x: float, y: float, colour: tuple[int, ...], encoding: str) -> None:
    flow = np.zeros((4, 4, 2))
    flow[0, 0], flow[0, 1] = (10 * x, 10 * y), (0, -10)  # the second pixel sets the greatest speed
    encode = {"max_rad": encode_max_rad, "clip20": encode_clip20}[encoding]
    image = flow_in_colours(np.stack(encode(flow), axis=-1)[None], encoding)
    assert (image.dtype, image.shape) == (np.uint8, (1, 4, 4, 3))
    np.testing.assert_allclose(image[0, 0, 0], colour, atol=3)


def test_show_tool_draws_a_folder_with_overrides_before_and_after_its_options(noisy: Path, tmp_path: Path) -> None:
    size = ("model.input_height=10", "model.input_width=40", "dataset.augmentation_config.crop_smaller_edge=40")
    assert run("show", noisy, size[0], "-o", tmp_path / "x.png", "--num", 3, *size[1:]) == 0
    with Image.open(tmp_path / "x.png") as sheet:
        assert (sheet.format, sheet.height) == ("PNG", 3 * (16 + 10 + 4))
    assert run("show", noisy, "-o", tmp_path / "x.gif", "--num", 3, "--fps", 10, *size) == 0
    with Image.open(tmp_path / "x.gif") as moving:
        assert (moving.format, moving.n_frames, moving.info["duration"]) == ("GIF", 6, 100)


def test_show_tool_takes_a_spec_and_draws_flow_beside_frames(make_tree: MakeTree, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "data", {"a": 2})
    (tmp_path / "spec.yaml").write_text(f"dataset: {{train_dataset_dir: {root}}}\nmodel: {{model_type: joint}}\n")
    assert run("show", tmp_path / "spec.yaml", "-o", tmp_path / "x.png", *BASE[1:], "--num", 1) == 0
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.height == 2 * (16 + 8 + 4)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["-o", "x.jpg"], 2, "-o x.jpg: the name must end in .png (contact sheet) or .gif (animation)"),
        (["-o", "x.png", "model.rgb_seq_length=0"], 2, "command line: model.rgb_seq_length: must be > 0, got 0"),
        (["-o", "none/x.png"], 1, "none/x.png: can't be written (No such file or directory)"),
    ],
)
def test_show_tool_that_cannot_draw_says_why(
    noisy: Path, arguments: list[str], exit_code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", noisy, *arguments) == exit_code
    assert message in capsys.readouterr().err


def test_show_tool_names_a_video_that_cannot_be_read(
    noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("init", noisy, "-o", tmp_path / "spec.yaml")
    for image in (noisy / "fall/f1/rgb").iterdir():
        image.write_bytes(b"no image")
    assert run("show", tmp_path / "spec.yaml", "-o", tmp_path / "x.png") == 1
    assert f"error: {noisy}/fall/f1/rgb/00000" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


# --- init ---


def draft(covered: int = 40, short_side: int = 240, counts: dict[str, tuple[int, int]] | None = None) -> Draft:
    return Draft(Path("data"), None, counts or {"a": (50, 0), "b": (50, 0)}, True, 0, covered, short_side)


@pytest.mark.parametrize(
    ("covered", "clip_length", "rate"),
    [
        (1, 1, 1),
        (12, 12, 1),
        (16, 16, 1),
        (31, 16, 1),
        (32, 32, 1),
        (63, 32, 1),
        (64, 32, 2),
        (100, 32, 3),
        (900, 32, 4),
    ],
)
def test_clip_of_a_draft_fits_into_nine_in_ten_videos(covered: int, clip_length: int, rate: int) -> None:
    made = draft(covered)
    assert (made.clip_length, made.rate) == (clip_length, rate)


@pytest.mark.parametrize(
    ("short_side", "smaller_edge", "side", "batch_size"),
    [(1080, 256, 224, 8), (224, 256, 224, 8), (120, 128, 112, 16), (72, 72, 64, 32), (20, 72, 64, 32)],
)
def test_input_of_a_draft_follows_the_size_of_the_frames(
    tmp_path: Path, short_side: int, smaller_edge: int, side: int, batch_size: int
) -> None:
    (tmp_path / "spec.yaml").write_text(spec_text(draft(short_side=short_side), tmp_path / "spec.yaml"))
    spec = load_spec(tmp_path / "spec.yaml")
    assert (spec.model.input_height, spec.model.input_width) == (side, side)
    assert spec.dataset.augmentation_config.crop_smaller_edge == smaller_edge
    assert spec.dataset.batch_size == batch_size


def test_init_tool_writes_a_spec_that_loads_and_trains_a_step(
    make_tree: MakeTree, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "data/train", {"fall": 1, "walk": 1}, num_frames=9, modalities=("rgb",))
    make_tree(tmp_path / "data/val", {"walk": 1}, num_frames=2, modalities=("rgb",))
    path = tmp_path / "spec.yaml"
    assert run("init", tmp_path / "data", "-o", path) == 0
    assert capsys.readouterr().out == f"{path} is written; next: python tools/train.py {path}\n"
    how = [f"results_dir={tmp_path}/results", "train.device=cpu", "train.num_epochs=1", "dataset.workers=0"]
    spec = load_spec(path, how, task="train", checks=[training_problems])
    assert spec.dataset.label_map == {"fall": 0, "walk": 1}
    assert (spec.model.model_type, spec.model.rgb_seq_length, spec.model.sample_rate) == ("rgb", 9, 1)
    use_tiny_models(monkeypatch)  # which are 2D
    spec = load_spec(path, [*how, "model.input_type=2d"], task="train", checks=[training_problems])
    (row,) = train.train(spec, lambda text: None)
    assert row["val_loss"] > 0


@pytest.mark.slow
def test_spec_of_init_trains_the_real_network(make_tree: MakeTree, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "data", {"fall": 1, "walk": 1}, num_frames=9, modalities=("rgb",))
    run("init", root, "-o", tmp_path / "spec.yaml")
    how = [f"results_dir={tmp_path}/results", "train.device=cpu", "train.num_epochs=1", "dataset.workers=0"]
    (row,) = train.train(load_spec(tmp_path / "spec.yaml", how, task="train"), lambda text: None)
    assert row["train_loss"] > 0


def test_spec_of_init_opens_with_its_launch_line_and_counts_the_videos_of_each_class() -> None:
    text = spec_text(draft(counts={"fall": (90, 0), "walk": (10, 0)}), Path("my specs/a.yaml")).splitlines()
    assert text[0].startswith("# 100 videos of 2 classes.")
    assert text[2] == "#   python tools/train.py 'my specs/a.yaml'"
    at = text.index("  label_map:  # unbalanced: fall has 9 times the videos of walk")
    assert text[at + 1 : at + 3] == ["    fall: 0  # 90 videos", "    walk: 1  # 10 videos"]
    assert "  val_dataset_dir: null  # python tools/dataset.py split data DST --random --val 0.2" in "\n".join(text)


def test_spec_of_init_does_not_mirror_classes_that_have_a_side() -> None:
    text = spec_text(draft(counts={"turn_left": (5, 0), "turn_right": (5, 0), "bright": (5, 0)}), Path("a.yaml"))
    assert "horizontal_flip_prob: 0.0  # in a mirror turn_left would be something else\n" in text
    assert "horizontal_flip_prob: 0.5  # 0 where" in spec_text(draft(counts={"bright": (5, 0)}), Path("a.yaml"))


@pytest.mark.parametrize(
    "name", ["yes", "12", "a: b", "#1", "it's", 'say "x"', "null", "caf\u00e9 \u2028", "a\nb", " x "]
)
def test_class_name_that_yaml_would_misread_comes_back_from_the_spec(tmp_path: Path, name: str) -> None:
    (tmp_path / "spec.yaml").write_text(spec_text(draft(counts={name: (5, 0), "walk": (90, 0)}), Path("a.yaml")))
    assert load_spec(tmp_path / "spec.yaml").dataset.label_map == {name: 0, "walk": 1}
    assert yaml.safe_load((tmp_path / "spec.yaml").read_text())["dataset"]["label_map"] == {name: 0, "walk": 1}


def test_spec_of_init_says_what_flow_there_is(make_tree: MakeTree, tmp_path: Path) -> None:
    both = spec_text(draft_of(make_tree(tmp_path / "both")), Path("a.yaml"))
    assert "  model_type: rgb  # u and v are there, too: of learns from motion alone, joint from both\n" in both
    assert "  of_seq_length: 5\n" in both  # 6 frames have 5 flow images
    flow = spec_text(draft_of(make_tree(tmp_path / "flow", modalities=("of",))), Path("a.yaml"))
    assert "  model_type: of  # there are no rgb frames\n" in flow
    assert "rgb_seq_length" not in flow
    rgb = spec_text(draft_of(make_tree(tmp_path / "rgb", modalities=("rgb",))), Path("a.yaml"))
    assert "  model_type: rgb  # of and joint need u and v, which 0 of 6 videos have\n" in rgb


def test_draft_covers_nine_in_ten_videos(make_tree: MakeTree, tmp_path: Path) -> None:
    lengths = [3, *range(20, 39)]  # 20 videos: two may be shorter
    root = make_tree(tmp_path / "data", {"a": 20}, num_frames=lengths, modalities=("rgb",))
    assert draft_of(root).covered == 21


def test_draft_of_parts_takes_train_and_warns_of_test_as_validation(make_tree: MakeTree, tmp_path: Path) -> None:
    make_tree(tmp_path / "data/train", {"a": 2}, modalities=("rgb",))
    make_tree(tmp_path / "data/test", {"a": 1}, modalities=("rgb",))
    made = draft_of(tmp_path / "data")
    assert (made.counts, made.val_dir) == ({"a": (2, 1)}, tmp_path / "data/test")
    assert "    a: 0  # 2 videos, 1 for validation\n" in spec_text(made, Path("a.yaml"))
    assert f"val_dataset_dir: {tmp_path}/data/test  # a model chosen by its test videos is not" in spec_text(
        made, Path("a.yaml")
    )


def test_draft_of_lists_is_a_spec_for_lists(noisy: Path, tmp_path: Path) -> None:
    run("split", noisy, tmp_path / "split", "--random", "--val", 0.5)
    (tmp_path / "spec.yaml").write_text(spec_text(draft_of(tmp_path / "split"), tmp_path / "spec.yaml"))
    spec = load_spec(tmp_path / "spec.yaml", [f"results_dir={tmp_path}"], task="train", checks=[training_problems])
    assert spec.dataset.train_dataset_dir == f"{tmp_path}/split/train.txt"
    assert len(training_strips(spec, 8)) == 2


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["val/a/1"], r"data: holds val, but no train"),
        (["train/a/1", "val/b/2"], r"data/val: class 'b' has no training videos; \S+/train has a"),
        (["train/a/1", "train/a/empty"], r"data/train: 1 of 2 videos can't be used; .*\n  \S+/a/empty: no folder rgb"),
        (["train/.hidden/x"], r"data/train: holds no video; expected <class>/<video file>"),
    ],
)
def test_draft_of_data_that_cannot_be_trained_on_says_why(tmp_path: Path, folders: list[str], message: str) -> None:
    for folder in folders:
        (tmp_path / "data" / folder).mkdir(parents=True)
        if not folder.endswith("empty"):
            frames_into(tmp_path / "data" / folder, noise(1))
    with pytest.raises(DataError, match=message):
        draft_of(tmp_path / "data")


def test_init_tool_does_not_overwrite(noisy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.yaml").write_text("mine")
    assert run("init", noisy, "-o", tmp_path / "spec.yaml") == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/spec.yaml: exists already; choose another name with -o\n"
    assert (tmp_path / "spec.yaml").read_text() == "mine"


def test_show_of_a_folder_uses_the_spec_that_init_would_write(noisy: Path, tmp_path: Path) -> None:
    run("init", noisy, "-o", tmp_path / "spec.yaml")
    written, drafted = spec_for(tmp_path / "spec.yaml", []), spec_for(noisy, [])
    assert (written.model, written.dataset) == (drafted.model, drafted.dataset)
