"""Images of training clips, decoded by torchvision and resized by torch: Pillow's pixels within one grey level.

In: the path of an image, then a box of it and a size. Out: uint8 arrays. With JPEG images of 488x332 a clip of 224x224
windows takes 0.55 of the time that Pillow takes, with PNG images 0.8. What torchvision doesn't read as 8-bit RGB or
grey is left to clip/image.py, and so are all messages about what can't be read.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from math import ceil, gcd
from zlib import crc32

import numpy as np
import torch
import torchvision.io  # makes torch.ops.image  # noqa: F401
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from action_recognition.clip.image import MAX_PIXELS, read_image
from action_recognition.clip.transform import Box, fit_frame

Size = tuple[int, int]  # width, height
_BYTES_AT_ONCE = 16_000_000  # of images that are resized together
_AS_IT_IS = 0  # torchvision's ImageReadMode.UNCHANGED
_EXIF, _FRAME_HEADERS = 0xE1, (0xC0, 0xC1, 0xC2)  # JPEG markers; baseline, extended, progressive
_PLAIN_CHUNKS = {b"IHDR", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"IDAT", b"IEND"}  # of PNG files, as video tools write


class QuickImage:
    """An image: pixels uint8 (H, W, C), 3 channels or 1."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    @property
    def size(self) -> Size:
        """(width, height), as Pillow's."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def as_pillow(self) -> Image.Image:
        """RGB or L."""
        return Image.fromarray(self.pixels.squeeze(2).numpy())


def open_quickly(path: str, mode: str) -> QuickImage:
    """As clip.image.read_image, which does it where torchvision has no answer."""
    pixels = _decoded(path)
    if pixels is not None and len(pixels) == len(mode):
        return QuickImage(pixels.permute(1, 2, 0))
    plain = np.array(read_image(path, mode))
    return QuickImage(torch.from_numpy(plain).reshape(*plain.shape[:2], -1))


def _decoded(path: str) -> Tensor | None:
    """The pixels of a plain JPEG or PNG file, uint8 (C, H, W); None where read_image knows better."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        if not 0 < (_jpeg_pixels(content) or _png_pixels(content)) <= MAX_PIXELS:
            return None
        # torchvision.io.decode_image calls this, too. Where a version does not have it, Pillow decodes.
        pixels = torch.ops.image.decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), _AS_IT_IS, False)
        return pixels if pixels.dtype == torch.uint8 else None
    except (OSError, RuntimeError, ValueError, IndexError, AttributeError):
        return None  # read_image says what is wrong, or finds nothing wrong with it


# Pillow would know what these two find out, but to ask it takes a tenth of a clip's time.


def _jpeg_pixels(content: bytes) -> int:
    """The size that a JPEG file claims; 0 for one with a note of the camera's (EXIF), and for any other file."""
    at = 2 if content.startswith(b"\xff\xd8") else len(content)
    while content[at : at + 1] == b"\xff" and content[at + 1] != _EXIF:
        if content[at + 1] in _FRAME_HEADERS:
            return int.from_bytes(content[at + 5 : at + 7]) * int.from_bytes(content[at + 7 : at + 9])
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return 0


def _png_pixels(content: bytes) -> int:
    """The size of a PNG file; 0 for one that has other than plain chunks or is damaged, and for any other file.

    All checksums are looked at, since torchvision's decoder takes the whole process down with a damaged PNG.
    """
    at = 8 if content.startswith(b"\x89PNG\r\n\x1a\n") else len(content)
    view, name = memoryview(content), b""
    while at < len(content):
        name, end = content[at + 4 : at + 8], at + 8 + int.from_bytes(content[at : at + 4])
        if name not in _PLAIN_CHUNKS or crc32(view[at + 4 : end]) != int.from_bytes(content[end : end + 4]):
            return 0
        at = end + 4
    return int.from_bytes(content[16:20]) * int.from_bytes(content[20:24]) if name == b"IEND" else 0


def fit_quickly(images: Iterable[QuickImage], num_images: int, box_of: Callable[[Size], Box], size: Size) -> np.ndarray:
    """The inside of a box of each image at (width, height) `size`: uint8 (T, H, W, C). All images are of one size.

    Many at once take two thirds of the time that one after the other would. clip.transform.fit_frame does it where the
    box is not cut out at the scale of the whole image.
    """
    images = iter(images)
    first = next(images)
    box = box_of(first.size)
    columns, rows = (_resized_span(box[k], box[k + 2], size[k], first.size[k]) for k in (0, 1))
    if columns is None or rows is None:
        fitted = [fit_frame(image.as_pillow(), box, size) for image in chain([first], images)]
        return np.stack(fitted).reshape(num_images, size[1], size[0], -1)
    (left, right, x, scale_x), (top, bottom, y, scale_y) = columns, rows
    part_of_first = first.pixels[top:bottom, left:right]
    at_once = max(1, min(num_images, _BYTES_AT_ONCE // part_of_first.numel()))
    parts = part_of_first.new_empty((at_once, *part_of_first.shape))
    out = part_of_first.new_empty((num_images, size[1], size[0], part_of_first.shape[2]))
    for i, image in enumerate(chain([first], images), start=1):
        waiting = (i - 1) % at_once + 1
        parts[waiting - 1] = image.pixels[top:bottom, left:right]
        if waiting == at_once or i == num_images:
            whole = interpolate(
                parts[:waiting].permute(0, 3, 1, 2), scale_factor=(scale_y, scale_x), mode="bilinear", antialias=True
            )  # N C H W, channels last: torch's fast code
            out[i - waiting : i] = whole.permute(0, 2, 3, 1)[:, y : y + size[1], x : x + size[0]]
    return out.numpy()


def _resized_span(first: float, last: float, num_px: int, full: int) -> tuple[int, int, int, float] | None:
    """What to resize of a side of `full` pixels, for the `num_px` that `first`..`last` becomes.

    Returns where that part of the side begins and ends, how many pixels of the result come before the wanted ones, and
    the scale. It begins where a pixel of the resized side does, so that the result is that of resizing the whole side.
    None where the span is not a row of such pixels.
    """
    step = (last - first) / num_px  # pixels of the side for one of the result
    resized, start = round(full / step), round(first / step)
    if abs(resized * step - full) > 1e-6 * full or abs(start * step - first) > 1e-3:
        return None
    reach = ceil(max(1, 1 / step))  # of the filter to either side, in pixels of the result
    period = resized // gcd(full, resized)  # the pixels of both begin at one place every so many
    skipped = start - max(0, start - reach) // period * period
    begin = (start - skipped) * full // resized
    end = min(full, ceil(last + 2 * max(1, step)))
    scale = (resized + 1e-9) / full  # a little more, lest rounding lose the last pixel
    if resized != full and int((end - begin) * scale) == end - begin:
        return None  # torch takes as many pixels as before for nothing to do
    return begin, end, skipped, scale
