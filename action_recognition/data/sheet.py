"""Clips as pictures: a contact sheet or an animation, with captions; optical flow in colours.

In: Strips, uint8 frames with a caption. Out: Pillow images. Knows nothing of data sets.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from action_recognition.clip.flow_encoding import decode_clip20, decode_max_rad
from action_recognition.errors import DataError
from action_recognition.files import write_whole

_GAP_PX = 4
_TEXT_PX = 12
_LINE_PX = 16
_MIN_CELL_PX = 150  # of an animation: room for a name
_PAPER, _INK = (255, 255, 255), (0, 0, 0)
# Steps from one colour to the next around the wheel: red, yellow, green, cyan, blue, magenta, red.
_WHEEL_STEPS = (15, 6, 4, 11, 13, 6)
_WHEEL_CORNERS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0))


@dataclass(frozen=True)
class Strip:
    """The frames of a clip, uint8 RGB (T, H, W, 3), and the lines above them."""

    caption: tuple[str, ...]
    frames: np.ndarray


def contact_sheet(strips: Sequence[Strip], num_columns: int) -> Image.Image:
    """A row a strip: its frames, or where there are more than `num_columns` of them as many, evenly chosen."""
    rows = [_row(strip, num_columns) for strip in strips]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), _PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def animation(strips: Sequence[Strip]) -> list[Image.Image]:
    """All strips side by side, a picture a frame; shorter strips are slowed down to end with the longest."""
    num_frames = max(len(strip.frames) for strip in strips)
    num_columns = math.ceil(math.sqrt(len(strips)))
    width = max(_MIN_CELL_PX, *(strip.frames.shape[2] for strip in strips)) + _GAP_PX
    height = max(strip.frames.shape[1] + _LINE_PX * len(strip.caption) for strip in strips) + _GAP_PX
    still = Image.new("RGB", (num_columns * width, math.ceil(len(strips) / num_columns) * height), _PAPER)
    places = [(i % num_columns * width, i // num_columns * height) for i in range(len(strips))]
    for strip, place in zip(strips, places, strict=True):
        _write(still, place, strip.caption, width - _GAP_PX)
    pictures = []
    for t in range(num_frames):
        picture = still.copy()
        for strip, (left, top) in zip(strips, places, strict=True):
            frame = strip.frames[t * len(strip.frames) // num_frames]
            picture.paste(Image.fromarray(frame), (left, top + _LINE_PX * len(strip.caption)))
        pictures.append(picture)
    return pictures


def save(pictures: Sequence[Image.Image], path: Path, fps: float = 8.0) -> None:
    """Write one picture, or several as an animation that repeats, whole or not at all."""
    first, *others = pictures
    kind = path.suffix.removeprefix(".")
    moving = {"save_all": True, "append_images": others, "duration": round(1000 / fps), "loop": 0} if others else {}
    try:
        write_whole(path, lambda file: first.save(file, kind, **moving))
    except OSError as error:
        raise DataError(f"{path}: can't be written ({error.strerror or error})") from error


def flow_in_colours(clip: np.ndarray, encoding: str) -> np.ndarray:
    """Flow images u, v, uint8 (T, H, W, 2), as RGB (T, H, W, 3): the hue is the direction, white is no motion.

    The colour wheel of Baker et al., A Database and Evaluation Methodology for Optical Flow, IJCV 2011. The strongest
    colour is the greatest speed of the frame in max_rad, which keeps no other, and of the clip in clip20.
    """
    decode: Callable[..., np.ndarray] = {"max_rad": decode_max_rad, "clip20": decode_clip20}[encoding]
    flow = np.stack([decode(frame[..., 0], frame[..., 1]) for frame in clip])
    speed = np.hypot(flow[..., 0], flow[..., 1])
    speed = np.minimum(speed / max(1.0, float(speed.max())), 1)[..., None]
    wheel = _colour_wheel()
    turn = (np.arctan2(-flow[..., 1], -flow[..., 0]) / np.pi + 1) / 2 * len(wheel)  # 0, red, is to the right
    before = turn.astype(int)
    share = (turn - before)[..., None]
    hue = (1 - share) * wheel[before % len(wheel)] + share * wheel[(before + 1) % len(wheel)]
    return np.round(255 * (1 - speed * (1 - hue))).astype(np.uint8)


def _colour_wheel() -> np.ndarray:
    """The 55 colours (55, 3) in 0..1 around the wheel."""
    corners = np.array(_WHEEL_CORNERS, float)
    arcs = [corners[i] + (corners[i + 1] - corners[i]) * np.arange(n)[:, None] / n for i, n in enumerate(_WHEEL_STEPS)]
    return np.concatenate(arcs)


def _row(strip: Strip, num_columns: int) -> Image.Image:
    T, H, W = strip.frames.shape[:3]
    ids = np.unique(np.linspace(0, T - 1, min(num_columns, T)).round().astype(int))
    caption = strip.caption if len(ids) == T else (*strip.caption, f"frames {', '.join(map(str, ids + 1))} of {T}")
    line = "   ".join(caption)
    width = max(len(ids) * (W + _GAP_PX), math.ceil(_font().getlength(line)) + _GAP_PX)
    row = Image.new("RGB", (width, _LINE_PX + H + _GAP_PX), _PAPER)
    _write(row, (0, 0), (line,), width)
    for column, frame_id in enumerate(ids):
        row.paste(Image.fromarray(strip.frames[frame_id]), (column * (W + _GAP_PX), _LINE_PX))
    return row


def _write(picture: Image.Image, place: tuple[int, int], lines: Sequence[str], width: int) -> None:
    """Lines of text from `place` (left, top) on, cut off where they are wider than `width` pixels."""
    draw, font = ImageDraw.Draw(picture), _font()
    for i, line in enumerate(lines):
        while line and font.getlength(line) > width:
            line = line[:-1]
        draw.text((place[0], place[1] + i * _LINE_PX), line, _INK, font)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT_PX)
