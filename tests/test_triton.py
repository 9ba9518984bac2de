"""Triton repositories: the configuration by hand, what is refused, and the client against a made-up server."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from exported import export, make_contract, parse_pbtxt
from PIL import Image

from action_recognition.clip.contract import Stream
from action_recognition.clip.transform import fit_clip, scale_and_shift, to_input
from action_recognition.deploy.triton import Settings, write_triton_onnx, write_triton_plan
from action_recognition.errors import DeployError, SpecError
from action_recognition.sealing import MAGIC


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Path]:
    """serve(settings, output=..., precision=..., and fields of the contract) -> the folder, of an ONNX file."""

    def write(
        settings: Settings | None = None, output: str = "softmax", precision: str = "fp32", **fields: Any
    ) -> Path:
        model = export(tmp_path / "exported.onnx", make_contract(**fields), output, precision)
        write_triton_onnx(model, tmp_path / "made", settings or Settings())
        return tmp_path / "made"

    return write


def config_of(folder: Path, name: str = "action_recognition") -> dict[str, list[Any]]:
    return parse_pbtxt((folder / "model_repository" / name / "config.pbtxt").read_text())


def write_plan(path: Path, batches: tuple[int, int, int] = (1, 4, 16), **changes: Any) -> Path:
    """A file in place of a plan, and the description beside it."""
    path.write_bytes(b"plan")
    shape = [3, 32, 224, 224]
    plain = {
        "contract": make_contract().to_plain(),
        "output": "softmax",
        "precision": "fp16",
        "inputs": {"input_rgb": [[batch, *shape] for batch in batches]},
        "tensorrt": "11.4.0",
        "gpu": "NVIDIA L4",
    }
    Path(f"{path}.json").write_text(json.dumps({**plain, **changes}))
    return path


# --- the repository ---


@pytest.mark.parametrize(
    ("fields", "inputs"),
    [
        ({}, [("input_rgb", [3, 32, 224, 224])]),
        ({"input_type": "2d", "num_classes": 51}, [("input_rgb", [96, 224, 224])]),
        ({"model_type": "of", "input_type": "2d"}, [("input_of", [64, 224, 224])]),
        ({"model_type": "joint"}, [("input_rgb", [3, 32, 224, 224]), ("input_of", [2, 32, 224, 224])]),
    ],
)
def test_config_has_the_models_tensors_without_the_batch(
    serve: Callable[..., Path], fields: dict[str, Any], inputs: list[Any]
) -> None:
    config = config_of(serve(**fields))
    assert [(i["name"][0], i["dims"], i["data_type"]) for i in config["input"]] == [
        (name, dims, ["TYPE_FP32"]) for name, dims in inputs
    ]
    assert config["output"] == [
        {
            "name": ["fc_pred"],
            "data_type": ["TYPE_FP32"],
            "dims": [fields.get("num_classes", 5)],
            "label_filename": ["labels.txt"],
        }
    ]


def test_config_of_an_onnx_file_serves_it_in_batches_on_the_gpu(serve: Callable[..., Path]) -> None:
    config = config_of(serve())
    assert (config["name"], config["platform"]) == (["action_recognition"], ["onnxruntime_onnx"])
    assert config["max_batch_size"] == [8]
    assert config["dynamic_batching"] == [{"max_queue_delay_microseconds": [2000]}]
    assert config["instance_group"] == [{"kind": ["KIND_GPU"], "count": [1]}]


def test_settings_stand_in_the_config(serve: Callable[..., Path]) -> None:
    folder = serve(Settings(name="falls.v2", max_batch=3, on_cpu=True))
    config = config_of(folder, "falls.v2")
    assert (config["name"], config["max_batch_size"]) == (["falls.v2"], [3])
    assert config["instance_group"] == [{"kind": ["KIND_CPU"], "count": [1]}]
    assert "--gpus" not in (folder / "README.md").read_text()


def test_folder_has_the_model_the_labels_the_contract_and_a_client(serve: Callable[..., Path], tmp_path: Path) -> None:
    folder = serve(class_names=("push", "a;b"))
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "README.md",
        "client.py",
        "contract.json",
        "model_repository/action_recognition/1/model.onnx",
        "model_repository/action_recognition/config.pbtxt",
        "model_repository/action_recognition/labels.txt",
    ]
    repository = folder / "model_repository" / "action_recognition"
    assert (repository / "labels.txt").read_text() == "push\na;b\n"
    assert (repository / "1" / "model.onnx").read_bytes() == (tmp_path / "exported.onnx").read_bytes()
    assert "tritonserver --model-repository=/models" in (folder / "README.md").read_text()


def test_plan_is_served_up_to_the_batch_that_it_was_built_for(tmp_path: Path) -> None:
    write_triton_plan(write_plan(tmp_path / "m.plan"), tmp_path / "made", Settings())
    config = config_of(tmp_path / "made")
    assert (config["platform"], config["max_batch_size"]) == (["tensorrt_plan"], [16])
    repository = tmp_path / "made" / "model_repository" / "action_recognition"
    assert (repository / "1" / "model.plan").read_bytes() == b"plan"
    text = (tmp_path / "made" / "README.md").read_text()
    assert "The plan was built by TensorRT 11.4.0 on NVIDIA L4, and runs there alone" in text


def test_engine_of_another_suffix_becomes_model_plan(tmp_path: Path) -> None:
    write_triton_plan(write_plan(tmp_path / "m.engine"), tmp_path / "made", Settings(max_batch=2))
    assert config_of(tmp_path / "made")["max_batch_size"] == [2]
    assert (tmp_path / "made" / "model_repository" / "action_recognition" / "1" / "model.plan").is_file()


# --- what is refused ---


@pytest.mark.parametrize(
    ("fields", "settings", "error", "message"),
    [
        ({}, Settings(name="../up"), SpecError, r"--name '\.\./up': a model's name is letters, digits, _, - and \."),
        ({}, Settings(name=""), SpecError, "--name ''"),
        ({}, Settings(max_batch=0), SpecError, "--max-batch 0: must be at least 1"),
        (
            {"class_names": ("a\nb", "c")},
            Settings(),
            DeployError,
            r"class name 'a\\nb' holds '\\n', where a label ends",
        ),
    ],
)
def test_settings_and_names_that_triton_can_not_take_are_refused(
    serve: Callable[..., Path], tmp_path: Path, fields: dict[str, Any], settings: Settings, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        serve(settings, **fields)
    assert [path.name for path in tmp_path.iterdir()] == ["exported.onnx"]


@pytest.mark.parametrize(
    ("plan", "settings", "error", "message"),
    [
        ({"batches": (2, 4, 16)}, Settings(), DeployError, "takes batches from 2; Triton sends single clips, too"),
        ({}, Settings(max_batch=17), SpecError, "--max-batch 17: .* was built for at most 16"),
        ({}, Settings(on_cpu=True), SpecError, "--cpu: a TensorRT plan runs on GPUs alone"),
        ({"inputs": None}, Settings(), DeployError, r"inputs must be \[min, opt, max\] shapes of input_rgb, got None"),
        ({"inputs": {"input_rgb": [[1, 96, 224, 224]] * 3}}, Settings(), DeployError, r"shapes of input_rgb, got \{"),
        ({"contract": None}, Settings(), DeployError, r"m\.plan\.json lacks beside it, or has no contract"),
    ],
)
def test_plan_that_can_not_be_served_is_refused(
    tmp_path: Path, plan: dict[str, Any], settings: Settings, error: type, message: str
) -> None:
    path = write_plan(tmp_path / "m.plan", **plan)
    with pytest.raises(error, match=message):
        write_triton_plan(path, tmp_path / "made", settings)
    assert not (tmp_path / "made").exists()


def test_plan_without_a_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.plan").write_bytes(b"plan")
    with pytest.raises(DeployError, match=r"m\.plan: m\.plan\.json lacks beside it.* tools/build_engine\.py"):
        write_triton_plan(tmp_path / "m.plan", tmp_path / "made", Settings())


def test_sealed_plan_is_refused(tmp_path: Path) -> None:
    path = write_plan(tmp_path / "m.plan")
    path.write_bytes(MAGIC + b"...")
    with pytest.raises(DeployError, match=r"m\.plan: is encrypted, which neither"):
        write_triton_plan(path, tmp_path / "made", Settings())


# --- the client ---


class Server(ModuleType):
    """In place of tritonclient.grpc: remembers what it was sent and answers with `scores`."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__("tritonclient.grpc")
        self.sent: dict[str, np.ndarray] = {}
        self.asked: tuple[str, str] = ("", "")
        server = self

        class InferInput:
            def __init__(self, name: str, shape: list[int], datatype: str) -> None:
                self.name, self.shape, self.datatype = name, shape, datatype

            def set_data_from_numpy(self, x: np.ndarray) -> None:
                assert (self.datatype, x.dtype, self.shape) == ("FP32", np.float32, list(x.shape))
                server.sent[self.name] = x

        class InferenceServerClient:
            def __init__(self, url: str) -> None:
                self.url = url

            def infer(self, model: str, inputs: list[Any], outputs: list[str]) -> Any:
                assert [i.name for i in inputs] == list(server.sent)
                server.asked = (self.url, model)
                return SimpleNamespace(as_numpy={outputs[0]: np.array([scores], np.float32)}.__getitem__)

        self.InferInput, self.InferenceServerClient = InferInput, InferenceServerClient
        self.InferRequestedOutput = str


