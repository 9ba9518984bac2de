"""The tools as a user starts them. Each start costs seconds, so there are few."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import BASE, MakeTree, use_tiny_models

from action_recognition.command_line import run_tool
from action_recognition.data.agreement import training_problems

ROOT = Path(__file__).parents[1]

SPEC = """\
model:
  model_type: rgb
  backbone: resnet19
dataset:
  train_dataset_dir: {data}
  output_shape: [64, 64]
train:
  optim:
    lr: -0.01
results_dir: {results}
"""


def start(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The tool in a process of its own, without a terminal."""
    command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)


def check_only(*arguments: str) -> int:
    """The exit code of tools/train.py, in this process and without the training."""
    return run_tool("tools/train.py", "Train.", "train", [training_problems], lambda spec: None, arguments)


@pytest.fixture
def data(make_tree: MakeTree, tmp_path: Path) -> Path:
    return make_tree(tmp_path / "data", {"walk": 2, "fall": 2}, num_frames=2, modalities=("rgb",))


# --- in a process of their own ---


def test_train_tool_with_two_mistakes_in_the_spec_lists_both_and_exits_with_2(data: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.format(data=data, results=tmp_path / "results"))
    done = start("train", str(spec))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {spec}: 2 problems\n"
        "  line 3: model.backbone: 'resnet19' is not one of resnet18, resnet34, resnet50, resnet101, resnet152, i3d, "
        "r3d_18, mc3_18, r2plus1d_18, s3d, mvit_v2_s, swin3d_t (did you mean resnet18?)\n"
        "  line 9: train.optim.lr: must be > 0, got -0.01\n"
    )
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_train_tool_without_a_terminal_prints_lines_only_and_nothing_to_stderr(data: Path, tmp_path: Path) -> None:
    """The real 2d resnet18 for one step."""
    how = ["model.model_type=rgb", "model.rgb_seq_length=2", "dataset.output_shape=[32, 32]", "train.device=cpu"]
    where = [f"dataset.train_dataset_dir={data}", f"results_dir={tmp_path / 'results'}", "dataset.workers=0"]
    done = start("train", *where, *how, "train.num_epochs=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\r" not in done.stdout
    assert "\x1b" not in done.stdout
    said = done.stdout.splitlines()
    assert said[0] == "classes, from the sorted folder names: fall, walk"
    assert [line for line in said if line.startswith("epoch ")] == [line for line in said if "train loss" in line]
    assert len([line for line in said if "train loss" in line]) == 1
    assert said[-1].startswith("finished in ")
    assert (tmp_path / "results" / "train" / "ar_model_latest.pth").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["train", "evaluate", "inference", "export"])
def test_help_of_a_tool_lists_its_keys_without_loading_torch(tool: str) -> None:
    code = (
        f"import sys, runpy; sys.argv = ['{tool}.py', '-h']\n"
        f"try: runpy.run_path({str(ROOT / 'tools' / f'{tool}.py')!r}, run_name='__main__')\n"
        "finally: sys.stderr.write(str('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "False")
    assert f"python tools/{tool}.py" in done.stdout
    assert re.search(rf"^{tool}\.results_dir +null ", done.stdout, re.MULTILINE)


def test_ut_interaction_tool_with_overrides_behind_its_models_reads_both(tmp_path: Path) -> None:
    done = start("ut_interaction", str(tmp_path / "nowhere"), str(tmp_path / "work"), "--models", "rgb", "train.seed=2")
    assert "preprocess.py" in done.stderr  # the first thing that it runs
    assert "nowhere" in (tmp_path / "work/preprocess.txt").read_text()


# --- in this process ---


def test_tools_one_after_the_other_print_lines_only_and_nothing_to_stderr(
    make_tree: MakeTree, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch)
    root = make_tree(tmp_path / "data", {"fall": 2, "walk": 3}, num_frames=2, modalities=("rgb",))
    results, best = f"results_dir={tmp_path}", tmp_path / "train" / "ar_model_best.pth"
    commands = {
        "train": [f"dataset.train_dataset_dir={root}", *BASE, "train.num_epochs=2", "train.device=cpu"],
        "evaluate": [f"evaluate.checkpoint={best}", f"evaluate.test_dataset_dir={root}", "dataset.workers=0"],
        "inference": [f"inference.checkpoint={best}", f"inference.inference_dataset_dir={root}/walk"],
    }
    said = {}
    for tool, arguments in commands.items():
        main = runpy.run_path(str(ROOT / "tools" / f"{tool}.py"))
        assert run_tool(main["__file__"], main["__doc__"], tool, (), main["perform"], [*arguments, results]) == 0
        shown = capsys.readouterr()
        assert (shown.err, "\r" in shown.out, "\x1b" in shown.out) == ("", False, False)
        said[tool] = shown.out.splitlines()
    assert said["train"][0] == "classes, from the sorted folder names: fall, walk"
    assert sum(line.startswith("epoch ") for line in said["train"]) == 2
    assert said["evaluate"][-1].endswith(f"results.json and predictions.csv are in {tmp_path / 'evaluate'}")
    assert (
        sum(
            re.fullmatch(rf"{re.escape(str(root))}/walk/video_00\d \[(fall|walk)\]", s) is not None
            for s in said["inference"]
        )
        == 3
    )


def test_results_dir_below_a_file_is_refused_naming_the_key(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    where = tmp_path / "file" / "results"
    assert check_only(f"dataset.train_dataset_dir={data}", f"results_dir={where}") == 2
    shown = capsys.readouterr().err
    assert f"results_dir: '{where}/train' can't be made or written to; set results_dir=FOLDER to one that can" in shown
    assert check_only(f"dataset.train_dataset_dir={data}", f"train.results_dir={where}") == 2
    assert f"train.results_dir: '{where}' can't be made or written to; set train.results_dir=FOLDER" in (
        capsys.readouterr().err
    )


def test_default_results_dir_that_cannot_be_written_is_refused_naming_the_key(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("action_recognition.data.agreement.writable_parent", lambda folder: folder != "/results/train")
    assert check_only(f"dataset.train_dataset_dir={data}") == 2
    assert capsys.readouterr().err == (
        "error: spec: 1 problem\n"
        "  results_dir: '/results/train' can't be made or written to; set results_dir=FOLDER to one that can\n"
    )


def test_folder_that_is_not_there_and_required_key_that_is_missing_are_told_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none"
    how = (f"results_dir={tmp_path}", f"dataset.val_dataset_dir={missing}")
    assert check_only(*how) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: spec: 2 problems\n")
    assert f"dataset.val_dataset_dir: no such folder or list of videos: '{missing}'" in shown
    assert "dataset.train_dataset_dir: train needs it: set" in shown
