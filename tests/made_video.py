"""Video files and moving pictures that tests make: what moves where is known."""

from pathlib import Path

import numpy as np
from PIL import Image


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random picture, uint8 RGB (H, W, 3), with structure from 4 to 64 pixels."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for cell in (4, 16, 64):
        coarse = rng.integers(0, 256, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
        fine = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        picture += np.asarray(fine) / 3
    return picture.astype(np.uint8)


def moved(picture: np.ndarray, x: float, y: float, margin: int) -> np.ndarray:
    """The inside of a picture, its content moved by x pixels to the right and y down; `margin` is cut off all round."""
    height, width = picture.shape[:2]
    box = (margin - x, margin - y, width - margin - x, height - margin - y)
    size = (width - 2 * margin, height - 2 * margin)
    image = Image.fromarray(picture).transform(size, Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)
    return np.asarray(image)


def write_moving(path: Path, num_frames: int = 6, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
    """A video of (width, height) `size` whose picture moves 2 pixels to the right and 1 down in each frame."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    margin = 2 * num_frames + 2
    picture = texture(size[1] + 2 * margin, size[0] + 2 * margin, seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qmax": "3"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(moved(picture, 2 * i, i, margin), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
