"""Images of training clips, decoded by OpenCV and resized by torch: Pillow's pixels within one grey level.

In: the path of an image, then a box of it and a size. Out: uint8 arrays. With JPEG images of 488x332 a clip of 224x224
windows takes half of the time that Pillow takes, with PNG images two thirds. Where OpenCV is not installed, and for
images of other kinds than RGB and grey, clip/image.py decodes; it also says all that is to be said of bad ones.
"""

from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain
from math import ceil, gcd
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from action_recognition.clip.image import MAX_PIXELS, read_image
from action_recognition.clip.transform import Box, fit_frame

Size = tuple[int, int]  # width, height
_BYTES_AT_ONCE = 2_000_000  # of images that are resized together: more would not stay in the cores' caches
_PNG, _JPEG, _JPEG_END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd9"
_PNG_CHANNELS = {b"\x08\x00": 1, b"\x08\x02": 3}  # by bit depth and colour type
_JPEG_FRAMES = (b"\xc0", b"\xc1", b"\xc2")  # baseline, extended, progressive


class QuickImage:
    """An image: pixels uint8 (H, W, C), 3 channels or 1."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels.reshape(*pixels.shape[:2], -1)

    @property
    def size(self) -> Size:
        """(width, height), as Pillow's."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def as_pillow(self) -> Image.Image:
        """RGB or L."""
        return Image.fromarray(self.pixels[..., 0] if self.pixels.shape[2] == 1 else self.pixels)


def open_quickly(path: str, mode: str) -> QuickImage:
    """As clip.image.read_image, which does it where OpenCV has no answer."""
    cv2, content = _opencv(), _content(path)
    num_pixels, num_channels = _claimed(content)
    if cv2 and num_channels == len(mode) and num_pixels <= MAX_PIXELS:
        flag = cv2.IMREAD_COLOR_RGB if mode == "RGB" else cv2.IMREAD_GRAYSCALE  # both turn pictures upright
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
        if pixels is not None:
            return QuickImage(pixels)
    return QuickImage(np.array(read_image(path, mode)))


@cache
def _opencv() -> Any:
    """OpenCV where it is installed, else None."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""  # read_image says what is wrong


def _claimed(content: bytes) -> tuple[int, int]:
    """The numbers of pixels and of channels that a whole 8-bit JPEG or PNG picture claims; (0, 0) for any other file.

    Pillow would know, but to ask it takes a tenth of the time of a JPEG clip.
    """
    if content.startswith(_PNG) and b"acTL" not in content.partition(b"IDAT")[0]:  # which would be an animation
        return _product(content[16:20], content[20:24]), _PNG_CHANNELS.get(content[24:26], 0)
    # Of the end of a JPEG that is missing OpenCV would make grey.
    at = len(_JPEG) if content.startswith(_JPEG) and content.endswith(_JPEG_END) else len(content)
    while content[at : at + 1] == b"\xff":
        if content[at + 1 : at + 2] in _JPEG_FRAMES:
            height, width, channels = content[at + 5 : at + 7], content[at + 7 : at + 9], content[at + 9 : at + 10]
            return _product(height, width), int.from_bytes(channels)
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return 0, 0


def _product(one: bytes, other: bytes) -> int:
    return int.from_bytes(one) * int.from_bytes(other)


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
    at_once = max(1, min(num_images, _BYTES_AT_ONCE // part_of_first.size))
    parts = np.empty((at_once, *part_of_first.shape), np.uint8)
    out = np.empty((num_images, size[1], size[0], part_of_first.shape[2]), np.uint8)
    for i, image in enumerate(chain([first], images), start=1):
        waiting = (i - 1) % at_once + 1
        parts[waiting - 1] = image.pixels[top:bottom, left:right]
        if waiting == at_once or i == num_images:
            batch = torch.from_numpy(parts[:waiting]).permute(0, 3, 1, 2)  # N C H W, channels last: torch's fast code
            whole = interpolate(batch, scale_factor=(scale_y, scale_x), mode="bilinear", antialias=True)
            out[i - waiting : i] = whole.permute(0, 2, 3, 1).numpy()[:, y : y + size[1], x : x + size[0]]
    return out


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
