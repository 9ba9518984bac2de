"""tools/live.py and what it is made of: lines, events, a video, a page, and frames that nobody can wait for."""

import dataclasses
import errno
import http.client
import json
import runpy
import shutil
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import ImageFont

from action_recognition.clip.contract import Contract, Stream
from action_recognition.deploy import overlay, sources
from action_recognition.deploy import page as page_module
from action_recognition.deploy.events import Event
from action_recognition.deploy.live import EventLog, Latency, Session, picture_of
from action_recognition.deploy.overlay import SMALLEST_EDGE, OverlayVideo, choose_font, drawn, missing_letters
from action_recognition.deploy.page import Page
from action_recognition.deploy.recognizer import Recognizer
from action_recognition.deploy.sources import Dropped, Frame, Live, frames_of
from action_recognition.deploy.tracks import Mark, TrackRecognizer
from action_recognition.errors import DataError, OutputError, UserError

av = pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install .[deploy]")
TOOL = runpy.run_path(str(Path(__file__).parents[1] / "tools/live.py"))
main, say = TOOL["main"], TOOL["say"]

NAMES = ("dark", "red", "green")
CONTRACT = Contract(
    "rgb", "3d", {"rgb": Stream(2, (0.0,) * 3, (1.0,) * 3)}, 4, 4, False, 4, "consecutive", 1, "max_rad", NAMES
)
RED, GREEN, BROWN = (255, 0, 0), (0, 255, 0), (200, 180, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file that tells red from green: its logits are 3 for dark, and 10 times the means of red and green."""
    weight = np.zeros((3, 3, 2, 4, 4), np.float32)
    weight[1, 0] = weight[2, 1] = 10 / 32
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input_rgb"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weight", "bias"], ["fc_pred"], transB=1),
        ],
        "colours",
        [helper.make_tensor_value_info("input_rgb", TensorProto.FLOAT, ["batch", 3, 2, 4, 4])],
        [helper.make_tensor_value_info("fc_pred", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(weight.reshape(3, -1), "weight"),
            numpy_helper.from_array(np.array([3, 0, 0], np.float32), "bias"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(made, {"contract": json.dumps(CONTRACT.to_plain()), "output": "logits", "precision": "fp32"})
    path = tmp_path_factory.mktemp("model") / "colours.onnx"
    onnx.save(made, path)
    return path


def picture(left: tuple[int, int, int], right: tuple[int, int, int] | None = None) -> np.ndarray:
    """32 x 64 pixels, the halves in two colours."""
    image = np.empty((32, 64, 3), np.uint8)
    image[:, :32], image[:, 32:] = left, right or left
    return image


def write_video(path: Path, pictures: list[np.ndarray]) -> Path:
    """A video of 10 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, options={"qmax": "3"})
        (stream.height, stream.width), stream.pix_fmt = pictures[0].shape[:2], "yuv420p"
        for image in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def read_video(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """The pictures and their times."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [frame.time for frame in frames]


def mark(label: str | None, score: float = 0.5, track: int = 0, box: Any = None) -> Mark:
    return Mark(track, box, label, score, np.array([0.1, 0.7, 0.2]))


def run(*arguments: object) -> int:
    return main([*map(str, arguments)])


# --- labels and events ---


def test_a_line_tells_each_change_of_label_and_the_end_what_it_took(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "v.mp4", [picture(c) for c in [RED] * 4 + [GREEN] * 4 + [BROWN] * 4])
    assert run(model, video, "--smoothing", 1, "--stride", 1, "--unknown", 0.7) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert [(sec, label) for sec, _, label, _ in lines] == [
        ("0.1", "red"), ("0.4", "unknown"), ("0.5", "green"), ("0.9", "unknown"),
    ]  # fmt: skip
    assert err.splitlines()[1] == "12 frames of 1.1 s; looked at 11 times, events: 2"
    assert err.splitlines()[2].startswith("frame to label: median ")


def test_smoothing_outlasts_a_single_odd_look(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "v.mp4", [picture(c) for c in [RED] * 6 + [GREEN] * 2 + [RED] * 4])
    run(model, video, "--smoothing", 0.2, "--stride", 2, "--unknown", 0.1)
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()] == ["red"]


def test_events_are_added_to_the_file_also_the_one_that_goes_on_at_the_end(model: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", [picture(c) for c in [RED] * 4 + [GREEN] * 4])
    log = tmp_path / "events.jsonl"
    log.write_text('{"of": "yesterday"}\n')
    assert run(model, video, "--smoothing", 1, "--stride", 1, "--unknown", 0.9, "--events", log) == 0
    first, *events = map(json.loads, log.read_text().splitlines())
    assert first == {"of": "yesterday"}
    assert [(e["label"], e["start"], e["end"]) for e in events] == [("red", 0.05, 0.25), ("green", 0.45, 0.65)]
    assert {key for event in events for key in event} == {"start", "end", "label", "score"}
    assert all(event["score"] == pytest.approx(0.999, abs=0.002) for event in events)


def test_video_shorter_than_a_window_is_looped_to_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, write_video(tmp_path / "v.mp4", [picture(GREEN)])) == 0
    told = capsys.readouterr()
    assert told.out.split()[2] == "green"
    assert "1 frames of 0.0 s; looked at 1 times, events: 1\nframe to label: no full window yet" in told.err


def test_seconds_end_the_run(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "v.mp4", [picture(RED)] * 12)
    assert run(model, video, "--seconds", 0.5) == 0
    assert "\n5 frames of 0.4 s; looked at 4 times, events: 1\n" in capsys.readouterr().err


def test_event_is_in_the_file_as_soon_as_it_is_told(tmp_path: Path) -> None:
    with EventLog(tmp_path / "e.jsonl") as log:
        log.write({"label": "größer"})
        assert (tmp_path / "e.jsonl").read_text(encoding="utf-8") == '{"label": "größer"}\n'


def test_event_of_a_name_that_is_no_utf8_is_written_as_json_has_it(tmp_path: Path) -> None:
    name = b"st\xfcrzen".decode("utf-8", "surrogateescape")
    with EventLog(tmp_path / "e.jsonl") as log:
        log.write({"label": name})
    (line,) = (tmp_path / "e.jsonl").read_text(encoding="utf-8").splitlines()
    assert line == r'{"label": "st\udcfcrzen"}'
    assert json.loads(line) == {"label": name}


def test_line_of_a_name_that_is_no_utf8_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    say("0.1 s  st\udcfcrzen 1.00")
    assert capsys.readouterr().out == "0.1 s  st\\udcfcrzen 1.00\n"


def test_clock_time_of_an_event_is_that_of_its_frame_however_long_it_waited(tmp_path: Path) -> None:
    came = time.time() - 5
    frames = [Frame(i, i, {"rgb": picture(RED)}, time.monotonic() - 5 + i) for i in range(2)]
    with EventLog(tmp_path / "e.jsonl") as log:
        session_of(Dropped(), log=log).run(iter(frames))
    event = json.loads((tmp_path / "e.jsonl").read_text())
    assert datetime.fromisoformat(event["at"]).timestamp() == pytest.approx(came + event["start"], abs=1)


def test_event_file_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent/e\.jsonl: can't be written: No such file"):
        EventLog(tmp_path / "absent/e.jsonl")


# --- each person for itself ---


def test_two_people_side_by_side_get_their_own_lines_events_and_boxes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "v.mp4", [picture(RED, GREEN)] * 6)
    boxes = tmp_path / "v.txt"
    boxes.write_text("".join(f"{n},7,{2 + n},8,12,16,1\n{n},3,{44 - n},8,12,16,1\n" for n in range(1, 7)))
    assert run(model, video, "--tracks", boxes, "--margin", 0, "--stride", 1, "--video", tmp_path / "o.mp4",
               "--events", tmp_path / "e.jsonl") == 0  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" ")[0] for line in lines] == ["0.1 s  track 7: red", "0.1 s  track 3: green"]
    events = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert [(e["track"], e["label"], e["start"], e["end"]) for e in events] == [
        (7, "red", 0.05, 0.45), (3, "green", 0.05, 0.45),
    ]  # fmt: skip
    pictures, _ = read_video(tmp_path / "o.mp4")
    assert len(pictures) == 6


def test_boxes_of_frames_that_the_source_does_not_have_are_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.txt").write_text("4,1,2,2,9,9\n9,1,2,2,9,9\n")
    video = write_video(tmp_path / "v.mp4", [picture(RED)] * 4)
    assert run(model, video, "--tracks", tmp_path / "t.txt") == 0
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"{tmp_path}/t.txt: 1 of its 2 frames were in the source, which gave 4"


@pytest.mark.parametrize("ended_by", ["seconds", "signal"])
def test_boxes_of_frames_that_were_never_reached_are_not_blamed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    (tmp_path / "t.txt").write_text("1,1,2,2,9,9\n9,1,2,2,9,9\n")
    video = write_video(tmp_path / "v.mp4", [picture(RED)] * 9)
    if ended_by == "signal":
        monkeypatch.setattr(Session, "_show", lambda self, frame: signal.raise_signal(signal.SIGINT))
    assert run(model, video, "--tracks", tmp_path / "t.txt", "--seconds", 0.3) == (130 if ended_by == "signal" else 0)
    assert "of its 2 frames" not in capsys.readouterr().err


def test_boxes_outside_the_picture_are_counted_and_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.txt").write_text("".join(f"{n},1,2,2,9,9\n{n},2,1900,2,9,9\n" for n in range(1, 5)))
    assert run(model, write_video(tmp_path / "v.mp4", [picture(RED)] * 4), "--tracks", tmp_path / "t.txt") == 0
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"{tmp_path}/t.txt: 4 of 8 boxes lie outside the 64x32 picture; are they of another size?"


# --- the video ---


def test_video_has_every_frame_at_its_time_with_a_bar_as_long_as_the_score(tmp_path: Path) -> None:
    with OverlayVideo(tmp_path / "o.mp4") as video:
        for i in range(5):
            video.write(drawn(np.zeros((300, 401, 3), np.uint8), [mark("red", 0.25 * i)]), 0.2 * i)
    pictures, times = read_video(tmp_path / "o.mp4")
    assert [p.shape for p in pictures] == [(300, 400, 3)] * 5
    assert times == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8], abs=0.002)
    rows = slice(19, 21)  # of the bar
    lengths = [int((p[rows].max(axis=2) > 120).mean(axis=0).round().sum()) for p in pictures]
    assert lengths[0] < 4
    assert np.diff(lengths).tolist() == pytest.approx([lengths[4] / 4] * 4, abs=3)


@pytest.mark.parametrize("name", ["o.mp4", "o.mkv", "o.mov"])
def test_video_of_any_format_does_not_say_a_rate_that_it_has_not(tmp_path: Path, name: str) -> None:
    if name == "o.mkv" and tuple(map(int, av.__version__.split(".")[:2])) < (18, 1):
        pytest.skip(f"PyAV {av.__version__} writes the rate that a stream was opened with into an .mkv's head")
    with OverlayVideo(tmp_path / name) as video:
        for i in range(20):
            video.write(picture(RED), i / 10)
    assert len(read_video(tmp_path / name)[0]) == 20
    with av.open(str(tmp_path / name)) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(10, rel=0.05)


def test_flow_is_shown_by_its_horizontal_part_in_grey() -> None:
    of = np.dstack([np.full((4, 4), 7, np.uint8), np.full((4, 4), 9, np.uint8)])
    assert picture_of(Frame(0, 0, {"of": of})).tolist() == np.full((4, 4, 3), 7).tolist()


def test_small_picture_is_enlarged_and_a_box_with_it() -> None:
    image = drawn(np.zeros((40, 60, 3), np.uint8), [mark("red", 0.9, 1, (10, 20, 30, 38))])
    assert image.shape == (SMALLEST_EDGE, 360, 3)
    assert image[180, 60].max() > 100  # the left edge of the box: x 10 of 60, y 30 of 40
    assert image[180, 100].max() == 0  # inside


def fonts_here(*names: str) -> None:
    for name in names:
        try:
            ImageFont.truetype(name)
        except OSError:
            pytest.skip(f"needs the font {name}")


def test_font_has_the_letters_of_the_names_where_any_font_of_the_system_does(monkeypatch: pytest.MonkeyPatch) -> None:
    fonts_here("DejaVuSans.ttf")
    monkeypatch.setattr(overlay, "_FONTS", ("absent.ttf", "DejaVuSans.ttf"))
    font = choose_font(("walk", "stürzen", "падение"))
    assert (font, missing_letters(font, ("stürzen", "падение", "fall 跌倒"))) == ("DejaVuSans.ttf", "跌倒")
    image = drawn(np.zeros((300, 400, 3), np.uint8), [mark("ü", 0.5)], font)
    assert (image != drawn(np.zeros((300, 400, 3), np.uint8), [mark("ö", 0.5)], font)).any()


def test_font_where_the_system_has_none_is_pillows_and_its_missing_letters_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overlay, "_FONTS", ("absent.ttf",))
    assert choose_font(("stürzen",)) is None
    assert missing_letters(None, ("sit down", "stürzen", "wüten")) == "ü"


def test_font_of_which_the_fewest_letters_are_missing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        overlay, "missing_letters", lambda font, names: {None: "abc", "1": "ab", "2": "a", "3": "ab"}[font]
    )
    monkeypatch.setattr(overlay, "_FONTS", ("1", "2", "3"))
    monkeypatch.setattr(overlay, "_is_font", lambda name: True)
    assert choose_font(("abc",)) == "2"


def test_font_file_is_used_and_its_missing_letters_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fonts_here("DejaVuSans.ttf")
    made = onnx.load(model)
    names = dataclasses.replace(CONTRACT, class_names=("a", "b", "跌倒"))
    helper.set_model_props(made, {"contract": json.dumps(names.to_plain()), "output": "logits", "precision": "fp32"})
    onnx.save(made, tmp_path / "m.onnx")
    video = write_video(tmp_path / "v.mp4", [picture(RED)] * 3)
    file = ImageFont.truetype("DejaVuSans.ttf").path
    assert run(tmp_path / "m.onnx", video, "--video", tmp_path / "o.mp4", "--font", file) == 0
    told = f"{file}: has no 跌倒, so boxes stand in the pictures there; give a --font FILE that has them"
    assert told in capsys.readouterr().err.splitlines()


def test_font_that_is_none_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.ttf").write_text("no font")
    assert run(model, "v.mp4", "--video", tmp_path / "o.mp4", "--font", tmp_path / "x.ttf") == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/x.ttf: can't be used as a font (")


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError, OutputError, ZeroDivisionError, SystemExit])
def test_video_of_a_run_that_anything_else_ends_is_whole(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), OverlayVideo(tmp_path / "o.mp4") as video:  # noqa: PT012
        for i in range(3):
            video.write(picture(RED), i / 10)
        raise error
    assert len(read_video(tmp_path / "o.mp4")[0]) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["o.mp4"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), av.error.ExternalError(1, "x")])
def test_video_that_can_not_be_written_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(OutputError, match=r"o\.mp4: can't be written"), OverlayVideo(tmp_path / "o.mp4") as video:  # noqa: PT012
        video.write(picture(RED), 0)
        video._stream = SimpleNamespace(encode=Mock(side_effect=error))
        video.write(picture(RED), 1)
    assert list(tmp_path.iterdir()) == []


def test_video_that_exists_is_kept_unless_it_may_be_replaced(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "o.mp4"
    target.write_text("mine")
    video = write_video(tmp_path / "v.mp4", [picture(RED)] * 3)
    assert run(model, video, "--video", target) == 1
    assert capsys.readouterr().err == f"error: {target}: exists already; give another name, or --overwrite\n"
    assert target.read_text() == "mine"
    assert run(model, video, "--video", target, "--overwrite") == 0
    assert len(read_video(target)[0]) == 3


def test_video_of_another_kind_or_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"o\.gif: a video must end in \.mp4, \.mkv, \.mov"):
        OverlayVideo(tmp_path / "o.gif")
    with (
        pytest.raises(OutputError, match=r"o\.mp4: can't be written: No such file"),
        OverlayVideo(tmp_path / "absent/o.mp4") as video,
    ):
        video.write(picture(RED), 0)


def test_video_without_pyav_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UserError, match=r"needs PyAV: pip install av \(the extra video\)"):
        OverlayVideo(tmp_path / "o.mp4")


# --- live sources, simulated ---


class SlowModel:
    """Takes 40 ms, and keeps how many clips it was given."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, inputs: list[np.ndarray]) -> np.ndarray:
        self.num_calls += 1
        time.sleep(0.04)
        return np.array([[0.0, 9.0, 0.0]], np.float32)


def camera(num_frames: int, every_sec: float) -> Iterator[Frame]:
    for number in range(num_frames):
        yield Frame(0.0, number, {"rgb": picture(RED)})
        time.sleep(every_sec)


def session_of(dropped: Dropped, forward: Any = None, said: list[str] | None = None, **more: Any) -> Session:
    follow = TrackRecognizer(Recognizer(forward or SlowModel(), CONTRACT))
    return Session(follow, dropped, say=(said if said is not None else []).append, **more)


def test_camera_faster_than_its_model_loses_its_oldest_frames_which_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "_live", lambda source, dropped: camera(100, 0.005))
    dropped = Dropped()
    session = session_of(dropped)
    session.run(frames_of(0, ("rgb",), dropped, live=Live(64, most_wait_sec=0.1)))
    assert dropped.frames > 20
    assert session.num_frames + dropped.frames == 100
    assert session.latency.longest < 0.1 + 0.04 + 0.15  # the wait, the model, and a machine that has more to do
    assert f"{dropped.frames} dropped" in session.summary()


