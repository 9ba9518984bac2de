"""tools/preprocess.py as a user starts it: what it makes, what it says, and that nothing is lost when it is stopped."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_video import write_moving
from test_flow import write_flo

pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
pytest.importorskip("cv2", reason="needs OpenCV: pip install .[flow]")
TOOL = Path(__file__).parents[1] / "tools/preprocess.py"
main = runpy.run_path(str(TOOL))["main"]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for seed, name in enumerate(("walk/x.avi", "walk/y.mp4", "fall/z.avi")):
        write_moving(tmp_path / "videos" / name, seed=seed)
    return tmp_path / "videos"


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def lines(target: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (target / "preprocess.jsonl").read_text().splitlines()]


def run(*arguments: object, workers: int = 1) -> int:
    return main([*map(str, arguments), "--workers", str(workers)])


def test_preprocess_of_a_tree_tells_what_it_made(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(videos, out, "--flow", "dis", "--flow-preset", "fast", "--frames", "jpg") == 0
    said = capsys.readouterr()
    assert (
        said.out == f"3 videos with 18 frames written to {out}, 0 were there, 0 left out; preprocess.jsonl lists them\n"
    )
    assert said.err == ""
    assert [(line["video"], line["frames"], line["flow"]) for line in lines(out)] == [
        ("fall/z", 6, "dis"), ("walk/x", 6, "dis"), ("walk/y", 6, "dis"),
    ]  # fmt: skip
    assert sorted(p.name for p in (out / "walk/x").iterdir()) == ["flow.json", "preprocess.json", "rgb", "u", "v"]


def test_preprocess_again_does_what_is_missing(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(videos, out)
    before = tree(out)
    (out / "walk/x/preprocess.json").unlink()
    (out / "walk/x").rename(tmp_path / "gone")
    capsys.readouterr()
    assert run(videos, out) == 0
    assert capsys.readouterr().out.startswith(f"1 videos with 6 frames written to {out}, 2 were there, 0 left out")
    assert tree(out) == before


def test_preprocess_leaves_a_broken_video_out_and_says_so(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (videos / "walk/broken.avi").write_bytes(b"no video")
    assert run(videos, tmp_path / "out") == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"left out: {videos}/walk/broken.avi: can't be opened as a video")
    assert "3 videos with 18 frames written" in said.out
    assert "1 left out" in said.out
    assert [line["video"] for line in lines(tmp_path / "out") if line["error"]] == ["walk/broken"]


def test_preprocess_of_one_video_goes_to_unlabelled(videos: Path, tmp_path: Path) -> None:
    assert run(videos / "walk/x.avi", tmp_path / "out") == 0
    assert (tmp_path / "out/unlabelled/x/rgb/000005.png").exists()


def test_preprocess_of_a_list_goes_to_its_classes(videos: Path, tmp_path: Path) -> None:
    (videos / "train.txt").write_text("walk/x.avi stroll\nfall/z.avi tumble\n")
    assert run(videos / "train.txt", tmp_path / "out") == 0
    assert [line["video"] for line in lines(tmp_path / "out")] == ["stroll/x", "tumble/z"]


def test_preprocess_of_more_videos_keeps_the_lines_of_the_first(videos: Path, tmp_path: Path) -> None:
    run(videos / "walk/x.avi", tmp_path / "out")
    run(videos, tmp_path / "out")
    assert [line["video"] for line in lines(tmp_path / "out")] == ["fall/z", "unlabelled/x", "walk/x", "walk/y"]


def test_preprocess_flow_only_adds_the_flow_that_the_videos_would_have_given(videos: Path, tmp_path: Path) -> None:
    run(videos, tmp_path / "at_once", "--flow", "dis")
    run(videos, tmp_path / "later")
    assert run(tmp_path / "later", tmp_path / "later", "--flow-only", "--flow", "dis") == 0
    images = [
        {k: v for k, v in tree(tmp_path / name).items() if k[-4:] in (".png", ".jpg")} for name in ("at_once", "later")
    ]
    assert images[0] == images[1]


def test_preprocess_from_flo_takes_the_flow_of_files(videos: Path, tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / "flo/walk/x").mkdir(parents=True, exist_ok=True)
        write_flo(tmp_path / f"flo/walk/x/{i}.flo", np.ones((48, 64, 2)))
    (videos / "list.txt").write_text("walk/x.avi walk\n")
    assert run(videos / "list.txt", tmp_path / "out", "--from-flo", tmp_path / "flo") == 0
    about = json.loads((tmp_path / "out/walk/x/flow.json").read_text())
    assert (about["method"], about["preset"], about["resolution"]) == ("flo", None, [64, 48])


def test_preprocess_with_fps_gives_that_many_frames_a_second(videos: Path, tmp_path: Path) -> None:
    run(videos / "walk/y.mp4", tmp_path / "out", "--fps", "12.5")
    assert [(line["frames"], line["fps"]) for line in lines(tmp_path / "out")] == [(3, 12.5)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers: must be greater than 0, got 0"),
        (["--short-edge", "-1"], "--short-edge: must be greater than 0, got -1"),
        (["--flow-only"], "--flow-only: which flow?"),
        (["--flow-only", "--flow", "dis", "--fps", "5"], "leave --fps and --short-edge out"),
        (["--flow", "dis", "--from-flo", "x"], "not allowed with argument"),
        (["--raft-weights", "x"], "--raft-weights is for --flow raft"),
        (["--flow", "farneback"], "invalid choice: 'farneback'"),
    ],
)
def test_preprocess_with_options_that_make_no_sense_exits_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["src", "dst", *arguments])
    assert message in capsys.readouterr().err


def test_preprocess_of_a_missing_source_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "absent", tmp_path / "out") == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'absent'}: no such file or folder\n"


# --- in processes of their own ---


def start(*arguments: object, workers: int = 2) -> "subprocess.Popen[str]":
    command = [sys.executable, str(TOOL), *map(str, arguments), "--workers", str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def many(root: Path) -> Path:
    for i in range(8):
        write_moving(root / f"videos/c{i % 2}/{i}.avi", num_frames=20, size=(160, 120), seed=i)
    return root / "videos"


def test_preprocess_killed_at_any_moment_ends_in_the_tree_of_an_undisturbed_run(tmp_path: Path) -> None:
    videos, options = many(tmp_path), ("--flow", "dis", "--short-edge", "100")
    assert run(videos, tmp_path / "whole", *options) == 0
    for delay_sec in (0.6, 0.75, 0.9, 1.05, 1.2):
        process = start(videos, tmp_path / "out", *options)
        time.sleep(delay_sec)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        finished = list((tmp_path / "out").glob("*/[!.]*")) if (tmp_path / "out").exists() else []
        assert all(len(list((p / "v").iterdir())) == 19 for p in finished)  # whole or not at all
    assert run(videos, tmp_path / "out", *options) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_preprocess_interrupted_says_so_once_and_leaves_no_temporary_folder(tmp_path: Path) -> None:
    process = start(many(tmp_path), tmp_path / "out", "--flow", "dis")
    while not list((tmp_path / "out").glob("*/[!.]*")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    if process.returncode == 0:
        pytest.skip("the run was over before it could be interrupted")
    assert (process.returncode, out) == (130, "")
    assert err == "interrupted: finished videos stay; the same command goes on with the rest\n"
    assert not list((tmp_path / "out").rglob(".*"))


@pytest.mark.slow
def test_preprocess_under_torchrun_shares_the_videos(videos: Path, tmp_path: Path) -> None:
    run(videos, tmp_path / "whole")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(TOOL)]
    done = subprocess.run([*command, str(videos), str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 videos with 18 frames written")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
