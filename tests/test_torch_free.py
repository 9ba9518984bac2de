"""Deployment where torch is not installed: in a child process that can't import it, and in a bare venv."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exported import export, make_contract
from tiny import MakeTree
from tiny_onnx import onnx_bytes

from action_recognition import Recognizer
from action_recognition.deploy.sources import Dropped, frames_of

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install .[deploy]")
ROOT = Path(__file__).parents[1]
MODULES = sorted({p.stem for p in (ROOT / "action_recognition/deploy").glob("*.py")} - {"__init__", "export"})
PACKAGES = ["numpy", "pillow", "onnxruntime"]  # all that running an ONNX file needs
# What asks for torch gets an ImportError, and is remembered should it swallow that.
BLOCKED = """
import json, runpy, sys
class NoTorch:
    asked = []
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            self.asked.append(name)
            raise ImportError(f"{name} is not to be imported")
sys.meta_path.insert(0, NoTorch())
def tool(name, *arguments):
    assert runpy.run_path(f"tools/{name}.py")["main"](list(arguments)) == 0
"""


def without_torch(code: str, *arguments: object) -> str:
    """What `code` prints in a process that can't import torch. AssertionError where it fails, or asks for torch."""
    command = [sys.executable, "-c", f"{BLOCKED}{code}\nassert not NoTorch.asked, NoTorch.asked", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes())
    return path


@pytest.fixture
def video(make_tree: MakeTree, tmp_path: Path) -> Path:
    return make_tree(tmp_path / "data", {"a": 1}, num_frames=5, modalities=("rgb",)) / "a/video_000"


# --- torch can't be imported ---


def test_importing_torch_is_noticed_also_where_it_is_swallowed() -> None:
    with pytest.raises(AssertionError, match="torch is not to be imported"):
        without_torch("import torch")
    with pytest.raises(AssertionError, match=r"\['torchvision'\]"):
        without_torch("try: import torchvision\nexcept ImportError: pass")


def test_every_module_of_deployment_but_the_export_is_imported_without_torch() -> None:
    assert {"executor", "engine", "recognizer", "bundles", "triton_client"} <= set(MODULES)
    without_torch("".join(f"import action_recognition.deploy.{module}\n" for module in MODULES))


def test_a_recognizer_of_an_onnx_file_tells_the_same_without_torch(model: Path, video: Path) -> None:
    code = """
import numpy as np
from action_recognition import Recognizer
recognize = Recognizer.from_onnx(sys.argv[1])
scores = recognize(np.load(sys.argv[3]))
events = [(e.label, e.start_sec, e.end_sec, e.score) for e in recognize.stream(sys.argv[2], num_smoothed=2)]
print(json.dumps([scores, events]))
"""
    recognize = Recognizer.from_onnx(model)
    frames = np.stack([frame.images["rgb"] for frame in frames_of(video, ("rgb",), Dropped())])
    np.save(video / "frames.npy", frames)
    events = [(e.label, e.start_sec, e.end_sec, e.score) for e in recognize.stream(video, num_smoothed=2)]
    told = json.loads(without_torch(code, model, video, video / "frames.npy"))
    assert [tuple(score) for score in told[0]] == recognize(frames)
    assert [tuple(event) for event in told[1]] == events
    assert events != []


def test_the_inference_tool_runs_without_torch(model: Path, video: Path) -> None:
    code = 'tool("trt_inference", "--trt_engine", sys.argv[1], "--input_images_folder", sys.argv[2])'
    lines = without_torch(code, model, video).splitlines()
    assert [line.split()[0] for line in lines] == ["0..1", "1..2", "2..3", "3..4"]


def test_live_recognition_runs_without_torch(model: Path, video: Path, tmp_path: Path) -> None:
    code = 'tool("live", sys.argv[1], sys.argv[2], "--unknown", "0.01", "--events", sys.argv[3])'
    assert without_torch(code, model, video, tmp_path / "events.jsonl") != ""
    assert (tmp_path / "events.jsonl").read_text() != ""


def test_folders_for_triton_and_deepstream_are_made_and_checked_without_torch(tmp_path: Path) -> None:
    code = """
tool("bundle", "triton", "--cpu", sys.argv[1], sys.argv[2] + "/triton")
tool("bundle", "deepstream", sys.argv[1], sys.argv[2] + "/deepstream")
tool("bundle", "check", sys.argv[2] + "/deepstream")
"""
    without_torch(code, export(tmp_path / "m.onnx", make_contract()), tmp_path)
    assert (tmp_path / "triton/README.md").is_file()


