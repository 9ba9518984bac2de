"""DeepStream folders: what stands in them, by hand-computed numbers, and what is refused with which sentence."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import IMAGENET, export, make_contract, parse_pbtxt
from onnx import TensorProto

from action_recognition.clip.contract import Stream
from action_recognition.clip.transform import evaluation_box
from action_recognition.deploy import deepstream_check
from action_recognition.deploy.bundles import servable_model
from action_recognition.deploy.deepstream import write_deepstream
from action_recognition.deploy.deepstream_check import check_deepstream
from action_recognition.deploy.deepstream_choices import Settings, mimicked_roi
from action_recognition.deploy.deepstream_files import Roi, read_key_file
from action_recognition.errors import DataError, DeployError, SpecError
from action_recognition.sealing import MAGIC

APP, PREPROCESS, INFER = "deepstream_action_recognition_config.txt", "config_preprocess.txt", "config_infer.txt"
TRITON_INFER = "config_triton_infer.txt"
TWO_URIS = ("rtsp://camera/1", "file:///videos/a%20b.mp4")

# What the sample app's parser, nvdspreprocess's and nvinfer's stop without (DeepStream 9), read in their sources.
MANDATORY_IN_APP = [
    *("uri-list", "display-sync", "fakesink", "preprocess-config", "muxer-height", "muxer-width"),
    *("muxer-batch-timeout", "tiler-height", "tiler-width", "debug", "enable-fps"),
]
MANDATORY_IN_PREPROCESS = [
    *("processing-width", "processing-height", "network-input-order", "network-input-shape", "network-color-format"),
    *("tensor-data-type", "tensor-name", "custom-lib-path", "custom-tensor-preparation-function", "scaling-filter"),
    "scaling-pool-memory-type",
]
MANDATORY_IN_GROUP = ["src-ids", "process-on-roi", "roi-params-src-0"]
MANDATORY_IN_INFER = [
    *("onnx-file", "model-engine-file", "labelfile-path", "batch-size", "process-mode", "input-tensor-from-meta"),
    *("network-mode", "gie-unique-id", "network-type", "output-tensor-meta"),
]

Values = dict[str, dict[str, str]]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """make(settings, output=..., precision=..., num_classes=..., and fields of the contract) -> the folder."""

    def write(
        settings: Settings | None = None, output: str = "softmax", precision: str = "fp32", **fields: Any
    ) -> Path:
        model = export(tmp_path / "model.onnx", make_contract(**fields), output, precision)
        write_deepstream(model, tmp_path / "made", settings or Settings())
        return tmp_path / "made"

    return write


def read(folder: Path) -> tuple[dict[str, str], Values, dict[str, str]]:
    """The app's values, nvdspreprocess's by section, nvinfer's."""
    app, preprocess, infer = (read_key_file(folder / name) for name in (APP, PREPROCESS, INFER))
    return app["action-recognition"], preprocess, infer["property"]


# --- what stands in the files ---


@pytest.mark.parametrize("input_type", ["2d", "3d"])
@pytest.mark.parametrize("num_classes", [5, 51])
def test_folder_has_every_key_that_the_sample_insists_on(
    make: Callable[..., Path], input_type: str, num_classes: int
) -> None:
    folder = make(input_type=input_type, num_classes=num_classes)
    app, preprocess, infer = read(folder)
    assert [key for key in MANDATORY_IN_APP if key not in app] == []
    assert [key for key in MANDATORY_IN_PREPROCESS if key not in preprocess["property"]] == []
    assert [key for key in MANDATORY_IN_GROUP if key not in preprocess["group-0"]] == []
    assert [key for key in MANDATORY_IN_INFER if key not in infer] == []
    assert "infer-dims" not in infer  # it is for images
    assert (folder / "labels.txt").read_text().count(";") == num_classes - 1
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["README.md", "labels.txt", "model.onnx", APP, PREPROCESS, INFER]
    )


