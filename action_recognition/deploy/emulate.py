"""What DeepStream feeds the model, computed in NumPy: to see how far it is from what the model was evaluated on.

    deepstream_input(frames, read_preprocess(folder / "config_preprocess.txt"))   # beside the evaluation's own input

The arithmetic is that of the sources of nvdspreprocess and of its sequence library (DeepStream 9). Taken on trust is
the resize, whose source is closed: samples at pixel centres, bilinear without antialiasing, rounded to whole levels.
So is the muxer's scaling of every source to its own size, in `at_muxer`. Not covered: the decoder's conversion to RGB.
"""

import numpy as np

from action_recognition.clip.contract import Contract
from action_recognition.clip.transform import scale_and_shift
from action_recognition.deploy.deepstream_choices import Settings, mimicked_roi
from action_recognition.deploy.deepstream_files import Preprocess, Roi


def preprocess_for(contract: Contract, frame_size: tuple[int, int]) -> Preprocess:
    """How tools/bundle.py sets DeepStream up for frames of (width, height), where it is not told otherwise."""
    stream, chosen = contract.streams["rgb"], Settings()
    return Preprocess(
        is_3d=contract.is_3d,
        num_frames=stream.num_frames,
        height=contract.height,
        width=contract.width,
        roi=mimicked_roi(contract, frame_size),
        scaling_filter=chosen.scaling_filter,
        scales=tuple(scale_and_shift(stream)[0]),
        offsets=tuple(255 * mean for mean in stream.mean),
        stride=chosen.stride,
        subsample=contract.sample_rate - 1,
    )


def clip_ids(num_frames: int, preprocess: Preprocess) -> np.ndarray:
    """The frames of each clip that a stream of `num_frames` frames gives: (S, T) int64; S is 0 for a short one."""
    step = preprocess.subsample + 1
    span = (preprocess.num_frames - 1) * step + 1
    starts = np.arange(0, num_frames - span + 1, preprocess.stride * step)
    return starts[:, None] + step * np.arange(preprocess.num_frames)


def at_muxer(frames: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """Frames uint8 (T, H, W, 3) at the muxer's (width, height)."""
    width, height = frame_size
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([_bilinear(frame, height, width) for frame in frames])


def deepstream_input(frames: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """One clip of RGB frames, uint8 (T, H, W, 3) at the muxer's size -> the model's input.

    Returns float32 (1, 3, T, height, width), or (1, 3 * T, height, width) for a 2D model. ValueError for other frames
    than those, another T than the model's, or an ROI that is not inside the frame.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) != preprocess.num_frames:
        raise ValueError(f"frames must be uint8 ({preprocess.num_frames}, H, W, 3), got {frames.dtype} {frames.shape}")
    roi = _even(preprocess.roi or Roi(0, 0, frames.shape[2], frames.shape[1]))
    if roi.left + roi.width > frames.shape[2] or roi.top + roi.height > frames.shape[1]:
        raise ValueError(f"ROI {tuple(roi)} is not inside the {frames.shape[2]}x{frames.shape[1]} frame")
    inside = frames[:, roi.top : roi.top + roi.height, roi.left : roi.left + roi.width]
    resize = {"nearest": _nearest, "bilinear": _bilinear}[preprocess.scaling_filter]
    clip = np.stack([resize(frame, preprocess.height, preprocess.width) for frame in inside])

    scale, offset = np.array(preprocess.scales, np.float32), np.array(preprocess.offsets, np.float32)
    x = clip * scale + -scale * offset  # float32 (T, H, W, C), one multiplication and one addition as in the kernel
    x = np.ascontiguousarray(x.transpose(3, 0, 1, 2))  # C T H W
    return x[None] if preprocess.is_3d else x.reshape(1, -1, *x.shape[2:])  # 2D: R0..R(T-1) G0.. B0..


def _even(roi: Roi) -> Roi:
    """nvdspreprocess rounds the corner up and the size down to even numbers."""
    return Roi((roi.left + 1) // 2 * 2, (roi.top + 1) // 2 * 2, roi.width // 2 * 2, roi.height // 2 * 2)


def _nearest(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip((height, width), frame.shape, strict=False)
    )
    return frame[rows[:, None], columns]


def _bilinear(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """From the four neighbours of each sample alone, however much the frame shrinks."""
    above, below, weight = _neighbours(frame.shape[0], height)
    rows = frame[above] + weight[:, None, None] * (frame[below].astype(np.float32) - frame[above])
    left, right, weight = _neighbours(frame.shape[1], width)
    levels = rows[:, left] + weight[:, None] * (rows[:, right] - rows[:, left])
    return (levels + 0.5).astype(np.uint8)


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `new` samples of a line of `old` pixels: the pixels before and after it, the weight of the second."""
    places = np.clip((np.arange(new, dtype=np.float32) + 0.5) * old / new - 0.5, 0, old - 1)
    before = places.astype(int)
    return before, np.minimum(before + 1, old - 1), (places - before).astype(np.float32)