def test_a_plan_is_asked_for_without_torch(model: Path) -> None:
    """As far as it goes without a GPU: TensorRT is looked for once the model has been read."""
    code = """
import contextlib, io
sys.modules["tensorrt"] = None
with contextlib.redirect_stderr(io.StringIO()) as errors:
    assert runpy.run_path("tools/build_engine.py")["main"]([sys.argv[1]]) == 1
sys.stdout.write(errors.getvalue())
"""
    said = without_torch(code, model).splitlines()
    assert said[-1] == "error: tensorrt is not installed: pip install tensorrt"


# --- what else may be missing ---

RUN = ["trt_inference", "--trt_engine", "model.onnx", "--input_images_folder"]


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        (["numpy"], [*RUN, "data/a/video_000"], "ImportError: running a model needs numpy: pip install numpy"),
        (["PIL"], [*RUN, "data/a/video_000"], "ImportError: running a model needs pillow: pip install pillow"),
        (["numpy", "PIL"], ["bundle", "check", "folder"],
         "ImportError: running a model needs numpy and pillow: pip install numpy pillow"),
        (["onnxruntime"], [*RUN, "data/a/video_000"],
         "error: ONNX Runtime is not installed: pip install onnxruntime"),
        (["av"], [*RUN, "clip.mp4"], "error: clip.mp4: reading it needs PyAV: pip install av"),
        (["av"], [*RUN, "rtsp://camera"], "error: rtsp://camera: reading it needs PyAV: pip install av"),
        (["onnx"], ["bundle", "triton", "model.onnx", "made"],
         "error: model.onnx: reading it needs onnx: pip install onnx"),
        (["onnx"], ["build_engine", "model.onnx"], "error: model.onnx: reading it needs onnx: pip install onnx"),
        (["tqdm"], ["build_engine", "model.onnx"], "error: the progress bar needs tqdm: pip install tqdm"),
    ],
)  # fmt: skip
def test_a_missing_package_is_named_with_the_way_to_get_it(
    model: Path, video: Path, missing: list[str], arguments: list[str], message: str
) -> None:
    tool = str(ROOT / "tools" / f"{arguments[0]}.py")
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({missing})); sys.argv = sys.argv[1:]\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, tool, *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=model.parent)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, message)


# --- an installation of its own ---


def run(*command: object, cwd: Path) -> str:
    """What a command prints; the test is skipped where pip finds no package index."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, cwd=cwd, env=environment)
    if "(from versions: none)" in done.stderr:
        pytest.skip(f"needs the network: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a venv with this project and what running an ONNX file needs, installed as documented."""
    folder = tmp_path_factory.mktemp("host")
    ours = folder / "sources"  # a copy, since pip leaves a build folder in what it installs
    shutil.copytree(ROOT / "action_recognition", ours / "action_recognition", ignore=shutil.ignore_patterns("__pyc*"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, ours)
    python = folder / ("venv/Scripts/python.exe" if os.name == "nt" else "venv/bin/python")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    run(python, "-m", "pip", "install", "--no-deps", ours, cwd=folder)
    run(python, "-m", "pip", "install", *PACKAGES, cwd=folder)
    return python


@pytest.mark.slow
def test_a_host_with_onnx_runtime_alone_runs_the_inference_tool(python: Path, model: Path, video: Path) -> None:
    absent = ("torch", "torchvision", "onnx", "yaml", "av")
    code = f"import importlib.util as u; print([name for name in {absent} if u.find_spec(name)])"
    assert run(python, "-c", code, cwd=model.parent) == "[]\n"
    tool = ROOT / "tools/trt_inference.py"
    lines = run(python, tool, "--trt_engine", model, "--input_images_folder", video, cwd=model.parent).splitlines()
    assert [line.split()[0] for line in lines] == ["0..1", "1..2", "2..3", "3..4"]


@pytest.mark.slow
def test_a_host_with_onnx_runtime_alone_has_the_recognizer(python: Path, model: Path) -> None:
    code = """
import sys, numpy as np
from action_recognition import Recognizer
print(Recognizer.from_onnx(sys.argv[1])(np.zeros((4, 8, 8, 3), np.uint8))[0][0])
"""
    expected = Recognizer.from_onnx(model)(np.zeros((4, 8, 8, 3), np.uint8))[0][0]
    assert run(python, "-c", code, model, cwd=model.parent) == f"{expected}\n"
