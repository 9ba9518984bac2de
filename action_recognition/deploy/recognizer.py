"""Frames in, labels and scores out.

    recognize = Recognizer.from_checkpoint("results/train/ar_model_best.pth")
    recognize(frames)   # uint8 RGB (T, H, W, 3) -> [("fall", 0.97), ("sit", 0.02), ...]

    recognize = Recognizer.from_onnx("model.onnx")            # or from_engine("model.plan"); neither needs torch
    for event in recognize.stream("rtsp://camera/1", num_smoothed=5, threshold=0.6):
        print(event.label, event.start_sec, event.end_sec)

The frames are sampled, resized and normalised as the model's contract says, the same as in evaluation.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from action_recognition.clip.contract import CHANNELS, Contract
from action_recognition.clip.sampling import window_ids
from action_recognition.clip.transform import fit_clip, scale_and_shift, to_input
from action_recognition.deploy.events import Event, Scores, Smoothing, events_of
from action_recognition.deploy.executor import MODEL_SUFFIXES, Executor, open_executor, run_any
from action_recognition.deploy.sources import Dropped, Frame, frames_of
from action_recognition.deploy.window import SlidingWindow
from action_recognition.errors import DeployError

Forward = Callable[[list[np.ndarray]], np.ndarray]


class Recognizer:
    """A model behind one call.

    `forward` takes the model's inputs, float32 (N, ...), and returns logits (N, K), or probabilities with `is_softmax`.
    `dropped.frames` counts the frames of live sources that came while the model was busy.
    """

    def __init__(self, forward: Forward, contract: Contract, is_softmax: bool = False) -> None:
        self.contract, self.dropped = contract, Dropped()
        self._forward, self._is_softmax = forward, is_softmax
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

    @classmethod
    def from_onnx(cls, path: str | Path, device: str = "cpu") -> "Recognizer":
        """A recognizer that runs an exported model in ONNX Runtime, on cpu, cuda or cuda:N. DeployError if it can't."""
        return cls.from_executor(open_executor(path, device), path)

    @classmethod
    def from_engine(cls, path: str | Path, device: str = "cuda", trust: bool = False) -> "Recognizer":
        """A recognizer that runs a TensorRT plan; `trust` lets a version-compatible plan run its own code."""
        return cls.from_executor(open_executor(path, device, trust), path)

    @classmethod
    @contextmanager
    def open(cls, path: str | Path, device: str | None = None, trust: bool = False) -> Iterator["Recognizer"]:
        """A recognizer of any model file, by its suffix: exported ones without torch, else a checkpoint, with it.

        `device` is by default the CPU for checkpoints and ONNX files, and GPU 0 for plans. UserError says what is
        missing.
        """
        if Path(path).suffix.lower() not in MODEL_SUFFIXES:
            if find_spec("torch") is None:
                raise DeployError(
                    f"{path}: a checkpoint needs torch: pip install torch torchvision; or export it with "
                    f"tools/export.py, and give the file that it makes ({', '.join(MODEL_SUFFIXES)})"
                )
            yield cls.from_checkpoint(path, device or "cpu")
            return
        with open_executor(path, device, trust) as executor:
            yield cls.from_executor(executor, path)

    @classmethod
    def from_executor(cls, executor: Executor, path: str | Path, contract: Contract | None = None) -> "Recognizer":
        """A recognizer over an open executor. DeployError: the model, at `path`, has no contract and none is given."""
        description = executor.description
        contract = contract or (description.contract if description else None)
        if contract is None:
            raise DeployError(f"{path}: carries no contract; export it with tools/export.py")
        names, (output,) = list(executor.inputs), executor.outputs

        def forward(inputs: list[np.ndarray]) -> np.ndarray:
            return run_any(executor, dict(zip(names, inputs, strict=True)))[output]

        return cls(forward, contract, is_softmax=description is not None and description.output == "softmax")

    def __call__(self, *videos: np.ndarray) -> list[tuple[str, float]]:
        """The classes and their probabilities, best first, for the middle clip of a video of any length.

        One array for each modality: rgb uint8 (T, H, W, 3); flow images u, v uint8 (T, H, W, 2); joint: both, and the
        shorter one's T counts. A video shorter than the clip is looped. ValueError for other shapes or types.
        """
        frames = self._checked(videos)
        num_frames = min(map(len, frames.values()))
        contract = self.contract
        ids = window_ids(num_frames, contract.lengths, strategy=contract.sample_strategy, rate=contract.sample_rate)
        probabilities = self.classify({m: fit_clip(frames[m][ids[m][0]], contract)[None] for m in frames})[0]
        order = np.argsort(-probabilities, kind="stable")
        return [(contract.class_names[k], float(probabilities[k])) for k in order]

    def classify(self, clips: Mapping[str, np.ndarray]) -> np.ndarray:
        """The probabilities (N, K) of any number of clips at the model's size: uint8 (N, T, H, W, C) a modality."""
        inputs = []
        for modality, (scale, shift) in self._constants.items():
            inputs.append(np.ascontiguousarray(to_input(clips[modality], scale, shift, self.contract.is_3d)))
        return self._probabilities(inputs)

    def windows(
        self, source: Any, stride: int = 1, fps: float | None = None, batch_size: int = 1, rate: int | None = None
    ) -> Iterator[Scores]:
        """The scores of every `stride`-th window over a source (see deploy.sources.frames_of), each frame read once.

        A window has every `rate`-th frame (see deploy.window.SlidingWindow).
        A source shorter than a clip is looped to one window, as evaluation does. Windows that wait for a batch of
        several are copied; a batch of one is the window itself.
        """
        waiting: list[tuple[Frame, Frame, list[np.ndarray]]] = []
        for first, last, inputs in self._clips(source, stride, fps, rate):
            waiting.append((first, last, inputs if batch_size == 1 else [x.copy() for x in inputs]))
            if len(waiting) == batch_size:
                yield from self._scored(waiting)
                waiting = []
        if waiting:
            yield from self._scored(waiting)

    def stream(
        self,
        source: Any,
        stride: int = 1,
        num_smoothed: int = 1,
        ema: float | None = None,
        threshold: float = 0.0,
        fps: float | None = None,
        rate: int | None = None,
    ) -> Iterator[Event]:
        """What happens in a source, as it is over: label, start and end in seconds, score.

        Probabilities are averaged over the latest `num_smoothed` windows, or exponentially with weight `ema` for the
        newest; below `threshold` nothing is known, and no event is told.
        """
        windows = self.windows(source, stride, fps, rate=rate)
        return events_of(windows, self.contract.class_names, Smoothing(num_smoothed, ema), threshold)

    def _clips(
        self, source: Any, stride: int, fps: float | None, rate: int | None
    ) -> Iterator[tuple[Frame, Frame, list[np.ndarray]]]:
        """The first and the last frame of each window, and the model's inputs: views, until the next window."""
        window, num_full = SlidingWindow(self.contract, rate), 0
        span: deque[Frame] = deque(maxlen=window.num_frames)
        for frame in frames_of(source, self.contract.modalities, self.dropped, fps):
            window.push(frame.images)
            span.append(frame)
            if window.is_full:
                if num_full % stride == 0:
                    yield span[0], span[-1], window.inputs()
                num_full += 1
        if span and not window.is_full:
            for i in range(window.num_frames - len(span)):
                window.push(span[i % len(span)].images)
            yield span[0], span[-1], window.inputs()

    def _scored(self, clips: list[tuple[Frame, Frame, list[np.ndarray]]]) -> Iterator[Scores]:
        inputs = [x[0] if len(x) == 1 else np.concatenate(x) for x in zip(*(clip[2] for clip in clips), strict=True)]
        for (first, last, _), probabilities in zip(clips, self._probabilities(inputs), strict=True):
            yield Scores(first.time_sec, last.time_sec, first.number, last.number, probabilities)

    def _probabilities(self, inputs: list[np.ndarray]) -> np.ndarray:
        """(N, K)."""
        scores = self._forward(inputs)
        return scores if self._is_softmax else _softmax(scores)

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
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