def test_summary_tells_all_that_was_lost() -> None:
    told = session_of(Dropped(1234, 2, 5)).summary()
    assert ", 1,234 dropped, 5 damaged packets left out, connections lost: 2; looked at 0 times" in told


@pytest.mark.parametrize(
    ("options", "advice"), [((), "try a larger --stride\n"), (("--video", "o.mp4"), ", or no --video\n")]
)
def test_dropped_frames_are_told_of_with_what_makes_room(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...], advice: str,
) -> None:  # fmt: skip
    def losing(source: object, dropped: Dropped) -> Iterator[Frame]:
        dropped.frames = 3
        return camera(4, 0)

    monkeypatch.setattr(sources, "_live", losing)
    monkeypatch.chdir(tmp_path)
    assert run(model, "0", *options) == 0
    assert capsys.readouterr().err.endswith(advice)


def test_file_loses_no_frame_however_slow_the_model_is(tmp_path: Path) -> None:
    dropped = Dropped()
    session = session_of(dropped)
    session.run(frames_of(write_video(tmp_path / "v.mp4", [picture(RED)] * 8), ("rgb",), dropped))
    assert (session.num_frames, dropped.frames, session.num_looks) == (8, 0, 7)


def test_new_connection_begins_with_a_new_window_and_a_new_event(tmp_path: Path) -> None:
    told: list[str] = []
    frames = [Frame(i, i, {"rgb": picture(RED)}, time.monotonic(), connection=int(i >= 3)) for i in range(6)]
    with EventLog(tmp_path / "e.jsonl") as log:
        session_of(Dropped(), said=told, log=log).run(iter(frames))
    events = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert [(e["start"], e["end"]) for e in events] == [(0.5, 1.5), (3.5, 4.5)]
    assert [line.split()[0] for line in told] == ["1.0", "4.0"]
    assert all(e["at"].startswith("20") and e["at"].endswith("+00:00") for e in events)


