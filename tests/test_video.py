"""Video files to frames: the order, the side that is up, and what is said of files that are broken."""

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from action_recognition.clip.video import Damage, read_video, upright
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


def test_read_video_cut_off_in_the_middle_gives_the_frames_before(tmp_path: Path) -> None:
    path = write_video(tmp_path / "x.avi", 20, "mjpeg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    read = numbers(path)
    assert 0 < len(read) < 20
    assert read == list(range(len(read)))


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


def test_read_video_of_a_film_with_sound_gives_its_pictures(data_root: Path) -> None:
    frames: Callable[[], np.ndarray] = iter(read_video(data_root / "data/clips/WUzgd7C1pWA.mp4", Damage())).__next__
    assert [frames().shape for _ in range(5)] == [(256, 340, 3)] * 5
