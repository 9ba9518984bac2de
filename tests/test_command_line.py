"""The command line of the tools: what it takes, what it says, its exit codes, and what it does not load."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from action_recognition.command_line import run_tool
from action_recognition.config import Problem, Spec
from action_recognition.errors import CheckpointError, DataError, Interrupted, SpecError
from action_recognition.training import distributed

REPO = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "av", "cv2", "onnx", "onnxruntime", "tensorrt", "cuda", "matplotlib")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text("dataset:\n  train_dataset_dir: /data/train\n  batch_size: 4\n")
    return path


def run(*arguments: str | Path, perform: Callable[[Spec], None] | None = None, checks=(), task: str = "train") -> int:
    return run_tool("tool.py", "What it does.", task, checks, perform or (lambda spec: None), list(map(str, arguments)))


def spec_of(*arguments: str | Path) -> Spec:
    """The spec that the task is given."""
    seen: list[Spec] = []
    assert run(*arguments, perform=seen.append) == 0
    return seen[0]


def failing(error: BaseException) -> Callable[[Spec], None]:
    def perform(spec: Spec) -> None:
        raise error

    return perform


# --- what it takes ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["SPEC", "dataset.batch_size=8", "train.seed=-1"],
        ["-e", "SPEC", "dataset.batch_size=8", "train.seed=-1"],
        ["--experiment_spec", "SPEC", "dataset.batch_size=8", "train.seed=-1"],
        ["--experiment_spec_file=SPEC", "dataset.batch_size=8", "train.seed=-1"],
        ["dataset.batch_size=8", "-e", "SPEC", "train.seed=-1"],
        ["dataset.batch_size=8", "train.seed=-1", "-e", "SPEC"],
        ["dataset.train_dataset_dir=/data/train", "dataset.batch_size=8", "train.seed=-1"],
    ],
)
def test_run_tool_takes_the_spec_first_or_after_e_and_any_overrides(spec_file: Path, arguments: list[str]) -> None:
    spec = spec_of(*(a.replace("SPEC", str(spec_file)) for a in arguments))
    assert (spec.dataset.train_dataset_dir, spec.dataset.batch_size, spec.train.seed) == ("/data/train", 8, -1)


def test_run_tool_refuses_a_word_that_is_no_override(spec_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(spec_file, "dataset.batch_size=8", "epochs") == 2
    assert capsys.readouterr().err == (
        "error: command line: 'epochs' is neither the first argument nor a section.key=value override\n"
    )


def test_run_tool_refuses_a_second_spec(spec_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-e", spec_file, spec_file) == 2
    assert f"command line: '{spec_file}' is neither the first argument nor" in capsys.readouterr().err


def test_run_tool_refuses_an_unknown_option_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("--epochs", "3")
    assert "usage: " in capsys.readouterr().err


def test_help_shows_the_manual_and_the_keys_of_the_task_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run("-h")
    text = capsys.readouterr().out
    assert "[SPEC] [section.key=value ...]" in text
    assert "What it does." in text
    assert re.search(r"^train\.optim\.lr +0\.0005 +\S", text, re.MULTILINE)
    assert re.search(r"^model\.backbone +resnet18 +Network .*resnet34", text, re.MULTILINE)
    assert "evaluate." not in text


# --- how it ends ---


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (SpecError("train.sync_bn: works on GPUs only"), 2, "error: train.sync_bn: works on GPUs only\n"),
        (DataError("a.png: can't be read"), 1, "error: a.png: can't be read\n"),
        (CheckpointError("best.pth: is cut off"), 1, "error: best.pth: is cut off\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (Interrupted("stopped by SIGTERM", 15), 143, "error: stopped by SIGTERM\n"),
    ],
)
def test_run_tool_turns_an_error_into_one_message_and_an_exit_code(
    spec_file: Path, capsys: pytest.CaptureFixture[str], error: BaseException, exit_code: int, message: str
) -> None:
    assert run(spec_file, perform=failing(error)) == exit_code
    captured = capsys.readouterr()
    assert captured.err == message
    assert captured.out == ""


def test_run_tool_of_a_wrong_spec_lists_its_problems_and_those_of_the_checks(
    spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [
        lambda spec: [Problem("dataset.train_dataset_dir", f"no such folder: {spec.dataset.train_dataset_dir!r}")]
    ]
    assert run(spec_file, "model.backbone=resnet19", checks=checks, perform=failing(AssertionError())) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {spec_file}: 2 problems\n")
    assert "line 2: dataset.train_dataset_dir: no such folder: '/data/train'" in message
    assert "'resnet19' is not one of" in message


def test_run_tool_lets_a_mistake_of_the_program_show_its_traceback(spec_file: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="ours"):
        run(spec_file, perform=failing(ZeroDivisionError("ours")))


@pytest.mark.parametrize(("error", "heard"), [(SpecError("wrong"), False), (DataError("bad"), True)])
def test_run_tool_says_what_all_processes_know_on_the_first_alone(
    spec_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error, heard: bool
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(spec_file, perform=failing(error)) == (1 if heard else 2)
    assert bool(capsys.readouterr().err) is heard


# --- several processes ---


def test_run_tool_with_several_gpus_starts_itself_as_many_times(spec_file: Path, monkeypatch) -> None:
    launched = []
    monkeypatch.setattr(distributed, "launch", lambda *arguments: launched.append(arguments) or 5)
    assert run(spec_file, "train.num_gpus=3", perform=failing(AssertionError())) == 5
    ((script, arguments, num_processes),) = launched
    assert (script, arguments, num_processes) == ("tool.py", [str(spec_file), "train.num_gpus=3"], 3)


def test_run_tool_under_torchrun_runs_the_task_itself(spec_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert spec_of(spec_file, "train.num_gpus=3").train.num_gpus == 3


def test_run_tool_with_several_machines_says_how_to_start_them(
    spec_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(spec_file, "train.num_gpus=2", "train.num_nodes=4") == 2
    assert capsys.readouterr().err == (
        "error: num_nodes is 4: start every machine with torchrun --nnodes=4 --nproc-per-node=2 "
        "--rdzv-backend=c10d --rdzv-endpoint=HOST:PORT tool.py ...\n"
    )


def test_run_tool_prints_names_that_are_not_utf_8(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from action_recognition.command_line import run_tool\n"
        "name = os.fsdecode(b'caf\\xe9') + ' \\u8d70'\n"
        "arguments = ['dataset.train_dataset_dir=x']\n"
        "sys.exit(run_tool('x.py', '', 'train', (), lambda spec: print(name), arguments))\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(REPO), "PYTHONUTF8": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "caf\\udce9 \\u8d70\n"), done.stderr


def test_run_tool_of_a_task_without_gpus_runs_it() -> None:
    seen: list[Spec] = []
    assert run("export.checkpoint=a.pth", task="export", perform=seen.append) == 0
    assert seen[0].export.checkpoint == "a.pth"


# --- what is loaded ---


def loaded_by(program: str) -> list[str]:
    """The heavy packages that a program, run by itself, loads; some of them load themselves when Python starts."""
    head = "import sys\nof_python = set(sys.modules)\n"
    tail = f"\nprint([name for name in {HEAVY} if name in set(sys.modules) - of_python])"
    done = subprocess.run(
        [sys.executable, "-c", head + program + tail], capture_output=True, text=True, cwd=REPO, check=True
    )
    return eval(done.stdout.splitlines()[-1])


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import action_recognition") == []


def answers(tmp_path: Path, *lines: str) -> dict[str, tuple[int, list[str]]]:
    """{line: (exit code, heavy packages loaded so far)} of tools that run one after the other in one process."""
    program = f"""
