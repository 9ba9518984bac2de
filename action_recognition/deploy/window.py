"""Sliding windows over a stream of frames: each frame is resized and normalised once, and a window is never copied.

In: frames in order, one a modality. Out: the model's input for the latest clip, float32, as a view that holds until the
next frame comes. Runs without torch.
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from action_recognition.clip.contract import Contract, Stream
from action_recognition.clip.transform import evaluation_box, fit_frame, scale_and_shift
from action_recognition.errors import SpecError


def checked_rate(contract: Contract, rate: int | None) -> int:
    """Every how many-th frame a clip has: the model's own, or `rate` where that is the caller's to choose.

    SpecError for another rate than a model of consecutive frames was trained with.
    """
    is_own = contract.sample_strategy == "consecutive"
    if rate is not None and (rate < 1 or (is_own and rate != contract.sample_rate)):
        accepted = f"{contract.sample_rate}, the model's" if is_own else "at least 1"
        raise SpecError(f"rate: must be {accepted}, got {rate}")
    return rate or contract.sample_rate


def frames_spanned(contract: Contract, rate: int) -> int:
    """The frames of the stream that a clip spans, first to last."""
    return (max(contract.lengths.values()) - 1) * rate + 1


def rate_advice(contract: Contract, rate: int | None) -> str | None:
    """What to say where a model of whole videos is run over a stream and no rate was chosen."""
    if contract.sample_strategy == "consecutive" or rate:
        return None
    return (
        "the model was trained on frames spread over whole videos; here they follow one another: give --rate, "
        f"about the frames of an action divided by {max(contract.lengths.values())}"
    )


class PlaneRing:
    """The latest `num_frames` frames of C planes each, as one contiguous (C * num_frames, H, W) block of memory.

    The block is the model's layout, channel after channel. A new frame moves the block's start by one plane: the first
    plane of each channel but the first, the oldest frame's, is then the place of the newest frame of the channel
    before. So C planes are written for each frame, and the block is moved back only when it meets the buffer's end.
    """

    def __init__(self, num_channels: int, num_frames: int, height: int, width: int) -> None:
        self.num_channels, self.num_frames = num_channels, num_frames
        self._planes = np.zeros(((num_channels + 1) * num_frames, height, width), np.float32)
        self._start = 0
        self.num_pushed = 0

    def push(self, planes: np.ndarray) -> None:
        """Take a frame, (C, H, W), in the place of the oldest."""
        size = self.num_channels * self.num_frames
        if self._start + size == len(self._planes):
            self._planes[:size] = self._planes[self._start :]
            self._start = 0
        self._planes[self._start + self.num_frames : self._start + size + 1 : self.num_frames] = planes
        self._start += 1
        self.num_pushed += 1

    @property
    def block(self) -> np.ndarray:
        """The window, (C * num_frames, H, W): a view that the next push changes."""
        return self._planes[self._start : self._start + self.num_channels * self.num_frames]


class SlidingWindow:
    """The clip that a model sees of a stream, moving by one frame at a time.

    A clip has every `rate`-th frame, by default as the contract says. random_interval spreads a clip over a whole
    video, which no stream has: there the rate is the caller's to choose, so that a clip lasts as long as an action.
    SpecError for another rate than a model of consecutive frames was trained with.
    """

    def __init__(self, contract: Contract, rate: int | None = None) -> None:
        self.contract, self.rate = contract, checked_rate(contract, rate)
        self._rings = {m: self._make_rings(stream, m) for m, stream in contract.streams.items()}
        self._constants = {
            m: [np.array(c, np.float32)[:, None, None] for c in scale_and_shift(stream)]
            for m, stream in contract.streams.items()
        }
        self._num_frames = 0

    def _make_rings(self, stream: Stream, modality: str) -> list[PlaneRing]:
        size = self.contract.height, self.contract.width
        return [PlaneRing(len(stream.mean), stream.num_frames, *size) for _ in range(self.rate)]

    @property
    def num_frames(self) -> int:
        """The frames of the stream that a clip spans, first to last."""
        return frames_spanned(self.contract, self.rate)

    def push(self, frames: Mapping[str, np.ndarray]) -> None:
        """Take the next frame of each modality, uint8 (H, W, 3) for rgb, (H, W, 2) for of, of any size."""
        for modality, rings in self._rings.items():
            scale, shift = self._constants[modality]
            planes = self._fitted(frames[modality]).transpose(2, 0, 1)  # H W C -> C H W
            rings[self._num_frames % len(rings)].push(planes * scale + shift)
        self._num_frames += 1

    @property
    def is_full(self) -> bool:
        """True when every place of the clip has a frame."""
        return self._num_frames >= self.num_frames

    def inputs(self) -> list[np.ndarray]:
        """The model's inputs for the latest clip, float32 (1, C, T, H, W) or (1, C * T, H, W): views, no copies."""
        contract, inputs = self.contract, []
        for rings in self._rings.values():
            ring = rings[(self._num_frames - 1) % len(rings)]
            shape = (ring.num_channels, ring.num_frames) if contract.is_3d else (ring.num_channels * ring.num_frames,)
            inputs.append(ring.block.reshape(1, *shape, contract.height, contract.width))
        return inputs

    def _fitted(self, frame: np.ndarray) -> np.ndarray:
        contract = self.contract
        height, width, num_channels = frame.shape
        box, size = evaluation_box((width, height), contract), (contract.width, contract.height)
        if num_channels == 3:
            return fit_frame(Image.fromarray(frame), box, size)
        return np.dstack([fit_frame(Image.fromarray(frame[..., c]), box, size) for c in range(num_channels)])
