"""Frame ids: the reference's, exactly, and what its random ones may be."""

import json
from pathlib import Path

import numpy as np
import pytest

from action_recognition.clip import sampling

GOLDEN = json.loads((Path(__file__).parent / "golden/samplers.json").read_text())


def ids_of(windows: np.ndarray) -> list[list[int]]:
    assert windows.dtype == np.int64
    return windows.tolist()


# --- the reference's ids ---


def test_consecutive_ids_of_the_centre_are_the_reference_s() -> None:
    ours = [
        [n, t, rate, ids_of(sampling.consecutive_ids(n, t, rate))] for n, t, rate, _ in GOLDEN["center_consecutive"]
    ]
    assert len(ours) == 117
    assert ours == GOLDEN["center_consecutive"]


def test_interval_ids_of_the_centre_are_the_reference_s() -> None:
    ours = [[n, t, ids_of(sampling.interval_ids(n, t))] for n, t, _ in GOLDEN["center_interval"]]
    assert len(ours) == 43
    assert ours == GOLDEN["center_interval"]


def test_segment_ids_are_the_reference_s() -> None:
    ours = [[n, t, r, s, ids_of(sampling.segment_ids(n, t, r, s))] for n, t, r, s, _ in GOLDEN["conv"]]
    assert len(ours) == 63
    assert ours == GOLDEN["conv"]


@pytest.mark.parametrize(
    ("strategy", "golden"),
    [("consecutive", "joint_center_consecutive"), ("random_interval", "joint_center_interval")],
)
def test_window_ids_of_joint_centre_clips_are_the_reference_s(strategy: str, golden: str) -> None:
    ours = []
    for n, rgb, of, *_ in GOLDEN[golden]:
        ids = sampling.window_ids(n, {"rgb": rgb, "of": of}, strategy=strategy)
        assert ids["rgb"].shape == (1, rgb)
        ours.append([n, rgb, of, *ids_of(np.array(ids["rgb"][0])[None]), *ids_of(ids["of"])])
    assert len(ours) == 117
    assert ours == GOLDEN[golden]


def test_window_ids_of_the_centre_of_128_frames_are_48_to_79() -> None:
    ids = sampling.window_ids(128, {"rgb": 32}, strategy="consecutive")
    assert ids_of(ids["rgb"]) == [list(range(48, 80))]


# --- windows of a whole video ---


@pytest.mark.parametrize(
    ("num_frames", "clip_len", "rate", "expected"),
    [
        (6, 3, 1, [[0, 1, 2], [3, 4, 5]]),
        (8, 3, 1, [[0, 1, 2], [3, 4, 5]]),  # the rest, 6 and 7, is dropped
        (12, 3, 2, [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]),
        (11, 3, 2, [[0, 2, 4], [1, 3, 5]]),
        (6, 3, 2, [[0, 2, 4], [1, 3, 5]]),
        (5, 3, 2, [[0, 2, 4]]),  # shorter than a block
        (4, 3, 2, [[0, 2, 0]]),
        (1, 3, 2, [[0, 0, 0]]),
    ],
)
def test_block_ids_take_whole_blocks_in_all_phases(num_frames, clip_len, rate, expected) -> None:
    assert ids_of(sampling.block_ids(num_frames, clip_len, rate)) == expected


@pytest.mark.parametrize(
    ("num_frames", "clip_len", "expected"),
    [
        (6, 3, [[0, 2, 4], [1, 3, 5]]),
        (8, 3, [[0, 2, 4], [1, 3, 5]]),
        (3, 3, [[0, 1, 2]]),
        (2, 4, [[0, 1, 1, 1]]),
        (1, 3, [[0, 0, 0]]),
    ],
)
def test_comb_ids_take_every_nth_frame(num_frames, clip_len, expected) -> None:
    assert ids_of(sampling.comb_ids(num_frames, clip_len)) == expected


