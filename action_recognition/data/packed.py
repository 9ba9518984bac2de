"""A file of packed frames: the frames of one video as plain bytes, so that a part of them is read without decoding.

One block of HEADER_BYTES (magic, format, JSON), then the frames of each folder (rgb, u, v), uint8, row by row. In: the
frames, one at a time. Out: arrays that lie over the file. Which videos are packed, where and when, is data/cache.py's.
"""

import json
import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from action_recognition.errors import DataError
from action_recognition.files import write_whole

HEADER_BYTES = 4096  # one page, so that the first frame starts on one
_MAGIC = b"ARFRAMES"
_FORMAT = 1
_START = struct.Struct("<8sII")  # magic, format, length of the JSON


@dataclass(frozen=True)
class PackedHeader:
    """What a file holds: the shape of each folder's frames, (N, H, W, 3) or (N, H, W), and what they were made of.

    `source` identifies the state of the video that was packed, `kept` the size that its frames were brought to.
    """

    shapes: dict[str, tuple[int, ...]]
    source: str
    kept: str


def write_packed(path: Path, folders: Mapping[str, Iterable[np.ndarray]], source: str, kept: str) -> None:
    """Write the frames of each folder, uint8 (H, W, 3) or (H, W) and all of one size; whole or not at all."""

    def fill(file: IO[bytes]) -> None:
        file.write(bytes(HEADER_BYTES))  # the number of frames is known at the end
        shapes = {folder: _write_frames(file, frames) for folder, frames in folders.items()}
        text = json.dumps(asdict(PackedHeader(shapes, source, kept))).encode()
        file.seek(0)
        file.write(_START.pack(_MAGIC, _FORMAT, len(text)) + text)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, fill)


def _write_frames(file: IO[bytes], frames: Iterable[np.ndarray]) -> tuple[int, ...]:
    shape: tuple[int, ...] = ()
    count = 0
    for frame in frames:
        assert not shape or shape == frame.shape, f"frames of {shape} and {frame.shape}"
        shape, count = frame.shape, count + 1
        file.write(np.ascontiguousarray(frame).data)
    return count, *shape


def read_header(path: str | Path) -> PackedHeader | None:
    """What a file of packed frames holds; None for one of another format. DataError where it is missing or damaged."""
    try:
        with open(path, "rb") as file:
            return _header_of(file, path)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error


def open_packed(path: str | Path) -> dict[str, np.ndarray]:
    """The frames by folder, uint8 (N, H, W, 3) or (N, H, W): read from the disk when they are looked at.

    They are not to be written to. DataError where the file is missing, damaged or of another format.
    """
    try:
        stat = os.stat(path)
        return _mapped(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns))
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error


@lru_cache(maxsize=1024)  # a clip out of a file that is mapped already takes half the time
def _mapped(path: str | Path, state: tuple[int, ...]) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        header = _header_of(file, path)
        if header is None:
            raise DataError(f"{path}: packed frames of another format than {_FORMAT}; remove the file")
        # Not ACCESS_READ: torch warns of arrays that can't be written to. What is written stays in this process.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    arrays, start = {}, HEADER_BYTES
    for folder, shape in header.shapes.items():
        size = prod(shape)
        arrays[folder] = np.frombuffer(content, np.uint8, size, start).reshape(shape)
        start += size
    return arrays


def _header_of(file: IO[bytes], path: str | Path) -> PackedHeader | None:
    block = file.read(HEADER_BYTES)
    if len(block) < HEADER_BYTES or not block.startswith(_MAGIC):
        raise DataError(f"{path}: is damaged: it does not begin as packed frames do")
    _, version, length = _START.unpack_from(block)
    if version != _FORMAT:
        return None
    try:
        header = _header_from_plain(json.loads(block[_START.size : _START.size + length]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: is damaged: its header can't be read ({error})") from error
    there, wanted = os.fstat(file.fileno()).st_size, HEADER_BYTES + sum(map(prod, header.shapes.values()))
    if there != wanted:
        raise DataError(f"{path}: is damaged: it has {there:,} bytes in place of {wanted:,}")
    return header


def _header_from_plain(plain: Any) -> PackedHeader:
    shapes = {str(folder): tuple(shape) for folder, shape in plain["shapes"].items()}
    for shape in shapes.values():
        if len(shape) not in (3, 4) or not all(isinstance(n, int) and n > 0 for n in shape):
            raise ValueError(f"a shape of {shape}")
    return PackedHeader(shapes, str(plain["source"]), str(plain["kept"]))
