"""An image file to 8-bit pixels: the only reader, in training, evaluation and deployment.

What a file asks for is looked at before it is decoded: its kind, its size, whether it is one picture. Pictures come out
upright, as the camera's orientation mark says.
"""

import struct
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from action_recognition.errors import DataError

MAX_PIXELS = 2**26  # four times an 8K frame; a file of some kilobytes can claim billions
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")  # Pillow goes by content, and has programs run PostScript
_READABLE_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
# What Pillow raises for damaged files, besides what it says it does.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)


def read_image(path: str | Path, mode: str) -> Image.Image:
    """The image as `mode`, RGB or L. DataError where it is missing, damaged, too large or would lose range."""
    with open_image(path) as image:
        try:
            image.load()
            if is_turned(image):
                ImageOps.exif_transpose(image, in_place=True)
        except _DAMAGE as error:
            raise _unreadable(path, error) from error
    if image.mode not in _READABLE_MODES:
        raise DataError(f"{path}: pixels of kind {image.mode!r} can't be used; convert it to 8 bits a channel")
    return image.convert(mode)


def open_image(path: str | Path) -> Image.Image:
    """The image file, opened and found fit to be decoded, which it is not yet. DataError as read_image."""
    content, image = read_header(path)
    if image.format == "PNG":
        try:
            image.verify()  # without it Pillow looks at no more checksums than the header's
        except _DAMAGE as error:
            raise _unreadable(path, error) from error
        image = Image.open(BytesIO(content), formats=("PNG",))
    return image


def read_header(path: str | Path) -> tuple[bytes, Image.Image]:
    """The content of an image file, and what its header says; DataError where that is nothing to be decoded."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        image = Image.open(BytesIO(content), formats=FORMATS)
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file has vanished since the folder was listed") from error
    except _DAMAGE as error:
        raise _unreadable(path, error) from error
    if fault := _fault(image):
        image.close()
        raise DataError(f"{path}: {fault}")
    return content, image


def is_turned(image: Image.Image) -> bool:
    """Whether the file says that its picture is stored turned or mirrored."""
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except _DAMAGE:
        return False  # a damaged note, of which nothing follows for the picture


def _fault(image: Image.Image) -> str:
    if image.width * image.height > MAX_PIXELS:
        return f"is {image.width} x {image.height} pixels; images of up to {MAX_PIXELS:,} pixels are read"
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's: the picture and its previews
        return "is an animation, not a frame; take its frames apart"
    return ""


def _unreadable(path: str | Path, error: Exception) -> DataError:
    reason = "it is none, or of an unknown kind" if isinstance(error, UnidentifiedImageError) else error
    return DataError(f"{path}: the image can't be read ({reason})")