@pytest.mark.parametrize(
    ("strategy", "mode", "whole_clip", "expected"),
    [
        ("consecutive", "center", False, [[2, 4, 6]]),
        ("random_interval", "center", False, [[1, 5, 8]]),
        ("consecutive", "conv", False, [[1, 3, 5], [3, 5, 7]]),
        ("random_interval", "conv", False, [[0, 3, 6], [1, 4, 7], [2, 5, 8]]),  # num_segments and rate are ignored
        ("consecutive", "all", False, [[0, 2, 4], [1, 3, 5]]),
        ("random_interval", "all", False, [[0, 3, 6], [1, 4, 7], [2, 5, 8]]),
        ("consecutive", "all", True, [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]),
        ("random_interval", "all", True, [[1, 5, 8]]),
    ],
)
def test_window_ids_of_10_frames_in_every_mode(strategy, mode, whole_clip, expected) -> None:
    ids = sampling.window_ids(
        10, {"rgb": 3}, strategy=strategy, rate=2, mode=mode, num_segments=2, whole_clip=whole_clip
    )
    assert ids_of(ids["rgb"]) == expected


def test_window_ids_of_joint_conv_take_the_shorter_stream_at_even_places_of_the_longer() -> None:
    ids = sampling.window_ids(20, {"rgb": 3, "of": 10}, strategy="consecutive", rate=1, mode="conv", num_segments=2)
    # 11 starts in 2 parts of 5.5: 2 and 8; 3 places in 10, 3.33 apart: 1, 5, 8
    assert ids_of(ids["of"]) == [list(range(2, 12)), list(range(8, 18))]
    assert ids_of(ids["rgb"]) == [[3, 7, 10], [9, 13, 16]]


def test_window_ids_of_joint_all_in_3d_take_the_shorter_stream_from_the_whole_video() -> None:
    ids = sampling.window_ids(12, {"rgb": 3, "of": 10}, strategy="consecutive", mode="all", whole_clip=True)
    assert ids_of(ids["of"]) == [list(range(12))]
    assert ids_of(ids["rgb"]) == [[2, 6, 10]]


@pytest.mark.parametrize("mode", ["center", "conv", "all"])
@pytest.mark.parametrize("rate", [1, 2, 3])
def test_window_ids_of_equal_joint_lengths_both_obey_sample_rate(mode: str, rate: int) -> None:
    joint = sampling.window_ids(40, {"rgb": 4, "of": 4}, strategy="consecutive", rate=rate, mode=mode, num_segments=3)
    alone = sampling.window_ids(40, {"rgb": 4}, strategy="consecutive", rate=rate, mode=mode, num_segments=3)
    assert (np.diff(joint["rgb"]) == rate).all()
    assert ids_of(joint["rgb"]) == ids_of(joint["of"]) == ids_of(alone["rgb"])


def test_window_ids_of_unequal_joint_lengths_apply_sample_rate_once() -> None:
    ids = sampling.window_ids(100, {"rgb": 3, "of": 9}, strategy="consecutive", rate=4)
    assert ids_of(ids["of"]) == [[32, 36, 40, 44, 48, 52, 56, 60, 64]]
    assert ids_of(ids["rgb"]) == [[44, 48, 52]]  # the middle 3 of the 9: 4 apart, not 16


# --- random clips ---


@pytest.mark.parametrize(("num_frames", "clip_len", "rate"), [(10, 4, 1), (10, 4, 2), (11, 3, 3), (5, 5, 1)])
def test_consecutive_ids_with_rng_start_evenly_from_the_first_to_the_last_possible_frame(
    num_frames: int, clip_len: int, rate: int
) -> None:
    rng, draws = np.random.default_rng(0), 4000
    clips = np.array([sampling.consecutive_ids(num_frames, clip_len, rate, rng) for _ in range(draws)])
    assert (np.diff(clips) == rate).all()  # none has gone over the end to frame 0
    starts, counts = np.unique(clips[:, 0], return_counts=True)
    num_starts = num_frames - clip_len * rate + 1
    assert starts.tolist() == list(range(num_starts))
    assert np.abs(counts - draws / num_starts).max() < 5 * (draws / num_starts) ** 0.5


@pytest.mark.parametrize(
    ("num_frames", "clip_len", "rate", "expected"),
    [(3, 5, 1, [0, 1, 2, 0, 1]), (7, 4, 2, [0, 2, 4, 6]), (5, 4, 2, [0, 2, 4, 1]), (1, 2, 1, [0, 0])],
)
def test_consecutive_ids_with_rng_loop_a_short_video_from_its_first_frame(num_frames, clip_len, rate, expected) -> None:
    for seed in range(5):
        assert ids_of(sampling.consecutive_ids(num_frames, clip_len, rate, np.random.default_rng(seed))) == expected


