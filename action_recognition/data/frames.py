"""Frame ids to pixels: the only reader of a video's frames.

In: a Video, a modality, ids, and how to fit a frame. Out: uint8 (T, H, W, C), each frame decoded once however often
its id occurs. DataError names the file and what is wrong with it.
"""

import os
from collections.abc import Callable

import numpy as np
from PIL import Image

from action_recognition.data.index import FOLDERS, Video
from action_recognition.errors import DataError

Fit = Callable[[Image.Image], np.ndarray]
_READABLE_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


def read_frames(video: Video, modality: str, ids: np.ndarray, fit: Fit) -> np.ndarray:
    """The frames `ids` (T,) of a video after `fit`: uint8 (T, H, W, C), C = 3 for rgb, 2 (u, v) for of."""
    unique, positions = np.unique(ids, return_inverse=True)
    sizes: set[tuple[int, int]] = set()
    planes = [_read_folder(video, folder, unique, fit, sizes) for folder in FOLDERS[modality]]
    frames = planes[0] if modality == "rgb" else np.stack(planes, axis=-1)
    return frames[positions]


def _read_folder(video: Video, folder: str, ids: np.ndarray, fit: Fit, sizes: set[tuple[int, int]]) -> np.ndarray:
    """The frames of one folder; `sizes` are those of the images before, and must be one."""
    mode = "RGB" if folder == "rgb" else "L"
    fitted = []
    for frame_id in ids:
        name = os.path.join(folder, video.files[folder].name(int(frame_id)))
        image = _open(os.path.join(video.path, name), mode)
        sizes.add(image.size)
        if len(sizes) > 1:
            (w, h), (w0, h0) = image.size, (sizes - {image.size}).pop()
            raise DataError(f"{video.path}: {name} is {w}x{h} pixels, earlier frames are {w0}x{h0}")
        fitted.append(fit(image))
    return np.stack(fitted)


def _open(path: str, mode: str) -> Image.Image:
    """Decode an image file to RGB or L. DataError where it is missing, damaged, or of a kind that would lose range."""
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
