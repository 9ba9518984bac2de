"""tools/bundle.py: its options reach the files, its errors are one message and an exit code."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from exported import export, make_contract

from action_recognition.deploy.deepstream_files import Roi, read_key_file, read_preprocess

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bundle() -> Callable[[list[str]], int]:
    main: Callable[[list[str]], int] = runpy.run_path(str(ROOT / "tools" / "bundle.py"))["main"]
    return main


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(export(tmp_path / "m.onnx", make_contract()))


def test_deepstream_options_reach_the_files(
    bundle: Callable[[list[str]], int], model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "made"
    options = ["--uri", "rtsp://a", "--uri", "rtsp://b", "--frame-size", "1920x1080", "--batch", "5", "--stride", "16",
               "--subsample", "1", "--roi", "0,0,960,1080+960,0,960,1080", "--roi", "10,20,30,40", "--network-mode",
               "fp32", "--scaling-filter", "nearest", "--threshold", "0.5", "--headless"]  # fmt: skip
    assert bundle(["deepstream", model, str(target), *options]) == 0
    app = read_key_file(target / "deepstream_action_recognition_config.txt")["action-recognition"]
    assert (app["uri-list"], app["muxer-width"], app["fakesink"]) == ("rtsp://a;rtsp://b", "1920", "1")
    infer = read_key_file(target / "config_infer.txt")["property"]
    assert (infer["batch-size"], infer["network-mode"], infer["classifier-threshold"]) == ("5", "0", "0.5")
    preprocess = read_preprocess(target / "config_preprocess.txt", source=0, roi=1)
    assert (preprocess.roi, preprocess.scaling_filter) == (Roi(960, 0, 960, 1080), "nearest")
    assert (preprocess.stride, preprocess.subsample) == (16, 1)
    assert read_preprocess(target / "config_preprocess.txt", source=1).roi == Roi(10, 20, 30, 40)
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == [
        "The first label comes after 63 frames of a source, then one every 32 frames "
        "(clips of 32 frames, stride 16, subsample 1)",
        f"{target} is written; how to run it: {target}/README.md",
    ]


def test_triton_inside_deepstream_is_an_option(bundle: Callable[[list[str]], int], model: str, tmp_path: Path) -> None:
    assert bundle(["deepstream", model, str(tmp_path / "made"), "--triton"]) == 0
    assert (tmp_path / "made" / "triton_model_repo" / "action_recognition" / "config.pbtxt").is_file()


def test_triton_options_reach_the_files(bundle: Callable[[list[str]], int], model: str, tmp_path: Path) -> None:
    assert bundle(["triton", model, str(tmp_path / "made"), "--name", "falls", "--max-batch", "2", "--cpu"]) == 0
    text = (tmp_path / "made" / "model_repository" / "falls" / "config.pbtxt").read_text()
    assert "max_batch_size: 2\n" in text
    assert "KIND_CPU" in text


def test_check_says_that_a_folder_is_in_order_and_what_an_edit_broke(
    bundle: Callable[[list[str]], int], model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "made"
    bundle(["deepstream", model, str(target)])
    capsys.readouterr()
    assert bundle(["check", str(target)]) == 0
    assert capsys.readouterr().out == f"{target}: its files go together\n"
    (target / "labels.txt").write_text("one;two")
    assert bundle(["check", str(target)]) == 1
    assert capsys.readouterr().err == (
        f"error: {target}: 1 problem\n  labels.txt: has 2 labels, the model has 5 classes\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["deepstream", "MODEL", "DST", "--network-mode", "int8"], 2, "error: --network-mode int8: "),
        (["deepstream", "none.onnx", "DST"], 1, "error: none.onnx: can't be read: No such file or directory"),
        (["deepstream", "MODEL", "."], 1, "error: .: exists already"),
        (["triton", "DST"], 2, "error: give either MODEL.onnx or --plan FILE"),
        (["triton", "MODEL", "DST", "--plan", "m.plan"], 2, "error: give either MODEL.onnx or --plan FILE"),
        (["triton", "DST", "--plan", "none.plan"], 1, "error: none.plan: none.plan.json lacks beside it"),
        (["check", "none"], 1, "can't be read as a key file"),
    ],
)
def test_errors_are_one_message_and_a_code(
    bundle: Callable[[list[str]], int],
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    places = {"MODEL": model, "DST": str(tmp_path / "made")}
    assert bundle([places.get(argument, argument) for argument in arguments]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--frame-size", "1920", "must be WIDTHxHEIGHT, such as 1920x1080, got '1920'"),
        ("--frame-size", "0x720", "must be WIDTHxHEIGHT"),
        ("--roi", "0,0,640", "must be left,top,width,height, several joined by +, got '0,0,640'"),
        ("--batch", "0", "must be at least 1, got 0"),
        ("--subsample", "-1", "must be at least 0, got -1"),
        ("--threshold", "1.5", "must be at least 0 and less than 1, got 1.5"),
        ("--network-mode", "bf16", "invalid choice: 'bf16'"),
    ],
)
def test_options_of_another_form_are_refused(
    bundle: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        bundle(["deepstream", "m.onnx", "made", f"{option}={value}"])
    assert message in capsys.readouterr().err
