"""The recognizer sees what evaluation sees, and refuses what no model can take."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_onnx
import torch
from PIL import Image

from action_recognition.clip.contract import MODALITIES, Contract
from action_recognition.config import load_spec, to_plain
from action_recognition.data.agreement import contract_of
from action_recognition.data.dataset import EvaluationWindows
from action_recognition.data.index import FrameFiles, Video, index_classes
from action_recognition.data.loader import ToInput
from action_recognition.deploy import recognizer
from action_recognition.deploy.recognizer import Recognizer, _softmax
from action_recognition.errors import CheckpointError, DeployError
from action_recognition.models import build_model
from action_recognition.training.checkpoint import FORMAT, CheckpointManager

CLASSES = ("walk", "sits", "fall")
SPEC = load_spec(
    None,
    [
        *("model.model_type=rgb", "model.input_type=2d", "model.rgb_seq_length=3", "model.of_seq_length=5"),
        *("model.input_height=32", "model.input_width=32", "dataset.augmentation_config.crop_smaller_edge=40"),
    ],
)
CONTRACT = contract_of(SPEC, CLASSES)


def contract(model_type: str, **changes) -> Contract:
    spec = replace(SPEC, model=replace(SPEC.model, model_type=model_type))
    return replace(contract_of(spec, CLASSES), **changes)


def noise_video(root: Path, num_frames: int, size: tuple[int, int] = (50, 44)) -> tuple[Video, dict[str, np.ndarray]]:
    """A video folder of noise, and its frames: {rgb: (T, H, W, 3), of: (T - 1, H, W, 2)}."""
    rng = np.random.default_rng(0)
    width, height = size
    frames = {
        "rgb": rng.integers(0, 256, (num_frames, height, width, 3), np.uint8),
        "of": rng.integers(0, 256, (num_frames - 1, height, width, 2), np.uint8),
    }
    for folder, images in (("rgb", frames["rgb"]), ("u", frames["of"][..., 0]), ("v", frames["of"][..., 1])):
        (root / "walk/v" / folder).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(root / "walk/v" / folder / f"{i:03d}.png", compress_level=0)
    return index_classes(root, CLASSES, ["rgb", "of"], "error").videos[0], frames


class Remembering:
    """A forward pass that keeps its inputs and says that the second class is likeliest."""

    def __call__(self, inputs: list[np.ndarray]) -> np.ndarray:
        self.inputs = inputs
        return np.array([[0.0, 2.0, 1.0]], np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained 2D ResNet-18 for 3 frames of 32 x 32."""
    torch.manual_seed(0)
    model = build_model(SPEC.model, len(CLASSES))
    content = {
        "format": FORMAT,
        "state_dict": model.state_dict(),
        "optimizer": {},
        "schedule": {},
        "scaler": {},
        "rng": [],
        "epoch": 1,
        "step": 0,
        "tally": [],
        "history": [],
        "num_clips": 1,
        "spec": to_plain(SPEC),
        "contract": CONTRACT.to_plain(),
    }
    return CheckpointManager(tmp_path_factory.mktemp("run")).save(content, ["ar_model_best.pth"])


# --- the same as evaluation ---


@pytest.mark.parametrize("num_frames", [2, 3, 20])  # shorter than a clip, just one, longer
def test_recognizer_of_a_checkpoint_gives_the_probabilities_of_evaluation(
    tmp_path: Path, checkpoint: Path, num_frames: int
) -> None:
    video, frames = noise_video(tmp_path, num_frames)
    rgb_only = replace(video, files={"rgb": video.files["rgb"]})
    clips = EvaluationWindows([rgb_only], CONTRACT)[0].clips
    model = build_model(SPEC.model, len(CLASSES)).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    with torch.inference_mode():
        logits = model(*ToInput(CONTRACT, torch.device("cpu"))({m: torch.from_numpy(c) for m, c in clips.items()}))
    expected = dict(zip(CLASSES, logits.softmax(1)[0].tolist(), strict=True))

    answer = Recognizer.from_checkpoint(checkpoint)(frames["rgb"])
    assert dict(answer) == pytest.approx(expected, abs=1e-6)
    assert [name for name, _ in answer] == sorted(expected, key=expected.__getitem__, reverse=True)


