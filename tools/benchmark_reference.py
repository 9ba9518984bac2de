"""The reference's way of doing things, written plainly, for tools/benchmark.py to measure against.

It is slow on purpose, the way the reference is; nothing else may use it.
"""

from pathlib import Path

import cv2
import numpy as np


def extract_rgb(video: Path, folder: Path) -> int:
    """All frames as PNG by OpenCV's defaults. Returns their number."""
    (folder / "rgb").mkdir(parents=True)
    capture, num_frames = cv2.VideoCapture(str(video)), 0
    while True:
        is_frame, frame = capture.read()
        if not is_frame:
            return num_frames
        cv2.imwrite(str(folder / "rgb" / f"{num_frames:06d}.png"), frame)
        num_frames += 1


def extract_rgb_and_flow(video: Path, folder: Path, preset: int) -> int:
    """The frames, then in a second pass flow between the PNG files read back, then the flow as JPEG images."""
    num_frames = extract_rgb(video, folder)
    for name in ("u", "v"):
        (folder / name).mkdir()
    dis = getattr(cv2, "DISOpticalFlow_create")(preset)  # noqa: B009 - missing in cv2's type hints
    for i in range(num_frames - 1):
        first, second = (cv2.imread(str(folder / "rgb" / f"{n:06d}.png"), cv2.IMREAD_GRAYSCALE) for n in (i, i + 1))
        flow = dis.calc(first, second, None)
        radius = max(1.0, np.sqrt(flow[..., 0] ** 2 + flow[..., 1] ** 2).max())
        images = (flow / radius * 127.999 + 128).astype(np.uint8)
        for channel, name in enumerate(("u", "v")):
            cv2.imwrite(str(folder / name / f"{i:06d}.jpg"), images[..., channel])
    return num_frames