@pytest.mark.parametrize(("input_type", "shape"), [("3d", "2;3;32;224;224"), ("2d", "2;96;224;224")])
def test_values_for_two_sources_agree_across_the_files(make: Callable[..., Path], input_type: str, shape: str) -> None:
    app, preprocess, infer = read(make(Settings(uris=TWO_URIS), input_type=input_type))
    assert app["uri-list"] == "rtsp://camera/1;file:///videos/a%20b.mp4"
    assert (app["preprocess-config"], app["infer-config"]) == (PREPROCESS, INFER)
    assert (app["muxer-width"], app["muxer-height"]) == ("1280", "720")
    properties = preprocess["property"]
    assert properties["network-input-shape"] == shape
    assert properties["tensor-name"] == "input_rgb"
    assert (properties["processing-width"], properties["processing-height"]) == ("224", "224")
    assert [properties[key] for key in ("network-color-format", "network-input-order", "tensor-data-type")] == [
        "0",
        "2",
        "0",
    ]
    assert properties["scaling-filter"] == "1"
    assert properties["target-unique-ids"] == infer["gie-unique-id"] == "1"
    assert infer["batch-size"] == "2"
    assert (infer["input-tensor-from-meta"], infer["network-type"]) == ("1", "1")
    assert preprocess["group-0"]["src-ids"] == "0;1"


def test_height_and_width_are_not_mixed_up(make: Callable[..., Path]) -> None:
    _, preprocess, _ = read(make(height=112, width=160))
    assert preprocess["property"]["network-input-shape"] == "1;3;32;112;160"
    assert (preprocess["property"]["processing-width"], preprocess["property"]["processing-height"]) == ("160", "112")


@pytest.mark.parametrize(
    ("norm", "scales", "offsets"),
    [
        (((0.5,) * 3, (0.5,) * 3), "0.00784313725;0.00784313725;0.00784313725", "127.5;127.5;127.5"),
        (IMAGENET, "0.0171247538;0.0175070028;0.0174291939", "123.675;116.28;103.53"),
        (((0.0,) * 3, (1.0,) * 3), "0.00392156863;0.00392156863;0.00392156863", "0;0;0"),
    ],
)
def test_scale_and_offset_are_those_of_mean_and_std(
    make: Callable[..., Path], norm: Any, scales: str, offsets: str
) -> None:
    _, preprocess, _ = read(make(norm=norm))
    assert preprocess["user-configs"]["channel-scale-factors"] == scales
    assert preprocess["user-configs"]["channel-mean-offsets"] == offsets


