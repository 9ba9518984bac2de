"""Boxes of files, what is cut out for them, and a label for each track of its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from action_recognition.clip.contract import Contract, Stream
from action_recognition.deploy.recognizer import Recognizer
from action_recognition.deploy.sources import Frame
from action_recognition.deploy.tracks import Boxes, TrackRecognizer, crop_of, read_tracks
from action_recognition.errors import DataError, SpecError

NAMES = ("dark", "red", "green")
STREAMS = {"rgb": Stream(4, (0.0,) * 3, (1.0,) * 3)}
CONTRACT = Contract("rgb", "3d", STREAMS, 8, 8, False, 8, "random_interval", 1, "max_rad", NAMES)


class Colours:
    """A model that tells red from green pictures, by the mean of a whole clip; keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.clips: list[np.ndarray] = []

    def __call__(self, inputs: list[np.ndarray]) -> np.ndarray:
        self.batches.append(len(inputs[0]))
        self.clips.append(inputs[0])
        means = inputs[0].mean(axis=(2, 3, 4))  # (N, 3)
        return 10 * np.stack([np.full(len(means), 0.3, np.float32), means[:, 0], means[:, 1]], axis=1)


def follower(model: Colours | None = None, **settings) -> TrackRecognizer:
    return TrackRecognizer(Recognizer(model or Colours(), CONTRACT), **settings)


def two_people(number: int) -> Frame:
    """A picture of 64 x 32: red on the left half, green on the right."""
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, :32, 0] = image[:, 32:, 1] = 255
    return Frame(number / 10, number, {"rgb": image})


LEFT, RIGHT = (8.0, 8.0, 20.0, 24.0), (40.0, 8.0, 52.0, 24.0)


def follow(tracks: TrackRecognizer, boxes_of: list[Boxes]) -> list[tuple[int, int, str]]:
    """(frame, track, label) of all that is told."""
    told = []
    for number, boxes in enumerate(boxes_of):
        told += [(number, m.track, m.label) for m in tracks.push(two_people(number), boxes).labelled]
    return told


# --- files ---


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_tracks_of_motchallenge_count_frames_from_one_and_have_left_top_width_height(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "1,7,10,20,30,40,0.9,-1,-1,-1\n1,8,0.5,1,2,3\n\n3, 7, 11, 20, 30, 40, 1\n")
    assert read_tracks(path) == {0: {7: (10, 20, 40, 60), 8: (0.5, 1, 2.5, 4)}, 2: {7: (11, 20, 41, 60)}}


def test_tracks_of_csv_count_frames_from_zero_and_have_corners_in_columns_of_any_order(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "\ufeffscore,track,frame,x1,y1,x2,y2\n0.9,7,0,10,20,40,60\n0.8,7,2,11,20,41,60\n")
    assert read_tracks(path) == {0: {7: (10, 20, 40, 60)}, 2: {7: (11, 20, 41, 60)}}


def test_boxes_of_confidence_zero_in_motchallenge_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "1,7,1,2,3,4,0\n2,7,1,2,3,4,1\n3,7,1,2,3,4,-1\n4,7,1,2,3,4,\n5,7,1,2,3,4,0.0\n")
    assert read_tracks(path).keys() == {1, 2, 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,7,10,20,30,40\n1,8,ten,20,30,40\n", r"line 2: x is 'ten', which is no number; accepted are lines of MOTCh"),
        ("1,7,10,20,30\n", r"line 1: has 5 values, too few: 1,7,10,20,30; accepted"),
        ("0,7,1,2,3,4\n", r"line 1: frame is 0; it must be a whole number from 1"),
        ("1,-1,1,2,3,4\n", r"line 1: id is -1; it must be a whole number from 0; -1 marks boxes that no tracker"),
        ("1,1.5,1,2,3,4\n", r"line 1: id is 1\.5; it must be a whole number"),
        ("1,7,nan,2,3,4\n", r"line 1: x is 'nan', which is no number"),
        ("1,7,1,2,0,4\n", r"line 1: the box 1,2,0,4 is empty"),
        ("1,7,1,2,3,4\n1,7,1,2,3,4\n", r"line 2: a second box of track 7 in one frame"),
        ("frame,id,x,y,w,h\n", r"line 1: has no column track, x1, y1, x2, y2: frame,id,x,y,w,h; accepted"),
        ("frame,track,x1,y1,x2,y2\n-1,7,1,2,3,4\n", r"line 2: frame is -1; it must be a whole number from 0"),
        ("frame,track,x1,y1,x2,y2\n0,7,3,2,1,4\n", r"line 2: the box 3,2,1,4 is empty"),
        ("", r"t\.txt: holds no box; accepted are"),
    ],
)
def test_malformed_line_is_told_with_its_number_and_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tracks(write(tmp_path / "t.txt", text))