def run_client(folder: Path, video: Path, scores: list[float], monkeypatch: pytest.MonkeyPatch) -> Server:
    """Run client.py as it lies in the folder."""
    server = Server(scores)
    package = ModuleType("tritonclient")
    package.grpc = server  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tritonclient", package)
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", server)
    monkeypatch.setattr(sys, "argv", ["client.py", str(video), "--url", "there:8001"])
    runpy.run_path(str(folder / "client.py"), run_name="__main__")
    return server


def write_video(root: Path, num_frames: int) -> dict[str, np.ndarray]:
    """A folder of rgb, u and v images of noise, 20x16; returns {modality: (T, 16, 20, C)}."""
    rng = np.random.default_rng(0)
    frames = {"rgb": rng.integers(0, 256, (num_frames, 16, 20, 3), dtype=np.uint8)}
    frames["of"] = rng.integers(0, 256, (num_frames, 16, 20, 2), dtype=np.uint8)
    for name, images in (("rgb", frames["rgb"]), ("u", frames["of"][..., 0]), ("v", frames["of"][..., 1])):
        (root / name).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{i:06d}.png")
    return frames


@pytest.mark.parametrize("model_type", ["rgb", "of", "joint"])
@pytest.mark.parametrize("input_type", ["2d", "3d"])
def test_client_sends_what_the_evaluation_would_see(
    serve: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model_type: str,
    input_type: str,
) -> None:
    rgb, of = Stream(4, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)), Stream(4, (0.5, 0.5), (0.25, 0.25))
    streams = {"rgb": {"rgb": rgb}, "of": {"of": of}, "joint": {"rgb": rgb, "of": of}}[model_type]
    folder = serve(
        model_type=model_type, input_type=input_type, streams=streams, height=8, width=10, center_crop=True,
        smaller_edge=12, sample_rate=2, class_names=("a", "b", "c"),
    )  # fmt: skip
    frames = write_video(tmp_path / "video", num_frames=12)
    server = run_client(folder, tmp_path / "video", [0.25, 0.7, 0.05], monkeypatch)
    assert server.asked == ("there:8001", "action_recognition")
    assert list(server.sent) == [f"input_{modality}" for modality in streams]
    contract = make_contract(input_type=input_type, height=8, width=10, center_crop=True, smaller_edge=12)
    for modality, stream in streams.items():
        clip = fit_clip(frames[modality][[2, 4, 6, 8]], contract)  # the middle 8 of 12, every second
        scale, shift = (np.array(c, np.float32) for c in scale_and_shift(stream))
        np.testing.assert_array_equal(
            server.sent[f"input_{modality}"], to_input(clip[None], scale, shift, contract.is_3d)
        )
    assert capsys.readouterr().out == "0.700  b\n0.250  a\n0.050  c\n"


def test_client_makes_probabilities_of_logits(
    serve: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = serve(output="logits", streams={"rgb": Stream(2, (0.5,) * 3, (0.5,) * 3)}, class_names=("a", "b"))
    write_video(tmp_path / "video", num_frames=3)
    run_client(folder, tmp_path / "video", [np.log(1.0), np.log(3.0)], monkeypatch)
    assert capsys.readouterr().out == "0.750  b\n0.250  a\n"