def test_numbers_in_the_file_are_the_same_32_bit_floats(make: Callable[..., Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(5):
        mean, std = tuple(rng.uniform(0, 1, 3)), tuple(rng.uniform(0.01, 1, 3))
        folder = tmp_path / str(i)
        write_deepstream(export(tmp_path / "m.onnx", make_contract(norm=(mean, std))), folder, Settings())
        values = read(folder)[1]["user-configs"]
        for key, numbers in (
            ("channel-scale-factors", [1 / (255 * s) for s in std]),
            ("channel-mean-offsets", [255 * m for m in mean]),
        ):
            written = [np.float32(text) for text in values[key].split(";")]
            assert written == [np.float32(number) for number in numbers]


@pytest.mark.parametrize(
    ("sample_rate", "settings", "stride", "subsample"),
    [
        (1, Settings(), "1", "0"),
        (3, Settings(), "1", "2"),
        (3, Settings(stride=32, subsample=0), "32", "0"),
    ],
)
def test_subsample_is_one_less_than_the_sample_rate_unless_it_is_given(
    make: Callable[..., Path], sample_rate: int, settings: Settings, stride: str, subsample: str
) -> None:
    values = read(make(settings, sample_rate=sample_rate))[1]["user-configs"]
    assert (values["stride"], values["subsample"]) == (stride, subsample)


@pytest.mark.parametrize(
    ("precision", "wanted", "mode", "typed", "engine"),
    [
        ("fp32", None, "2", None, "model.onnx_b1_gpu0_fp16.engine"),
        ("fp32", "fp16", "2", None, "model.onnx_b1_gpu0_fp16.engine"),
        ("fp32", "fp32", "0", None, "model.onnx_b1_gpu0_fp32.engine"),
        # the tensors decide, and nvinfer names the engine after network-mode all the same
        ("fp16", None, "0", "1", "model.onnx_b1_gpu0_fp32.engine"),
        ("bf16", None, "0", "1", "model.onnx_b1_gpu0_fp32.engine"),
        ("int8", None, "0", "1", "model.onnx_b1_gpu0_fp32.engine"),
        ("int8", "int8", "0", "1", "model.onnx_b1_gpu0_fp32.engine"),
    ],
)
def test_precision_of_the_engine(
    make: Callable[..., Path], precision: str, wanted: str | None, mode: str, typed: str | None, engine: str
) -> None:
    _, _, infer = read(make(Settings(network_mode=wanted), precision=precision))
    assert (infer["network-mode"], infer.get("strongly-typed"), infer["model-engine-file"]) == (mode, typed, engine)


def test_batch_that_is_given_stands_in_both_files_and_in_the_engine_name(make: Callable[..., Path]) -> None:
    _, preprocess, infer = read(make(Settings(uris=TWO_URIS, batch=8)))
    assert preprocess["property"]["network-input-shape"].split(";")[0] == infer["batch-size"] == "8"
    assert infer["model-engine-file"] == "model.onnx_b8_gpu0_fp16.engine"


def test_labels_stand_in_one_line_without_an_end(make: Callable[..., Path]) -> None:
    folder = make(class_names=("push", "fall floor", "größer"))
    assert (folder / "labels.txt").read_bytes() == "push;fall floor;größer".encode()


def test_headless_shows_nothing_and_logs_the_labels(make: Callable[..., Path]) -> None:
    app, _, _ = read(make(Settings(headless=True)))
    assert (app["fakesink"], app["display-sync"], app["debug"]) == ("1", "0", "1")


def test_threshold_is_the_classifiers(make: Callable[..., Path]) -> None:
    assert read(make(Settings(threshold=0.25)))[2]["classifier-threshold"] == "0.25"


def test_model_in_the_folder_is_the_one_that_was_given(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make()
    assert (folder / "model.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


# --- where to look ---


@pytest.mark.parametrize(
    ("frame_size", "roi"),
    [
        # 1280x720 -> 455x256; the middle 224 is 116..340, 16..240: times 1280/455 and 720/256
        ((1280, 720), Roi(326, 44, 630, 630)),  # exactly 326.3, 45, 956.5, 675
        ((1920, 1080), Roi(490, 68, 946, 944)),  # exactly 489.5, 67.5, 1434.7, 1012.5
        ((256, 256), Roi(16, 16, 224, 224)),
        ((480, 640), Roi(30, 110, 420, 420)),  # 480x640 -> 256x341; exactly 30, 108.9, 450, 529.3
    ],
)
def test_roi_of_a_centre_crop_is_its_place_in_the_frame(
    make: Callable[..., Path], frame_size: tuple[int, int], roi: Roi
) -> None:
    app, preprocess, _ = read(make(Settings(frame_size=frame_size), center_crop=True))
    assert preprocess["group-0"]["roi-params-src-0"] == ";".join(map(str, roi))
    assert (app["muxer-width"], app["muxer-height"]) == tuple(map(str, frame_size))


def test_roi_of_any_frame_is_inside_it_even_and_1_and_a_half_px_off_at_most() -> None:
    for height, width in ((224, 224), (112, 160), (256, 200)):
        contract = make_contract(center_crop=True, height=height, width=width)
        for frame_size in [(w, h) for w in (256, 333, 640, 854, 1366, 3840) for h in (240, 358, 481, 722, 2160)]:
            roi = mimicked_roi(contract, frame_size)
            exact = evaluation_box(frame_size, contract)
            edges = (roi.left, roi.top, roi.left + roi.width, roi.top + roi.height)
            assert all(number % 2 == 0 for number in roi)
            assert min(edges) >= 0
            assert edges[2] <= frame_size[0]
            assert edges[3] <= frame_size[1]
            assert max(abs(a - b) for a, b in zip(edges, exact, strict=True)) <= 1.5, (frame_size, roi, exact)


@pytest.mark.parametrize(("frame_size", "roi"), [((1920, 1080), "0;0;1920;1080"), ((853, 481), "0;0;852;480")])
def test_roi_without_centre_crop_is_the_whole_frame_at_even_numbers(
    make: Callable[..., Path], frame_size: tuple[int, int], roi: str
) -> None:
    assert read(make(Settings(frame_size=frame_size)))[1]["group-0"]["roi-params-src-0"] == roi


def test_rois_of_each_source_make_the_batch(make: Callable[..., Path]) -> None:
    left, right, all_of_it = Roi(0, 0, 640, 720), Roi(640, 0, 640, 720), Roi(0, 0, 1280, 720)
    _, preprocess, infer = read(make(Settings(uris=TWO_URIS, rois=((left, right), (all_of_it,)))))
    assert preprocess["group-0"]["roi-params-src-0"] == "0;0;640;720;640;0;640;720"
    assert preprocess["group-0"]["roi-params-src-1"] == "0;0;1280;720"
    assert infer["batch-size"] == "3"


def test_one_roi_is_for_all_sources(make: Callable[..., Path]) -> None:
    group = read(make(Settings(uris=TWO_URIS, rois=((Roi(8, 8, 100, 100),),))))[1]["group-0"]
    assert group["roi-params-src-0"] == group["roi-params-src-1"] == "8;8;100;100"
    assert list(group).index("process-on-roi") < list(group).index("roi-params-src-0")  # else the parser skips them


# --- with Triton inside ---


def test_triton_flavour_has_nvinferservers_file_and_a_repository(make: Callable[..., Path]) -> None:
    folder = make(Settings(uris=TWO_URIS, with_triton=True, threshold=0.1))
    app = read_key_file(folder / APP)["action-recognition"]
    assert app["triton-infer-config"] == TRITON_INFER
    assert "infer-config" not in app
    assert not (folder / INFER).exists()
    parsed = parse_pbtxt((folder / TRITON_INFER).read_text())
    (infer,) = parsed["infer_config"]
    assert (infer["unique_id"], infer["max_batch_size"], infer["gpu_ids"]) == ([1], [2], [0])
    (server,) = infer["backend"][0]["triton"]
    assert server["model_name"] == ["action_recognition"]
    assert server["version"] == [-1]
    assert server["model_repo"] == [{"root": ["./triton_model_repo"], "strict_model_config": ["true"]}]
    assert infer["input_tensor_from_meta"] == [{"is_first_dim_batch": ["true"]}]
    assert infer["postprocess"] == [{"labelfile_path": ["labels.txt"], "classification": [{"threshold": [0.1]}]}]
    assert parsed["output_control"] == [{"output_tensor_meta": ["true"]}]
    repository = folder / "triton_model_repo" / "action_recognition"
    config = parse_pbtxt((repository / "config.pbtxt").read_text())
    assert config["max_batch_size"] == [2]
    assert config["input"][0]["dims"] == [3, 32, 224, 224]
    assert "dynamic_batching" not in config
    assert (repository / "1" / "model.onnx").is_file()


# --- what is refused ---


@pytest.mark.parametrize(
    ("fields", "settings", "error", "message"),
    [
        ({"model_type": "of"}, {}, DeployError, r"model_type is of; .* feeds RGB frames alone and computes no optical"),
        ({"model_type": "joint"}, {}, DeployError, r"model_type is joint; .* with tools/bundle\.py triton"),
        ({"output": "logits"}, {}, DeployError, r"output is logits; .* python tools/export\.py .*export\.softmax=true"),
        ({"center_crop": True}, {}, SpecError, r"evaluated on the middle of the frames.* --frame-size WxH"),
        ({}, {"network_mode": "int8"}, SpecError, r"--network-mode int8: .* is fp32, without the ranges"),
        ({"precision": "fp16"}, {"network_mode": "int8"}, SpecError, r"--network-mode int8: .* is fp16 already"),
        ({}, {"rois": ((Roi(0, 0, 8, 8),),) * 2}, SpecError, r"--roi: given for 2 of 1 sources"),
        ({}, {"batch": 1, "uris": TWO_URIS}, DeployError, r"batch of 1 is too small for the 2 ROIs .* --batch 2"),
        ({}, {"batch": 1025}, DeployError, r"batch of 1025 is not in 1\.\.1024"),
        ({}, {"stride": 0}, DeployError, r"stride must be 1 or more, got 0"),
        ({}, {"subsample": -1}, DeployError, r"subsample must be 0 or more, got -1"),
        ({}, {"uris": ("videos/a.mp4",)}, DeployError, r"'videos/a\.mp4' is no URI; a file is file:///full/path"),
        ({}, {"uris": ("file:///a b.mp4",)}, DeployError, r"'file:///a b\.mp4' is no URI; .* a blank %20"),
        ({}, {"uris": ("file:///a;b.mp4",)}, DeployError, r"'b\.mp4' is no URI; .* a ; %3B"),
        ({}, {"rois": ((Roi(0, 0, 641, 720),),)}, DeployError, r"ROI 0;0;641;720 of source 0: all four must be even"),
        ({}, {"rois": ((Roi(640, 0, 642, 720),),)}, DeployError, r"ROI 640;0;642;720 .* not inside the 1280x720 frame"),
        ({}, {"rois": ((Roi(0, 0, 0, 720),),)}, DeployError, r"width and height must be at least 2"),
        ({}, {"rois": ((),)}, DeployError, r"source 0 has no ROI"),
        ({"class_names": ("a;b", "c")}, {}, DeployError, r"class name 'a;b' holds ';', where a label ends"),
        ({"class_names": ("a\nb", "c")}, {}, DeployError, r"class name 'a\\nb' holds '\\n', where a label ends"),
        ({"class_names": ("", "c")}, {}, DeployError, r"a class name is empty"),
        ({"class_names": ("ä" * 64, "c")}, {}, DeployError, r"is 128 bytes long, more than the 127 shown"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_and_leaves_nothing(
    make: Callable[..., Path], tmp_path: Path, fields: dict[str, Any], settings: Any, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        make(Settings(**settings), **fields)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_label_of_127_bytes_is_accepted(make: Callable[..., Path]) -> None:
    assert make(class_names=("x" * 127, "c")).is_dir()


@pytest.mark.parametrize(
    ("other", "collides"),
    [
        (Roi(0, 0, 640, 360), True),
        (Roi(0, 0, 642, 720), False),
        (Roi(0, 2, 640, 718), False),
        (Roi(0, 0, 640, 720), True),
    ],
)
def test_rois_that_the_library_can_not_tell_apart_are_refused(
    make: Callable[..., Path], other: Roi, collides: bool
) -> None:
    """At the upper edge the library's key of an ROI does not hold its height."""
    settings = Settings(rois=((Roi(0, 0, 640, 720), other),))
    if not collides:
        assert make(settings).is_dir()
        return
    with pytest.raises(
        DeployError, match=r"ROIs 0;0;640;720 and 0;0;640;\d+ of source 0 are one to the sequence library"
    ):
        make(settings)


def test_several_problems_are_told_at_once(make: Callable[..., Path]) -> None:
    with pytest.raises(DeployError, match=r"made: 2 problems\n  .*batch of 1 .*\n  ROI 1;0;8;8 of source 0"):
        make(Settings(batch=1, rois=((Roi(1, 0, 8, 8), Roi(100, 0, 8, 8)),)))


def test_folder_that_is_there_is_left_alone(make: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(DataError, match="made: exists already"):
        make()
    assert list((tmp_path / "made").iterdir()) == []


def test_file_without_a_contract_is_refused_naming_the_cure(tmp_path: Path) -> None:
    model = export(tmp_path / "m.onnx", None, inputs={"input_rgb": ["N", 3, 32, 224, 224]})
    with pytest.raises(DeployError, match=r"m\.onnx: has no contract, .* tools/export\.py"):
        servable_model(model)


def test_sealed_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(MAGIC + b"...")
    with pytest.raises(DeployError, match=r"m\.onnx: is encrypted, which neither DeepStream nor Triton can open"):
        servable_model(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {"images": ["N", 3, 32, 224, 224]}}, "inputs are images; the contract's model has input_rgb"),
        ({"inputs": {"input_rgb": [4, 3, 32, 224, 224]}}, "input input_rgb is 4x3x32x224x224: its batch axis is fixed"),
        (
            {"inputs": {"input_rgb": ["N", 3, "T", 224, 224]}},
            "input input_rgb is Nx3xNx224x224, by the contract it is Nx3x32x224x224",
        ),
        ({"inputs": {"input_rgb": ["N", 96, 224, 224]}}, "is Nx96x224x224, by the contract it is Nx3x32x224x224"),
        ({"dtype": TensorProto.FLOAT16}, "input input_rgb is FLOAT16; must be FLOAT"),
        ({"scores": ["N", 7]}, "output fc_pred is Nx7, by the contract it is Nx5"),
        ({"scores": [1, 5]}, "output fc_pred is 1x5: its batch axis is fixed"),
    ],
)
def test_model_whose_tensors_are_not_the_contracts_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DeployError, match=re.escape(message)):
        servable_model(export(tmp_path / "m.onnx", make_contract(), **changes))


# --- a folder that was edited ---


def test_folder_as_written_is_in_order(make: Callable[..., Path]) -> None:
    check_deepstream(make(Settings(uris=TWO_URIS)))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (APP, "muxer-width=1280\n", "", r"\[action-recognition\] lacks muxer-width"),
        (APP, "rtsp://camera/1;", "", r"src-ids is 0;1, for 1 URIs it must be 0"),
        (APP, "\ninfer-config=config_infer.txt", "\ninfer-config=other.txt", "infer-config is 'other.txt', must be"),
        (PREPROCESS, "=input_rgb", "=images", "tensor-name is 'images', the model's input is 'input_rgb'"),
        (PREPROCESS, "=2;3;32;224;224", "=4;3;32;224;224", "batch-size is 2, network-input-shape begins with 4"),
        (PREPROCESS, "=2;3;32;224;224", "=2;3;16;224;224", r"is 2;3;16;224;224, the model's is Nx3x32x224x224"),
        (PREPROCESS, "processing-width=224", "processing-width=320", "processing-width is 320, the model's is 224"),
        (PREPROCESS, "target-unique-ids=1", "target-unique-ids=2;3", "1 is not among target-unique-ids 2;3"),
        (PREPROCESS, "tensor-data-type=0", "tensor-data-type=7", "tensor-data-type is 7, must be 0"),
        (PREPROCESS, "color-format=0", "color-format=1", "network-color-format is 1, must be 0"),
        (PREPROCESS, "=127.5;127.5;127.5", "=0;0;0", r"channel-mean-offsets is 0;0;0, .* it is 127\.5;127\.5;127\.5"),
        (PREPROCESS, "factors=0.00784313725", "factors=0.00785", r"channel-scale-factors is 0\.00785;"),
        (PREPROCESS, "src-1=0;0;1280;720", "src-2=0;0;1280;720", "source 1 has no ROI"),
        (PREPROCESS, "src-1=0;0;1280;720", "src-1=0;0;1280", "src-1 must be left;top;width;height for each ROI, got 3"),
        (PREPROCESS, "stride=1", "stride=often", r"1 problem\n  stride must be a whole number, got 'often'"),
        (PREPROCESS, "src-ids=0;1", "src-ids=all", "src-ids must be whole numbers divided by ;, got 'all'"),
        (INFER, "batch-size=2", "batch-size=1", "batch-size is 1, network-input-shape begins with 2"),
        (INFER, "network-mode=2", "network-mode=0", "model-engine-file is .*_fp16.engine, nvinfer keeps it as .*_fp32"),
        (INFER, "network-mode=2", "network-mode=1", "network-mode 1 .* needs a calibration table"),
        (INFER, "network-mode=2", "network-mode=2\nstrongly-typed=1", "strongly-typed must be 0 for an fp32 model"),
        (INFER, "network-mode=2", "network-mode=2\ninfer-dims=3;224;224", "infer-dims describes an image"),
        (INFER, "network-type=1", "network-type=0", "network-type is 0, must be 1"),
        ("labels.txt", "class_4", "class_4;six", "labels.txt: has 6 labels, the model has 5 classes"),
        ("labels.txt", ";", "\n", "labels.txt: has 5 lines; all labels stand in one"),
    ],
)  # fmt: skip
def test_edit_that_breaks_the_folder_is_found(
    make: Callable[..., Path], file: str, old: str, new: str, message: str
) -> None:
    path = make(Settings(uris=TWO_URIS)) / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DeployError, match=message):
        check_deepstream(path.parent)


def test_rois_before_the_key_that_turns_them_on_are_found(make: Callable[..., Path]) -> None:
    path = make() / PREPROCESS
    text = path.read_text()
    roi = "roi-params-src-0=0;0;1280;720\n"
    path.write_text(text.replace(roi, "").replace("process-on-roi=1\n", f"{roi}process-on-roi=1\n"))
    with pytest.raises(DeployError, match="process-on-roi must stand before roi-params-src"):
        check_deepstream(path.parent)


def test_precision_flags_against_the_tensors_are_found(make: Callable[..., Path]) -> None:
    path = make(precision="int8") / INFER
    path.write_text(path.read_text().replace("network-mode=0", "network-mode=2"))
    with pytest.raises(DeployError, match="network-mode must be 0 with strongly-typed=1: the model's tensors say int8"):
        check_deepstream(path.parent)


def test_batch_in_nvinferservers_file_counts_as_nvinfers(make: Callable[..., Path]) -> None:
    path = make(Settings(with_triton=True)) / TRITON_INFER
    path.write_text(path.read_text().replace("max_batch_size: 1", "max_batch_size: 4"))
    with pytest.raises(DeployError, match="batch-size is 4, network-input-shape begins with 1"):
        check_deepstream(path.parent)


def test_missing_file_is_named(make: Callable[..., Path]) -> None:
    folder = make()
    (folder / "labels.txt").unlink()
    with pytest.raises(DeployError, match=r"labels\.txt: can't be read"):
        check_deepstream(folder)


def test_own_list_of_mandatory_keys_is_the_samples() -> None:
    own = deepstream_check.MANDATORY
    assert set(own[APP]["action-recognition"]) == set(MANDATORY_IN_APP)
    assert set(own[PREPROCESS]["property"]) >= set(MANDATORY_IN_PREPROCESS)
    assert set(own[INFER]["property"]) == set(MANDATORY_IN_INFER)


# --- what is said ---


def test_readme_has_the_command_and_what_differs(make: Callable[..., Path]) -> None:
    text = (make(Settings(frame_size=(1280, 720)), center_crop=True, sample_rate=2) / "README.md").read_text()
    assert f"deepstream-3d-action-recognition -c {APP}" in text
    assert "The first label comes after 63 frames of a source, then one every 2 frames" in text  # 31 * 2 + 1
    assert "left, top, right, bottom = 326.3, 45.0, 956.5, 675.0; the ROI is 326, 44, 956, 674." in text
    assert "Resizing takes the four nearest pixels" in text
    assert "`model.onnx_b1_gpu0_fp16.engine`" in text
    assert "rm -f *.engine" in text


def test_sampling_over_whole_videos_is_said_to_be_impossible(tmp_path: Path) -> None:
    model = export(tmp_path / "m.onnx", make_contract(sample_strategy="random_interval"))
    notes = write_deepstream(model, tmp_path / "made", Settings())
    assert notes[1].startswith(
        "The model was trained on frames spread over a whole video (random_interval). A stream has"
    )
    assert notes[1] in (tmp_path / "made" / "README.md").read_text()


def test_stream_with_other_channels_keeps_their_order(make: Callable[..., Path]) -> None:
    streams = {"rgb": Stream(8, (0.1, 0.2, 0.3), (0.25, 0.5, 1.0))}
    values = read(make(streams=streams))[1]["user-configs"]
    assert values["channel-mean-offsets"] == "25.5;51;76.5"
    assert values["channel-scale-factors"] == "0.0156862745;0.00784313725;0.00392156863"