def test_file_that_is_no_text_or_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"t\.txt: is no text of boxes .*; accepted are"):
        read_tracks(tmp_path / "t.txt")
    with pytest.raises(DataError, match=r"absent\.txt: can't be read: No such file"):
        read_tracks(tmp_path / "absent.txt")


# --- what is cut out ---


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        ((40, 30, 60, 70), 0.0, (30, 30, 70, 70)),  # square about the middle
        ((40, 30, 60, 70), 0.25, (20, 20, 80, 80)),  # and a quarter of 40 more on each side
        ((0, 30, 20, 70), 0.0, (0, 30, 40, 70)),  # moved inside on the left
        ((180, 80, 220, 120), 0.0, (160, 60, 200, 100)),  # and at the lower right, where a part is outside
        ((50, 0, 70, 100), 0.3, (0, 0, 160, 100)),  # too large for the picture: cut, and no square
        ((-50, -50, -1, -1), 0.5, None),
        ((200, 10, 240, 50), 0.5, None),
        ((10.2, 10.2, 10.4, 10.4), 0.0, (10, 10, 11, 11)),  # never less than a pixel
    ],
)
def test_crop_of_a_box_is_a_square_inside_the_picture(box, margin, expected) -> None:
    assert crop_of(box, (200, 100), margin) == expected


# --- labels ---


def test_two_people_side_by_side_get_their_own_labels_in_one_batch() -> None:
    model = Colours()
    told = follow(follower(model, margin=0), [{7: LEFT, 3: RIGHT}] * 5)
    assert told == [(3, 7, "red"), (3, 3, "green"), (4, 7, "red"), (4, 3, "green")]
    assert model.batches == [2, 2]


def test_track_keeps_its_label_when_boxes_change_their_order_and_place() -> None:
    """By id, not by the place of the box: the two move to and fro by more than their own width."""
    boxes = [{7: (x, 8, x + 6, 24), 3: (x + 34, 8, x + 40, 24)} for x in (2, 16, 2, 16, 2, 16)]
    boxes[4] = {3: boxes[4][3], 7: boxes[4][7]}
    told = follow(follower(margin=0), boxes)
    assert {(track, label) for _, track, label in told} == {(7, "red"), (3, "green")}


def test_tracks_that_began_at_different_frames_are_looked_at_together() -> None:
    model = Colours()
    told = follow(follower(model, stride=2, margin=0), [{7: LEFT}, {7: LEFT}, *[{7: LEFT, 3: RIGHT}] * 6])
    assert told == [(3, 7, "red"), (5, 7, "red"), (5, 3, "green"), (7, 7, "red"), (7, 3, "green")]
    assert model.batches == [1, 2, 2]


def test_window_of_a_track_has_every_rate_th_of_its_frames() -> None:
    model = Colours()
    tracks = follower(model, rate=2, stride=2)
    for number in range(9):
        image = np.full((16, 16, 3), 10 * number, np.uint8)
        tracks.push(Frame(number, number, {"rgb": image}), {1: (2, 2, 14, 14)})
    first, second = (np.rint(clip[0, 0, :, 0, 0] * 255).tolist() for clip in model.clips)
    assert (first, second) == ([0, 20, 40, 60], [20, 40, 60, 80])


def test_whole_picture_is_seen_as_the_windows_of_a_recognizer_are() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 20, 30, 3), np.uint8)
    expected = [w.probabilities for w in Recognizer(Colours(), CONTRACT).windows(images, 2, rate=2)]
    tracks = follower(rate=2, stride=2)
    told = [tracks.push(Frame(i, i, {"rgb": image}), {0: None}) for i, image in enumerate(images)]
    np.testing.assert_allclose([m.probabilities for t in told for m in t.labelled], expected, atol=1e-6)


JOINT = replace(CONTRACT, model_type="joint", streams={"rgb": STREAMS["rgb"], "of": Stream(3, (0.0,) * 2, (1.0,) * 2)})


def both(inputs: list[np.ndarray]) -> np.ndarray:
    """Logits of the newest flow frame, and of the oldest rgb one."""
    rgb, of = inputs
    return np.stack([rgb[:, 0, 0].mean((1, 2)), of[:, 0, -1].mean((1, 2)), of[:, 1, 0].mean((1, 2))], axis=1)


