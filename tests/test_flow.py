"""Optical flow: the sign and size of known motion, and files of other programs."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from made_video import moved, texture

from action_recognition.clip.flow_encoding import encode_clip20
from action_recognition.errors import DataError, UserError
from action_recognition.preprocess import flow
from action_recognition.preprocess.flow import DisFlow, FloFiles, RaftFlow, chosen_method, flow_method, read_flo

MARGIN = 16


@pytest.fixture
def cv2() -> object:
    return pytest.importorskip("cv2", reason="needs OpenCV: pip install .[flow]")


def pair(x: float, y: float, height: int = 240, width: int = 320) -> tuple[np.ndarray, np.ndarray]:
    """Two frames; the content of the second lies x pixels to the right of the first's and y below it."""
    picture = texture(height + 2 * MARGIN, width + 2 * MARGIN)
    return moved(picture, 0, 0, MARGIN), moved(picture, x, y, MARGIN)


def flow_of(method: object, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    method.start()  # type: ignore[attr-defined]
    assert method.add(first) is None  # type: ignore[attr-defined]
    flow = method.add(second)  # type: ignore[attr-defined]
    assert flow.shape == (*first.shape[:2], 2)
    assert flow.dtype == np.float32
    return flow


def endpoint_error(flow: np.ndarray, x: float, y: float, border: int = 8) -> float:
    """The mean length of the difference to (x, y), in pixels, away from the border."""
    inside = flow[border:-border, border:-border] - np.array([x, y], np.float32)
    return float(np.sqrt(np.square(inside).sum(axis=-1)).mean())


@pytest.mark.parametrize(("preset", "limit"), [("slow", 0.3), ("fast", 0.5)])
def test_dis_flow_of_a_known_shift_is_that_shift(cv2: object, preset: str, limit: float) -> None:
    vectors = flow_of(DisFlow(preset), *pair(2.3, -1.7))
    assert endpoint_error(vectors, 2.3, -1.7) < limit


def test_dis_flow_is_positive_to_the_right_and_downwards(cv2: object) -> None:
    flow = flow_of(DisFlow("slow"), *pair(3, 2))
    assert np.median(flow[..., 0]) == pytest.approx(3, abs=0.2)
    assert np.median(flow[..., 1]) == pytest.approx(2, abs=0.2)


def test_dis_flow_of_the_mirrored_video_is_the_mirrored_flow_with_u_negated(cv2: object) -> None:
    first, second = pair(2.3, -1.7)
    u, v = encode_clip20(flow_of(DisFlow("slow"), first, second))
    mirrored_u, mirrored_v = encode_clip20(
        flow_of(DisFlow("slow"), *(np.ascontiguousarray(f[:, ::-1]) for f in (first, second)))
    )
    inside = (slice(8, -8), slice(8, -8))
    assert np.abs(mirrored_u[inside].astype(int) - (255 - u[:, ::-1][inside].astype(int))).mean() < 1
    assert np.abs(mirrored_v[inside].astype(int) - v[:, ::-1][inside].astype(int)).mean() < 1


def test_dis_flow_started_again_pairs_nothing_with_the_last_video(cv2: object) -> None:
    method = DisFlow("fast")
    first, second = pair(2, 0)
    method.add(first)
    method.start()
    assert method.add(second) is None


def test_dis_flow_of_a_tiny_frame_is_refused(cv2: object) -> None:
    with pytest.raises(DataError, match="at least 12x12 pixels, got 20x8"):
        DisFlow("fast").add(np.zeros((8, 20, 3), np.uint8))


# --- RAFT, with random weights: published ones are not at hand ---


@pytest.fixture(scope="module")
def raft_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    from torchvision.models.optical_flow import raft_small

    path = tmp_path_factory.mktemp("raft") / "raft_small.pth"
    torch.save(raft_small(weights=None).state_dict(), path)
    return str(path)


def test_raft_flow_has_the_frame_s_size_whatever_it_pads(raft_weights: str) -> None:
    method = flow_method("raft", "fast", raft_weights)
    assert isinstance(method, RaftFlow)
    first, second = pair(2, 0, height=36, width=130)
    assert flow_of(method, first, second).shape == (36, 130, 2)


def test_raft_flow_with_weights_of_another_model_says_so(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: no weights of torchvision's raft_large \("):
        RaftFlow("slow", str(tmp_path / "x.pth"))


# --- files of other programs ---


def write_flo(path: Path, flow: np.ndarray) -> Path:
    height, width = flow.shape[:2]
    path.write_bytes(b"PIEH" + struct.pack("<ii", width, height) + flow.astype("<f4").tobytes())
    return path


def test_read_flo_gives_what_opencv_writes(cv2: object, tmp_path: Path) -> None:
    flow = np.random.default_rng(0).standard_normal((5, 7, 2)).astype(np.float32)
    cv2.writeOpticalFlow(str(tmp_path / "x.flo"), flow)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read_flo(tmp_path / "x.flo"), flow)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no .flo file"),
        (b"PIEH" + struct.pack("<ii", 2, 2) + bytes(31), "a flow of 2x2 takes 44 bytes, got 43"),
        (b"PIEH" + struct.pack("<ii", -1, 2), "a flow of -1x2 takes"),
        (b"PIEH" + struct.pack("<iiff", 1, 1, float("nan"), 0), "holds values that are not finite"),
    ],
)
def test_read_flo_of_a_damaged_file_says_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.flo").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_flo(tmp_path / "x.flo")


def test_flo_files_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (9, 10, 11):
        write_flo(tmp_path / f"flow_{number}_middlebury.flo", np.full((2, 2, 2), number))
    files, frame = FloFiles(tmp_path), np.zeros((2, 2, 3), np.uint8)
    files.start()
    given = [files.add(frame) for _ in range(4)]
    files.finish()
    assert [None if flow is None else float(flow[0, 0, 0]) for flow in given] == [None, 9, 10, 11]


def test_flo_files_too_many_or_too_few_are_refused(tmp_path: Path) -> None:
    write_flo(tmp_path / "0.flo", np.zeros((2, 2, 2)))
    files, frame = FloFiles(tmp_path), np.zeros((2, 2, 3), np.uint8)
    files.start()
    files.add(frame)
    with pytest.raises(DataError, match=r"1 \.flo files for 1 frames; N frames need N-1"):
        files.finish()
    files.add(frame)
    with pytest.raises(DataError, match=r"1 \.flo files, too few: N frames need N-1"):
        files.add(frame)


# --- which method ---


def test_auto_without_the_hardware_takes_dis_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "nvof_problem", lambda: "no NVIDIA driver")
    assert chosen_method("auto") == ("dis", "flow: by DIS on the CPU (no NVIDIA driver)")


def test_auto_with_the_hardware_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "nvof_problem", lambda: "")
    assert chosen_method("auto") == ("nvof", "flow: by the NVIDIA Optical Flow hardware")


def test_nvof_without_the_hardware_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "nvof_problem", lambda: "no NVIDIA driver")
    with pytest.raises(UserError, match="--flow nvof: no NVIDIA driver; --flow dis needs no GPU"):
        chosen_method("nvof")
