"""Images of training clips, decoded by torchvision and resized by torch: Pillow's pixels within one grey level.

In: the path of an image, then a box of it and a size. Out: uint8 arrays. With JPEG images of 488x332 a clip of 224x224
windows takes 0.6 of the time that Pillow takes. PNG images, whatever torchvision doesn't read as 8-bit RGB or grey, and
all messages about what can't be read are left to clip/image.py.
"""

from functools import lru_cache
from math import ceil, gcd

import numpy as np
import torch
import torchvision.io  # makes torch.ops.image  # noqa: F401
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from action_recognition.clip.image import is_turned, open_image, read_image
from action_recognition.clip.transform import Box, fit_frame

Size = tuple[int, int]  # width, height
_AS_IT_IS = 0  # torchvision's ImageReadMode.UNCHANGED


class QuickImage:
    """An image: pixels uint8 (H, W, C), 3 channels or 1."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    @property
    def size(self) -> Size:
        """(width, height), as Pillow's."""
        return self.pixels.shape[1], self.pixels.shape[0]


def open_quickly(path: str, mode: str) -> QuickImage:
    """As clip.image.read_image, which does it where torchvision has no answer.

    PNG is Pillow's alone: with a damaged one torchvision's decoder takes the whole process down.
    """
    with open_image(path) as image:
        if image.format == "JPEG" and image.mode == mode and not is_turned(image):
            pixels = _decoded(path)
            if pixels is not None and len(pixels) == len(mode):
                return QuickImage(pixels.permute(1, 2, 0))
    plain = np.array(read_image(path, mode))
    return QuickImage(torch.from_numpy(plain).reshape(*plain.shape[:2], -1))


def _decoded(path: str) -> Tensor | None:
    """The pixels of a JPEG file, uint8 (C, H, W); None where read_image must say what is wrong, if anything is."""
    try:
        with open(path, "rb") as file:
            content = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
        # torchvision.io.decode_jpeg calls this, too. Where a version does not have it, Pillow decodes.
        decoded: Tensor = torch.ops.image.decode_image(content, _AS_IT_IS, False)
        return decoded
    except (OSError, RuntimeError, ValueError, AttributeError):
        return None


def fit_quickly(image: QuickImage, box: Box, size: Size) -> np.ndarray:
    """As clip.transform.fit_frame, which does it where the box is not cut out at the scale of the whole frame."""
    pixels = image.pixels
    columns, rows = (_resized_span(box[k], box[k + 2], size[k], image.size[k]) for k in (0, 1))
    if columns is None or rows is None:
        return fit_frame(Image.fromarray(pixels.squeeze(2).numpy()), box, size)
    (left, right, x, scale_x), (top, bottom, y, scale_y) = columns, rows
    part = pixels[top:bottom, left:right][None].permute(0, 3, 1, 2)  # 1 C H W, channels last: torch's fast code
    fitted = interpolate(part, scale_factor=(scale_y, scale_x), mode="bilinear", antialias=True)
    return fitted[0].permute(1, 2, 0)[y : y + size[1], x : x + size[0]].squeeze(2).numpy()


@lru_cache(maxsize=64)  # the frames of a clip share their box: 3 % of the time of a JPEG clip
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
