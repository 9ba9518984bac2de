"""Datasets to batches: which clips make a batch on which process, in what order, and how they are stacked.

The plan of an epoch depends on (seed, epoch) alone and covers every clip once, whatever the number of processes and
workers. Batches stay uint8 on the host; `ToInput` makes the model's input on the device.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from action_recognition.clip.contract import Contract
from action_recognition.clip.transform import scale_and_shift, to_input
from action_recognition.data.dataset import ClipKey, EvaluationWindows, Sample, TrainingClips
from action_recognition.data.workers import Watched, start_reader
from action_recognition.machine import num_cores


@dataclass
class Batch:
    """N clips: {modality: uint8 (N, T, H, W, C)}, labels (N,), weights (N,) of the loss, and where they come from.

    In training, the inputs also have `mirrored`, bool (N,): the clips that ToInput is to mirror.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    weights: Tensor
    video_ids: list[int]
    videos: list[str]
    problems: list[tuple[str, str]] = field(default_factory=list)

    def pin_memory(self) -> "Batch":
        """DataLoader's hook for a copy in page-locked memory."""
        inputs = {m: clips.pin_memory() for m, clips in self.inputs.items()}
        return replace(self, inputs=inputs, labels=self.labels.pin_memory(), weights=self.weights.pin_memory())

    def __len__(self) -> int:
        return len(self.labels)


