"""Export: what is in the file, that it computes what the network does, and that nothing else is kept."""

import getpass
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from tiny import BASE, MakeTree, save_sigmoid_model, use_tiny_models
from torch import Tensor, nn

from action_recognition import __version__, sealing
from action_recognition.clip.contract import Contract
from action_recognition.command_line import run_tool
from action_recognition.config import Spec, load_spec
from action_recognition.data.agreement import contract_of, export_problems
from action_recognition.deploy import export as exporter
from action_recognition.deploy.bundles import clip_shapes
from action_recognition.deploy.description import Description, describe_onnx, parse_onnx
from action_recognition.deploy.executor import OnnxExecutor, open_executor
from action_recognition.deploy.export import DTYPES, TOLERANCES, Comparison, Deployable, compare, rounded, to_onnx
from action_recognition.deploy.recognizer import Recognizer
from action_recognition.errors import CheckpointError, DeployError, SpecError
from action_recognition.models import build_model
from action_recognition.models.joint import Joint
from action_recognition.tasks import export as task

pytest.importorskip("onnxscript", reason="needs the exporter: pip install '.[deploy]'")
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install '.[deploy]'")

REPO = Path(__file__).parents[1]
CLASSES = ("fall", "sit", "walk")


class TinyConv(nn.Module):
    """Two convolutions with batch norms whose statistics are far from 0 and 1, then one linear layer."""

    def __init__(self, in_channels: int, is_3d: bool, num_classes: int = 3) -> None:
        super().__init__()
        conv, norm = (nn.Conv3d, nn.BatchNorm3d) if is_3d else (nn.Conv2d, nn.BatchNorm2d)
        self.conv1 = conv(in_channels, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = norm(8)
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Sequential(conv(8, 16, 3, padding=1, bias=False), norm(16))
        self.fc_cls = nn.Linear(16, num_classes)
        for part in (self.bn1, self.block[1]):
            nn.init.uniform_(part.running_mean, -1, 1)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.uniform_(part.bias, -1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.block(self.relu(self.bn1(self.conv1(x)))))
        return self.fc_cls(x.mean(tuple(range(2, x.dim()))))


def contract(model_type: str = "rgb", input_type: str = "3d", *overrides: str) -> Contract:
    how = (f"model.model_type={model_type}", f"model.input_type={input_type}", "model.rgb_seq_length=4")
    spec = load_spec(None, [*how, "model.of_seq_length=3", "dataset.output_shape=[12, 16]", *overrides])
    return contract_of(spec, CLASSES)


def tiny(described: Contract, seed: int = 0) -> nn.Module:
    """A network of a few weights that takes what the contract says."""
    torch.manual_seed(seed)
    streams = [TinyConv(shape[0], described.is_3d) for shape in clip_shapes(described).values()]
    model = streams[0] if len(streams) == 1 else Joint(*streams, num_classes=3, num_fc=4)
    return model.eval()


def clips(described: Contract, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = clip_shapes(described)
    return {name: rng.normal(size=(batch, *shape)).astype(np.float32) for name, shape in shapes.items()}


def in_torch(model: nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(model(*(torch.from_numpy(x) for x in inputs.values())))


def run(content: bytes, inputs: dict[str, np.ndarray], folder: Path) -> np.ndarray:
    (folder / "run.onnx").write_bytes(content)
    return OnnxExecutor(folder / "run.onnx")(inputs)["fc_pred"]


def exported(
    described: Contract, precision: str = "fp32", opset: int = 20, softmax: bool = False, model: nn.Module | None = None
) -> bytes:
    description = Description(described, "softmax" if softmax else "logits", precision)
    return to_onnx(Deployable(model or tiny(described), DTYPES[precision], softmax), description, opset)


@pytest.fixture(scope="module")
def plain() -> bytes:
    """A tiny 3D network for rgb in float32, exported."""
    return exported(contract())


# --- the file ---


@pytest.mark.parametrize("model_type", ["rgb", "of", "joint"])
@pytest.mark.parametrize("input_type", ["2d", "3d"])
def test_export_has_taos_names_and_shapes_and_computes_the_same_at_any_batch(
    model_type: str, input_type: str, tmp_path: Path
) -> None:
    described = contract(model_type, input_type)
    content, model = exported(described), tiny(described)
    shapes = {
        "rgb": {"2d": ["batch", 12, 12, 16], "3d": ["batch", 3, 4, 12, 16]}[input_type],
        "of": {"2d": ["batch", 6, 12, 16], "3d": ["batch", 2, 3, 12, 16]}[input_type],
    }
    wanted = {f"input_{m}": shapes[m] for m in (["rgb", "of"] if model_type == "joint" else [model_type])}
    graph = onnx.load_model_from_string(content).graph
    found = {x.name: [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] for x in graph.input}
    assert list(found.items()) == list(wanted.items())
    assert [[d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] for x in graph.output] == [["batch", 3]]
    assert {x.type.tensor_type.elem_type for x in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    for batch in (1, 3, 8):
        inputs = clips(described, batch, seed=batch)
        found_outputs = run(content, inputs, tmp_path)
        assert found_outputs.shape == (batch, 3)
        np.testing.assert_allclose(found_outputs, in_torch(model, inputs), rtol=0, atol=1e-5)


def test_export_says_what_it_is(plain: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(plain)
    assert describe_onnx(tmp_path / "m.onnx") == Description(contract(), "logits", "fp32")
    metadata = {entry.key: entry.value for entry in onnx.load_model_from_string(plain).metadata_props}
    assert metadata["producer"] == f"action_recognition {__version__}"
    assert json.loads(metadata["contract"]) == contract().to_plain()
    assert sorted(metadata) == ["contract", "output", "precision", "producer"]


def test_export_holds_nothing_of_the_machine_it_was_made_on(plain: bytes) -> None:
    everything = plain + exported(contract("joint", "2d"), "fp16")
    secrets = [
        str(REPO),
        str(Path.home()),
        torch.__path__[0],
        sys.prefix,
        "site-packages",
        ".py",
        "stack_trace",
        "File ",
    ]
    for secret in (*secrets, f"/{getpass.getuser()}"):
        assert secret.encode() not in everything, secret
    model = onnx.load_model_from_string(plain)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert not any(value.metadata_props or value.doc_string for value in model.graph.value_info)


def test_export_keeps_its_weights_inside(plain: bytes) -> None:
    assert parse_onnx(plain, "m.onnx").graph.initializer  # refuses weights in other files


def test_batch_norms_are_merged_and_the_network_given_is_left_as_it_was(plain: bytes) -> None:
    kinds = Counter(node.op_type for node in onnx.load_model_from_string(plain).graph.node)
    assert kinds["Conv"] == 2
    assert kinds["BatchNormalization"] == 0
    model = tiny(contract())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = Deployable(model)
    assert not any(isinstance(part, nn.BatchNorm3d) for part in merged.modules())
    assert sum(isinstance(part, nn.BatchNorm3d) for part in model.modules()) == 2
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    inputs = clips(contract(), 2)
    np.testing.assert_allclose(in_torch(merged, inputs), in_torch(model, inputs), rtol=0, atol=1e-5)


def test_export_in_fp16_has_half_weights_and_float32_outside(tmp_path: Path) -> None:
    content = exported(contract("joint"), "fp16")
    graph = onnx.load_model_from_string(content).graph
    weights = {entry.name: entry.data_type for entry in graph.initializer}
    convolutions = [weights[node.input[1]] for node in graph.node if node.op_type == "Conv"]
    assert convolutions == [TensorProto.FLOAT16] * 4
    assert {x.type.tensor_type.elem_type for x in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    inputs = clips(contract("joint"), 3)
    found = compare(in_torch(tiny(contract("joint")), inputs), run(content, inputs, tmp_path))
    assert 1e-6 < found.difference < 2e-2  # it would be less, were it float32 in truth


def test_export_in_bf16_has_bf16_weights_from_opset_22_on() -> None:
    model = onnx.load_model_from_string(exported(contract(), "bf16", opset=22))
    assert [entry.version for entry in model.opset_import] == [22]
    weights = {entry.name: entry.data_type for entry in model.graph.initializer}
    convolutions = [weights[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions == [TensorProto.BFLOAT16] * 2
    assert {x.type.tensor_type.elem_type for x in (*model.graph.input, *model.graph.output)} == {TensorProto.FLOAT}


def test_export_in_bf16_below_opset_22_is_found_wrong() -> None:
    with pytest.raises(DeployError, match=r"^onnx finds the exported model wrong: .*Conv"):
        exported(contract(), "bf16", opset=20)


def test_export_with_softmax_answers_probabilities(plain: bytes, tmp_path: Path) -> None:
    content, inputs = exported(contract(), softmax=True), clips(contract(), 2)
    logits = run(plain, inputs, tmp_path).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(run(content, inputs, tmp_path), expected, rtol=0, atol=1e-6)
    (tmp_path / "m.onnx").write_bytes(content)
    described = describe_onnx(tmp_path / "m.onnx")
    assert described is not None
    assert described.output == "softmax"


@pytest.mark.parametrize("opset", [18, min(25, onnx.defs.onnx_opset_version())])  # 25 from onnx 1.20 on
def test_export_is_of_the_opset_asked_for(opset: int, tmp_path: Path) -> None:
    content, inputs = exported(contract(), opset=opset), clips(contract(), 1)
    assert [entry.version for entry in onnx.load_model_from_string(content).opset_import] == [opset]
    np.testing.assert_allclose(run(content, inputs, tmp_path), in_torch(tiny(contract()), inputs), rtol=0, atol=1e-5)


def test_opset_that_torch_replaces_by_another_is_an_error() -> None:
    with pytest.raises(DeployError, match=r"^opset 17 was asked for, and this torch \(\S+\) writes 18$"):
        exported(contract(), opset=17)


def test_export_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnxscript"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DeployError, match=r"^exporting needs onnxscript: pip install '\.\[deploy\]'$"):
        exported(contract())


# --- comparisons ---


def test_compare_is_relative_to_the_largest_output_and_counts_labels() -> None:
    expected = np.array([[1.0, -4.0], [2.0, 1.0]])
    assert compare(expected, np.array([[1.0, -4.0], [1.0, 1.5]])) == Comparison(0.25, 1, 2)


@pytest.mark.parametrize(("precision", "accepted"), [("fp32", 1e-4), ("fp16", 2e-2), ("bf16", 5e-2), ("int8", 0.1)])
def test_check_accepts_up_to_the_stated_tolerance(precision: str, accepted: float) -> None:
    Comparison(accepted, 1, 1).check(precision)
    with pytest.raises(DeployError, match=rf"^the exported model differs.* of the largest output; {precision} accepts"):
        Comparison(accepted * 1.01, 1, 1).check(precision)


def test_check_of_outputs_that_are_no_numbers_fails() -> None:
    with pytest.raises(
        DeployError, match=r"by nan of the largest output; fp16 accepts 2e-02; its weights.*export fp32$"
    ):
        compare(np.ones((1, 2)), np.array([[np.nan, 1.0]])).check("fp16")


def test_rounded_computes_in_float32_what_the_module_does_in_bf16() -> None:
    module, inputs = Deployable(tiny(contract()), torch.bfloat16), clips(contract(), 4)
    exact, emulated = in_torch(Deployable(tiny(contract())), inputs), in_torch(rounded(module), inputs)
    assert compare(in_torch(module, inputs), emulated).difference < 1e-2
    assert compare(exact, emulated).difference > 1e-4
    assert module.dtype == next(module.parameters()).dtype == torch.bfloat16


def test_quantize_without_modelopt_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    with pytest.raises(DeployError, match=r"^int8 needs NVIDIA ModelOpt, and modelopt is not installed: pip install"):
        exporter.check_can_quantize()


@pytest.mark.slow
def test_quantize_puts_int8_around_convolutions(plain: bytes, tmp_path: Path) -> None:
    pytest.importorskip("modelopt.onnx.quantization", reason="needs ModelOpt: pip install '.[quant]'")
    described = contract("rgb", "3d", "dataset.output_shape=[32, 32]")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 32, 3), nn.ReLU(), nn.Conv3d(32, 32, (2, 3, 3)), nn.ReLU(), Head()).eval()
    content = exported(described, "int8", model=model)
    inputs = clips(described, 8)
    quantized = exporter.quantize(content, Description(described, "logits", "int8"), inputs, 20)
    graph = onnx.load_model_from_string(quantized).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["QuantizeLinear"] >= 2
    assert {x.type.tensor_type.elem_type for x in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    assert str(tmp_path.parents[2]).encode() not in quantized
    assert compare(in_torch(model, inputs), run(quantized, inputs, tmp_path)).difference < TOLERANCES["int8"]


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc_cls = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_cls(x.mean((2, 3, 4)))


# --- the task ---


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny rgb model of 2 frames of 8x8 pixels, and no key in the environment."""
    use_tiny_models(monkeypatch)
    monkeypatch.delenv("AR_ENCRYPTION_KEY", raising=False)
    (tmp_path / "runs").mkdir()
    save_sigmoid_model(tmp_path / "runs" / "best.pth")
    return tmp_path / "runs" / "best.pth"


def run_export(checkpoint: Path, *overrides: str) -> tuple[Path, list[str]]:
    """The file that was exported, and what was said."""
    lines: list[str] = []
    spec = load_spec(None, [f"export.checkpoint={checkpoint}", *overrides], task="export")
    return task.export(spec, lines.append), lines


def test_export_task_writes_beside_the_checkpoint_and_says_how_close_the_file_is(checkpoint: Path) -> None:
    path, lines = run_export(checkpoint)
    assert path == checkpoint.with_suffix(".onnx")
    assert sorted(entry.name for entry in checkpoint.parent.iterdir()) == ["best.onnx", "best.pth"]
    assert lines[1] == "opset 20, fp32: input_rgb (N, 6, 8, 8) -> fc_pred (N, 2) logits, all float32"
    assert re.fullmatch(
        r"ONNX Runtime against torch, 1, 3, 4 clips at a time of rendered people: largest difference \d\.\de-\d\d, "
        r"8 of 8 labels the same \(fp32 accepts 1e-04 of the largest output\)",
        lines[2],
    )
    assert lines[3] == f"wrote {path}: 0.0 MB"
    assert len(lines) == 4


def test_exported_file_recognizes_what_the_checkpoint_does(checkpoint: Path) -> None:
    path, _ = run_export(checkpoint)
    video = np.random.default_rng(0).integers(0, 256, (5, 20, 16, 3), np.uint8)
    of_file, of_checkpoint = Recognizer.from_onnx(path)(video), Recognizer.from_checkpoint(checkpoint)(video)
    assert [label for label, _ in of_file] == [label for label, _ in of_checkpoint]
    np.testing.assert_allclose([score for _, score in of_file], [score for _, score in of_checkpoint], atol=1e-6)


@pytest.mark.parametrize("key", ["dataset.val_dataset_dir", "evaluate.test_dataset_dir"])
def test_export_task_is_checked_on_the_clips_of_the_spec(
    key: str, checkpoint: Path, make_tree: MakeTree, tmp_path: Path
) -> None:
    root = make_tree(tmp_path / "data", {"a": 2, "b": 3})
    _, lines = run_export(checkpoint, f"{key}={root}")
    assert f"1, 3, 1 clips at a time of {root}: " in lines[2]
    assert "5 of 5 labels the same" in lines[2]


@pytest.mark.parametrize("encoding", ["max_rad", "clip20"])
def test_rendered_clips_of_a_joint_model_are_what_the_network_takes(encoding: str) -> None:
    described = replace(contract("joint"), flow_encoding=encoding, center_crop=True, smaller_edge=20)
    rendered = task._Clips(load_spec(None), described).for_check()
    assert len(rendered) == 8
    assert [x.shape for x in rendered[0].inputs] == [(1, 3, 4, 12, 16), (1, 2, 3, 12, 16)]
    assert all(x.dtype == np.float32 and x.std() > 0.1 for clip in rendered for x in clip.inputs[:1])
    assert len({clip.inputs[1].tobytes() for clip in rendered}) == 8


def test_export_task_in_bf16_says_that_it_was_not_run(checkpoint: Path) -> None:
    path, lines = run_export(checkpoint, "export.precision=bf16")
    assert lines[1].startswith("opset 22, bf16: ")
    assert lines[2] == "not run: ONNX Runtime has no bf16 convolution on a CPU; onnx.checker finds the file in order"
    assert lines[3].startswith("torch with each layer's result rounded to bf16 against torch, 1, 3, 4 clips")
    assert path.is_file()


def test_exported_model_can_not_be_exported_again(checkpoint: Path) -> None:
    path, _ = run_export(checkpoint)
    with pytest.raises(SpecError, match=r"best\.onnx is exported already; give the checkpoint \(\.pth\)"):
        run_export(path, f"export.onnx_file={path.with_name('again.onnx')}")


def test_file_that_exists_is_kept_unless_overwrite_says_otherwise(checkpoint: Path) -> None:
    target = checkpoint.with_suffix(".onnx")
    target.write_bytes(b"mine")
    with pytest.raises(SpecError, match=r"best\.onnx exists; set export\.overwrite=true to replace it$"):
        run_export(checkpoint)
    assert target.read_bytes() == b"mine"
    run_export(checkpoint, "export.overwrite=true")
    assert describe_onnx(target) is not None


def test_model_that_computes_something_else_is_not_kept(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = task._in_onnxruntime

    def wrong(content: bytes) -> task.Run:
        return replace(right(content), forward=lambda inputs: right(content)(inputs) + 0.01)

    monkeypatch.setattr(task, "_in_onnxruntime", wrong)
    status = checkpoint.parent / "status"
    with pytest.raises(DeployError, match=r"^the exported model differs from the trained one by \d\.\de-\d\d of the"):
        run_export(checkpoint, f"export.results_dir={status}")
    assert [entry.name for entry in checkpoint.parent.iterdir() if entry.is_file()] == ["best.pth"]
    rows = [json.loads(line) for line in (status / "status.json").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["STARTED", "FAILURE"]


def test_folder_that_cannot_be_written_to_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(task, "write_whole", no_room)
    with pytest.raises(
        DeployError, match=r"best\.onnx: can't be written: No space left on device; set export\.onnx_file"
    ):
        run_export(checkpoint)


def test_bare_weights_need_the_spec_with_its_label_map(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    bare = tmp_path / "runs" / "tao.pth"
    torch.save({"state_dict": {f"model.{name}": t for name, t in content["state_dict"].items()}}, bare)
    with pytest.raises(SpecError, match=r"tao\.pth: holds weights but no description of its model; give the SPEC"):
        run_export(bare)
    described = (*BASE, "model.backbone=resnet18", "dataset.label_map={a: 0, b: 1}")
    path, lines = run_export(bare, *described)
    assert "no contract inside" in lines[0]
    assert describe_onnx(path).contract.class_names == ("a", "b")


def test_int8_says_the_accuracy_before_and_after(
    checkpoint: Path, make_tree: MakeTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for ModelOpt, which keeps the calibration clips and makes the second class win."""
    seen: dict[str, Any] = {}

    def quantize(content: bytes, description: Description, clips: dict[str, np.ndarray], opset: int) -> bytes:
        seen.update({name: x.shape for name, x in clips.items()}, opset=opset)
        return content

    monkeypatch.setattr(task, "check_can_quantize", lambda: None)
    monkeypatch.setattr(task, "quantize", quantize)
    train, val = make_tree(tmp_path / "train", {"a": 2, "b": 5}), make_tree(tmp_path / "val", {"a": 3, "b": 1})
    data = (f"dataset.train_dataset_dir={train}", f"dataset.val_dataset_dir={val}")
    path, lines = run_export(checkpoint, "export.precision=int8", *data)
    assert seen == {"input_rgb": (7, 6, 8, 8), "opset": 20}
    # the middle frames of 6 are 2 and 3: (2 + 3) / 10 < 0.6, so that all videos are taken for the first class
    assert lines[3] == f"accuracy on 4 videos of {val}: 75.00 % before int8, 75.00 % after"
    assert describe_onnx(path).precision == "int8"


def test_int8_without_modelopt_ends_before_anything_is_read(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    lines: list[str] = []
    given = (
        f"export.checkpoint={checkpoint}",
        "export.precision=int8",
        f"dataset.train_dataset_dir={checkpoint.parent}",
    )
    with pytest.raises(DeployError, match="int8 needs NVIDIA ModelOpt"):
        task.export(load_spec(None, given, task="export"), lines.append)
    assert lines == []


# --- encrypted exports ---


def test_etlt_is_encrypted_and_opens_with_its_key(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography", reason="needs cryptography: pip install '.[crypto]'")
    monkeypatch.setattr(sealing, "LOG2_COST", 1)
    target = checkpoint.with_suffix(".etlt")
    path, lines = run_export(checkpoint, f"export.onnx_file={target}", "encryption_key=geheim")
    assert lines[-1] == (
        "it is encrypted: only this program reads it, with the same key; DeepStream and trtexec want a plain .onnx"
    )
    assert sealing.is_sealed_file(path)
    assert b"fc_pred" not in path.read_bytes()
    with open_executor(path, key="geheim") as executor:
        assert executor.outputs == {"fc_pred": (None, 2)}
    with pytest.raises(CheckpointError, match=r"best\.etlt: can't be decrypted"):
        open_executor(path, key="falsch")


@pytest.mark.parametrize("key", [None, "nvidia_tao"])
def test_etlt_of_tao_is_refused_with_how_to_get_a_plain_file(key: str | None, tmp_path: Path) -> None:
    (tmp_path / "m.etlt").write_bytes(bytes(64))
    with pytest.raises(CheckpointError, match=r"m\.etlt: was not encrypted by this program.*use the plain \.onnx$"):
        open_executor(tmp_path / "m.etlt", key=key)


def test_etlt_without_a_key_says_how_to_give_one(checkpoint: Path) -> None:
    target = checkpoint.with_suffix(".etlt")
    with pytest.raises(SpecError, match=r"is to be encrypted; set AR_ENCRYPTION_KEY .*, or name it \.onnx$"):
        run_export(checkpoint, f"export.onnx_file={target}")
    assert not target.exists()


def test_onnx_stays_plain_whatever_key_is_given(checkpoint: Path) -> None:
    path, lines = run_export(checkpoint, "encryption_key=geheim")
    assert describe_onnx(path) is not None
    assert f"{checkpoint}: is not encrypted: read without the key" in lines


# --- the tool ---


def exit_code(*arguments: str, perform: Callable[[Spec], None] = lambda spec: None) -> int:
    return run_tool("tools/export.py", "Export.", "export", [export_problems], perform, arguments)


def test_tool_lists_what_is_wrong_with_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("export.checkpoint=none.pth", "export.onnx_file=/none/m.onnx", f"dataset.val_dataset_dir={tmp_path}")
    assert exit_code(*arguments) == 2
    shown = capsys.readouterr().err
    assert "export.checkpoint: no such file: 'none.pth'" in shown
    assert "dataset.val_dataset_dir: " in shown
    assert exit_code(f"export.checkpoint={__file__}", "export.onnx_file=/none/m.onnx") == 2
    assert "export.onnx_file: no such folder: '/none'" in capsys.readouterr().err


def test_tool_tells_of_a_file_that_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.onnx").touch()
    arguments = (f"export.checkpoint={__file__}", f"export.onnx_file={tmp_path / 'm.onnx'}")
    assert exit_code(*arguments) == 2
    assert (
        "m.onnx' exists; set export.overwrite=true to replace it, or export.onnx_file=FILE" in capsys.readouterr().err
    )
    assert exit_code(*arguments, "export.overwrite=true") == 0


# --- the real networks ---


def real(model_type: str, input_type: str, backbone: str, length: int, side: int) -> tuple[Contract, nn.Module]:
    how = (f"model.model_type={model_type}", f"model.input_type={input_type}", f"model.backbone={backbone}")
    sizes = (
        f"model.rgb_seq_length={length}",
        f"model.of_seq_length={length}",
        f"dataset.output_shape=[{side}, {side}]",
    )
    spec = load_spec(None, [*how, *sizes])
    torch.manual_seed(0)
    return contract_of(spec, CLASSES), awake(build_model(spec.model, len(CLASSES)), contract_of(spec, CLASSES))


def awake(model: nn.Module, described: Contract) -> nn.Module:
    """The model with the batch statistics of a few clips, and residual branches that add little, as in trained ones.

    Without the first an I3D of random weights answers its bias alone; without the second a ResNet of random weights is
    chaotic: rounding grows from layer to layer.
    """
    for name, part in model.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = 1.0
            if name.endswith("bn3") or (name.endswith("bn2") and not hasattr(parent_of(model, name), "bn3")):
                nn.init.constant_(part.weight, 0.2)
    in_torch(model.train(), natural(described, 4, seed=9))
    return model.eval()


def parent_of(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def natural(described: Contract, batch: int, seed: int) -> dict[str, np.ndarray]:
    """Clips whose brightness varies slowly over the image, as that of photographs does, with a little noise."""
    noise, generator = clips(described, batch, seed), torch.Generator().manual_seed(seed)
    for name, x in noise.items():
        planes = int(np.prod(x.shape[:-2]))
        coarse = torch.randn((planes, 1, x.shape[-2] // 16, x.shape[-1] // 16), generator=generator)
        smooth = nn.functional.interpolate(coarse, size=x.shape[-2:], mode="bilinear").reshape(x.shape)
        noise[name] = smooth.numpy() + 0.2 * x
    return noise


REAL = [
    *((m, i, b, 8, 112) for m in ("rgb", "of", "joint") for i in ("2d", "3d") for b in ("resnet18", "resnet50")),
    *((m, "3d", "i3d", 16, 224) for m in ("rgb", "of", "joint")),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", REAL, ids=lambda case: "-".join(map(str, case[:3])))
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_real_network_exported_is_as_close_as_stated(
    case: tuple[str, str, str, int, int], precision: str, tmp_path: Path
) -> None:
    described, model = real(*case)
    content = exported(described, precision, model=model)
    for batch in (1, 3, 8):
        inputs = natural(described, batch, seed=batch)
        expected = in_torch(model, inputs)
        assert batch == 1 or expected.std(axis=0).max() > 0.01 * np.abs(expected).max()
        found = compare(expected, run(content, inputs, tmp_path))
        print(f"{'-'.join(map(str, case))} {precision} batch {batch}: {found}, {len(content) / 1e6:.1f} MB")
        assert found.difference < {"fp32": 1e-4, "fp16": 2e-2}[precision]
        assert math.isfinite(found.difference)
