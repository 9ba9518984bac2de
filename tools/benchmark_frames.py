"""Frames to measure with: rendered ones, or those of a folder, as a dataset of one class.

Rendered frames are 488x332 and as rich as those of HMDB51's films, which take 2.0 bytes a pixel as PNG and 0.37 as
JPEG where OpenCV writes them with its defaults (quality 95), as the usual converters do: 320 and 60 kB at this size.
Noise on grids of 6, 24 and 96 pixels, enlarged with bicubic interpolation and averaged, with white noise of 2 grey
levels on top, takes 298 and 60 kB.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from action_recognition.data.index import IMAGE_SUFFIXES, Video, index_classes

SIZE = 488, 332  # width, height
_GRIDS_PX = (6, 24, 96)
_NOISE_LEVELS = 2.0


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A temporary folder, in memory where the system has such a place: disks are not what is measured."""
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


def render_frames(num_frames: int, seed: int = 0) -> Iterator[np.ndarray]:
    """uint8 (332, 488, 3), one texture that moves by a pixel or two a frame, each with its own noise."""
    rng, (width, height) = np.random.default_rng(seed), SIZE
    full = width + 2 * num_frames, height + num_frames
    layers = [rng.integers(0, 256, (full[1] // c + 2, full[0] // c + 2, 3), dtype=np.uint8) for c in _GRIDS_PX]
    picture = np.mean([cv2.resize(layer, full, interpolation=cv2.INTER_CUBIC) for layer in layers], axis=0)
    for i in range(num_frames):
        noisy = picture[i : i + height, 2 * i : 2 * i + width] + rng.normal(0, _NOISE_LEVELS, (height, width, 3))
        yield noisy.clip(0, 255).astype(np.uint8)


def frames_from(folder: Path | None, num_frames: int, seed: int = 0) -> Iterator[np.ndarray]:
    """`num_frames` frames, BGR: rendered, or the images of a folder (again and again where they are too few)."""
    if folder is None:
        yield from render_frames(num_frames, seed)
        return
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    images = [cv2.imread(str(path)) for path in paths[: num_frames * (seed + 1)]]
    readable = [image for image in images if image is not None]
    if not readable:
        sys.exit(f"error: {folder}: no png or jpg image that can be read")
    for i in range(num_frames):
        yield readable[(seed * num_frames + i) % len(readable)]


def write_videos(root: Path, suffix: str, num_videos: int, num_frames: int, frames: Path | None) -> list[Video]:
    """root/a/<video>/rgb/000000<suffix> ..., and the videos as the index finds them."""
    for i in range(num_videos):
        folder = root / "a" / f"video_{i}" / "rgb"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for frame_id, frame in enumerate(frames_from(frames, num_frames, seed=i)):
            cv2.imwrite(str(folder / f"{frame_id:06d}{suffix}"), frame)
    return index_classes(root, ("a",), ("rgb",), "error").videos