@pytest.mark.parametrize("model_type", ["rgb", "of", "joint"])
@pytest.mark.parametrize("input_type", ["2d", "3d"])
@pytest.mark.parametrize("center_crop", [False, True])
@pytest.mark.parametrize(("strategy", "rate"), [("consecutive", 2), ("random_interval", 1)])
def test_recognizer_gives_the_model_the_input_of_evaluation(
    tmp_path: Path, model_type: str, input_type: str, center_crop: bool, strategy: str, rate: int
) -> None:
    of = contract(
        model_type, input_type=input_type, center_crop=center_crop, sample_strategy=strategy, sample_rate=rate
    )
    video, frames = noise_video(tmp_path, 16)
    files: dict[str, FrameFiles] = {
        k: f for k, f in video.files.items() if model_type == "joint" or (k == "rgb") == (model_type == "rgb")
    }
    clips = EvaluationWindows([replace(video, files=files)], of)[0].clips
    expected = ToInput(of, torch.device("cpu"))({m: torch.from_numpy(c) for m, c in clips.items()})

    forward = Remembering()
    Recognizer(forward, of)(*(frames[m] for m in MODALITIES[model_type]))
    assert len(forward.inputs) == len(expected)
    for ours, theirs in zip(forward.inputs, expected, strict=True):
        assert ours.dtype == np.float32
        assert ours.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(ours, theirs.numpy())


def test_recognizer_answers_with_the_best_class_first() -> None:
    answer = Recognizer(Remembering(), CONTRACT)(np.zeros((4, 40, 40, 3), np.uint8))
    assert [name for name, _ in answer] == ["sits", "fall", "walk"]
    assert [score for _, score in answer] == pytest.approx([0.66524096, 0.24472847, 0.09003057])


def test_recognizer_loops_a_video_of_one_frame() -> None:
    forward = Remembering()
    Recognizer(forward, CONTRACT)(np.full((1, 40, 40, 3), 255, np.uint8))
    assert forward.inputs[0].shape == (1, 9, 32, 32)
    assert len(np.unique(forward.inputs[0][0, :3])) == 1


# --- any model file ---


def test_checkpoint_is_opened_as_an_exported_model_is(checkpoint: Path) -> None:
    frames = np.full((4, 40, 40, 3), 90, np.uint8)
    with Recognizer.open(checkpoint) as recognize:
        assert {name for name, _ in recognize(frames)} == set(CLASSES)


def test_checkpoint_where_torch_is_not_installed_names_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognizer, "find_spec", lambda name: None)
    message = r"x\.pth: a checkpoint needs torch: pip install torch torchvision; or export it with tools/export\.py"
    with pytest.raises(DeployError, match=message), Recognizer.open("x.pth"):
        pass


@pytest.mark.parametrize("batch", ["batch", 1, 2, 4])
def test_exported_model_of_any_batch_answers_any_number_of_clips(tmp_path: Path, batch: int | str) -> None:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install .[deploy]")
    (tmp_path / "m.onnx").write_bytes(tiny_onnx.onnx_bytes(batch=batch))
    clips = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4, 3), np.uint8)
    logits = tiny_onnx.expected({"input_rgb": (clips.transpose(0, 4, 1, 2, 3) / 127.5 - 1).astype(np.float32)})
    with Recognizer.open(tmp_path / "m.onnx") as recognize:
        np.testing.assert_allclose(recognize.classify({"rgb": clips}), _softmax(logits), atol=1e-5)


# --- what is refused ---


@pytest.mark.parametrize(
    ("video", "got"),
    [
        (np.zeros((4, 40, 40, 3), np.float32), r"float32 \(4, 40, 40, 3\)"),
        (np.zeros((40, 40, 3), np.uint8), r"uint8 \(40, 40, 3\)"),
        (np.zeros((4, 3, 40, 40), np.uint8), r"uint8 \(4, 3, 40, 40\)"),
        (np.zeros((0, 40, 40, 3), np.uint8), r"uint8 \(0, 40, 40, 3\)"),
        ([[0]], "list"),
    ],
)
def test_recognizer_refuses_another_shape_or_type(video, got: str) -> None:
    with pytest.raises(ValueError, match=rf"rgb must be uint8 \(T >= 1, H, W, 3\), got {got}$"):
        Recognizer(Remembering(), CONTRACT)(video)


