"""Verification: which stage is blamed when one stage alone is spoiled, and none when nothing is."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import export as empty_export
from exported import make_contract
from PIL import Image
from tiny import BASE, MakeTree, build_tiny, use_tiny_models
from tiny_onnx import onnx_model

from action_recognition.clip.contract import contract_from_plain
from action_recognition.config import load_spec, to_plain
from action_recognition.data.agreement import contract_of
from action_recognition.deploy import sources
from action_recognition.deploy.deepstream import write_deepstream
from action_recognition.deploy.deepstream_choices import Settings
from action_recognition.deploy.deepstream_files import read_preprocess
from action_recognition.deploy.description import Description
from action_recognition.deploy.emulate import preprocess_for
from action_recognition.deploy.export import Deployable, to_onnx
from action_recognition.loading import load_checkpoint
from action_recognition.tasks import verify as task
from action_recognition.tasks.verify import DEEPSTREAM, DeepStream, Finding, verify

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install .[deploy]")
main = runpy.run_path(str(Path(__file__).parents[1] / "tools/verify.py"))["main"]


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_models(monkeypatch)
    monkeypatch.delenv("AR_ENCRYPTION_KEY", raising=False)


@pytest.fixture
def data(make_tree: MakeTree, tmp_path: Path) -> Path:
    """Three videos of 9 frames, each image noise."""
    root = make_tree(tmp_path / "data", {"a": 2, "b": 1}, num_frames=9, size=(20, 16))
    rng = np.random.default_rng(0)
    for path in sorted(root.rglob("*.png")):
        shape = (16, 20, 3) if path.parent.name == "rgb" else (16, 20)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(path)
    return root


def save(path: Path, *overrides: str, seed: int = 0) -> Path:
    """A checkpoint of a tiny network of random weights."""
    spec = load_spec(None, [*BASE, *overrides])
    torch.manual_seed(seed)
    model = build_tiny(spec.model, 2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=2.0)
    contract = contract_of(spec, ("a", "b"))
    content = {"format": 1, "epoch": 1, "state_dict": model.state_dict(), "spec": to_plain(spec)}
    torch.save({**content, "contract": contract.to_plain()}, path)
    return path


def export(checkpoint: Path, softmax: bool = False, **contract: object) -> Path:
    """The checkpoint's network as an ONNX file beside it; `contract` are fields that the file shall say otherwise."""
    model, described = load_checkpoint(checkpoint)
    plain = {**described.to_plain(), **contract}
    description = Description(contract_from_plain(plain), "softmax" if softmax else "logits", "fp32")
    path = checkpoint.with_suffix(".onnx")
    path.write_bytes(to_onnx(Deployable(model, torch.float32, softmax), description, 20))
    return path


def findings(checkpoint: Path, model: Path, data: Path) -> dict[str, Finding]:
    found = verify(checkpoint, [model], str(data), 16, "cpu", None, lambda text: None)
    return {"model" if f.route == str(model) else f.route: f for f in found}


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("dataset.augmentation_config.val_center_crop=true", "dataset.augmentation_config.rgb_input_std=[0.2]"),
        ("model.model_type=of", "model.of_seq_length=3"),
        ("model.model_type=joint", "model.rgb_seq_length=2", "model.of_seq_length=4"),
        ("model.sample_strategy=random_interval",),
        ("model.sample_rate=3",),
    ],
    ids=["rgb", "crop", "of", "joint", "interval", "rate"],
)
def test_export_of_the_checkpoint_is_blamed_for_nothing(overrides: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "best.pth", *overrides)
    found = findings(checkpoint, export(checkpoint), data)["model"]
    assert (found.blamed, found.fault, found.is_wrong) == ((), "", False)
    assert found.overall is not None
    assert (found.overall.same_labels, found.overall.num_clips) == (3, 3)
    assert found.overall.difference < 1e-5


def test_probabilities_are_held_against_probabilities(data: Path, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "best.pth")
    found = findings(checkpoint, export(checkpoint, softmax=True), data)["model"]
    assert found.blamed == ()
    assert found.overall is not None
    assert found.overall.difference < 1e-5


def test_weights_of_another_training_are_the_models_fault(data: Path, tmp_path: Path) -> None:
    checkpoint, other = save(tmp_path / "best.pth"), save(tmp_path / "other.pth", seed=1)
    assert findings(checkpoint, export(other), data)["model"].blamed == ("model",)


