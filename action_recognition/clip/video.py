"""A video file to frames: sequential, in output order, honest about what is broken.

Old AVI files of this field carry wrong frame counts and time stamps, so neither is used and nothing is sought for:
the frames are those that the decoder gives, from first to last. Needs PyAV (the extra `video`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from action_recognition.errors import DataError

SUFFIXES = (".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp")


@dataclass
class Damage:
    """What a decoder had to leave out of a file."""

    packets_skipped: int = 0


def read_video(path: str | Path, damage: Damage) -> Iterator[np.ndarray]:
    """The frames of a video file, uint8 RGB (H, W, 3), upright, one at a time.

    A packet that can't be decoded is counted in `damage` and left out. DataError where the file is no video or gives
    no frame at all.
    """
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # one for all frames: a new scaler for each costs ten times the conversion
    num_frames = 0
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise DataError(f"{path}: holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # at these sizes one thread a video, many videos at once, is the fastest
            for packet in container.demux(stream):
                for frame in _decode(packet, damage):
                    num_frames += 1
                    rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                    yield upright(rgb, frame.rotation)
    except (av.FFmpegError, OSError) as error:
        how_far = f"read on after frame {num_frames}" if num_frames else "opened as a video"
        raise DataError(f"{path}: can't be {how_far} ({error})") from error
    if not num_frames:
        raise DataError(f"{path}: no frame can be decoded ({damage.packets_skipped} damaged packets)")


def upright(frame: np.ndarray, rotation: int) -> np.ndarray:
    """A frame turned by the file's rotation, in degrees counter-clockwise (multiples of 90)."""
    return np.ascontiguousarray(np.rot90(frame, round(rotation / 90) % 4)) if rotation else frame


def _decode(packet, damage: Damage) -> list:  # type: ignore[no-untyped-def]
    import av

    try:
        return packet.decode()
    except av.FFmpegError:
        damage.packets_skipped += 1
        return []
