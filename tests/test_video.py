"""Video files to frames: the order, the side that is up, and what is said of files that are broken."""

import wave
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from action_recognition.clip.video import Damage, at_rate, read_video, timed, upright
from action_recognition.errors import DataError

av = pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
STEP = 9  # grey levels between frames


def write_video(path: Path, num_frames: int = 24, codec: str = "mpeg4", spoilt: int | None = None) -> Path:
    """A video of 48 x 32 whose frame i is grey 16 + 9 i; the packet `spoilt` holds no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "2", "qmax": "2"} if codec == "mpeg4" else {})
        stream.width, stream.height, stream.bit_rate = 48, 32, 8_000_000
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        packets = []
        for i in range(num_frames):
            image = np.full((32, 48, 3), 16 + STEP * i, np.uint8)
            packets += stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
        for i, packet in enumerate([*packets, *stream.encode(None)]):
            if i == spoilt:
                spoilt_packet = av.Packet(b"no picture" * 10)
                spoilt_packet.pts, spoilt_packet.dts = packet.pts, packet.dts
                spoilt_packet.stream, spoilt_packet.time_base = stream, packet.time_base
                packet = spoilt_packet
            container.mux(packet)
    return path


def numbers(path: Path, damage: Damage | None = None) -> list[int]:
    """What the frames of write_video say they are."""
    return [round((float(frame.mean()) - 16) / STEP) for frame in read_video(path, damage or Damage())]


@pytest.mark.parametrize("name", ["x.avi", "x.mp4", "x.mkv"])
def test_read_video_gives_every_frame_once_in_display_order(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name)  # with B-frames: stored in another order
    assert numbers(path) == list(range(24))


def test_read_video_frames_are_uint8_rgb_of_their_own(tmp_path: Path) -> None:
    frames = list(read_video(write_video(tmp_path / "x.avi", 3), Damage()))
    assert {(f.shape, str(f.dtype), f.flags["C_CONTIGUOUS"]) for f in frames} == {((32, 48, 3), "uint8", True)}
    frames[0][:] = 0
    assert frames[1].mean() > 16  # no frame is a view of a buffer that the next one writes to


def test_read_video_counts_a_damaged_packet_and_gives_the_rest(tmp_path: Path) -> None:
    damage = Damage()
    assert numbers(write_video(tmp_path / "x.avi", 8, "mjpeg", spoilt=3), damage) == [0, 1, 2, 4, 5, 6, 7]
    assert damage.packets_skipped == 1


@pytest.mark.parametrize("name", ["x.avi", "x.mp4"])
def test_read_video_of_a_file_that_is_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, 20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"x\.(avi: is cut off: it holds [\d,]+ of|mp4: can't be opened as a video)"):
        list(read_video(path, Damage()))


def test_read_video_of_a_stream_that_just_ends_gives_the_frames_before(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mpg", 20, "mpeg1video")  # says nowhere how long it is
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 0 < len(list(read_video(path, Damage()))) < 20


def test_read_video_goes_on_after_a_damaged_part_and_counts_it(tmp_path: Path) -> None:
    path, damage = write_video(tmp_path / "x.mp4", 24, "mjpeg"), Damage()
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 2000
    content[start : start + 3000] = bytes(3000)
    path.write_bytes(content)
    num_frames = len(list(read_video(path, damage)))
    assert 0 < num_frames < 24
    assert damage.packets_skipped == 24 - num_frames


@pytest.mark.parametrize(("pix_fmt", "expected"), [("yuv420p", 28), ("yuvj420p", 40)])
def test_read_video_knows_limited_range_from_full(tmp_path: Path, pix_fmt: str, expected: int) -> None:
    """Luma 40 is (40 - 16) * 255 / 219 = 28 in limited range, and 40 in full range."""
    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, pix_fmt
        frame = av.VideoFrame(64, 64, pix_fmt)
        for plane, value in zip(frame.planes, (40, 128, 128), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (image,) = read_video(tmp_path / "x.mp4", Damage())
    assert image.mean() == pytest.approx(expected, abs=1)


def test_read_video_with_metadata_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "caf-"
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(48, 32, "yuvj420p")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"caf-", b"caf\xe9"))
    assert len(list(read_video(path, Damage()))) == 1


# --- a wanted frame rate ---


class Shown(NamedTuple):
    """A stand-in for a decoded frame."""

    name: str
    time: float | None


def at_times(times: Iterable[float | None], fps: float, own_fps: float = 10) -> str:
    frames = (Shown(name, time) for name, time in zip("abcdefghij", times, strict=False))
    return "".join(frame.name for _, frame in at_rate(frames, fps, own_fps))


@pytest.mark.parametrize(
    ("times", "fps", "expected"),
    [
        ([0, 0.1, 0.2, 0.3], 10, "abcd"),
        ([0, 0.1, 0.2, 0.3], 5, "ac"),
        ([0, 0.1, 0.2, 0.3], 20, "aabbccdd"),
        ([7, 7.1, 7.2, 7.3], 10, "abcd"),  # the first frame is at 0
        ([0, 0.5, 0.6], 10, "aaaaabc"),  # a still picture
        ([0, 0.1, 0.1, 0.05, 0.2], 10, "abcde"),  # stamps that go backwards count on
        ([None, None, None], 10, "abc"),
        ([0, 0.1, 9999, 9999.1], 10, "abcd"),  # a jump is a fault
        ([0], 10, "a"),
        ([], 10, ""),
    ],
)
def test_at_rate_shows_the_frame_of_each_moment(times: list[float | None], fps: float, expected: str) -> None:
    assert at_times(times, fps) == expected


def test_at_rate_of_ntsc_times_rounded_to_milliseconds_keeps_every_frame() -> None:
    times = [round(i / 29.97, 3) for i in range(10)]
    assert at_times(times, 29.97, 29.97) == "abcdefghij"


def test_read_video_at_half_the_rate_gives_every_second_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.mp4", 10)
    frames = [round((float(frame.mean()) - 16) / STEP) for frame in read_video(path, Damage(), fps=12.5)]
    assert frames == [0, 2, 4, 6, 8]


def test_read_video_without_a_frame_that_can_be_decoded_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.avi", 1, "mjpeg", spoilt=0)
    with pytest.raises(DataError, match=r"x\.avi: (no frame can be decoded \(1 damaged|can't be opened as a video)"):
        list(read_video(path, Damage()))


@pytest.mark.parametrize("content", [b"", b"These are words, not pictures.\n" * 100, bytes(5000)])
def test_read_video_of_a_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.mp4: (can't be opened as a video|holds no video stream|no frame can)"):
        list(read_video(path, Damage()))


def test_read_video_of_sound_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.avi"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(8000))
    with pytest.raises(DataError, match=r"x\.avi: holds no video stream"):
        list(read_video(path, Damage()))


def test_read_video_of_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.avi: can't be opened as a video \(.*No such file"):
        list(read_video(tmp_path / "absent.avi", Damage()))


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [(0, [[1, 2], [3, 4]]), (90, [[2, 4], [1, 3]]), (-90, [[3, 1], [4, 2]]), (180, [[4, 3], [2, 1]])],
)
def test_upright_turns_counter_clockwise(rotation: int, expected: list[list[int]]) -> None:
    turned = upright(np.array([[1, 2], [3, 4]]), rotation)
    assert turned.tolist() == expected
    assert turned.flags["C_CONTIGUOUS"]


# --- real files ---


@pytest.mark.parametrize(("name", "more"), [("video_90.mov", 20), ("video_270.mov", 50)])
def test_read_video_turns_a_rotated_recording_upright(data_root: Path, name: str, more: int) -> None:
    frames = list(read_video(data_root / "data/malformed" / name, Damage()))
    assert [frame.shape for frame in frames] == [(568, 320, 3)] * 3
    for frame in frames:  # a keyboard whose far end, above, is in the light
        assert frame[:284].mean() - frame[284:].mean() > more


def test_read_video_of_packets_out_of_order_gives_all_frames(data_root: Path) -> None:
    damage = Damage()
    frames = list(read_video(data_root / "data/malformed/unordered.mov", damage))
    assert [frame.shape for frame in frames] == [(50, 50, 3)] * 4
    assert damage.packets_skipped == 0


@pytest.mark.parametrize(
    ("name", "num_frames"),
    [
        ("RATRACE_wave_f_nm_np1_fr_goo_37.avi", 72),
        ("SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi", 74),
        ("TrumanShow_wave_f_nm_np1_fr_med_26.avi", 48),
    ],
)
def test_read_video_gives_the_frames_that_are_there_not_those_declared(
    data_root: Path, name: str, num_frames: int
) -> None:
    path, damage = data_root / "data/clips" / name, Damage()
    with av.open(str(path), metadata_errors="ignore") as container:
        assert container.streams.video[0].frames == num_frames + 1
    assert sum(1 for _ in read_video(path, damage)) == num_frames
    assert damage.packets_skipped == 0


@pytest.mark.parametrize("name", ["v_SoccerJuggling_g23_c01.avi", "WUzgd7C1pWA.mp4"])
def test_read_video_gives_as_many_frames_as_a_plain_decode(data_root: Path, name: str) -> None:
    path, damage = data_root / "data/clips" / name, Damage()
    with av.open(str(path), metadata_errors="ignore") as container:
        plain = sum(1 for _ in container.decode(video=0))
    assert sum(1 for _ in read_video(path, damage)) == plain > 100
    assert damage.packets_skipped == 0


def test_read_video_of_a_film_with_sound_gives_its_pictures(data_root: Path) -> None:
    frames: Callable[[], np.ndarray] = iter(read_video(data_root / "data/clips/WUzgd7C1pWA.mp4", Damage())).__next__
    assert [frames().shape for _ in range(5)] == [(256, 340, 3)] * 5


@pytest.mark.parametrize(
    ("given", "own_fps", "times"),
    [
        ((3.0, 3.5, 4.5), 25, [0, 0.5, 1.5]),
        ((None, None, None), 10, [0, 0.1, 0.2]),
        ((0.0, None, 0.3), 10, [0, 0.1, 0.3]),
        ((0.0, 0.5, 0.2, 0.9), 10, [0, 0.5, 0.6, 0.9]),  # backwards
        ((0.0, 0.1, 500.1, 500.3), 10, [0, 0.1, 0.2, 0.4]),  # what follows a jump is believed again
        ((0.0, 0.0), 0, [0, 0.04]),  # a file that does not say its rate
    ],
)
def test_times_of_a_file_that_can_not_be_right_become_those_of_its_rate(
    given: tuple, own_fps: float, times: list
) -> None:
    frames = (Shown("", time_sec) for time_sec in given)
    assert [time_sec for time_sec, _ in timed(frames, own_fps)] == pytest.approx(times)