def test_latency_is_median_95_percent_and_longest() -> None:
    latency = Latency()
    assert str(latency) == "no full window yet"
    for ms in range(1, 101):
        latency.add(ms / 1000)
    assert str(latency) == "median 50 ms, 95 % within 95 ms, at most 100 ms"


# --- the end ---


def test_session_is_interrupted_after_the_frame_at_hand_and_at_once_when_asked_twice() -> None:
    session: Session

    class Interrupting(SlowModel):
        def __call__(self, inputs: list[np.ndarray]) -> np.ndarray:
            if self.num_calls == 2:
                session.interrupt(KeyboardInterrupt())
            return super().__call__(inputs)

    session = session_of(Dropped(), Interrupting())
    with pytest.raises(KeyboardInterrupt):
        session.run(camera(20, 0))
    assert (session.num_looks, session.num_frames, session.num_events) == (3, 4, 1)
    with pytest.raises(KeyboardInterrupt):
        session.interrupt(KeyboardInterrupt())


def test_event_that_is_over_is_written_also_where_nobody_reads_the_lines(tmp_path: Path) -> None:
    frames = [Frame(i, i, {"rgb": picture(RED)}) for i in range(6)]
    answers = iter([0, 0, 2])

    def gone(text: str) -> None:
        if "dark" not in text:
            raise KeyboardInterrupt

    with EventLog(tmp_path / "e.jsonl") as log:
        session = session_of(Dropped(), lambda inputs: 9 * np.eye(3)[[next(answers)]], log=log)
        session.say = gone
        with pytest.raises(KeyboardInterrupt):
            session.run(iter(frames))
    events = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert [(e["label"], e["start"], e["end"]) for e in events] == [("dark", 0.5, 1.5), ("green", 2.5, 2.5)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_finish_events_video_and_page(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    number: int, code: int,
) -> None:  # fmt: skip
    def endless(source: object, dropped: Dropped) -> Iterator[Frame]:
        for i in range(1000):
            yield Frame(0.0, i, {"rgb": picture(RED)})
            time.sleep(0.01)
            if i == 20:
                signal.pthread_kill(threading.main_thread().ident or 0, number)

    monkeypatch.setattr(sources, "_live", endless)
    options = ("--video", tmp_path / "o.mp4", "--events", tmp_path / "e.jsonl", "--page", 0)
    assert run(model, "rtsp://camera", *options) == code
    (event,) = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert event["label"] == "red"
    err = capsys.readouterr().err
    assert len(read_video(tmp_path / "o.mp4")[0]) == int(err.splitlines()[2].split()[0])
    address = err.splitlines()[0].removeprefix("page: ")
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=5)


