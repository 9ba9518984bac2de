"""Video files whose frames come back bit for bit, so that a test can say which pixels it expects."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def write_lossless(path: Path, frames: Sequence[np.ndarray] | np.ndarray) -> Path:
    """A video of these frames, uint8 RGB (H, W, 3)."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.pix_fmt = "bgr0"
        stream.height, stream.width = frames[0].shape[:2]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_video_tree(
    root: Path, classes: Mapping[str, int], num_frames: int | Sequence[int] = 6, size: tuple[int, int] = (20, 16)
) -> Path:
    """root/<class>/video_<id>.avi, with the names, ids and rgb colours of conftest.write_tree."""
    video_id = 0
    for label, (name, count) in enumerate(sorted(classes.items())):
        for _ in range(count):
            length = num_frames if isinstance(num_frames, int) else num_frames[video_id]
            colours = [(video_id, frame_id, label) for frame_id in range(length)]
            frames = [np.full((size[1], size[0], 3), colour, np.uint8) for colour in colours]
            write_lossless(root / name / f"video_{video_id:03d}.avi", frames)
            video_id += 1
    return root


def noise(num_frames: int, size: tuple[int, int] = (20, 16), seed: int = 0) -> np.ndarray:
    """Frames uint8 (T, H, W, 3) at (width, height) `size` in which every pixel differs from its neighbours."""
    return np.random.default_rng(seed).integers(0, 256, (num_frames, size[1], size[0], 3), np.uint8)