import contextlib, io, json, os, runpy, sys
found, of_python = {{}}, set(sys.modules)
for line in {lines}:
    tool, *sys.argv[1:] = line.split()
    sys.argv[0] = f"{REPO}/tools/{{tool}}.py"
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        found[line] = end.code or 0, [name for name in {HEAVY} if name in set(sys.modules) - of_python]
    sys.path.pop(0)
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return {line: (code, loaded) for line, (code, loaded) in json.loads(done.stdout).items()}


def test_no_tool_loads_anything_heavy_for_its_help(tmp_path: Path) -> None:
    tools = [path.stem for path in (REPO / "tools").glob("*.py") if not path.stem.startswith("benchmark_")]
    assert answers(tmp_path, *(f"{tool} -h" for tool in tools)) == {f"{tool} -h": (0, []) for tool in tools}


WRONG = {
    **{
        line: 2
        for tool in ("train", "evaluate", "inference", "export")
        for line in (
            f"{tool} /no/such/spec.yaml",
            f"{tool} broken.yaml",
            f"{tool} {tool}.no_such_key=1",
            f"{tool} model.backbone=resnet19 dataset.cache_dir=broken.yaml/x",
            f"{tool} {tool}.checkpoint=nowhere.pth",
            f"{tool} stray words",
        )
    },
    "train dataset.train_dataset_dir=nowhere": 2,
    "train dataset.train_dataset_dir=data train.num_gpus=2 train.num_nodes=2": 2,
    "preprocess nowhere out": 1,
    "dataset check nowhere": 1,
    "dataset count": 2,
    "make_demo_data out --size 5": 2,
    "build_engine x.onnx --opt-batch 99": 2,
    "build_engine x.onnx --device gpu": 2,
    "build_engine nowhere.onnx": 1,
    "bundle triton x": 2,
    "bundle check nowhere": 1,
    "trt_inference --trt_engine nowhere.onnx": 2,
    "trt_inference --trt_engine nowhere.plan --input_images_folder data --device cpu": 1,
    "verify x.pth": 2,
    "verify nowhere.pth nowhere.onnx --data data": 1,
    "ut_interaction": 2,
    "ut_interaction data work --models rgb,flow": 2,
    "torture --no-such-option": 2,
    "benchmark --no-such-option": 2,
}


def test_no_tool_loads_anything_heavy_to_say_what_is_wrong_with_what_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("model: [rgb\n")
    (tmp_path / "data/walk/video.mp4").mkdir(parents=True)
    (tmp_path / "x.onnx").touch()
    assert answers(tmp_path, *WRONG) == {line: (code, []) for line, code in WRONG.items()}
