"""Labels drawn into pictures, and a video file of them.

In: frames, and the marks of the tracks in them. Out: pictures with boxes, labels and bars as long as the score; a video
file that appears whole or not at all (needs PyAV). Runs without torch.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from action_recognition.deploy.events import UNKNOWN
from action_recognition.deploy.sources import DEFAULT_FPS
from action_recognition.deploy.tracks import Mark
from action_recognition.errors import OutputError, UserError
from action_recognition.files import whole_file, why_unwritable

VIDEO_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
SMALLEST_EDGE = 240  # pictures with a shorter side are enlarged, so that a label can be read in them
_TICKS_A_SEC = 1000
_COLOURS = (
    (46, 204, 113),
    (52, 152, 219),
    (243, 156, 18),
    (233, 30, 99),
    (155, 89, 182),
    (0, 188, 212),
    (205, 220, 57),
)
_GREY = (150, 150, 150)
_FONTS = (  # of Linux, Windows and macOS; the later ones have the letters of East Asia
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf", "Arial.ttf"),
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "msyh.ttc", "malgun.ttf", "Arial Unicode.ttf", "PingFang.ttc"),
)
_NO_LETTER = "\uffff"  # which Unicode gives to none; a font draws all that it lacks alike


def choose_font(names: Sequence[str]) -> str | None:
    """The well-known font of this system that has the most letters of `names`; None is Pillow's own, of ASCII alone."""
    found: list[str | None] = [font for font in _FONTS if _is_font(font)]
    return min([*found, None], key=lambda font: len(missing_letters(font, names)))


def missing_letters(font: str | None, names: Sequence[str]) -> str:
    """The characters of `names` that a font has no picture of, each once, in order."""
    loaded = _font(font, 20)
    lack = bytes(loaded.getmask(_NO_LETTER))
    letters = dict.fromkeys(letter for letter in "".join(names) if not letter.isspace())
    return "".join(letter for letter in letters if bytes(loaded.getmask(letter)) == lack)


def checked_font(file: Path) -> str:
    """The font of a file; UserError where it can't be used."""
    try:
        ImageFont.truetype(file)
    except OSError as error:
        raise UserError(f"{file}: can't be used as a font ({error}); give a TrueType or OpenType file") from error
    return str(file)


def _is_font(name: str) -> bool:
    try:
        ImageFont.truetype(name)
    except OSError:
        return False
    return True


def drawn(picture: np.ndarray, marks: Sequence[Mark], font: str | None = None) -> np.ndarray:
    """The picture, uint8 (H, W, 3), with its marks; one with a short side below SMALLEST_EDGE enlarged.

    `font` is a name or a file that Pillow finds; None is Pillow's own, which has ASCII alone.
    """
    height, width = picture.shape[:2]
    scale = -(-SMALLEST_EDGE // min(height, width)) if min(height, width) < SMALLEST_EDGE else 1
    image = Image.fromarray(picture)
    if scale > 1:
        image = image.resize((width * scale, height * scale), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for mark in marks:
        _draw_mark(draw, mark, scale, _font(font, max(12, min(image.size) // 22)), image.size)
    return np.asarray(image)


def caption(mark: Mark) -> str:
    """What is known of a track in one line: "fall 0.97", of one with a box "7 fall 0.97"."""
    known = "" if mark.label is None else f"{mark.label} {mark.score:.2f}"
    return f"{mark.track} {known}".strip() if mark.box else known


def _draw_mark(draw: ImageDraw.ImageDraw, mark: Mark, scale: int, font: Any, size: tuple[int, int]) -> None:
    colour = _GREY if mark.label in (None, UNKNOWN) else _COLOURS[mark.track % len(_COLOURS)]
    left, top = 0.0, 0.0
    text = caption(mark)
    length, line = draw.textlength(text, font), font.size * 1.3
    tag_width = max(length + line / 2, 4 * line)
    if mark.box:
        box = [edge * scale for edge in mark.box]
        draw.rectangle(box, outline=colour, width=max(2, min(size) // 200))
        # above the box, or in its top where the picture ends there
        left = min(max(box[0], 0), max(size[0] - tag_width, 0))
        top = box[1] - 1.3 * line if box[1] >= 1.3 * line else max(box[1], 0)
    if text:
        draw.rectangle((left, top, left + tag_width, top + 1.3 * line), fill=(20, 20, 20))
        draw.text((left + line / 4, top + line / 10), text, fill=(255, 255, 255), font=font)
        bar = (left, top + 1.1 * line, left + tag_width * (mark.score if mark.label else 0), top + 1.3 * line)
        draw.rectangle(bar, fill=colour)


@lru_cache
def _font(font: str | None, size: int) -> Any:
    return ImageFont.truetype(font, size) if font else ImageFont.load_default(size)


class OverlayVideo:
    """A video file that is written frame by frame, each with its own time; its size is the first one's.

    It takes its name when the block ends, whatever ended it; only where it can't be written itself nothing is left.
    Without a frame there is no file.
    """

    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        """UserError where the file exists, its suffix says no known format, or PyAV is missing."""
        self.path, self.num_frames = Path(path), 0
        if self.path.suffix.lower() not in VIDEO_FORMATS:
            raise UserError(f"{path}: a video must end in {', '.join(VIDEO_FORMATS)}")
        if self.path.exists() and not overwrite:
            raise OutputError(f"{path}: exists already; give another name, or --overwrite")
        try:
            import av
        except ImportError as error:
            raise UserError(f"{path}: writing a video needs PyAV: pip install av (the extra video)") from error
        self._av, self._stack, self._last_tick = av, ExitStack(), -1
        self._container: Any = None
        self._is_broken = False

    def write(self, picture: np.ndarray, time_sec: float) -> None:
        """Add a picture, uint8 (H, W, 3), on show from `time_sec` on."""
        try:
            if self._container is None:
                self._open(picture)
            height, width = self._size
            if picture.shape[:2] != (height, width):
                picture = np.asarray(Image.fromarray(picture).resize((width, height)))
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            self._last_tick = max(self._last_tick + 1, round(time_sec * _TICKS_A_SEC))
            frame.pts, frame.time_base = self._last_tick, Fraction(1, _TICKS_A_SEC)
            self._container.mux(self._stream.encode(frame))
        except (OSError, self._av.FFmpegError) as error:
            self._is_broken = True
            raise self._unwritable(error) from error
        self.num_frames += 1

    def _open(self, picture: np.ndarray) -> None:
        file = self._stack.enter_context(whole_file(self.path))
        self._container = self._av.open(file, "w", format=VIDEO_FORMATS[self.path.suffix.lower()])
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        options = {"preset": "veryfast", "crf": "23"} if codec == "libx264" else {"qmax": "5"}
        self._stream = self._container.add_stream(codec, rate=round(DEFAULT_FPS), options=options)
        self._stream.codec_context.time_base = Fraction(1, _TICKS_A_SEC)  # frames of live sources come when they come
        # the head of an .mkv would keep DEFAULT_FPS, and does with PyAV before 18.1; the others count at the end
        if self.path.suffix.lower() == ".mkv":
            self._stream.codec_context.framerate = Fraction(0)
        self._size = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2  # the encoders take even sizes only
        self._stream.height, self._stream.width = self._size
        self._stream.pix_fmt = "yuv420p"

    def _finish(self) -> None:
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._stack.close()
        except (OSError, self._av.FFmpegError) as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: BaseException) -> OutputError:
        return OutputError(f"{self.path}: can't be written: {why_unwritable(self.path, error)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_broken:
            self._stack.__exit__(kind, error, trace)
        elif self._container is not None:
            with self._stack:
                self._finish()
