"""What DeepStream would feed the model against what the evaluation feeds it, and by hand where they must differ."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from exported import IMAGENET, export, make_contract

from action_recognition.clip.contract import Contract, Stream
from action_recognition.clip.transform import fit_clip, scale_and_shift, to_input
from action_recognition.clip.video import Damage, read_video
from action_recognition.deploy.deepstream import write_deepstream
from action_recognition.deploy.deepstream_choices import Settings
from action_recognition.deploy.deepstream_files import Preprocess, Roi, read_preprocess
from action_recognition.deploy.emulate import clip_ids, deepstream_input
from action_recognition.errors import DeployError

PLAIN = Preprocess(
    is_3d=True,
    num_frames=1,
    height=2,
    width=2,
    roi=None,
    scaling_filter="bilinear",
    scales=(1.0, 1.0, 1.0),
    offsets=(0.0, 0.0, 0.0),
    stride=1,
    subsample=0,
)


def small(**fields: object) -> Contract:
    """A contract of 4 frames of 32x32, with ImageNet's mean and std."""
    fields = {"height": 32, "width": 32, "smaller_edge": 40, **fields}
    return make_contract(streams={"rgb": Stream(4, *IMAGENET)}, **fields)


def written(tmp_path: Path, contract: Contract, frame_size: tuple[int, int]) -> Preprocess:
    """What stands in the file of a folder for this contract."""
    model = export(tmp_path / "m.onnx", contract)
    write_deepstream(model, tmp_path / "made", Settings(frame_size=frame_size))
    return read_preprocess(tmp_path / "made" / "config_preprocess.txt")


def evaluation_input(frames: np.ndarray, contract: Contract) -> np.ndarray:
    scale, shift = (np.array(c, np.float32) for c in scale_and_shift(contract.streams["rgb"]))
    result: np.ndarray = to_input(fit_clip(frames, contract)[None], scale, shift, contract.is_3d)
    return result


def levels_apart(frames: np.ndarray, contract: Contract, preprocess: Preprocess) -> np.ndarray:
    """|DeepStream's input - the evaluation's| in levels of 0..255."""
    difference = np.abs(deepstream_input(frames, preprocess) - evaluation_input(frames, contract))
    channels = difference.reshape(1, 3, contract.lengths["rgb"], contract.height, contract.width)
    result: np.ndarray = channels * 255 * np.array(IMAGENET[1]).reshape(3, 1, 1, 1)
    return result


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, height, width, 3), dtype=np.uint8)


def gradient(width: int, height: int) -> np.ndarray:
    """Levels that rise along x and y, another way for each frame and channel."""
    y, x = np.mgrid[:height, :width]
    planes = [[(x * (c + 1) / width + y * (t + 1) / height) * 30 for c in range(3)] for t in range(4)]
    return np.array(planes).transpose(0, 2, 3, 1).astype(np.uint8)


# --- against the evaluation ---


@pytest.mark.parametrize("input_type", ["2d", "3d"])
def test_frames_of_the_models_size_give_the_evaluations_input(tmp_path: Path, input_type: str) -> None:
    contract = small(input_type=input_type)
    ours = deepstream_input(noise(32, 32), written(tmp_path, contract, (32, 32)))
    theirs = evaluation_input(noise(32, 32), contract)
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape == ((1, 12, 32, 32) if input_type == "2d" else (1, 3, 4, 32, 32))
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_centre_crop_without_a_resize_gives_the_evaluations_input(tmp_path: Path) -> None:
    contract = small(center_crop=True)
    preprocess = written(tmp_path, contract, (56, 40))
    assert preprocess.roi == Roi(12, 4, 32, 32)
    np.testing.assert_allclose(
        deepstream_input(noise(56, 40), preprocess), evaluation_input(noise(56, 40), contract), atol=2e-6
    )


def test_frames_that_grow_are_one_level_off_at_most(tmp_path: Path) -> None:
    contract = small()
    assert levels_apart(noise(20, 12), contract, written(tmp_path, contract, (20, 12))).max() <= 1.001


def test_smooth_frames_that_shrink_are_one_level_off_at_most(tmp_path: Path) -> None:
    contract = small()
    assert levels_apart(gradient(320, 180), contract, written(tmp_path, contract, (320, 180))).max() <= 1.001


def test_fine_texture_that_shrinks_is_far_off_for_want_of_antialiasing(tmp_path: Path) -> None:
    contract = small()
    assert levels_apart(noise(320, 180), contract, written(tmp_path, contract, (320, 180))).mean() > 20


def test_real_video_is_a_few_levels_off_and_fewer_than_with_the_nearest_pixel(tmp_path: Path, data_root: Path) -> None:
    """A web camera's 320x240 to 112x112."""
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    clip = data_root / "data" / "clips" / "v_SoccerJuggling_g23_c01.avi"
    frames = np.stack(list(islice(read_video(clip, Damage()), 4)))
    contract = small(height=112, width=112)
    preprocess = written(tmp_path, contract, (frames.shape[2], frames.shape[1]))
    bilinear = levels_apart(frames, contract, preprocess).mean()
    nearest = levels_apart(frames, contract, replace(preprocess, scaling_filter="nearest")).mean()
    assert bilinear < 2 < nearest


# --- by hand ---


def test_pixels_are_moved_and_scaled_channel_by_channel() -> None:
    frames = np.array([[[[10, 20, 30]] * 2] * 2], np.uint8)
    preprocess = replace(PLAIN, scales=(0.5, 1.0, 2.0), offsets=(10.0, 10.0, 10.0))
    assert deepstream_input(frames, preprocess)[0, :, 0, 0, 0].tolist() == [0, 10, 40]