# --- the page ---


def get(address: str, path: str = "", **headers: str) -> tuple[int, str, dict[str, str]]:
    host = address.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(host, timeout=5)
    connection.request("GET", f"/{path}", headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, dict(answer.getheaders())


def test_page_has_all_it_needs_and_nothing_from_elsewhere() -> None:
    with Page("a camera", NAMES) as page:
        for path in ("", "page.css", "page.js"):
            status, text, headers = get(page.address, path)
            assert status == 200
            assert "//" not in text.replace("<!doctype html>", "")
            assert headers["Content-Security-Policy"].startswith("default-src 'none'; img-src 'self' data:;")
        assert "innerHTML" not in get(page.address, "page.js")[1]  # names are set as text
        assert get(page.address, "else")[0] == 404


def test_page_tells_labels_scores_events_and_latency_with_names_as_they_are() -> None:
    odd = "<b>sit & stand</b>"
    with Page("a camera", (odd, "red", "green")) as page:
        assert json.loads(get(page.address, "state.json")[1])["tracks"] == []
        page.show(picture(RED), [mark("red", 0.7, 3, (1, 2, 3, 4))], {"text": "5 s"})
        page.tell(Event("red", 0, 1.5, 0.9, 3))
        state = json.loads(get(page.address, "state.json")[1])
    assert state["tracks"] == [
        {"track": 3, "label": "red", "score": 0.7, "scores": [["red", 0.7], ["green", 0.2], [odd, 0.1]]}
    ]
    assert state["events"] == [{"track": 3, "start": 0, "end": 1.5, "label": "red", "score": 0.9}]
    assert (state["title"], state["facts"]) == ("a camera", {"text": "5 s"})


def test_page_streams_pictures_as_they_come() -> None:
    with Page("a camera", NAMES) as page:
        page.show(picture(RED), [], {})
        answer = urllib.request.urlopen(f"{page.address}picture.mjpg", timeout=5)
        assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=picture"
        for _ in range(2):
            head = [answer.readline() for _ in range(4)]
            size = int(head[2].split()[1])
            assert answer.read(size)[:2] == b"\xff\xd8"
            assert answer.readline() == b"\r\n"
            page.show(picture(GREEN), [], {})


def test_viewer_that_is_gone_makes_room_also_while_nothing_new_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "MOST_VIEWERS", 1)
    monkeypatch.setattr(page_module, "_AGAIN_SEC", 0.01)
    with Page("a camera", NAMES) as page:
        page.show(picture(RED), [], {})
        urllib.request.urlopen(f"{page.address}picture.mjpg", timeout=5).close()
        assert page.viewers.acquire(timeout=5)