def test_frames_read_in_another_way_are_the_fault_of_the_pixels(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, read = save(tmp_path / "best.pth"), sources.read_image
    monkeypatch.setattr(sources, "read_image", lambda path, mode: np.asarray(read(path, mode))[..., ::-1])  # BGR
    found = findings(checkpoint, export(checkpoint), data)["model"]
    assert found.blamed == ("pixels",)
    assert found.pixels > 50


def test_another_normalisation_is_the_fault_of_the_input(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, through_window = save(tmp_path / "best.pth"), task._through_window
    monkeypatch.setattr(task, "_through_window", lambda frames, contract: [
        x + 3 / (255 * 0.229) for x in through_window(frames, contract)
    ])  # fmt: skip
    found = findings(checkpoint, export(checkpoint), data)["model"]
    assert found.blamed == ("input",)
    assert found.input == pytest.approx(3, rel=0.01)  # of the channel whose std is 0.229


def test_contract_that_is_not_the_checkpoints_is_told_field_by_field(data: Path, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "best.pth")
    found = findings(checkpoint, export(checkpoint, class_names=["b", "a"]), data)["model"]
    assert found.is_wrong
    assert found.fault == "the model's contract is not the checkpoint's: class_names is ('b', 'a'), not ('a', 'b')"


def test_model_of_another_shape_is_told(data: Path, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "best.pth")
    onnx.save(onnx_model({"input_rgb": (6, 9, 8)}, contract=None), model := tmp_path / "m.onnx")
    found = findings(checkpoint, model, data)["model"]
    assert "takes input_rgb Nx6x9x8 and answers Nx3; it should take input_rgb Nx6x8x8 and answer Nx2" in found.fault


# --- DeepStream ---


def test_deepstreams_pixels_differ_and_are_no_error(data: Path, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "best.pth")
    found = findings(checkpoint, export(checkpoint), data)[DEEPSTREAM]
    assert found.pixels > 10
    assert (found.blamed, found.is_wrong) == (("pixels",), False)


def test_flow_has_no_deepstream_route(data: Path, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "best.pth", "model.model_type=of")
    assert set(findings(checkpoint, export(checkpoint), data)) == {"model"}


def test_folder_of_deepstream_with_another_mean_is_blamed_for_its_input(data: Path, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "best.pth")
    how = replace(preprocess_for(load_checkpoint(checkpoint)[1], (20, 16)), offsets=(100.0, 100.0, 100.0))
    (found,) = verify(checkpoint, [], str(data), 16, "cpu", DeepStream((20, 16), how), lambda text: None)
    assert (found.blamed, found.is_wrong) == (("pixels", "input"), True)
    assert found.input == pytest.approx(255 * 0.485 - 100, abs=0.01)


@pytest.mark.parametrize("fields", [{}, {"input_type": "2d"}, {"center_crop": True}, {"sample_rate": 3}])
def test_preprocessing_is_what_a_folder_of_deepstreams_holds(fields: dict[str, object], tmp_path: Path) -> None:
    contract = make_contract(**fields)
    model = empty_export(tmp_path / "m.onnx", contract)
    write_deepstream(model, tmp_path / "made", Settings(frame_size=(640, 480)))
    written, ours = read_preprocess(tmp_path / "made/config_preprocess.txt"), preprocess_for(contract, (640, 480))
    assert ours.scales == pytest.approx(written.scales, rel=1e-8)
    assert replace(ours, scales=written.scales) == written


# --- the tool ---


def run(checkpoint: Path, *arguments: object) -> int:
    return main([str(checkpoint), *map(str, arguments)])


def test_tool_prints_a_line_a_route_and_a_verdict(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save(tmp_path / "best.pth")
    model = export(checkpoint)
    assert run(checkpoint, model, "--data", data, "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"3 clips of {data}, the middle one of each video; torch in float32 on cpu is the measure"
    assert lines[2].split()[0] == str(model)
    assert lines[2].endswith("3 of 3")
    assert lines[4:6] == [
        f"{model}: as the checkpoint, in every stage",
        f"{DEEPSTREAM}: its resize has no antialiasing and makes other pixels; nothing else differs",
    ]
    assert [f["blamed"] for f in json.loads(lines[6])["findings"]] == [[], ["pixels"]]


def test_tool_ends_in_1_and_says_what_to_look_at(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, other = save(tmp_path / "best.pth"), export(save(tmp_path / "other.pth", seed=1))
    assert run(checkpoint, other, "--data", data) == 1
    assert f"{other}: to blame: model: it computes something else; is it of this" in capsys.readouterr().out


def test_plan_that_can_not_run_here_is_told_and_the_others_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save(tmp_path / "best.pth")
    (tmp_path / "m.plan").write_bytes(b"plan")
    assert run(checkpoint, export(checkpoint), tmp_path / "m.plan", "--data", data) == 1
    out = capsys.readouterr().out
    assert "best.onnx: as the checkpoint, in every stage" in out
    assert "m.plan: not run: " in out


def test_video_that_can_not_be_read_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save(tmp_path / "best.pth")
    bad = data / "a/video_000/rgb/000004.png"
    bad.write_bytes(b"no image")
    assert run(checkpoint, export(checkpoint), "--data", data) == 1
    assert str(bad) in capsys.readouterr().err


def test_folder_of_deepstreams_scales_the_frames_to_its_muxer(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save(tmp_path / "best.pth", "model.input_type=2d")
    model = export(checkpoint, softmax=True)
    write_deepstream(model, tmp_path / "made", Settings(frame_size=(64, 48)))
    assert run(checkpoint, model, "--data", data, "--deepstream", tmp_path / "made") == 0
    config = tmp_path / "made/deepstream_action_recognition_config.txt"
    config.write_text(config.read_text().replace("muxer-width=64", "muxer-width=32"))
    capsys.readouterr()
    assert run(checkpoint, model, "--data", data, "--deepstream", tmp_path / "made") == 1
    assert "ROI (0, 0, 64, 48) is not inside the 32x48 frame" in capsys.readouterr().err
