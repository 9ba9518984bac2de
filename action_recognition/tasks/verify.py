"""The same clips through the network and through what was exported of it, stage by stage: where do they part?

In: a checkpoint, exported models, a data set. Out: a Finding for each route, the way of a clip from its frames to the
scores. The network and the evaluation's way of reading are what all routes are held against. Each stage is judged by
itself: what a route makes of its own pixels, what its model makes of its own input.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from action_recognition.clip.contract import Contract, Stream
from action_recognition.clip.sampling import window_ids
from action_recognition.clip.transform import fit_clip
from action_recognition.data.dataset import EvaluationWindows
from action_recognition.data.flow_record import checked_flow
from action_recognition.data.frames import open_frames
from action_recognition.data.index import Video, index_classes
from action_recognition.data.loader import ToInput
from action_recognition.deploy.deepstream_files import Preprocess
from action_recognition.deploy.emulate import at_muxer, deepstream_input, preprocess_for
from action_recognition.deploy.executor import Executor, open_executor
from action_recognition.deploy.export import TOLERANCES, Comparison, compare
from action_recognition.deploy.sources import Dropped, frames_of
from action_recognition.deploy.window import SlidingWindow
from action_recognition.errors import DataError, DeployError
from action_recognition.loading import load_checkpoint
from action_recognition.tasks.exported import check_tensors
from action_recognition.tasks.setting import Say
from action_recognition.training.metrics import log_softmax

PIXEL_LEVELS, INPUT_LEVELS = 1.0, 0.01  # of 0..255: rounding of a resize, and of float32
DEEPSTREAM = "DeepStream, emulated, and torch"
STAGES = ("pixels", "input", "model")

Clips = dict[str, np.ndarray]  # {modality: uint8 (T, H, W, C)}
Inputs = list[np.ndarray]  # float32 (1, ...) for each modality
Scores = Callable[[Inputs], np.ndarray]  # (1, K)


@dataclass(frozen=True)
class Route:
    """A way from raw frames to scores: logits, or probabilities with `is_softmax`."""

    name: str
    pixels: Callable[[Clips], Clips]
    inputs: Callable[[Clips], Inputs]
    scores: Scores
    is_softmax: bool = False
    precision: str = "fp32"


@dataclass(frozen=True)
class Finding:
    """The largest differences of a route over all clips, each stage's own.

    `pixels` and `input` in levels of 0..255; `model` as a share of the largest score; `overall` is frames to scores.
    `fault` is why the route could not be taken.
    """

    route: str
    pixels: float = 0.0
    input: float = 0.0
    model: float = 0.0
    overall: Comparison | None = None
    accepted: tuple[float, float, float] = (PIXEL_LEVELS, INPUT_LEVELS, TOLERANCES["fp32"])
    fault: str = ""

    @property
    def blamed(self) -> tuple[str, ...]:
        """The stages that differ by more than is accepted."""
        values = (self.pixels, self.input, self.model)
        pairs = zip(STAGES, values, self.accepted, strict=True)
        return tuple(stage for stage, value, most in pairs if not value <= most)  # nan is not

    @property
    def is_wrong(self) -> bool:
        """Whether something needs mending. DeepStream's pixels can't be mended: it resizes without antialiasing."""
        return bool(self.fault or set(self.blamed) - ({"pixels"} if self.route == DEEPSTREAM else set()))


@dataclass(frozen=True)
class DeepStream:
    """How a folder of DeepStream's is set up: the (width, height) of its muxer, and what is done to its frames."""

    frame_size: tuple[int, int]
    preprocess: Preprocess


def verify(
    checkpoint: Path,
    models: Sequence[Path],
    data: str,
    num_clips: int,
    device: str,
    deepstream: DeepStream | None,
    say: Say,
) -> list[Finding]:
    """Hold the models, and DeepStream's preprocessing for models of RGB, against the checkpoint on a data set's clips.

    `deepstream` is how a folder of DeepStream's was set up; None is how tools/bundle.py sets it up.
    """
    model, contract = load_checkpoint(checkpoint, device)
    network = in_torch(model, torch.device(device))
    videos = _spread(data, contract, num_clips, str(checkpoint))
    routes: list[Route] = []
    faults: list[Finding] = []
    for path in models:
        try:
            routes.append(host_route(path, contract, device))
        except DeployError as error:
            faults.append(Finding(str(path), fault=str(error)))
    if contract.modalities == ("rgb",):
        routes.append(deepstream_route(contract, deepstream, network))
    say(f"{len(videos)} clips of {data}, the middle one of each video; torch in float32 on {device} is the measure")
    measure = _Measure(network, contract)
    measured: dict[str, list[_Measured]] = {route.name: [] for route in routes}
    for clips, frames in _clips(videos, contract):
        for route in routes:
            measured[route.name].append(measure(route, clips, frames))
    return [*(_finding(route, measured[route.name]) for route in routes), *faults]


