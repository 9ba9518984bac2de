"""Frames of folders, files, arrays and live sources."""

import socket
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from made_video import write_moving
from PIL import Image
from tiny import MakeTree

from action_recognition.deploy import sources
from action_recognition.deploy.sources import Dropped, Frame, LatestFrames, Live, frames_of, source_of
from action_recognition.errors import DataError

RGB = ("rgb",)


def test_frames_of_a_video_folder_come_in_order_with_times(make_tree: MakeTree, tmp_path: Path) -> None:
    video = make_tree(tmp_path / "data", {"a": 1}, num_frames=3) / "a/video_000"
    frames = list(frames_of(video, RGB, Dropped(), fps=10))
    assert [(f.number, f.time_sec, int(f.images["rgb"][0, 0, 1])) for f in frames] == [
        (0, 0, 0),
        (1, 0.1, 1),
        (2, 0.2, 2),
    ]
    assert len(list(frames_of(video / "rgb", RGB, Dropped()))) == 3


def test_frames_of_a_folder_for_joint_hold_both_and_end_with_the_flow(make_tree: MakeTree, tmp_path: Path) -> None:
    video = make_tree(tmp_path / "data", {"a": 1}, num_frames=3) / "a/video_000"
    frames = list(frames_of(video, ("rgb", "of"), Dropped()))
    assert [(f.images["rgb"].shape, f.images["of"][0, 0].tolist()) for f in frames] == [
        ((16, 20, 3), [0, 100]), ((16, 20, 3), [1, 100]),
    ]  # fmt: skip