def test_2d_input_is_channel_by_channel_then_frame_by_frame() -> None:
    frames = np.array([[[[1, 2, 3]] * 2] * 2, [[[4, 5, 6]] * 2] * 2], np.uint8)  # 2 frames of one colour
    preprocess = replace(PLAIN, is_3d=False, num_frames=2, height=1, width=1)
    assert deepstream_input(frames, preprocess).ravel().tolist() == [1, 4, 2, 5, 3, 6]


@pytest.mark.parametrize(
    ("scaling_filter", "line"),
    [
        ("nearest", [11, 31]),  # the pixels at 1 and 3
        ("bilinear", [6, 26]),  # halfway between 0 and 11, between 20 and 31: rounded
    ],
)
def test_line_of_four_pixels_halved(scaling_filter: str, line: list[int]) -> None:
    frames = np.repeat(np.array([0, 11, 20, 31], np.uint8)[None, None, :, None], 3, axis=3)  # 1 1 4 3
    preprocess = replace(PLAIN, height=1, scaling_filter=scaling_filter)
    assert deepstream_input(frames.repeat(2, axis=1), preprocess)[0, 0, 0, 0].tolist() == line


def test_roi_is_cut_out_and_odd_numbers_rounded_as_nvdspreprocess_does() -> None:
    frames = np.arange(8 * 8, dtype=np.uint8).reshape(1, 8, 8, 1).repeat(3, axis=3)  # level 8 * y + x
    assert deepstream_input(frames, replace(PLAIN, roi=Roi(2, 4, 2, 2)))[0, 0, 0].tolist() == [[34, 35], [42, 43]]
    assert deepstream_input(frames, replace(PLAIN, roi=Roi(1, 3, 3, 3)))[0, 0, 0].tolist() == [[34, 35], [42, 43]]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((1, 8, 8, 3), np.float32), r"must be uint8 \(1, H, W, 3\), got float32 \(1, 8, 8, 3\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"must be uint8 \(1, H, W, 3\), got uint8 \(2, 8, 8, 3\)"),
        (np.zeros((1, 8, 8, 2), np.uint8), r"got uint8 \(1, 8, 8, 2\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"ROI \(2, 2, 4, 4\) is not inside the 4x4 frame"),
    ],
)
def test_frames_that_are_no_clip_for_the_model_are_refused(frames: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deepstream_input(frames, replace(PLAIN, roi=Roi(2, 2, 4, 4)))


# --- which frames make a clip ---


@pytest.mark.parametrize(
    ("stride", "subsample", "clips"),
    [  # the examples of the sample's README, frames counted from 0
        (1, 0, [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5, 6]]),
        (2, 0, [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [4, 5, 6, 7, 8]]),
        (2, 1, [[0, 2, 4, 6, 8], [4, 6, 8, 10, 12], [8, 10, 12, 14, 16]]),
        (7, 0, [[0, 1, 2, 3, 4], [7, 8, 9, 10, 11], [14, 15, 16, 17, 18]]),
    ],
)
def test_clips_of_a_stream(stride: int, subsample: int, clips: list[list[int]]) -> None:
    preprocess = replace(PLAIN, num_frames=5, stride=stride, subsample=subsample)
    assert clip_ids(clips[-1][-1] + 1, preprocess)[-3:].tolist() == clips
    assert len(clip_ids(clips[0][-1], preprocess)) == 0


# --- reading the file ---

STOCK = """\
# a comment
[property]
    # indented comments are comments, too
network-input-shape= 4;192;224;224
# of a key that stands twice the last counts
network-input-shape= 4;96;224;224
scaling-filter=0
[user-configs]
channel-scale-factors=0.007843137
channel-mean-offsets=127.5;126.5
stride=1
subsample=2
[group-0]
src-ids=0;1
process-on-roi=1
roi-params-src-0=0;0;1280;720
roi-params-src-1=0;0;640;720;640;0;640;720
"""


def test_file_in_the_samples_style_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(STOCK)
    assert read_preprocess(tmp_path / "c.txt", source=1, roi=1) == Preprocess(
        is_3d=False,
        num_frames=32,
        height=224,
        width=224,
        roi=Roi(640, 0, 640, 720),
        scaling_filter="nearest",
        scales=(0.007843137, 0.007843137, 0.007843137),
        offsets=(127.5, 126.5, 126.5),
        stride=1,
        subsample=2,
    )


def test_whole_frames_have_no_roi(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(STOCK.replace("process-on-roi=1", "process-on-roi=0"))
    assert read_preprocess(tmp_path / "c.txt").roi is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stride=1\n", "", r"c\.txt: lacks stride"),
        ("scaling-filter=0", "scaling-filter=5", r"c\.txt: scaling-filter must be one of .*nearest.*, got 5"),
        ("=127.5;126.5", "=grey", r"c\.txt: channel-mean-offsets must be numbers divided by ;, got 'grey'"),
        ("src-0=", "src-7=", r"c\.txt: has no ROI 0 of source 0"),
        ("[property]", "property", r"c\.txt: can't be read as a key file"),
    ],
)
def test_file_that_can_not_be_followed_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "c.txt").write_text(STOCK.replace(old, new))
    with pytest.raises(DeployError, match=message):
        read_preprocess(tmp_path / "c.txt")