# --- the routes ---


def host_route(path: Path, contract: Contract, device: str) -> Route:
    """What tools/trt_inference.py does: frames by deploy.sources, the sliding window, ONNX Runtime or TensorRT.

    DeployError where the model can't be run here, or is not for the checkpoint's contract.
    """
    executor = open_executor(path, None if device == "cpu" else device)
    description = executor.description
    if description:
        _check_same(asdict(contract), asdict(description.contract), "the model's contract")
    check_tensors(executor, contract, path)
    return Route(
        name=f"{path}",
        pixels=lambda frames: {m: fit_clip(clip, contract) for m, clip in frames.items()},
        inputs=lambda frames: _through_window(frames, contract),
        scores=_scores_of(executor),
        is_softmax=description is not None and description.output == "softmax",
        precision=description.precision if description else "fp32",
    )


def deepstream_route(contract: Contract, setup: DeepStream | None, network: Scores) -> Route:
    """DeepStream's preprocessing as deploy.emulate computes it, and the network itself behind it.

    DeployError where `setup` is not for the contract's clips.
    """
    if setup:
        ours, theirs = (
            {name: getattr(p, name) for name in ("is_3d", "num_frames", "height", "width")}
            for p in (preprocess_for(contract, setup.frame_size), setup.preprocess)
        )
        _check_same(ours, theirs, "DeepStream's preprocessing")

    def fed(frames: Clips, **changes: Any) -> np.ndarray:
        size = setup.frame_size if setup else (frames["rgb"].shape[2], frames["rgb"].shape[1])
        how = replace(setup.preprocess if setup else preprocess_for(contract, size), **changes)
        try:
            return deepstream_input(at_muxer(frames["rgb"], size), how)
        except ValueError as error:
            raise DeployError(f"DeepStream's preprocessing: {error}") from error

    def pixels(frames: Clips) -> Clips:
        clip = fed(frames, is_3d=True, scales=(1.0, 1.0, 1.0), offsets=(0.0, 0.0, 0.0))[0]
        return {"rgb": clip.transpose(1, 2, 3, 0).astype(np.uint8)}  # C T H W -> T H W C

    return Route(DEEPSTREAM, pixels, lambda frames: [fed(frames)], network)


def in_torch(model: nn.Module, device: torch.device) -> Scores:
    """The network as a function of arrays, without TF32, which would be taken for an error."""

    def scores(inputs: Inputs) -> np.ndarray:
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            return np.asarray(model(*(torch.from_numpy(x).to(device) for x in inputs)).float().cpu())

    return scores


def _scores_of(executor: Executor) -> Scores:
    (name,) = executor.outputs
    return lambda inputs: executor(dict(zip(executor.inputs, inputs, strict=True)))[name]


def _check_same(ours: Mapping[str, object], theirs: Mapping[str, object], what: str) -> None:
    """DeployError with every value that differs from the checkpoint's."""
    differing = [f"{name} is {theirs[name]}, not {ours[name]}" for name in ours if ours[name] != theirs[name]]
    if differing:
        raise DeployError(f"{what} is not the checkpoint's: {'; '.join(differing)}")


def _through_window(frames: Clips, contract: Contract) -> Inputs:
    """The clip through the sliding window; the shorter of two modalities joins where its frames begin."""
    window = SlidingWindow(replace(contract, sample_rate=1))  # the frames given are the sampled ones
    longest = max(map(len, frames.values()))
    for i in range(longest):
        window.push({m: clip[max(0, i - longest + len(clip))] for m, clip in frames.items()})
    return [x.copy() for x in window.inputs()]


# --- the comparison ---