def test_frames_of_a_video_file_have_its_times(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    frames = list(frames_of(write_moving(tmp_path / "x.mp4"), RGB, Dropped()))
    assert [f.time_sec for f in frames] == pytest.approx([i / 25 for i in range(6)])


def test_frames_of_a_file_of_no_even_rate_have_their_own_times_from_the_first(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    times_ms = [500, 600, 1100, 1130, 2000]
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.codec_context.time_base = Fraction(1, 1000)
        for time_ms in times_ms:
            picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            picture.pts, picture.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    frames = list(frames_of(tmp_path / "x.mkv", RGB, Dropped()))
    assert [f.time_sec for f in frames] == pytest.approx([0, 0.1, 0.6, 0.63, 1.5])


def test_frames_of_arrays_are_those(tmp_path: Path) -> None:
    arrays = [np.full((2, 2, 3), i, np.uint8) for i in range(3)]
    assert [int(f.images["rgb"][0, 0, 0]) for f in frames_of(arrays, RGB, Dropped())] == [0, 1, 2]


@pytest.mark.parametrize("source", ["x.mp4", "rtsp://camera/1", 0])
def test_frames_of_pictures_for_a_flow_model_are_refused(source: str | int) -> None:
    with pytest.raises(DataError, match=r"has pictures only, and the model takes of; make the flow with tools/preproc"):
        frames_of(source, ("of",), Dropped())


@pytest.mark.parametrize(("folders", "message"), [((), r"holds no png or jpg image"), (("rgb",), "rgb: holds no png")])
def test_frames_of_an_empty_folder_say_so(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match=message):
        list(frames_of(tmp_path, RGB, Dropped()))


def test_frames_of_a_camera_that_is_not_there_say_so() -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    with pytest.raises(DataError, match=r"can not be opened"):
        list(frames_of(93, RGB, Dropped()))


# --- live sources, simulated ---


def frame(number: int) -> Frame:
    return Frame(float(number), number, {})


def test_live_source_faster_than_its_reader_keeps_the_newest_and_counts_the_rest() -> None:
    all_read, dropped = threading.Event(), Dropped()

    def source() -> Iterator[Frame]:
        yield frame(0)
        started.wait(10)
        yield from map(frame, range(1, 6))
        all_read.set()

    started = threading.Event()
    latest = iter(LatestFrames(source(), 2, dropped))
    assert next(latest).number == 0
    started.set()
    assert all_read.wait(10)
    assert [f.number for f in latest] == [4, 5]
    assert dropped.frames == 3


def test_live_source_slower_than_its_reader_drops_nothing() -> None:
    dropped, taken = Dropped(), threading.Semaphore(1)

    def source() -> Iterator[Frame]:
        for number in range(5):
            taken.acquire(timeout=10)
            yield frame(number)

    seen = []
    for f in LatestFrames(source(), 2, dropped):
        seen.append(f.number)
        taken.release()
    assert (seen, dropped.frames) == ([0, 1, 2, 3, 4], 0)


def test_live_source_that_breaks_off_raises_where_it_is_read() -> None:
    def source() -> Iterator[Frame]:
        yield frame(0)
        raise DataError("rtsp://x: broke off")

    seen = []
    with pytest.raises(DataError, match="broke off"):
        seen.extend(f.number for f in LatestFrames(source(), 2, Dropped()))


def test_live_source_that_nobody_reads_any_more_ends_its_thread() -> None:
    def source() -> Iterator[Frame]:
        number = 0
        while True:
            yield frame(number)
            number += 1

    before = set(threading.enumerate())
    latest = iter(LatestFrames(source(), 2, Dropped()))
    next(latest)
    (thread,) = set(threading.enumerate()) - before
    latest.close()  # type: ignore[attr-defined]
    thread.join(5)
    assert not thread.is_alive()


def test_image_that_would_lose_range_is_refused_as_in_training(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"0\.png: pixels of kind 'I;16' can't be used; convert it to 8 bits"):
        next(frames_of(tmp_path, ("rgb",), Dropped()))


def test_live_source_whose_frames_waited_too_long_goes_on_with_the_newest() -> None:
    now = time.monotonic()
    frames = [Frame(i, i, {}, came_sec=now - age) for i, age in enumerate((9.0, 8.0, 7.0))]
    all_read, dropped = threading.Event(), Dropped()

    def source() -> Iterator[Frame]:
        yield from frames
        all_read.set()

    latest = LatestFrames(source(), 10, dropped, most_wait_sec=0.5)
    latest._read()
    assert all_read.is_set()
    assert [f.number for f in latest._waiting] == [2]
    assert dropped.frames == 2


class Connections:
    """Connections to a stream in place of FFmpeg's: each brings so many frames and ends so."""

    def __init__(self, *connections: tuple[int, Exception | None]) -> None:
        self.left = list(connections)

    def __call__(self, source: object, dropped: Dropped) -> Iterator[Frame]:
        num_frames, end = self.left.pop(0)
        yield from (frame(number) for number in range(num_frames))
        if end:
            raise end


LOST, ENDED = DataError("rtsp://x: broke off"), sources._StreamEnd("rtsp://x: has ended")


def read(monkeypatch: pytest.MonkeyPatch, source: int | str, *connections: tuple[int, Exception | None], retries: int):
    """The (number, connection) of all frames, what was said, and what was lost; no wait is a long one."""
    monkeypatch.setattr(sources, "_live", Connections(*connections))
    monkeypatch.setattr(sources, "LONGEST_WAIT_SEC", 0.001)
    said: list[str] = []
    dropped, seen = Dropped(), []
    live = Live(100, retries=retries, tell=said.append)
    try:
        for f in frames_of(source, RGB, dropped, live=live):
            seen.append((f.number, f.connection))
    except DataError as error:
        said.append(f"raised {error}")
    return seen, said, dropped


@pytest.mark.parametrize("end", [LOST, ENDED])
def test_stream_that_is_lost_is_opened_again_and_counted(monkeypatch: pytest.MonkeyPatch, end: DataError) -> None:
    refused = DataError("rtsp://x: can not be opened")
    seen, said, dropped = read(monkeypatch, "rtsp://x", (2, end), (0, refused), (1, None), retries=3)
    assert seen == [(0, 0), (1, 0), (2, 1)]
    assert said == [
        f"{end}; attempt 1 of 3 to open it again in 0.001 s",
        "rtsp://x: can not be opened; attempt 2 of 3 to open it again in 0.001 s",
        "rtsp://x: is back",
    ]
    assert dropped.connections == 1


def test_stream_that_comes_back_each_time_is_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, _, dropped = read(monkeypatch, "rtsp://x", *[(1, LOST)] * 4, (1, None), retries=1)
    assert seen == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]
    assert dropped.connections == 4


def test_stream_that_stays_away_is_given_up_after_so_many_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = DataError("rtsp://x: can not be opened")
    seen, said, _ = read(monkeypatch, "rtsp://x", (1, LOST), (0, refused), (0, refused), retries=2)
    assert seen == [(0, 0)]
    assert said[2:] == ["raised rtsp://x: can not be opened"]


@pytest.mark.parametrize(
    ("source", "connection", "retries", "message"),
    [
        ("rtsp://x", (0, LOST), 5, "raised rtsp://x: broke off"),  # never there: the address is wrong
        (0, (2, LOST), 5, "raised rtsp://x: broke off"),  # a camera that was pulled out
        ("rtsp://x", (2, LOST), 0, "raised rtsp://x: broke off"),
        ("rtsp://x", (2, ENDED), 0, None),
        ("http://x/film.mp4", (2, None), 5, None),  # a recording that is over
    ],
)
def test_source_that_is_not_opened_again(
    monkeypatch: pytest.MonkeyPatch, source: int | str, connection: tuple, retries: int, message: str | None
) -> None:
    _, said, dropped = read(monkeypatch, source, connection, retries=retries)
    assert said == ([message] if message else [])
    assert dropped.connections == 0


def test_waits_between_attempts_double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_live", Connections((1, LOST), *[(0, LOST)] * 9))
    waits: list[float] = []

    class Patient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return False

    with pytest.raises(DataError):
        list(sources._connected("rtsp://x", Live(retries=7), Dropped(), Patient()))
    assert waits == [1, 2, 4, 8, 16, 30, 30]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_recording_behind_an_address_plays_at_its_own_pace_to_its_end(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    write_moving(tmp_path / "x.mkv", num_frames=10)  # at 25 frames a second
    said: list[str] = []
    dropped = Dropped()
    live = Live(2, retries=5, tell=said.append)
    with served(tmp_path) as address:
        times = [f.time_sec for f in frames_of(f"{address}x.mkv", RGB, dropped, live=live)]
    assert (len(times), said) == (10 - dropped.frames, [])
    assert 0.25 < times[-1] < 1.5  # 0.36 but for what the first picture took to be unpacked, and a busy machine


def write_damaged(path: Path, damaged: Container[int]) -> Path:
    """Ten pictures, each packed for itself; packets of these numbers hold rubbish."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(10):
            (packet,) = stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24"))
            if number in damaged:
                good, packet = packet, av.Packet(b"rubbish" * 20)
                packet.stream, packet.time_base, packet.pts, packet.dts = stream, good.time_base, good.pts, good.dts
            container.mux(packet)
    return path


def test_damaged_packets_of_a_stream_are_left_out_and_counted(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    write_damaged(tmp_path / "x.mkv", {3, 4, 7})
    dropped, said = Dropped(), []
    with served(tmp_path) as address:
        frames = list(frames_of(f"{address}x.mkv", RGB, dropped, live=Live(64, retries=5, tell=said.append)))
    assert [f.number for f in frames] == list(range(7))
    assert (dropped, said) == (Dropped(damaged=3), [])


def test_stream_of_nothing_but_damage_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    monkeypatch.setattr(sources, "MOST_DAMAGED_SEC", 0.0)
    write_damaged(tmp_path / "x.mkv", range(2, 10))
    with (
        served(tmp_path) as address,
        pytest.raises(DataError, match=r"x\.mkv: broke off \(nothing could be decoded for 0 s"),
    ):
        list(frames_of(f"{address}x.mkv", RGB, Dropped(), live=Live(64)))


def set_up_by(query: str) -> str:
    """The transport that is asked of an RTSP camera, which then hangs up."""
    sdp = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:streamid=0\r\n"
    answers = {b"OPTIONS": b"Public: DESCRIBE, SETUP\r\n\r\n"}
    answers[b"DESCRIBE"] = b"Content-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%b" % (len(sdp), sdp)
    asked = []

    def answer(listener: socket.socket) -> None:
        with listener.accept()[0] as connection, connection.makefile("rwb") as file:
            while (line := file.readline()) and (head := list(iter(file.readline, b"\r\n"))):
                if line.startswith(b"SETUP"):
                    asked.extend(field.decode().strip() for field in head if field.startswith(b"Transport"))
                    return
                number = next(field for field in head if field.startswith(b"CSeq"))
                file.write(b"RTSP/1.0 200 OK\r\n" + number + answers[line.split()[0]])
                file.flush()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        camera = threading.Thread(target=answer, args=(listener,), daemon=True)
        camera.start()
        with pytest.raises(DataError):
            list(frames_of(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/1{query}", RGB, Dropped()))
        camera.join(10)
    return asked[0].split(";")[0]


@pytest.mark.parametrize(
    ("query", "transport"), [("", "RTP/AVP/TCP"), ("?udp", "RTP/AVP/UDP"), ("?channel=1&udp", "RTP/AVP/UDP")]
)
def test_rtsp_comes_over_tcp_unless_the_address_asks_for_udp(query: str, transport: str) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    assert set_up_by(query) == f"Transport: {transport}"


@pytest.mark.parametrize("address", ["rtsp://x/1", "srt://x:9000", "rtp://239.0.0.1:5004", "RTSPS://x", "udp://@:1"])
def test_addresses_are_live(address: str) -> None:
    assert sources.is_live(address)


def test_camera_by_its_lasting_name_is_the_camera(tmp_path: Path) -> None:
    (tmp_path / "usb-Maker_Camera-index0").symlink_to("/dev/video7")
    assert source_of(str(tmp_path / "usb-Maker_Camera-index0")) == 7


@pytest.mark.parametrize(
    ("text", "source"),
    [("0", 0), ("12", 12), ("/dev/video2", 2), ("clip.mp4", "clip.mp4"), ("rtsp://x/0", "rtsp://x/0"), ("٣", "٣")],
)
def test_source_of_a_command_line(text: str, source: int | str) -> None:
    assert source_of(text) == source


def test_password_in_an_address_is_not_told() -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    with pytest.raises(DataError, match=r"^tcp://127\.0\.0\.1:1/x: can not be opened") as caught:
        list(frames_of("tcp://me:secret@127.0.0.1:1/x", RGB, Dropped()))
    assert "secret" not in str(caught.value)
