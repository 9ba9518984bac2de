"""The evaluation transform against the reference's values, and the layouts that models are given."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from action_recognition.clip.contract import Contract, Stream
from action_recognition.clip.transform import (
    box_in_frame,
    evaluation_box,
    fit_clip,
    fit_frame,
    scale_and_shift,
    short_side_to,
    to_input,
    view_boxes,
)

GOLDEN = json.loads((Path(__file__).parent / "golden/transforms.json").read_text())
HALF = Stream(4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def contract(height: int = 224, width: int = 224, center_crop: bool = False, smaller_edge: int = 256) -> Contract:
    streams = {"rgb": HALF}
    return Contract(
        "rgb", "3d", streams, height, width, center_crop, smaller_edge, "consecutive", 1, "max_rad", ("a", "b")
    )


def golden_frame(frame_id: int, size: tuple[int, int]) -> np.ndarray:
    """The frame that the golden values were computed from (tests/golden: transforms.json)."""
    width, height = size
    small = np.random.default_rng(frame_id).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


def reference_like(frames: np.ndarray, of: Contract) -> np.ndarray:
    """(3, T, H, W) float32 of `frames`."""
    scale, shift = (np.array(c, np.float32) for c in scale_and_shift(of.streams["rgb"]))
    return to_input(fit_clip(frames, of)[None], scale, shift, is_3d=True)[0]


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_fit_clip_and_to_input_are_the_reference_s_to_one_grey_level(name: str) -> None:
    size_text, how, _ = name.split("/")
    width, height = map(int, size_text.split("x"))
    frames = np.stack([golden_frame(i, (width, height)) for i in range(4)])
    ours = reference_like(frames, contract(center_crop=how == "center"))

    assert list(ours.shape) == GOLDEN[name]["shape"]
    assert ours.dtype == np.float32
    samples = ours[np.ix_((0, 1, 2), (0, 3), (0, 57, 111, 223), (0, 33, 112, 223))].ravel()
    assert np.abs(samples - GOLDEN[name]["samples"]).max() <= 1.01 * 2 / 255
    assert abs(ours.mean() - GOLDEN[name]["mean"]) < 1e-4
    assert abs(ours.std() - GOLDEN[name]["std"]) < 1e-4


@pytest.mark.parametrize(
    ("size", "edge", "expected"),
    [
        ((320, 240), 256, (341, 256)),
        ((240, 320), 256, (256, 341)),
        ((100, 100), 8, (8, 8)),
        ((1, 1), 8, (8, 8)),
        ((200, 120), 256, (426, 256)),  # 426.7
        ((120, 200), 256, (256, 426)),
    ],
)
def test_short_side_to_truncates_the_longer_side(size, edge, expected) -> None:
    assert short_side_to(size, edge) == expected


@pytest.mark.parametrize(
    ("size", "of", "expected"),
    [
        ((320, 240), contract(), (0, 0, 320, 240)),
        ((512, 512), contract(center_crop=True), (32, 32, 480, 480)),  # twice 16, twice 240
        ((1024, 512), contract(center_crop=True), (288, 32, 736, 480)),  # (512 - 224) / 2 = 144 across
        ((8, 8), contract(5, 4, True, 8), (2, 2, 6, 7)),  # round(1.5) is 2, as in torchvision
    ],
)
def test_evaluation_box_is_the_whole_frame_or_the_middle_at_the_frame_s_own_scale(size, of, expected) -> None:
    assert evaluation_box(size, of) == expected


def test_evaluation_box_of_odd_sizes_never_leaves_the_frame() -> None:
    of = contract(5, 7, center_crop=True, smaller_edge=9)
    for size in ((w, h) for w in range(1, 60, 3) for h in range(1, 60, 7)):
        image = Image.new("L", size)
        assert fit_frame(image, evaluation_box(size, of), (7, 5)).shape == (5, 7)


@pytest.mark.parametrize(
    ("size", "of", "expected"),
    [
        # 240 high at 224: 298 wide, so that the windows begin at 0, 37 and 74
        ((320, 240), contract(), [(0, 224), (37, 261), (74, 298)]),
        # the short side at 256, the crop in the middle of it
        ((512, 256), contract(center_crop=True), [(0, 224), (144, 368), (288, 512)]),
    ],
)
def test_three_views_go_from_one_end_of_the_longer_side_to_the_other(size, of, expected) -> None:
    scale = size[0] / short_side_to(size, 256 if of.center_crop else 224)[0]
    boxes = view_boxes(size, of, 3)
    assert [(round(left / scale), round(right / scale)) for left, _, right, _ in boxes] == expected
    tall = view_boxes(size[::-1], of, 3)
    assert [(top, left, bottom, right) for left, top, right, bottom in tall] == [pytest.approx(box) for box in boxes]


def test_one_view_is_the_evaluation_box() -> None:
    assert view_boxes((320, 240), contract(), 1) == [(0, 0, 320, 240)]


def test_box_in_frame_scales_each_side_by_itself() -> None:
    assert box_in_frame((100, 40), (50, 80), (10, 20, 30, 60)) == (20, 10, 60, 30)


def test_fit_clip_of_flow_resizes_u_and_v_apart() -> None:
    frames = np.empty((3, 16, 20, 2), np.uint8)
    frames[..., 0], frames[..., 1] = 10, 200
    fitted = fit_clip(frames, contract(8, 6))
    assert fitted.shape == (3, 8, 6, 2)
    assert fitted.dtype == np.uint8
    assert (fitted == (10, 200)).all()


def test_fit_frame_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (8, 32))  # 64 columns, black and white
    fitted = fit_frame(Image.fromarray(stripes), (0, 0, 64, 8), (8, 8))
    assert fitted[:, 2:6].min() > 110  # plain bilinear sampling would keep pure black or white
    assert fitted[:, 2:6].max() < 145


# --- layouts ---


def clips_that_say_where(num_channels: int = 3) -> np.ndarray:
    """uint8 (2, 4, 2, 3, C) with n * 100 + t * 20 + y * 6 + x * 2 and + c."""
    n, t, y, x, c = np.indices((2, 4, 2, 3, num_channels))
    return (n * 100 + t * 20 + y * 6 + x * 2 + c).astype(np.uint8)


def test_to_input_3d_is_n_c_t_h_w() -> None:
    clips = clips_that_say_where()
    x = to_input(clips, np.float32([1, 1, 1]), np.float32([0, 0, 0]), is_3d=True)
    assert x.shape == (2, 3, 4, 2, 3)
    assert x[1, 2, 3, 1, 0] == 100 + 3 * 20 + 6 + 0 + 2
    np.testing.assert_array_equal(x, np.einsum("ntyxc->nctyx", clips))


def test_to_input_2d_stacks_frames_of_one_channel_then_the_next() -> None:
    clips = clips_that_say_where(2)
    x = to_input(clips, np.float32([1, 1]), np.float32([0, 0]), is_3d=False)
    assert x.shape == (2, 8, 2, 3)
    assert x[0, :, 0, 0].tolist() == [0, 20, 40, 60, 1, 21, 41, 61]  # u0 u1 u2 u3 v0 v1 v2 v3


@pytest.mark.parametrize("is_3d", [False, True])
def test_to_input_of_tensors_equals_that_of_arrays(is_3d: bool) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 6, 3), np.uint8)
    constants = scale_and_shift(Stream(4, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    array = to_input(clips, *(np.array(c, np.float32) for c in constants), is_3d)
    tensor = to_input(torch.from_numpy(clips), *(torch.tensor(c, dtype=torch.float32) for c in constants), is_3d)
    assert array.dtype == np.float32
    assert tensor.dtype == torch.float32
    assert array.tobytes() == tensor.contiguous().numpy().tobytes()


def test_scale_and_shift_normalise_each_channel_by_its_own_mean_and_std() -> None:
    scale, shift = scale_and_shift(Stream(1, (0.0, 0.5), (1.0, 0.25)))
    assert [[p * a + b for p in (0, 255)] for a, b in zip(scale, shift, strict=True)] == [[0, 1], [-2, 2]]
