"""The reader of frames: the right pixels, each image decoded once, and what it says of images that can't be used."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from lossless import noise, write_lossless
from PIL import Image

from action_recognition.clip import image
from action_recognition.clip.video import Damage, read_video
from action_recognition.data.frames import open_frames
from action_recognition.data.index import FrameFiles, Video, index_classes
from action_recognition.errors import DataError


def read(video: Video, modality: str, ids: np.ndarray, size: tuple[int, int] = (20, 16)) -> np.ndarray:
    """Whole frames at `size`, by default their own."""
    return open_frames(video).read(modality, ids, lambda frame: (0, 0, *frame), size)


@pytest.fixture
def video(tmp_path: Path, make_tree: Callable[..., Path]) -> Video:
    """Video 1 of class 0, 8 frames of 20 x 16 and 7 flow images."""
    root = make_tree(tmp_path / "tree", {"a": 2}, num_frames=8)
    return index_classes(root, ("a",), ["rgb", "of"], "error").videos[1]


def image_path(video: Video, folder: str, frame_id: int) -> Path:
    return Path(video.path, folder, video.files[folder].name(frame_id))


def test_read_of_rgb_gives_the_pixels_of_the_ids_in_their_order(video: Video) -> None:
    frames = read(video, "rgb", np.array([7, 0, 3, 3]))
    assert frames.shape == (4, 16, 20, 3)
    assert frames.dtype == np.uint8
    assert (frames == frames[:, :1, :1]).all()
    assert frames[:, 0, 0].tolist() == [[1, 7, 0], [1, 0, 0], [1, 3, 0], [1, 3, 0]]


def test_read_of_flow_gives_u_then_v(video: Video) -> None:
    frames = read(video, "of", np.array([6, 2]))
    assert frames.shape == (2, 16, 20, 2)
    assert frames[:, 5, 5].tolist() == [[6, 101], [2, 101]]


def test_num_frames_of_a_folder_are_those_of_its_shortest_stream() -> None:
    files = {"rgb": FrameFiles(9), "u": FrameFiles(7), "v": FrameFiles(7)}
    assert open_frames(Video("x", 0, files)).num_frames == 7


def test_read_keeps_detail_exact(video: Video) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    Image.fromarray(pixels).save(image_path(video, "rgb", 2))
    np.testing.assert_array_equal(read(video, "rgb", np.array([2]))[0], pixels)


def test_read_decodes_an_image_once_however_often_its_id_occurs(video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, open_image = [], image.open_image
    monkeypatch.setattr(image, "open_image", lambda path: opened.append(Path(path).name) or open_image(path))
    read(video, "rgb", np.array([5, 1, 5, 1, 1, 5]))
    assert opened == ["000001.png", "000005.png"]


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("L", 77, (77, 77, 77)),
        ("RGBA", (9, 8, 7, 0), (9, 8, 7)),
        ("LA", (77, 3), (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_read_takes_other_8_bit_images_for_rgb(video: Video, mode, colour, seen) -> None:
    Image.new(mode, (20, 16), colour).save(image_path(video, "rgb", 0))
    assert read(video, "rgb", np.array([0]))[0, 0, 0].tolist() == list(seen)


def test_read_takes_a_palette_image_by_its_colours(video: Video) -> None:
    Image.new("RGB", (20, 16), (10, 20, 30)).quantize().save(image_path(video, "rgb", 0))
    assert read(video, "rgb", np.array([0]))[0, 0, 0].tolist() == [10, 20, 30]


def test_read_takes_flow_that_was_saved_in_colour(video: Video) -> None:
    Image.new("RGB", (20, 16), (128, 128, 128)).save(image_path(video, "u", 0))
    assert read(video, "of", np.array([0]))[0, 0, 0].tolist() == [128, 101]


@pytest.mark.parametrize("kept", [0, 10, 60])
def test_read_of_a_truncated_image_names_the_file(video: Video, kept: int) -> None:
    path = image_path(video, "rgb", 4)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"rgb/000004\.png: the image can't be read \("):
        read(video, "rgb", np.array([3, 4]))


def test_read_of_a_truncated_jpeg_is_an_error_too(video: Video) -> None:
    path = image_path(video, "rgb", 4)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"rgb/000004\.png: the image can't be read \("):
        read(video, "rgb", np.array([4]))


@pytest.mark.parametrize("folder", ["rgb", "u"])
def test_read_of_a_16_bit_image_is_refused_by_name(video: Video, folder: str) -> None:
    path = image_path(video, folder, 1)
    Image.fromarray(np.full((16, 20), 40_000, np.uint16)).save(path)
    with pytest.raises(DataError, match=rf"{folder}/000001\.png: pixels of kind 'I;16' can't be used; convert it to 8"):
        read(video, "rgb" if folder == "rgb" else "of", np.array([1]))


def test_read_of_another_size_than_the_earlier_ones_is_refused(video: Video) -> None:
    Image.new("RGB", (16, 20)).save(image_path(video, "rgb", 5))
    with pytest.raises(DataError, match=r"video_001: rgb/000005\.png is 16x20 pixels, earlier frames are 20x16"):
        read(video, "rgb", np.array([2, 5, 6]))


def test_read_of_u_and_v_of_two_sizes_is_refused(video: Video) -> None:
    Image.new("L", (10, 8)).save(image_path(video, "v", 5))
    with pytest.raises(DataError, match=r"video_001: v/000005\.png is 10x8 pixels, earlier frames are 20x16"):
        read(video, "of", np.array([5]), (4, 4))


def test_read_of_a_file_that_vanished_says_so(video: Video) -> None:
    image_path(video, "v", 3).unlink()
    with pytest.raises(DataError, match=r"v/000003\.png: the file has vanished since the folder was listed"):
        read(video, "of", np.array([2, 3]))


# --- video files ---


@pytest.fixture
def pixels(tmp_path: Path) -> np.ndarray:
    """The frames of tmp_path/x.avi."""
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    frames = noise(9)
    write_lossless(tmp_path / "x.avi", frames)
    return frames


def test_read_of_a_video_file_gives_the_pixels_of_the_ids_in_their_order(tmp_path: Path, pixels: np.ndarray) -> None:
    video = Video(str(tmp_path / "x.avi"), 0)
    assert open_frames(video).num_frames == 9
    np.testing.assert_array_equal(read(video, "rgb", np.array([7, 0, 3, 3])), pixels[[7, 0, 3, 3]])


def test_read_of_a_video_file_decodes_no_further_than_the_last_id(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def watched(path: str, damage: Damage) -> Iterator[np.ndarray]:
        for frame in read_video(path, damage):
            decoded.append(1)
            yield frame

    monkeypatch.setattr("action_recognition.data.frames.read_video", watched)
    read(Video(str(tmp_path / "x.avi"), 0), "rgb", np.array([4, 2]))
    assert len(decoded) == 5


def test_read_of_a_box_of_a_video_file_is_that_of_the_images(
    tmp_path: Path, pixels: np.ndarray, make_tree: Callable[..., Path]
) -> None:
    root = make_tree(tmp_path / "tree", {"a": 1}, num_frames=9, modalities=["rgb"])
    (folder,) = index_classes(root, ("a",), ["rgb"], "error").videos
    for i, frame in enumerate(pixels):
        Image.fromarray(frame).save(image_path(folder, "rgb", i))
    ids, box = np.array([1, 8]), (2.5, 1.0, 17.0, 14.25)
    clips = [open_frames(v).read("rgb", ids, lambda _: box, (6, 5)) for v in (folder, Video(f"{tmp_path}/x.avi", 0))]
    assert clips[0].shape == (2, 5, 6, 3)
    np.testing.assert_array_equal(clips[0], clips[1])


def test_read_of_a_video_file_that_got_shorter_names_the_frame(tmp_path: Path, pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"x\.avi: frame 9 was there before and can't be decoded now"):
        read(Video(str(tmp_path / "x.avi"), 0), "rgb", np.array([2, 9, 10]))


def test_read_of_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.avi").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"x\.avi: can't be opened as a video"):
        _ = open_frames(Video(str(tmp_path / "x.avi"), 0)).num_frames
