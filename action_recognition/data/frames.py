"""Frame ids to pixels: the only reader of a video's frames, whatever they lie in.

`open_frames` gives a video's frames from a folder of images, from a file of packed frames or from the video file, all
three with `num_frames` and `read(modality, ids, box_of, size)`: ids (T,) in any order -> uint8 (T, H, W, C), the inside
of a box of each frame at (width, height) `size`. C is 3 for rgb and 2 (u, v) for of. What is read of packed frames may
lie in their file. DataError names the file and what is wrong with it.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from action_recognition.clip.image import read_image
from action_recognition.clip.transform import Box, fit_frame
from action_recognition.clip.video import Damage, read_video
from action_recognition.data.index import FOLDERS, Video
from action_recognition.data.packed import open_packed
from action_recognition.errors import DataError

Size = tuple[int, int]  # width, height
BoxOf = Callable[[Size], Box]  # the size of a frame -> the part of it that is wanted


def open_frames(video: Video, quickly: bool = False) -> "FolderFrames | PackedFrames | FileFrames":
    """The frames of a video: out of the cache where they are packed, else of its folder or file.

    `quickly` loads torch to read images, see data/quick.py.
    """
    if video.packed:
        return PackedFrames(video.packed)
    return open_source(video, quickly)


def open_source(video: Video, quickly: bool = False) -> "FolderFrames | FileFrames":
    """The frames of a video's own folder or file, as images one after the other."""
    return FileFrames(video) if video.is_file else FolderFrames(video, quickly)


class FolderFrames:
    """Folders of images: rgb, or u and v, or all three. Each image is decoded once however often its id occurs."""

    def __init__(self, video: Video, quickly: bool = False) -> None:
        self.video, self.quickly = video, quickly
        self._sizes: dict[str, Size] = {}

    @property
    def num_frames(self) -> int:
        """The frames that can be sampled: of flow images where the model uses flow, else of rgb frames."""
        return min(files.count for files in self.video.files.values())

    def images(self, folder: str, ids: Iterable[int] | None = None) -> Iterator[Image.Image]:
        """The images of a folder, RGB or grey: all, or those of `ids`. All frames of a modality must be of one size."""
        return self._opened(folder, ids, read_image)

    def _opened(self, folder: str, ids: Iterable[int] | None, opened: Callable[[str, str], Any]) -> Iterator[Any]:
        files = self.video.files[folder]
        for frame_id in range(files.count) if ids is None else ids:
            name = os.path.join(folder, files.name(frame_id))
            image = opened(os.path.join(self.video.path, name), "RGB" if folder == "rgb" else "L")
            first = self._sizes.setdefault("rgb" if folder == "rgb" else "of", image.size)
            _check_size(self.video, name, image.size, first)
            yield image

    def read(self, modality: str, ids: np.ndarray, box_of: BoxOf, size: Size) -> np.ndarray:
        if not self.quickly:
            return _read_images(self.images, modality, ids, box_of, size)
        from action_recognition.data.quick import fit_quickly, open_quickly

        unique, positions = np.unique(ids, return_inverse=True)
        planes = [
            fit_quickly(self._opened(folder, unique.tolist(), open_quickly), len(unique), box_of, size)
            for folder in FOLDERS[modality]
        ]
        frames = planes[0] if modality == "rgb" else np.concatenate(planes, axis=-1)
        return frames if np.array_equal(unique, ids) else frames[positions]


class FileFrames:
    """A video file, decoded from its start: once to count the frames, once for each clip. Holds no frame."""

    def __init__(self, video: Video) -> None:
        self.video = video

    @cached_property
    def num_frames(self) -> int:
        """The frames that can be decoded; what the file says of their number is often wrong."""
        return sum(1 for _ in read_video(self.video.path, Damage()))

    def images(self, folder: str, ids: Iterable[int] | None = None) -> Iterator[Image.Image]:
        """The frames: all, or those of `ids`, ascending. All must be of one size."""
        assert folder == "rgb", folder
        first: Size | None = None
        wanted = None if ids is None else set(ids)
        for frame_id, frame in enumerate(read_video(self.video.path, Damage())):
            if wanted is not None and frame_id not in wanted:
                continue
            image = Image.fromarray(frame)
            first = first or image.size
            _check_size(self.video, f"frame {frame_id}", image.size, first)
            yield image
            if wanted is not None:
                wanted.remove(frame_id)
                if not wanted:
                    return
        if wanted:
            raise DataError(f"{self.video.path}: frame {min(wanted)} was there before and can't be decoded now")

    def read(self, modality: str, ids: np.ndarray, box_of: BoxOf, size: Size) -> np.ndarray:
        return _read_images(self.images, modality, ids, box_of, size)


class PackedFrames:
    """A file of packed frames. A window as large as the clip is taken as it lies; anything else is resized."""

    def __init__(self, path: str) -> None:
        self._folders = open_packed(path)

    @property
    def num_frames(self) -> int:
        """As FolderFrames.num_frames."""
        return min(map(len, self._folders.values()))

    def read(self, modality: str, ids: np.ndarray, box_of: BoxOf, size: Size) -> np.ndarray:
        planes = [self._read(folder, ids, box_of, size) for folder in FOLDERS[modality]]
        return planes[0] if modality == "rgb" else np.stack(planes, axis=-1)

    def _read(self, folder: str, ids: np.ndarray, box_of: BoxOf, size: Size) -> np.ndarray:
        frames = self._folders[folder]  # (N, H, W, 3) or (N, H, W)
        box = box_of((frames.shape[2], frames.shape[1]))
        left, top = int(box[0]), int(box[1])
        if box == (left, top, left + size[0], top + size[1]):
            return frames[_as_slice(ids), top : top + size[1], left : left + size[0]]
        return np.stack([fit_frame(Image.fromarray(frames[frame_id]), box, size) for frame_id in ids])


def _as_slice(ids: np.ndarray) -> slice | np.ndarray:
    """Ids that go up in even steps as a slice: such frames are looked at in place, others are copied."""
    step = int(ids[1] - ids[0]) if len(ids) > 1 else 1
    is_even = step > 0 and np.array_equal(ids, np.arange(ids[0], ids[0] + step * len(ids), step))
    return slice(int(ids[0]), int(ids[-1]) + 1, step) if is_even else ids


def _read_images(
    images: Callable[[str, Iterable[int]], Iterator[Image.Image]],
    modality: str,
    ids: np.ndarray,
    box_of: BoxOf,
    size: Size,
) -> np.ndarray:
    """Each image is fitted as soon as it is decoded, so that a clip is never held at the size of its source."""
    unique, positions = np.unique(ids, return_inverse=True)
    frames = np.empty((len(unique), size[1], size[0], 3 if modality == "rgb" else 2), np.uint8)
    for channel, folder in enumerate(FOLDERS[modality]):
        out = frames if modality == "rgb" else frames[..., channel]
        for i, image in enumerate(images(folder, unique.tolist())):
            out[i] = fit_frame(image, box_of(image.size), size)
    return frames if np.array_equal(unique, ids) else frames[positions]


def _check_size(video: Video, name: str, size: Size, first: Size) -> None:
    if size != first:
        raise DataError(f"{video.path}: {name} is {size[0]}x{size[1]} pixels, earlier frames are {first[0]}x{first[1]}")
