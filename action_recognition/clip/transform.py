"""The evaluation transform, the only one: a frame to model size, and a uint8 clip to the model's input.

`fit_frame` works on one Pillow image, so that a stream resizes each frame once; `to_input` works on NumPy arrays and
on torch tensors alike, so that a GPU does the arithmetic on what was moved there as uint8.
"""

from typing import Any

import numpy as np
from PIL import Image

from action_recognition.clip.contract import Contract, Stream

Box = tuple[float, float, float, float]


def evaluation_box(size: tuple[int, int], contract: Contract) -> Box:
    """The part (left, top, right, bottom) of a (width, height) frame that the model sees, in pixels of that frame."""
    if not contract.center_crop:
        return (0, 0, *size)
    resized = short_side_to(size, contract.smaller_edge)
    left, top = (
        round((full - kept) / 2) for full, kept in zip(resized, (contract.width, contract.height), strict=True)
    )
    return box_in_frame(size, resized, (left, top, left + contract.width, top + contract.height))


def view_boxes(size: tuple[int, int], contract: Contract, num_views: int) -> list[Box]:
    """As evaluation_box, for one view of a frame; else `num_views` (2 or more) windows spread along its longer side.

    Three, from one end to the other, are Feichtenhofer et al.'s (SlowFast, 2019, section 4).
    """
    if num_views == 1:
        return [evaluation_box(size, contract)]
    resized = short_side_to(size, view_edge(contract))
    free = (resized[0] - contract.width, resized[1] - contract.height)
    along = 0 if size[0] >= size[1] else 1
    boxes = []
    for i in range(num_views):
        left, top = (round(free[axis] * (i / (num_views - 1) if axis == along else 0.5)) for axis in (0, 1))
        boxes.append(box_in_frame(size, resized, (left, top, left + contract.width, top + contract.height)))
    return boxes


def view_edge(contract: Contract) -> int:
    """The short side, in pixels, of frames that several views are cut from."""
    return contract.smaller_edge if contract.center_crop else max(contract.width, contract.height)


def short_side_to(size: tuple[int, int], smaller_edge: int) -> tuple[int, int]:
    """(width, height) scaled so that the shorter one is `smaller_edge`; the longer one is truncated."""
    width, height = size
    if width <= height:
        return smaller_edge, int(smaller_edge * height / width)
    return int(smaller_edge * width / height), smaller_edge


def box_in_frame(size: tuple[int, int], resized: tuple[int, int], box: Box) -> Box:
    """A box in pixels of the resized frame as a box in pixels of the frame itself.

    Pillow resizes the inside of such a box as it would the whole frame, so crops need no second pass.
    """
    scale_x, scale_y = size[0] / resized[0], size[1] / resized[1]
    return box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y


def fit_frame(image: Image.Image, box: Box, size: tuple[int, int]) -> np.ndarray:
    """The inside of `box` at (width, height) `size`: uint8 (H, W, 3), or (H, W) of a grey one. Antialiased."""
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))


def fit_clip(frames: np.ndarray, contract: Contract) -> np.ndarray:
    """Raw frames uint8 (T, H, W, C) at any size -> uint8 (T, contract.height, contract.width, C)."""
    height, width, num_channels = frames.shape[1:]
    box = evaluation_box((width, height), contract)
    size = (contract.width, contract.height)
    if num_channels == 3:
        return np.stack([fit_frame(Image.fromarray(frame), box, size) for frame in frames])
    return np.stack([np.dstack([fit_frame(Image.fromarray(f[..., c]), box, size) for c in range(2)]) for f in frames])


def scale_and_shift(stream: Stream) -> tuple[list[float], list[float]]:
    """(pixel / 255 - mean) / std as pixel * scale + shift, for each channel."""
    scale = [1 / (255 * std) for std in stream.std]
    shift = [-mean / std for mean, std in zip(stream.mean, stream.std, strict=True)]
    return scale, shift


def to_input(clips: Any, scale: Any, shift: Any, is_3d: bool) -> Any:
    """Clips uint8 (N, T, H, W, C) -> the model's float32 input. Arrays or tensors; `scale` and `shift` (C,) likewise.

    3D: (N, C, T, H, W). 2D: (N, C * T, H, W), channel-major: R0..R(T-1) G0.. B0.., or u0.. v0...
    """
    x = clips * scale + shift
    x = x.swapaxes(2, 4).swapaxes(1, 2).swapaxes(3, 4)  # N T H W C -> N T C W H -> N C T W H -> N C T H W
    N, C, T, H, W = x.shape
    return x if is_3d else x.reshape(N, C * T, H, W)
