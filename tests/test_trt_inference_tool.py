"""tools/trt_inference.py on tiny ONNX files: what it prints, and what it refuses."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny import MakeTree

from action_recognition.clip.contract import Contract, Stream

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install .[deploy]")
main = runpy.run_path(str(Path(__file__).parents[1] / "tools/trt_inference.py"))["main"]
STREAMS = {"rgb": Stream(2, (0.0,) * 3, (1.0,) * 3)}
CONTRACT = Contract("rgb", "3d", STREAMS, 8, 8, False, 8, "consecutive", 1, "max_rad", ("low", "high"))


def model(path: Path, contract: Contract | None = CONTRACT, is_2d: bool = False) -> Path:
    """A model whose second logit is 255 times the mean green of the clip, and whose first is 2."""
    planes = (6,) if is_2d else (3, 2)
    weight = np.zeros((2, 3, 2, 8, 8), np.float32)
    weight[1, 1] = 255 / 128
    nodes = [
        helper.make_node("Flatten", ["input_rgb"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["fc_pred"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("input_rgb", TensorProto.FLOAT, ["batch", *planes, 8, 8])],
        [helper.make_tensor_value_info("fc_pred", TensorProto.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(weight.reshape(2, -1), "weight"),
         onnx.numpy_helper.from_array(np.array([2, 0], np.float32), "bias")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if contract:
        metadata = {"contract": json.dumps(contract.to_plain()), "output": "logits", "precision": "fp32"}
        helper.set_model_props(made, metadata)
    onnx.save(made, path)
    return path


@pytest.fixture
def video(make_tree: MakeTree, tmp_path: Path) -> Path:
    """Five frames whose green is their number."""
    return make_tree(tmp_path / "data", {"a": 1}, num_frames=5, modalities=("rgb",)) / "a/video_000"


def run(video: object, engine: Path, *options: str) -> int:
    return main(["--input_images_folder", str(video), "--trt_engine", str(engine), *options])


def test_windows_are_printed_with_frames_label_and_probability(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(video, model(tmp_path / "m.onnx")) == 0
    p = [1 / (1 + np.exp(2 - (i + 0.5))) for i in range(4)]
    assert capsys.readouterr().out.splitlines() == [
        f"0..1 low {1 - p[0]:.4f}", f"1..2 low {1 - p[1]:.4f}", f"2..3 high {p[2]:.4f}", f"3..4 high {p[3]:.4f}",
    ]  # fmt: skip


def test_windows_as_json_have_all_scores(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(video / "rgb", model(tmp_path / "m.onnx"), "--json", "--stride", "3", "--batch", "2") == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["first"], first["last"], first["label"]) == (0, 1, "low")
    assert (second["first"], second["last"], second["label"]) == (3, 4, "high")
    assert sum(second["scores"].values()) == pytest.approx(1)


@pytest.mark.parametrize("is_2d", [False, True])
def test_model_without_a_contract_takes_options_and_gives_the_same(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_2d: bool
) -> None:
    run(video, model(tmp_path / "m.onnx"))
    expected = capsys.readouterr().out
    bare = model(tmp_path / "bare.onnx", None, is_2d)
    options = ["--labels", "low,high", "--mean", "0", "--std", "1", "--seq_length", "2", *["--input_2d"] * is_2d]
    assert run(video, bare, *options) == 0
    assert capsys.readouterr().out == expected


def test_model_without_a_contract_and_options_says_which(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(video, model(tmp_path / "m.onnx", None), "--mean", "0.5") == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/m.onnx says nothing of its input; give --labels, --std, --seq_length\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input_2d"], "--input_2d True contradicts"),
        (["--center_crop"], "--center_crop True contradicts"),
        (["--seq_length", "4"], "--seq_length 4 contradicts"),
        (["--mean", "0.5"], "--mean (0.5, 0.5, 0.5) contradicts"),
        (["--labels", "a,b"], "--labels ('a', 'b') contradicts"),
    ],
)
def test_options_that_contradict_the_model_are_refused(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run(video, model(tmp_path / "m.onnx"), *options) == 2
    assert message in capsys.readouterr().err


def test_options_that_repeat_the_model_are_accepted(video: Path, tmp_path: Path) -> None:
    assert run(video, model(tmp_path / "m.onnx"), "--mean", "0", "--std", "1", "--seq_length", "2") == 0


def test_empty_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", model(tmp_path / "m.onnx")) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/empty: holds no png or jpg image\n"


def test_model_of_whole_videos_takes_a_rate_and_asks_for_one(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = model(tmp_path / "m.onnx", replace(CONTRACT, sample_strategy="random_interval"))
    assert run(video, engine, "--rate", "3") == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["0..3", "1..4"]
    assert err == ""
    assert run(video, engine) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert "give --rate, about the frames of an action divided by 2" in err


def test_rate_that_contradicts_the_model_is_refused(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(video, model(tmp_path / "m.onnx"), "--rate", "3") == 2
    assert "--rate 3 contradicts" in capsys.readouterr().err
