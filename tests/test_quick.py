"""Images of training clips as OpenCV and torch read them, held against Pillow."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image

from action_recognition.clip.image import read_image
from action_recognition.clip.transform import Box, box_in_frame, fit_frame, short_side_to
from action_recognition.data import quick
from action_recognition.data.frames import open_frames
from action_recognition.data.index import FrameFiles, Video
from action_recognition.data.quick import QuickImage, fit_quickly, open_quickly
from action_recognition.errors import DataError


def noise(size: tuple[int, int], num_channels: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], num_channels), np.uint8)
    return pixels if num_channels == 3 else pixels[..., 0]


def by_pillow(path: str, mode: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert(mode)


def quick_image(pixels: np.ndarray) -> QuickImage:
    return QuickImage(pixels.copy())


# --- decoding ---


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_of_the_wanted_kind_are_decoded_to_pillow_s_pixels(
    mode: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick, "read_image", lambda *_: pytest.fail("the other reader was asked"))
    path = str(tmp_path / f"x{suffix}")
    Image.fromarray(noise((37, 23), len(mode))).save(path)
    image = open_quickly(path, mode)
    assert image.size == (37, 23)
    np.testing.assert_array_equal(image.pixels.squeeze(), np.asarray(by_pillow(path, mode)))


@pytest.mark.parametrize(
    ("made", "mode"), [("L", "RGB"), ("RGB", "L"), ("RGBA", "RGB"), ("P", "RGB"), ("1", "L"), ("CMYK", "RGB")]
)
def test_images_of_another_kind_come_out_as_pillow_converts_them(made: str, mode: str, tmp_path: Path) -> None:
    path = str(tmp_path / ("x.jpg" if made == "CMYK" else "x.png"))
    Image.fromarray(noise((37, 23))).convert(made).save(path)
    image = open_quickly(path, mode)
    np.testing.assert_array_equal(image.pixels.squeeze(), np.asarray(by_pillow(path, mode)))


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_what_cannot_be_decoded_is_left_to_the_other_reader(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.png: the "):
        open_quickly(str(tmp_path / "x.png"), "RGB")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_image_is_an_error_that_names_it(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    path = tmp_path / f"rgb/0{suffix}"
    Image.fromarray(noise((40, 30))).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    frames = open_frames(Video(str(tmp_path), 0, {"rgb": FrameFiles.of([path.name])}), quickly=True)
    with pytest.raises(DataError, match=rf"rgb/0\{suffix}: the image can't be read"):
        frames.read("rgb", np.array([0]), lambda size: (0, 0, *size), (20, 20))


def test_16_bit_image_is_refused_as_ever(tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    Image.fromarray(np.full((30, 40), 60_000, np.uint16)).save(tmp_path / "rgb/0.png")
    frames = open_frames(Video(str(tmp_path), 0, {"rgb": FrameFiles.of(["0.png"])}), quickly=True)
    with pytest.raises(DataError, match=r"pixels of kind 'I;16' can't be used"):
        frames.read("rgb", np.array([0]), lambda size: (0, 0, *size), (20, 20))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_picture_that_is_stored_turned_comes_out_upright(suffix: str, tmp_path: Path) -> None:
    image = Image.fromarray(noise((37, 23)))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / f"x{suffix}", exif=exif)
    upright = np.asarray(read_image(tmp_path / f"x{suffix}", "RGB"))
    assert upright.shape == (37, 23, 3)
    np.testing.assert_array_equal(open_quickly(str(tmp_path / f"x{suffix}"), "RGB").pixels, upright)


def test_images_are_read_without_opencv_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "_opencv", lambda: None)
    path = str(tmp_path / "x.jpg")
    Image.fromarray(noise((37, 23))).save(path)
    np.testing.assert_array_equal(open_quickly(path, "RGB").pixels, np.asarray(by_pillow(path, "RGB")))


def test_png_whose_checksums_hide_its_damage_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(noise((37, 23))).save(path)
    png = path.read_bytes()
    length = int.from_bytes(png[33:37])
    damaged = png[41 : 41 + 50] + bytes(length - 50)
    path.write_bytes(png[:41] + damaged + crc32(b"IDAT" + damaged).to_bytes(4) + png[45 + length :])
    with pytest.raises(DataError, match=r"x\.png: the image can't be read"):
        open_quickly(str(path), "RGB")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_flipped_bits_never_end_the_process(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    Image.fromarray(noise((37, 23))).save(path)
    content = path.read_bytes()
    for at in range(0, len(content), 53):
        path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        with suppress(DataError):
            open_quickly(str(path), "RGB")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_jpeg_that_claims_to_be_huge_is_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(noise((37, 23))).save(path)
    path.write_bytes(path.read_bytes().replace((23).to_bytes(2) + (37).to_bytes(2), b"\x27\x10\x27\x10", 1))
    with pytest.raises(DataError, match=r"x\.jpg: is 10000 x 10000 pixels; images of up to 67,108,864 pixels are read"):
        open_quickly(str(path), "RGB")


@pytest.mark.parametrize("length", range(0, 30, 3))
def test_header_of_a_jpeg_that_breaks_off_has_no_size(length: int, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(noise((37, 23))).save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"x\.jpg: the image can't be read"):
        open_quickly(str(path), "RGB")


def test_without_torchvision_s_decoder_images_are_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "x.jpg")
    Image.fromarray(noise((37, 23))).save(path)
    monkeypatch.setattr(torch.ops, "image", object())
    np.testing.assert_array_equal(open_quickly(path, "RGB").pixels, np.asarray(by_pillow(path, "RGB")))


# --- resizing ---


def windows() -> Iterator[tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]]:
    """Sizes of frames, what they are resized to, and (left, top, width, height) in that."""
    for size, edge in (((320, 240), 256), ((488, 332), 256), ((96, 72), 64), ((64, 64), 65), ((60, 90), 150)):
        resized = short_side_to(size, edge)
        for x, y, share in ((0, 0, 1), (0, 0, 0.8), (1, 1, 0.5), (0.5, 0.3, 0.9), (0.9, 0.6, 0.3)):
            width, height = (max(8, int(side * share)) for side in resized)
            yield size, resized, (int(x * (resized[0] - width)), int(y * (resized[1] - height)), width, height)


def fitted(pixels: np.ndarray, box: Box, size: tuple[int, int], num_images: int = 1) -> np.ndarray:
    images = fit_quickly(
        (quick_image(pixels + np.uint8(i)) for i in range(num_images)), num_images, lambda _: box, size
    )
    assert images.shape == (num_images, size[1], size[0], 3 if pixels.ndim == 3 else 1)
    return images if pixels.ndim == 3 else images[..., 0]


@pytest.mark.parametrize("num_channels", [3, 1])
def test_windows_are_those_of_the_frame_resized_by_pillow_within_one_grey_level(num_channels: int) -> None:
    for size, resized, (left, top, width, height) in windows():
        pixels = noise(size, num_channels)
        box = box_in_frame(size, resized, (left, top, left + width, top + height))
        whole = np.asarray(Image.fromarray(pixels).resize(resized, Image.Resampling.BILINEAR))
        expected = whole[top : top + height, left : left + width]
        (ours,) = fitted(pixels, box, (width, height))
        assert np.abs(ours.astype(int) - expected).max() <= 1, (size, resized, left, top, width, height)


@pytest.mark.parametrize("bytes_at_once", [1, 2 * 96 * 72 * 3, 10**9])
def test_images_are_the_same_however_many_are_resized_together(
    bytes_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick, "_BYTES_AT_ONCE", bytes_at_once)
    pixels, box = noise((96, 72)), box_in_frame((96, 72), (85, 64), (10, 5, 74, 53))
    images = fitted(pixels, box, (64, 48), num_images=5)
    for i in range(5):
        np.testing.assert_array_equal(images[i], fitted(pixels + np.uint8(i), box, (64, 48))[0])


def test_window_at_the_scale_of_the_frame_is_made_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "fit_frame", lambda *_: pytest.fail("Pillow was asked"))
    fitted(noise((488, 332)), box_in_frame((488, 332), (376, 256), (60, 20, 284, 244)), (224, 224))


@pytest.mark.parametrize("num_channels", [3, 1])
@pytest.mark.parametrize("box", [(10.3, 5.7, 70.1, 61.9), (0, 0, 50, 50)])
def test_box_at_another_scale_is_pillow_s(box: Box, num_channels: int) -> None:
    pixels = noise((96, 72), num_channels)
    expected = [fit_frame(Image.fromarray(pixels + np.uint8(i)), box, (32, 24)) for i in range(2)]
    np.testing.assert_array_equal(fitted(pixels, box, (32, 24), num_images=2), expected)
