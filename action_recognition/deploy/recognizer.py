"""Frames in, labels and scores out.

    recognize = Recognizer.from_checkpoint("results/train/ar_model_best.pth")
    recognize(frames)   # uint8 RGB (T, H, W, 3) -> [("fall", 0.97), ("sit", 0.02), ...]

The frames are sampled, resized and normalised as the model's contract says, the same as in evaluation.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from action_recognition.clip.contract import CHANNELS, Contract
from action_recognition.clip.sampling import window_ids
from action_recognition.clip.transform import fit_clip, scale_and_shift, to_input

Forward = Callable[[list[np.ndarray]], np.ndarray]


class Recognizer:
    """A model behind one call. `forward` takes the model's inputs, float32 (N, ...), and returns logits (N, K)."""

    def __init__(self, forward: Forward, contract: Contract) -> None:
        self.contract, self._forward = contract, forward
        self._constants = {
            m: [np.array(c, dtype=np.float32) for c in scale_and_shift(stream)]
            for m, stream in contract.streams.items()
        }

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "cpu", key: str | None = None) -> "Recognizer":
        """A recognizer that runs a checkpoint in torch on `device`; `key` opens a sealed one.

        CheckpointError where the file can't be used.
        """
        import torch

        from action_recognition.loading import load_checkpoint

        model, contract = load_checkpoint(path, device, key)

        def forward(inputs: list[np.ndarray]) -> np.ndarray:
            with torch.inference_mode():
                logits: np.ndarray = model(*(torch.from_numpy(x).to(device) for x in inputs)).float().cpu().numpy()
            return logits

        return cls(forward, contract)

    def __call__(self, *videos: np.ndarray) -> list[tuple[str, float]]:
        """The classes and their probabilities, best first, for the middle clip of a video of any length.

        One array for each modality: rgb uint8 (T, H, W, 3); flow images u, v uint8 (T, H, W, 2); joint: both, and the
        shorter one's T counts. A video shorter than the clip is looped. ValueError for other shapes or types.
        """
        frames = self._checked(videos)
        num_frames = min(map(len, frames.values()))
        contract = self.contract
        ids = window_ids(num_frames, contract.lengths, strategy=contract.sample_strategy, rate=contract.sample_rate)
        inputs = []
        for modality, (scale, shift) in self._constants.items():
            clip = fit_clip(frames[modality][ids[modality][0]], contract)  # (T, H, W, C) uint8
            inputs.append(np.ascontiguousarray(to_input(clip[None], scale, shift, contract.is_3d)))
        probabilities = _softmax(self._forward(inputs)[0])
        order = np.argsort(-probabilities, kind="stable")
        return [(contract.class_names[k], float(probabilities[k])) for k in order]

    def _checked(self, videos: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
        modalities = self.contract.modalities
        if len(videos) != len(modalities):
            raise ValueError(f"the model takes {len(modalities)} arrays ({', '.join(modalities)}), got {len(videos)}")
        for modality, video in zip(modalities, videos, strict=True):
            right = isinstance(video, np.ndarray) and video.ndim == 4 and video.shape[3] == CHANNELS[modality]
            if not right or video.dtype != np.uint8 or 0 in video.shape:
                got = f"{video.dtype} {video.shape}" if isinstance(video, np.ndarray) else type(video).__name__
                raise ValueError(f"{modality} must be uint8 (T >= 1, H, W, {CHANNELS[modality]}), got {got}")
        return dict(zip(modalities, videos, strict=True))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    return exponentials / exponentials.sum()
