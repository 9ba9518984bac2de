"""The reader of frames: the right pixels, each image decoded once, and what it says of images that can't be used."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from action_recognition.data.frames import read_frames
from action_recognition.data.index import Video, index_classes
from action_recognition.errors import DataError

Fit = Callable[[Image.Image], np.ndarray]


def as_it_is(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


@pytest.fixture
def video(tmp_path: Path, make_tree: Callable[..., Path]) -> Video:
    """Video 1 of class 0, 8 frames of 20 x 16 and 7 flow images."""
    root = make_tree(tmp_path / "tree", {"a": 2}, num_frames=8)
    return index_classes(root, ("a",), ["rgb", "of"], "error").videos[1]


def image_path(video: Video, folder: str, frame_id: int) -> Path:
    return Path(video.path, folder, video.files[folder].name(frame_id))


def test_read_frames_of_rgb_gives_the_pixels_of_the_ids_in_their_order(video: Video) -> None:
    frames = read_frames(video, "rgb", np.array([7, 0, 3, 3]), as_it_is)
    assert frames.shape == (4, 16, 20, 3)
    assert frames.dtype == np.uint8
    assert (frames == frames[:, :1, :1]).all()
    assert frames[:, 0, 0].tolist() == [[1, 7, 0], [1, 0, 0], [1, 3, 0], [1, 3, 0]]


def test_read_frames_of_flow_gives_u_then_v(video: Video) -> None:
    frames = read_frames(video, "of", np.array([6, 2]), as_it_is)
    assert frames.shape == (2, 16, 20, 2)
    assert frames[:, 5, 5].tolist() == [[6, 101], [2, 101]]


def test_read_frames_keeps_detail_exact(video: Video) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    Image.fromarray(pixels).save(image_path(video, "rgb", 2))
    np.testing.assert_array_equal(read_frames(video, "rgb", np.array([2]), as_it_is)[0], pixels)


def test_read_frames_decodes_an_image_once_however_often_its_id_occurs(
    video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, open_image = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(Path(path).name) or open_image(path))
    read_frames(video, "rgb", np.array([5, 1, 5, 1, 1, 5]), as_it_is)
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
def test_read_frames_takes_other_8_bit_images_for_rgb(video: Video, mode, colour, seen) -> None:
    Image.new(mode, (20, 16), colour).save(image_path(video, "rgb", 0))
    assert read_frames(video, "rgb", np.array([0]), as_it_is)[0, 0, 0].tolist() == list(seen)


def test_read_frames_takes_a_palette_image_by_its_colours(video: Video) -> None:
    Image.new("RGB", (20, 16), (10, 20, 30)).quantize().save(image_path(video, "rgb", 0))
    assert read_frames(video, "rgb", np.array([0]), as_it_is)[0, 0, 0].tolist() == [10, 20, 30]


def test_read_frames_takes_flow_that_was_saved_in_colour(video: Video) -> None:
    Image.new("RGB", (20, 16), (128, 128, 128)).save(image_path(video, "u", 0))
    assert read_frames(video, "of", np.array([0]), as_it_is)[0, 0, 0].tolist() == [128, 101]


@pytest.mark.parametrize("kept", [0, 10, 60])
def test_read_frames_of_a_truncated_image_names_the_file(video: Video, kept: int) -> None:
    path = image_path(video, "rgb", 4)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"rgb/000004\.png: the image can't be read \("):
        read_frames(video, "rgb", np.array([3, 4]), as_it_is)


def test_read_frames_of_a_truncated_jpeg_is_an_error_too(video: Video) -> None:
    path = image_path(video, "rgb", 4)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"rgb/000004\.png: the image can't be read \("):
        read_frames(video, "rgb", np.array([4]), as_it_is)


@pytest.mark.parametrize("folder", ["rgb", "u"])
def test_read_frames_of_a_16_bit_image_is_refused_by_name(video: Video, folder: str) -> None:
    path = image_path(video, folder, 1)
    Image.fromarray(np.full((16, 20), 40_000, np.uint16)).save(path)
    with pytest.raises(DataError, match=rf"{folder}/000001\.png: pixels of kind 'I;16' can't be used; convert it to 8"):
        read_frames(video, "rgb" if folder == "rgb" else "of", np.array([1]), as_it_is)


def test_read_frames_of_another_size_than_the_earlier_ones_is_refused(video: Video) -> None:
    Image.new("RGB", (16, 20)).save(image_path(video, "rgb", 5))
    with pytest.raises(DataError, match=r"video_001: rgb/000005\.png is 16x20 pixels, earlier frames are 20x16"):
        read_frames(video, "rgb", np.array([2, 5, 6]), as_it_is)


def test_read_frames_of_u_and_v_of_two_sizes_is_refused(video: Video) -> None:
    Image.new("L", (10, 8)).save(image_path(video, "v", 5))
    with pytest.raises(DataError, match=r"video_001: v/000005\.png is 10x8 pixels, earlier frames are 20x16"):
        read_frames(video, "of", np.array([5]), lambda image: np.asarray(image.resize((4, 4))))


def test_read_frames_of_a_file_that_vanished_says_so(video: Video) -> None:
    image_path(video, "v", 3).unlink()
    with pytest.raises(DataError, match=r"v/000003\.png: the file has vanished since the folder was listed"):
        read_frames(video, "of", np.array([2, 3]), as_it_is)
