"""Windows over a stream: the same input as the whole clip would give, without copies."""

import numpy as np
import pytest

from action_recognition.clip.contract import Contract, Stream
from action_recognition.clip.transform import fit_clip, scale_and_shift, to_input
from action_recognition.deploy.window import PlaneRing, SlidingWindow

CHANNELS = {"rgb": 3, "of": 2}


def contract_of(
    model_type: str = "rgb",
    input_type: str = "3d",
    lengths: dict[str, int] | None = None,
    rate: int = 1,
    **more: object,
) -> Contract:
    lengths = lengths or {"rgb": 4}
    streams = {m: Stream(n, (0.4, 0.5, 0.6)[: CHANNELS[m]], (0.2, 0.3, 0.4)[: CHANNELS[m]]) for m, n in lengths.items()}
    fields = {"center_crop": False, "smaller_edge": 12, "height": 6, "width": 8} | more
    fields = {"sample_strategy": "consecutive"} | fields
    return Contract(model_type, input_type, streams, sample_rate=rate,
                    flow_encoding="max_rad", class_names=("a", "b"), **fields)  # type: ignore[arg-type] # fmt: skip


def video(num_frames: int, modality: str = "rgb", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 15, 20, CHANNELS[modality]), np.uint8)


def whole_clip(frames: np.ndarray, contract: Contract, modality: str) -> np.ndarray:
    """The input that evaluation makes of a clip."""
    scale, shift = (np.array(c, np.float32) for c in scale_and_shift(contract.streams[modality]))
    return to_input(fit_clip(frames, contract)[None], scale, shift, contract.is_3d)


@pytest.mark.parametrize(("num_channels", "num_frames"), [(3, 4), (2, 5), (1, 3), (3, 1)])
def test_ring_after_any_number_of_frames_holds_the_latest_channel_by_channel(
    num_channels: int, num_frames: int
) -> None:
    ring = PlaneRing(num_channels, num_frames, 1, 1)
    for n in range(5 * num_frames):
        ring.push(np.array([100 * c + n for c in range(num_channels)], np.float32).reshape(-1, 1, 1))
        expected = [100 * c + max(0, n - num_frames + 1 + t) for c in range(num_channels) for t in range(num_frames)]
        if n >= num_frames - 1:
            assert ring.block.ravel().tolist() == expected


def test_ring_gives_one_contiguous_view_of_its_memory() -> None:
    ring = PlaneRing(3, 4, 2, 2)
    for n in range(9):
        ring.push(np.full((3, 2, 2), n, np.float32))
        assert ring.block.flags["C_CONTIGUOUS"]
        assert ring.block.base is not None


@pytest.mark.parametrize("input_type", ["2d", "3d"])
@pytest.mark.parametrize("center_crop", [False, True])
@pytest.mark.parametrize("rate", [1, 2, 3])
def test_window_at_every_frame_equals_the_input_of_evaluation(input_type: str, center_crop: bool, rate: int) -> None:
    contract, frames = contract_of(input_type=input_type, center_crop=center_crop, rate=rate), video(20)
    window = SlidingWindow(contract)
    assert window.num_frames == 3 * rate + 1
    for n, frame in enumerate(frames):
        window.push({"rgb": frame})
        assert window.is_full == (n >= 3 * rate)
        if window.is_full:
            clip = frames[n - 3 * rate : n + 1 : rate]
            np.testing.assert_allclose(window.inputs()[0], whole_clip(clip, contract, "rgb"), atol=1e-6)


def test_window_of_both_streams_ends_at_the_same_frame() -> None:
    contract = contract_of("joint", lengths={"rgb": 2, "of": 5})
    rgb, of, window = video(9), video(9, "of"), SlidingWindow(contract)
    for n in range(9):
        window.push({"rgb": rgb[n], "of": of[n]})
    expected = [whole_clip(rgb[7:], contract, "rgb"), whole_clip(of[4:], contract, "of")]
    for got, wanted in zip(window.inputs(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_window_of_a_model_of_whole_videos_takes_the_rate_asked_for() -> None:
    contract, frames = contract_of(sample_strategy="random_interval"), video(10)
    window = SlidingWindow(contract, rate=3)
    assert window.num_frames == 10
    for frame in frames:
        window.push({"rgb": frame})
    np.testing.assert_allclose(window.inputs()[0], whole_clip(frames[::3], contract, "rgb"), atol=1e-6)


def test_window_of_a_model_of_consecutive_frames_has_its_rate_and_no_other() -> None:
    with pytest.raises(ValueError, match="rate: must be 2, the model's, got 3"):
        SlidingWindow(contract_of(rate=2), rate=3)
    with pytest.raises(ValueError, match="rate: must be at least 1, got 0"):
        SlidingWindow(contract_of(sample_strategy="random_interval"), rate=0)