def test_picture_comes_again_while_nothing_new_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "_AGAIN_SEC", 0.01)
    with Page("a camera", NAMES) as page:
        page.show(picture(RED), [], {})
        first = page.jpeg_after(0)
        assert first is not None
        assert page.jpeg_after(first[0]) == first


def test_page_on_the_loopback_of_ipv6_answers_to_its_name() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 ({error})")
    with Page("a camera", NAMES, "::1") as page:
        assert page.address.startswith("http://[::1]:")
        assert json.loads(urllib.request.urlopen(f"{page.address}state.json", timeout=5).read())["title"] == "a camera"


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example:80", 403)]
)
def test_page_answers_to_names_of_this_machine_alone(host: str, status: int) -> None:
    with Page("a camera", NAMES) as page:
        assert get(page.address, "state.json", Host=host)[0] == status


def test_viewer_that_takes_nothing_holds_nobody_up() -> None:
    large = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    with Page("a camera", NAMES) as page:
        port = int(page.address.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as viewer:
            viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            viewer.sendall(b"GET /picture.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
            longest = 0.0
            for _ in range(50):
                start = time.monotonic()
                page.show(large, [], {})
                longest = max(longest, time.monotonic() - start)
                time.sleep(0.005)
            assert get(page.address, "state.json")[0] == 200
    assert longest < 0.2


def test_viewers_above_the_most_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "MOST_VIEWERS", 1)
    with Page("a camera", NAMES) as page:
        page.show(picture(RED), [], {})
        first = urllib.request.urlopen(f"{page.address}picture.mjpg", timeout=5)
        assert get(page.address, "picture.mjpg")[0] == 503
        first.close()


@pytest.fixture
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs Selenium: pip install selenium")
    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs chromium and chromedriver: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(flag)
    chromium = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chromium
    chromium.quit()


def wait_for_width(browser: Any, width: int) -> None:
    """Until the picture on the page is so wide; a viewer tries again every two seconds."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 15).until(
        lambda b: b.execute_script("return document.getElementById('picture').naturalWidth") == width
    )


@pytest.mark.slow
def test_picture_in_a_browser_goes_on_after_a_tool_that_is_started_again_and_after_a_full_house(browser: Any) -> None:
    with Page("a camera", NAMES) as page:
        page.show(picture(RED), [], {})
        for _ in range(page_module.MOST_VIEWERS):
            page.viewers.acquire()
        browser.get(page.address)
        time.sleep(1)
        page.viewers.release()
        wait_for_width(browser, 512)
    port = int(page.address.rstrip("/").rpartition(":")[2])
    time.sleep(1)
    with Page("a camera", NAMES, port=port) as page:
        page.show(np.zeros((300, 300, 3), np.uint8), [], {})
        wait_for_width(browser, 300)


def test_page_on_a_port_that_is_taken_says_so() -> None:
    with Page("a camera", NAMES) as page:
        port = int(page.address.rstrip("/").rpartition(":")[2])
        with pytest.raises(
            UserError, match=rf"page: 127\.0\.0\.1, port {port} can't be opened .*; give another --page"
        ):
            Page("another", NAMES, port=port)


# --- options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stride", "0"], "--stride: must be a whole number from 1, got 0"),
        (["--unknown", "2"], "--unknown: must be above 0 and at most 1, got 2"),
        (["--smoothing", "0"], "--smoothing: must be above 0 and at most 1, got 0"),
        (["--seconds", "x"], "--seconds: must be a number above 0, got x"),
        (["--margin", "-1"], "--margin: must be a number"),
        (["--host", "0.0.0.0"], "--host: is for --page, which is not given"),
        (["--font", "x.ttf"], "--font: is for --video and --page, and neither is given"),
        (["--overwrite"], "--overwrite: is for --video, which is not given"),
        (["--max-latency", "0"], "--max-latency: must be a number above 0, got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("m.onnx", "v.mp4", *options)
    assert message in capsys.readouterr().err


def test_rate_that_is_not_the_models_and_tracks_of_a_camera_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, "v.mp4", "--rate", 3) == 2
    assert capsys.readouterr().err == "error: rate: must be 1, the model's, got 3\n"
    (tmp_path / "t.txt").write_text("1,1,2,2,9,9\n")
    assert run(model, "rtsp://me:secret@camera/1", "--tracks", tmp_path / "t.txt") == 2
    assert capsys.readouterr().err.startswith("error: --tracks: rtsp://camera/1 is live, and boxes of a file are for")