def test_interval_ids_with_rng_draw_one_frame_a_part_and_never_the_rest() -> None:
    rng = np.random.default_rng(0)
    clips = np.array([sampling.interval_ids(11, 3, rng) for _ in range(300)])  # parts of 3 frames; 9 and 10 are left
    assert [sorted(set(column)) for column in clips.T.tolist()] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_interval_ids_with_rng_of_a_short_video_are_sorted_and_repeat() -> None:
    rng = np.random.default_rng(0)
    clips = np.array([sampling.interval_ids(3, 5, rng) for _ in range(300)])
    assert (np.diff(clips) >= 0).all()
    assert set(clips.ravel().tolist()) == {0, 1, 2}
    assert clips[:, 0].max() == 2  # not the frames in turn, but a sorted random draw


def test_training_ids_of_consecutive_joint_clips_share_their_middle() -> None:
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(200):
        ids = sampling.training_ids(40, {"rgb": 3, "of": 10}, "consecutive", 2, rng)
        assert (np.diff(ids["of"]) == 2).all()
        assert ids["rgb"].tolist() == ids["of"][4:7].tolist()  # 8 starts in 10 - 3 + 1: the middle one is 4
        starts.add(int(ids["of"][0]))
    assert starts == set(range(21))


@pytest.mark.parametrize("strategy", ["consecutive", "random_interval"])
def test_training_ids_of_equal_joint_lengths_are_the_same_frames(strategy: str) -> None:
    ids = sampling.training_ids(40, {"rgb": 4, "of": 4}, strategy, 3, np.random.default_rng(1))
    assert ids["rgb"].tolist() == ids["of"].tolist()
    assert strategy == "random_interval" or np.diff(ids["of"]).tolist() == [3, 3, 3]


def test_training_ids_of_random_interval_joint_clips_take_one_random_position_in_each_part() -> None:
    rng = np.random.default_rng(0)
    positions = []
    for _ in range(400):
        ids = sampling.training_ids(80, {"rgb": 8, "of": 3}, "random_interval", 1, rng)
        positions.append(np.searchsorted(ids["rgb"], ids["of"]).tolist())
        assert np.isin(ids["of"], ids["rgb"]).all()
    # 8 // 3 = 2 positions a part, the last part up to the end
    assert [sorted(set(column)) for column in zip(*positions, strict=True)] == [[0, 1], [2, 3], [4, 5, 6, 7]]


def test_training_ids_of_one_seed_are_the_same_and_of_another_not() -> None:
    def draw(seed: int) -> list[int]:
        return sampling.training_ids(1000, {"rgb": 8}, "random_interval", 1, np.random.default_rng(seed))[
            "rgb"
        ].tolist()

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 7, 31, 64, 65])
@pytest.mark.parametrize("strategy", ["consecutive", "random_interval"])
def test_every_sampler_stays_inside_the_video(num_frames: int, strategy: str) -> None:
    rng = np.random.default_rng(0)
    for lengths in ({"rgb": 1}, {"rgb": 32}, {"rgb": 3, "of": 10}, {"rgb": 16, "of": 5}):
        clips = [sampling.training_ids(num_frames, lengths, strategy, 2, rng) for _ in range(20)]
        for mode in ("center", "conv", "all"):
            for whole in (False, True):
                clips.append(
                    sampling.window_ids(num_frames, lengths, strategy=strategy, rate=2, mode=mode, whole_clip=whole)
                )
        for ids in clips:
            assert list(ids) == list(lengths)
            for of_stream in ids.values():
                assert of_stream.min() >= 0
                assert of_stream.max() < num_frames


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sampling.consecutive_ids(0, 3), "num_frames must be >= 1, got 0"),
        (lambda: sampling.consecutive_ids(3, 0), "clip_len must be >= 1, got 0"),
        (lambda: sampling.consecutive_ids(3, 3, -1), "rate must be >= 1, got -1"),
        (lambda: sampling.interval_ids(0, 3), "num_frames must be >= 1, got 0"),
        (lambda: sampling.segment_ids(9, 3, 1, 0), "num_segments must be >= 1, got 0"),
        (lambda: sampling.block_ids(9, 3, 0), "rate must be >= 1, got 0"),
        (lambda: sampling.comb_ids(9, 0), "clip_len must be >= 1, got 0"),
    ],
)
def test_counts_below_one_are_refused_by_name(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
