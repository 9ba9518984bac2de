"""Pictures inside a page: a clip as a strip of its frames, the same with heat over it, a thumbnail. All are data URIs.

A strip and not an animated image, since no browser can stop one: the page shows one frame of the strip at a time.
"""

import base64
import io

import numpy as np
from PIL import Image

MAX_FRAMES = 24
MAX_SIDE_PX = 144
THUMBNAIL_PX = 88
_QUALITY = 62
# Dark violet to light yellow: grows in lightness alone, so it reads without colour vision and in grey print.
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)


def evenly(num_frames: int, at_most: int = MAX_FRAMES) -> np.ndarray:
    """Ids of `at_most` frames spread evenly over `num_frames`, or all of them."""
    return np.unique(np.linspace(0, num_frames - 1, min(num_frames, at_most)).round().astype(int))


def strip(frames: np.ndarray) -> str:
    """Frames uint8 (T, H, W, 3) side by side, as a data URI."""
    T, H, W = frames.shape[:3]
    wide = Image.fromarray(np.ascontiguousarray(frames.swapaxes(0, 1).reshape(H, T * W, 3)))
    scale = min(1.0, MAX_SIDE_PX / max(H, W))
    size = (T * max(1, round(W * scale)), max(1, round(H * scale)))
    return _uri(wide if size == wide.size else wide.resize(size, Image.Resampling.BOX))


def thumbnail(frame: np.ndarray) -> str:
    """One frame uint8 (H, W, 3), as a data URI."""
    image = Image.fromarray(frame)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return _uri(image)


def heated(frames: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Frames uint8 (T, H, W, 3), in grey, under `heat` (T or 1, H, W) in 0..1, 0 = no colour: uint8 (T, H, W, 3)."""
    grey = frames.astype(np.float32).mean(axis=-1, keepdims=True)
    place = np.clip(heat, 0, 1) * (len(_HEAT) - 1)
    lower = np.minimum(place.astype(int), len(_HEAT) - 2)
    share = (place - lower)[..., None]
    colour = (1 - share) * _HEAT[lower] + share * _HEAT[lower + 1]
    cover = np.clip(1.6 * heat, 0, 0.72)[..., None]
    return np.round((1 - cover) * grey + cover * colour).astype(np.uint8)


def _uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