@dataclass(frozen=True)
class _Measured:
    """One clip on one route: each stage's own difference, and the scores that should be and are."""

    pixels: float
    input: float
    model: float
    expected: np.ndarray
    scores: np.ndarray


class _Measure:
    """The checkpoint's network, fed as the evaluation feeds it: what a route's stages are held against."""

    def __init__(self, network: Scores, contract: Contract) -> None:
        self._network, self._streams = network, contract.streams
        self._to_input = ToInput(contract, torch.device("cpu"))

    def __call__(self, route: Route, clips: Clips, frames: Clips) -> _Measured:
        """`clips` are the evaluation's pixels, `frames` what the route gets."""
        pixels, inputs = route.pixels(frames), route.inputs(frames)
        scores = route.scores(inputs)
        pairs = zip(inputs, self._input(pixels), self._streams.values(), strict=True)
        return _Measured(
            pixels=_largest(pixels[m].astype(float) - clips[m] for m in pixels),
            input=_largest(_in_levels(x - right, stream) for x, right, stream in pairs),
            model=compare(self._scores(inputs, route), scores).difference,
            expected=self._scores(self._input(clips), route),
            scores=scores,
        )

    def _input(self, clips: Clips) -> Inputs:
        tensors = {m: torch.from_numpy(np.ascontiguousarray(clip))[None] for m, clip in clips.items()}
        return [np.ascontiguousarray(x) for x in self._to_input(tensors)]

    def _scores(self, inputs: Inputs, route: Route) -> np.ndarray:
        logits = self._network(inputs)
        return np.exp(log_softmax(logits)) if route.is_softmax else logits


def _finding(route: Route, measured: Sequence[_Measured]) -> Finding:
    pixels, inputs, model = (float(np.max([getattr(m, stage) for m in measured])) for stage in STAGES)
    overall = compare(*(np.concatenate([getattr(m, name) for m in measured]) for name in ("expected", "scores")))
    return Finding(
        route.name, pixels, inputs, model, overall, (PIXEL_LEVELS, INPUT_LEVELS, TOLERANCES[route.precision])
    )


def _largest(differences: Iterable[np.ndarray]) -> float:
    return float(np.max([np.abs(difference).max() for difference in differences]))


def _in_levels(difference: np.ndarray, stream: Stream) -> np.ndarray:
    """A difference of two inputs, (1, C, T, H, W) or (1, C * T, H, W), in levels of 0..255."""
    by_channel = difference.reshape(len(stream.std), -1)
    return by_channel * 255 * np.array(stream.std)[:, None]


# --- the clips ---


def _spread(data: str, contract: Contract, count: int, checkpoint: str) -> list[Video]:
    """Up to `count` videos, evenly spread over a sorted data set and so over its classes."""
    index = index_classes(data, contract.class_names, contract.modalities, "error")
    videos = checked_flow(index, contract.flow_encoding, checkpoint).videos
    chosen = np.linspace(0, len(videos) - 1, min(count, len(videos))).round().astype(int)
    return [videos[i] for i in chosen]


def _clips(videos: Sequence[Video], contract: Contract) -> Iterator[tuple[Clips, Clips]]:
    """The clip of each video as the evaluation reads it, and the same frames at full size as deployment reads them."""
    windows = EvaluationWindows(videos, contract)
    for i, video in enumerate(videos):
        sample = windows[i]
        if sample.problem:
            raise DataError(sample.problem)
        yield {m: clip[0] for m, clip in sample.clips.items()}, _frames(video, _middle_ids(video, contract), contract)


def _middle_ids(video: Video, contract: Contract) -> dict[str, list[int]]:
    """The frames of the middle clip of each modality."""
    num_frames, strategy = open_frames(video).num_frames, contract.sample_strategy
    ids = window_ids(num_frames, contract.lengths, strategy=strategy, rate=contract.sample_rate)
    return {m: windows[0].tolist() for m, windows in ids.items()}


def _frames(video: Video, ids: Mapping[str, list[int]], contract: Contract) -> Clips:
    found: dict[str, dict[int, np.ndarray]] = {m: {} for m in ids}
    for frame in frames_of(video.path, contract.modalities, Dropped()):
        for m in ids:
            if frame.number in ids[m]:
                found[m][frame.number] = frame.images[m]
    return {m: np.stack([found[m][i] for i in ids[m]]) for m in ids}
