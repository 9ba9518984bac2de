"""What every task does before its work: say what the spec left to be said, fix the seeds, choose the precision."""

import random
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

from action_recognition.config import EvaluateSpec, InferenceSpec, Spec, TrainSpec
from action_recognition.data.dataset import Sample
from action_recognition.data.index import MAX_BAD_SHARE
from action_recognition.data.loader import Batch, usable_workers
from action_recognition.data.workers import in_time
from action_recognition.errors import DataError, SpecError
from action_recognition.machine import under_torchrun
from action_recognition.training.distributed import Process, from_first
from action_recognition.training.optim import bf16_conv3d_is_right, conv3d_depths

Say = Callable[[str], None]
Item = TypeVar("Item", Batch, Sample)


def opening_lines(spec: Spec, task: str, process: Process) -> Iterator[str]:
    """What the user should know of how the spec was read on this machine. SpecError where num_nodes is wrong."""
    section: TrainSpec | EvaluateSpec | InferenceSpec = getattr(spec, task)
    yield from spec.notes
    if process.device.type != "cuda" and f"{task}.gpu_ids" in spec.origins:
        yield f"{task}.gpu_ids is ignored: running on {process.device.type}"
    if under_torchrun() and section.num_gpus != process.num_local:
        yield f"torchrun started {process.num_local} processes here; {task}.num_gpus={section.num_gpus} is ignored"
    num_nodes = process.num_processes // process.num_local
    if f"{task}.num_nodes" in spec.origins and section.num_nodes != num_nodes:
        started = f"torchrun started {num_nodes}" if under_torchrun() else "this is 1: start each with torchrun"
        raise SpecError(
            f"{spec.origins[f'{task}.num_nodes']}: {task}.num_nodes is {section.num_nodes} machines, but {started}; "
            "make them equal or leave the key out"
        )


def make_results_folder(folder: str | None, key: str) -> Path:
    """The folder, made if need be. SpecError naming `key` where it can't be."""
    path = Path(str(folder))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"{key}: {path} can't be made ({error.strerror}); set {key}=FOLDER") from error
    return path


def seed_everything(seed: int, rank: int) -> int:
    """Seed random, NumPy and torch; below 0 with a fresh number. Returns the data's seed, equal on all processes."""
    if seed < 0:
        seed = from_first(secrets.randbits(31))
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)
    torch.manual_seed(seed + rank)
    return seed


def workers_here(spec: Spec, process: Process, say: Say) -> int:
    """dataset.workers, no more than the cores of this machine allow."""
    num_workers = usable_workers(spec.dataset.workers, process.num_local)
    if num_workers < spec.dataset.workers and "dataset.workers" in spec.origins:
        say(f"dataset.workers: {num_workers} of {spec.dataset.workers} are used, as many as there are cores")
    return num_workers


def supported_precision(name: str, key: str, device: torch.device) -> str:
    """`name`. SpecError for fp16 on a CPU."""
    if device.type == "cpu" and name == "fp16":
        raise SpecError(f"{key}: fp16 needs a GPU; use fp32 or bf16 on a CPU")
    return name


def trainable_precision(
    name: str, device: torch.device, model: torch.nn.Module, inputs: list[torch.Tensor], say: Say
) -> str:
    """`name`, or fp32 where this CPU would compute wrong gradients in bf16."""
    name = supported_precision(name, "train.precision", device)
    if device.type != "cpu" or name != "bf16":
        return name
    wrong = sorted(depth for depth in conv3d_depths(model, inputs) if not bf16_conv3d_is_right(depth))
    if wrong:
        say(
            f"train.precision: fp32 is used in place of bf16: this CPU's bf16 convolution has wrong gradients at "
            f"{wrong[0]} frames deep, which clips of this length reach (those of 9 frames or more do not)"
        )
    return "fp32" if wrong else name


def check_single_clips(model: torch.nn.Module, inputs: list[torch.Tensor]) -> None:
    """SpecError where a batch of one clip, `inputs`, leaves a batch norm one value a channel, which has no variance."""
    num_values: list[int] = []

    def note(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        num_values.append(args[0].numel() // args[0].shape[1])

    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(*inputs)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    if 1 in num_values:
        raise SpecError(
            "dataset.batch_size: the last batch of an epoch holds one clip, too little for batch norm at this input "
            "size; choose another batch size, or larger model.input_height and model.input_width"
        )


def bad_video(path: str, problem: str) -> DataError:
    """The error that a video which can't be read ends a run with."""
    return DataError(
        f"{problem}\nmend or remove the video {path}, or set dataset.on_bad_video=skip to leave out up to "
        f"{MAX_BAD_SHARE:.0%} of the videos"
    )


class Readable(Generic[Item]):
    """The items of a loader, each time it is iterated; with on_bad_video error, DataError at the first bad video."""

    def __init__(self, loader: Iterable[Item], on_bad_video: str) -> None:
        self.loader: Iterable[Item] = loader
        self.on_bad_video = on_bad_video

    def __iter__(self) -> Iterator[Item]:
        for item in in_time(self.loader, getattr(self.loader, "timeout", 0)):
            if item.problems and self.on_bad_video != "skip":
                raise bad_video(*item.problems[0])
            yield item