class TrainingPlan(Sampler[list[ClipKey]]):
    """The micro-batches of one process in one epoch, from any optimizer step on.

    A step takes accumulate_steps * num_processes * batch_size clips of a seeded permutation, at the end of the epoch
    what is left. Each clip weighs num_processes / (clips of its step), so that the sum of weighted losses, averaged
    over processes, has the gradient of the mean over the step's clips, also in a short last step.

    With the `labels` of all clips, an epoch has as many clips, but equally many of each class (within one): of a large
    class not all, of a small one some more than once.
    """

    def __init__(
        self,
        num_clips: int,
        batch_size: int,
        accumulate_steps: int,
        seed: int,
        rank: int = 0,
        num_processes: int = 1,
        labels: Sequence[int] | None = None,
    ) -> None:
        self.num_clips, self.batch_size, self.accumulate_steps = num_clips, batch_size, accumulate_steps
        self.seed, self.rank, self.num_processes = seed, rank, num_processes
        self.labels = None if labels is None else np.asarray(labels)
        self.epoch, self.first_step = 0, 0

    def start_at(self, epoch: int, step: int) -> None:
        """The next iteration yields the batches of `epoch` from optimizer step `step` on."""
        self.epoch, self.first_step = epoch, step

    @property
    def num_steps(self) -> int:
        """Optimizer steps of a whole epoch."""
        return -(-self.num_clips // (self.batch_size * self.num_processes * self.accumulate_steps))

    @property
    def smallest_batch(self) -> int:
        """The clips that a process gets in the last batch of an epoch, where it gets least; a black one counts."""
        rest = self.num_clips - (self._num_batches() - 1) * self.batch_size * self.num_processes
        return max(1, rest // self.num_processes)

    def __len__(self) -> int:
        return max(0, self._num_batches() - self.first_step * self.accumulate_steps)

    def __iter__(self) -> Iterator[list[ClipKey]]:
        order = self._order(np.random.default_rng((self.seed, self.epoch)))
        batch, step = self.batch_size * self.num_processes, self.batch_size * self.num_processes * self.accumulate_steps
        for i in range(self.first_step * self.accumulate_steps, self._num_batches()):
            in_step = min(step, self.num_clips - i // self.accumulate_steps * step)
            mine = order[i * batch : (i + 1) * batch][self.rank :: self.num_processes]
            yield [ClipKey(self.epoch, int(clip_id), self.num_processes / in_step) for clip_id in mine]

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """The clip ids of an epoch; id + n * num_clips is the n-th repetition of a clip, with draws of its own."""
        if self.labels is None:
            return rng.permutation(self.num_clips)
        classes = rng.permutation(np.unique(self.labels))  # who gets one more changes from epoch to epoch
        shares = np.full(len(classes), self.num_clips // len(classes)) + (
            np.arange(len(classes)) < self.num_clips % len(classes)
        )
        drawn = [self._drawn(np.flatnonzero(self.labels == c), n, rng) for c, n in zip(classes, shares, strict=True)]
        return rng.permutation(np.concatenate(drawn))

    def _drawn(self, clip_ids: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        rounds = [rng.permutation(clip_ids) + n * self.num_clips for n in range(-(-count // len(clip_ids)))]
        return np.concatenate([np.empty(0, np.int64), *rounds])[:count]

    def _num_batches(self) -> int:
        return -(-self.num_clips // (self.batch_size * self.num_processes))


class ToInput:
    """uint8 clips -> the model's inputs on `device`, in the contract's order. The arithmetic runs there.

    Frames have their channels last, and a convolution follows the order of its input: without another copy a CPU would
    need 9 to 23 % more for a training step of a 3D ResNet-18 whose weights are contiguous.
    """

    def __init__(
        self, contract: Contract, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format
    ) -> None:
        self.device, self.is_3d, self.memory_format = device, contract.is_3d, memory_format
        self._constants = {
            m: [torch.tensor(c, dtype=torch.float32, device=device) for c in scale_and_shift(stream)]
            for m, stream in contract.streams.items()
        }

    def __call__(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        inputs = {name: x.to(self.device, non_blocking=True) for name, x in inputs.items()}
        if "mirrored" in inputs:
            chosen = inputs.pop("mirrored")[:, None, None, None, None]
            inputs = {m: torch.where(chosen, mirror(clips, m), clips) for m, clips in inputs.items()}
        return [
            to_input(inputs[m], scale, shift, self.is_3d).contiguous(memory_format=self.memory_format)
            for m, (scale, shift) in self._constants.items()
        ]


def mirror(clips: Tensor, modality: str) -> Tensor:
    """Clips uint8 (N, T, H, W, C) seen in a mirror. Flow to the left becomes flow to the right: u' = 255 - u."""
    images = clips.flatten(0, 1).permute(0, 3, 1, 2)  # NT C H W, channels last: a CPU turns those round 8 times as fast
    mirrored = images.flip(3).permute(0, 2, 3, 1).reshape_as(clips)
    if modality == "of":
        mirrored[..., 0] = 255 - mirrored[..., 0]
    return mirrored


def training_loader(
    dataset: TrainingClips, plan: TrainingPlan, num_workers: int, device: torch.device, timeout_sec: float = 0
) -> "DataLoader[Any]":
    """The DataLoader of a training run; its workers live as long as it does. Its dataset is Watched.

    RuntimeError of torch's where a batch takes a worker longer than `timeout_sec`, 0 = any time.
    """
    collate: Any = _Collate(dataset.contract)
    watched = Watched(dataset, num_workers)
    return DataLoader(watched, batch_sampler=plan, collate_fn=collate, **_workers(num_workers, device, timeout_sec))


def evaluation_loader(
    dataset: EvaluationWindows,
    num_workers: int,
    device: torch.device,
    rank: int = 0,
    num_processes: int = 1,
    timeout_sec: float = 0,
) -> "DataLoader[Any]":
    """A DataLoader over every num_processes-th video from `rank` on: each video on one process, none twice.

    Its dataset is Watched. RuntimeError of torch's where a video takes a worker longer than `timeout_sec`.
    """
    shard = range(rank, len(dataset), num_processes)
    one_by_one: Any = _tensors
    how = _workers(num_workers, device, timeout_sec)
    return DataLoader(Watched(dataset, num_workers), None, sampler=shard, collate_fn=one_by_one, **how)


def usable_workers(num_workers: int, num_processes_here: int = 1) -> int:
    """As many workers as asked for, but no more than this machine has cores for each process."""
    return min(num_workers, max(1, num_cores() // num_processes_here))


def window_batches(samples: Iterable[Sample], batch_size: int) -> Iterator[Batch]:
    """Videos to batches of at most `batch_size` windows; windows of one shape share batches, in order."""
    waiting: list[tuple[Sample, dict[str, Tensor]]] = []
    for sample in samples:
        if sample.problem:
            yield _stack([], sample.problems)
            continue
        for s in range(len(next(iter(sample.clips.values())))):
            window: dict[str, Any] = {m: clips[s] for m, clips in sample.clips.items()}
            if waiting and (len(waiting) == batch_size or _shapes(waiting[-1][1]) != _shapes(window)):
                yield _stack(waiting)
                waiting = []
            waiting.append((sample, window))
    if waiting:
        yield _stack(waiting)


class _Collate:
    """Samples of one clip each -> a Batch. A batch that has lost all its clips gets one black clip of weight 0.

    Every process must go through every step; the black clip adds nothing to the loss.
    """

    def __init__(self, contract: Contract) -> None:
        self.shapes = {
            m: (s.num_frames, contract.height, contract.width, len(s.mean)) for m, s in contract.streams.items()
        }

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        problems = [problem for s in samples for problem in s.problems]
        good = [s for s in samples if not s.problem]
        if good:
            clips = {m: torch.stack([torch.from_numpy(s.clips[m][0]) for s in good]) for m in self.shapes}
            return _batch({**clips, "mirrored": torch.tensor([s.mirrored for s in good])}, good, problems)
        black = {m: torch.zeros((1, *shape), dtype=torch.uint8) for m, shape in self.shapes.items()}
        return Batch(black, torch.zeros(1, dtype=torch.int64), torch.zeros(1), [], [], problems)


def _stack(windows: Sequence[tuple[Sample, dict[str, Tensor]]], problems: Sequence[tuple[str, str]] = ()) -> Batch:
    inputs = {m: torch.stack([window[m] for _, window in windows]) for m in (windows[0][1] if windows else ())}
    return _batch(inputs, [sample for sample, _ in windows], problems)


def _batch(inputs: dict[str, Tensor], samples: Sequence[Sample], problems: Sequence[tuple[str, str]]) -> Batch:
    return Batch(
        inputs,
        torch.tensor([s.video.label for s in samples], dtype=torch.int64),
        torch.tensor([s.weight for s in samples], dtype=torch.float32),
        [s.video_id for s in samples],
        [s.video.path for s in samples],
        list(problems),
    )


def _shapes(window: dict[str, Tensor]) -> list[torch.Size]:
    return [clip.shape for clip in window.values()]


def _tensors(sample: Sample) -> Sample:
    """Tensors travel from a worker through shared memory, arrays through a pipe; what lies in a file is copied."""
    clips: dict[str, Any] = {m: torch.from_numpy(np.ascontiguousarray(c)) for m, c in sample.clips.items()}
    return replace(sample, clips=clips)


def _workers(num_workers: int, device: torch.device, timeout_sec: float) -> dict[str, Any]:
    # A generator of its own: the DataLoader draws worker seeds, and must not move the state that dropout draws from.
    return {
        "num_workers": num_workers,
        "pin_memory": device.type == "cuda",
        "persistent_workers": num_workers > 0,
        "worker_init_fn": start_reader,
        "timeout": timeout_sec if num_workers else 0,
        "generator": torch.Generator(),
    }
