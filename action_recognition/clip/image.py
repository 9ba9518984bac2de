"""An image file to 8-bit pixels: the only reader, in training, evaluation and deployment."""

from pathlib import Path

from PIL import Image

from action_recognition.errors import DataError

_READABLE_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


def read_image(path: str | Path, mode: str) -> Image.Image:
    """The image as `mode`, RGB or L. DataError where it is missing, damaged, or of a kind that would lose range."""
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file has vanished since the folder was listed") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the image can't be read ({error})") from error
    if image.mode not in _READABLE_MODES:
        raise DataError(f"{path}: pixels of kind {image.mode!r} can't be used; convert it to 8 bits a channel")
    return image.convert(mode)
