"""A video file to frames: sequential, in output order, honest about what is broken.

Old AVI files of this field carry wrong frame counts and time stamps, so nothing is sought for and no count is believed:
the frames are those that the decoder gives, from first to last. Only a wanted frame rate needs time stamps, and there
those that go backwards or jump are replaced by the file's rate. Needs PyAV (the extra `video`).
"""

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from action_recognition.clip.image import MAX_PIXELS
from action_recognition.errors import DataError, UserError

if TYPE_CHECKING:  # loaded with the first frame, as those who only ask for SUFFIXES are in a hurry
    import numpy as np

SUFFIXES = (".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp")
MAX_STILL_SEC = 60.0  # a gap between two time stamps that is longer is taken for a fault, not for a still picture
_DEFAULT_FPS = 25.0


@dataclass
class Damage:
    """What became known of a file while it was read.

    Packets left out, frames of which the decoder had to make up a part, and the frame rate (0: it does not say).
    """

    packets_skipped: int = 0
    frames_patched: int = 0
    fps: float = 0.0


def read_video(path: str | Path, damage: Damage, fps: float | None = None) -> Iterator["np.ndarray"]:
    """The frames that read_timed_video gives, without their times."""
    return (image for _, image in read_timed_video(path, damage, fps))


def read_timed_video(
    path: str | Path, damage: Damage, fps: float | None = None
) -> Iterator[tuple[float, "np.ndarray"]]:
    """The frames of a video file, uint8 RGB (H, W, 3), upright, each with its time in seconds after the first.

    They come one at a time: memory does not grow with the video's length. A packet that can't be decoded is counted in
    `damage` and left out; a frame that is decoded in part, too, and given. With `fps` frames are repeated or left out
    so that as many come in each second. DataError where the file is no video, is cut off, has frames of more than
    MAX_PIXELS, or gives no frame at all.
    """
    av = load_av(path)
    _check_whole(Path(path))
    # One for all frames: a new scaler for each costs ten times the conversion.
    reformatter = av.video.reformatter.VideoReformatter()
    num_frames = 0
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise DataError(f"{path}: holds no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise DataError(f"{path}: is in a codec that this FFmpeg does not know")
            _check_size(path, stream.codec_context.width, stream.codec_context.height)
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # the stream may say other than the header
            stream.thread_type = "NONE"  # at these sizes one thread a video, many videos at once, is the fastest
            damage.fps = float(stream.average_rate or 0)
            frames = _decode(container, stream, damage)
            shown = at_rate(frames, fps, damage.fps) if fps else timed(frames, damage.fps)
            for time_sec, frame in shown:
                num_frames += 1
                rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                yield time_sec, upright(rgb, frame.rotation)
    except (av.FFmpegError, OSError) as error:
        how_far = f"read on after frame {num_frames}" if num_frames else "opened as a video"
        raise DataError(f"{path}: can't be {how_far} ({error})") from error
    if not num_frames:
        raise DataError(f"{path}: no frame can be decoded ({damage.packets_skipped} damaged packets)")


def load_av(source: str | Path) -> Any:
    """The av module, to read `source` with. UserError where it is not installed, which is no fault of the source's."""
    try:
        import av.video.reformatter
    except ImportError as error:
        raise UserError(f"{source}: reading it needs PyAV: pip install av") from error
    return av


def upright(frame: "np.ndarray", rotation: int) -> "np.ndarray":
    """A frame turned by the file's rotation, in degrees counter-clockwise (multiples of 90)."""
    if not rotation:
        return frame
    import numpy as np

    return np.ascontiguousarray(np.rot90(frame, round(rotation / 90) % 4))


def timed(frames: Iterable[Any], own_fps: float) -> Iterator[tuple[float, Any]]:
    """Frames with a `time` in seconds (or None), each with its time after the first.

    A time that is missing, does not grow, or jumps by more than MAX_STILL_SEC becomes that of the frame before plus
    1 / own_fps.
    """
    offset = latest = 0.0
    for number, frame in enumerate(frames):
        if number == 0:
            offset = frame.time or 0.0
        else:
            now = frame.time - offset if frame.time is not None else latest
            if now - latest > MAX_STILL_SEC:
                offset += now - latest - _step(own_fps)  # what follows the jump is believed again
            latest = now if 0 < now - latest <= MAX_STILL_SEC else latest + _step(own_fps)
        yield latest, frame


def at_rate(frames: Iterable[Any], fps: float, own_fps: float) -> Iterator[tuple[float, Any]]:
    """0, 1/fps, 2/fps ... each with the frame on show at that time; the last is on show for 1 / own_fps."""
    shown, shown_at, num_given = None, 0.0, 0
    for now, frame in timed(frames, own_fps):
        if shown is not None:
            wanted = _num_ticks(now, fps)
            yield from ((number / fps, shown) for number in range(num_given, wanted))
            num_given = wanted
        shown, shown_at = frame, now
    if shown is not None:
        yield from ((number / fps, shown) for number in range(num_given, _num_ticks(shown_at + _step(own_fps), fps)))


def _step(own_fps: float) -> float:
    """Seconds a frame. A rate below one frame in MAX_STILL_SEC is none."""
    return 1 / (own_fps if own_fps * MAX_STILL_SEC >= 1 else _DEFAULT_FPS)


def _num_ticks(until: float, fps: float) -> int:
    """How many of 0, 1/fps, 2/fps ... belong to the time before `until` (seconds), to the nearest one.

    The 0.02 lets halves that were rounded to milliseconds all fall to one side.
    """
    return math.floor(until * fps + 0.52)


def _decode(container: Any, stream: Any, damage: Damage) -> Iterator[Any]:
    import av

    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            damage.packets_skipped += 1
            continue
        damage.frames_patched += sum(frame.is_corrupt for frame in frames)
        yield from frames


def _check_size(path: str | Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: has frames of {width} x {height} pixels; up to {MAX_PIXELS:,} pixels are read")


def _check_whole(path: Path) -> None:
    """DataError for an AVI file shorter than it says. Decoders play what is there as if it were all.

    The first chunk's size is the rest of the file's (Multimedia Programming Interface and Data Specifications, 1991);
    recorders that were switched off leave 0 or the greatest number there, which says nothing.
    """
    try:
        with path.open("rb") as file:
            header = file.read(12)
            size = path.stat().st_size
    except OSError:
        return  # opening it as a video says what is wrong
    if header[:4] == b"RIFF" and header[8:] == b"AVI " and len(header) == 12:
        declared = struct.unpack("<I", header[4:8])[0] + 8
        if size + 16 < declared < 0xFFFFFFF0:  # some writers count the header in
            raise DataError(f"{path}: is cut off: it holds {size:,} of {declared:,} bytes")