def test_recognizer_refuses_flow_of_three_channels() -> None:
    rgb = np.zeros((4, 40, 40, 3), np.uint8)
    with pytest.raises(ValueError, match=r"of must be uint8 \(T >= 1, H, W, 2\), got uint8 \(4, 40, 40, 3\)"):
        Recognizer(Remembering(), contract("joint"))(rgb, rgb)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_recognizer_of_a_joint_model_refuses_another_number_of_arrays(count: int) -> None:
    with pytest.raises(ValueError, match=rf"the model takes 2 arrays \(rgb, of\), got {count}"):
        Recognizer(Remembering(), contract("joint"))(*[np.zeros((4, 40, 40, 3), np.uint8)] * count)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content.pop("format"), "has weights but no training state of this program"),
        (lambda content: content.pop("contract"), "its description of the model can't be used: 'contract'"),
        (
            lambda content: content["contract"].update(height=0),
            "its description of the model can't be used: contract: height must be a whole number >= 1, got 0",
        ),
        (
            lambda content: content["spec"]["model"].update(backbone="vgg"),
            "its description of the model can't be used: model spec: backbone",
        ),
    ],
)
def test_recognizer_of_a_spoilt_checkpoint_names_the_file_and_the_fault(
    tmp_path: Path, checkpoint: Path, spoil: Callable[[dict], object], message: str
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    spoil(content)
    path = tmp_path / "spoilt.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"spoilt\.pth: {message}"):
        Recognizer.from_checkpoint(path)


def test_recognizer_of_a_missing_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth"):
        Recognizer.from_checkpoint(tmp_path / "absent.pth")


# --- a stream ---


class Echo:
    """A forward pass whose first logit is the mean of the newest frame's red plane, and that keeps its inputs."""

    def __init__(self) -> None:
        self.inputs: list[np.ndarray] = []

    def __call__(self, inputs: list[np.ndarray]) -> np.ndarray:
        self.inputs.append(inputs[0].copy())
        return np.array([[float(inputs[0][0, 2].mean()), 0.0, 0.0]], np.float32)


def consecutive() -> Contract:
    return contract("rgb", sample_strategy="consecutive")


def test_windows_of_as_many_frames_as_a_clip_are_one_and_equal_the_call(tmp_path: Path) -> None:
    _, frames = noise_video(tmp_path, 3)
    forward = Remembering()
    recognize = Recognizer(forward, consecutive())
    best = recognize(frames["rgb"])
    expected = forward.inputs[0].copy()
    (window,) = recognize.windows(frames["rgb"])
    np.testing.assert_allclose(forward.inputs[0], expected, atol=1e-6)
    assert window.probabilities.max() == pytest.approx(best[0][1])
    assert (window.first_frame, window.last_frame) == (0, 2)


@pytest.mark.parametrize(("stride", "last_frames"), [(1, [2, 3, 4, 5, 6, 7]), (2, [2, 4, 6]), (3, [2, 5])])
def test_windows_move_by_the_stride(stride: int, last_frames: list[int], tmp_path: Path) -> None:
    _, frames = noise_video(tmp_path, 8)
    recognize = Recognizer(Remembering(), consecutive())
    assert [w.last_frame for w in recognize.windows(frames["rgb"], stride)] == last_frames


def test_windows_in_batches_are_those_one_by_one(tmp_path: Path) -> None:
    _, frames = noise_video(tmp_path, 8)

    def red(inputs: list[np.ndarray]) -> np.ndarray:
        sizes.append(len(inputs[0]))
        return np.stack([[x[2].mean(), x[0].mean(), 0.0] for x in inputs[0]]).astype(np.float32)

    sizes: list[int] = []
    recognize = Recognizer(red, consecutive())
    one_by_one = [w.probabilities for w in recognize.windows(frames["rgb"])]
    sizes.clear()
    batched = [w.probabilities for w in recognize.windows(frames["rgb"], batch_size=4)]
    assert sizes == [4, 2]
    np.testing.assert_allclose(batched, one_by_one, atol=1e-6)


def test_windows_of_a_source_shorter_than_a_clip_are_one_looped(tmp_path: Path) -> None:
    _, frames = noise_video(tmp_path, 2)
    forward = Remembering()
    recognize = Recognizer(forward, consecutive())
    recognize(frames["rgb"])
    expected = forward.inputs[0].copy()
    assert len(list(recognize.windows(frames["rgb"]))) == 1
    np.testing.assert_allclose(forward.inputs[0], expected, atol=1e-6)


def test_recognizer_of_a_softmax_model_does_not_normalise_twice() -> None:
    recognize = Recognizer(lambda inputs: np.array([[0.2, 0.7, 0.1]], np.float32), consecutive(), is_softmax=True)
    assert recognize(np.zeros((3, 40, 40, 3), np.uint8))[0] == ("sits", pytest.approx(0.7))


def test_stream_tells_events_with_times_and_labels() -> None:
    dark, bright = np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), 255, np.uint8)
    recognize = Recognizer(Echo(), consecutive())
    events = list(recognize.stream([dark] * 5 + [bright] * 5, threshold=0.5, fps=1))
    assert [(e.label, e.start_sec, e.end_sec) for e in events] == [("walk", 4.0, 8.0)]