def test_windows_of_both_streams_end_at_the_same_frame() -> None:
    rng = np.random.default_rng(0)
    images = [{m: rng.integers(0, 256, (20, 30, c), np.uint8) for m, c in (("rgb", 3), ("of", 2))} for _ in range(6)]
    expected = [w.probabilities for w in Recognizer(both, JOINT).windows(images)]
    tracks = TrackRecognizer(Recognizer(both, JOINT))
    told = [tracks.push(Frame(i, i, image), {0: None}) for i, image in enumerate(images)]
    np.testing.assert_allclose([m.probabilities for t in told for m in t.labelled], expected, atol=1e-6)


def test_boxes_in_images_of_two_sizes_are_refused() -> None:
    frame = Frame(0, 4, {"rgb": np.zeros((20, 30, 3), np.uint8), "of": np.zeros((10, 15, 2), np.uint8)})
    message = r"frame 4: boxes are for images of one size, got \{'rgb': \(30, 20\), 'of': \(15, 10\)\}"
    with pytest.raises(DataError, match=message):
        TrackRecognizer(Recognizer(both, JOINT)).push(frame, {7: (2, 2, 9, 9)})


def test_missing_box_is_bridged_and_told_nothing_of_meanwhile() -> None:
    boxes: list[Boxes] = [{7: LEFT}] * 5 + [{}] * 2 + [{7: LEFT}] * 2
    assert follow(follower(most_missing=2, margin=0), boxes) == [(n, 7, "red") for n in (3, 4, 7, 8)]


def test_track_missing_for_too_long_is_over_and_forgotten() -> None:
    tracks = follower(most_missing=2, margin=0)
    follow(tracks, [{7: LEFT}] * 6 + [{}] * 2)
    assert (len(tracks._tracks), tracks.marks) == (1, [])
    (event,) = tracks.push(two_people(8), {}).events
    assert (event.track, event.label, event.start_sec, event.end_sec) == (7, "red", 0.15, 0.35)
    assert len(tracks._tracks) == 0
    assert follow(tracks, [{7: LEFT}] * 3) == []  # the same number again is somebody new


def test_track_of_a_new_connection_begins_with_a_new_window_and_a_new_event() -> None:
    tracks, told, events = follower(margin=0), [], []
    for number in range(8):
        frame = replace(two_people(number), connection=int(number >= 4))
        seen = tracks.push(frame, {7: LEFT})
        told += [(number, m.label) for m in seen.labelled]
        events += seen.events
    assert told == [(3, "red"), (7, "red")]
    assert [(e.start_sec, e.end_sec) for e in [*events, *tracks.close().events]] == [(0.15, 0.15), (0.55, 0.55)]


def test_event_of_each_track_is_its_own() -> None:
    tracks = follower(margin=0, threshold=0.9)
    follow(tracks, [{7: LEFT, 3: RIGHT}] * 6)
    events = tracks.close().events
    assert [(e.track, e.label, e.start_sec, e.end_sec) for e in events] == [
        (7, "red", 0.15, 0.35), (3, "green", 0.15, 0.35),
    ]  # fmt: skip


def test_track_of_at_least_half_a_window_is_looped_when_it_ends_and_a_shorter_one_gets_no_label() -> None:
    model = Colours()
    tracks = follower(model, margin=0, most_missing=0)
    tracks.push(two_people(0), {1: LEFT})
    tracks.push(two_people(1), {1: LEFT, 2: RIGHT})
    told = tracks.push(two_people(2), {})
    assert [(m.track, m.label) for m in told.labelled] == [(1, "red")]
    assert [(e.track, e.label) for e in told.events] == [(1, "red")]
    assert model.batches == [1]


def test_box_outside_the_picture_is_a_missing_one() -> None:
    tracks = follower(most_missing=1)
    tracks.push(two_people(0), {7: (100, 100, 120, 120)})
    assert (len(tracks._tracks), tracks.marks) == (1, [])
    tracks.push(two_people(1), {7: (100, 100, 120, 120)})
    assert len(tracks._tracks) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 0}, "stride: must be at least 1, got 0"),
        ({"margin": -0.1}, "margin: must be at least 0, got -0.1"),
        ({"most_missing": -1}, "most_missing: must be at least 0, got -1"),
        ({"rate": 0}, "rate: must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        follower(**settings)
