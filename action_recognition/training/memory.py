"""How many clips of training a device's memory holds: what dataset.batch_size auto means.

In: a network and the input of two clips. Nothing of the network changes by being asked.
"""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from action_recognition.training.optim import Precision, Stages

CGROUP = Path("/sys/fs/cgroup")  # version 2
LARGEST_BATCH = 32  # what the other defaults, the learning rate first, were chosen for
_SHARE = 0.4  # of the free memory: gradients and the convolutions' workspace take about as much again


def fitting_batch_size(clip_bytes: int, free_bytes: int) -> int:
    """The largest power of two, 1 to LARGEST_BATCH, of clips that hold `clip_bytes` each in `free_bytes`."""
    fits = int(free_bytes * _SHARE) // max(1, clip_bytes)
    return 1 << (max(1, min(fits, LARGEST_BATCH)).bit_length() - 1)


def bytes_per_clip(model: nn.Module, inputs: list[Tensor], precision: Precision, computed_twice: Stages = ()) -> int:
    """What is held for the backward pass, in bytes for each of the N clips of `inputs`. Weights do not count.

    Of stages that are computed twice, that is the input of each and all of the largest one. (Call it before they are.)
    """
    held: list[dict[int, int]] = [{}]  # a part for each such module: {address: bytes}
    entered = 0
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[-1][storage.data_ptr()] = storage.nbytes()
        return tensor

    def enter(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal entered
        entered += sum(tensor.untyped_storage().nbytes() for tensor in given)
        held.append({})

    modules = [module for _, modules in computed_twice[:-1] for module in modules]
    hooks = [module.register_forward_pre_hook(enter) for module in modules]
    was_training = model.training
    try:  # in eval mode, so that no statistics move and no dropout is drawn
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), precision.autocast():
            output = model.eval()(*inputs)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return (entered + max(sum(part.values()) for part in held)) // len(output)


def free_memory(device: torch.device, num_local: int) -> int | None:
    """Bytes that are free on a GPU, or on this machine for each of its `num_local` processes; None where unknown."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what measuring took and torch keeps counts as free
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        return min(kib * 1024, _left_of_limit()) // num_local
    except (OSError, StopIteration):  # macOS and Windows
        names = getattr(os, "sysconf_names", {})
        if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // num_local
        return None


def _left_of_limit() -> int:
    """Bytes that a container may still take (cgroup v2), which sees all of its machine's memory otherwise.

    Files that were read and are kept in memory count as used, but give way.
    """
    try:
        limit, used, stat = (Path(CGROUP, f"memory.{name}").read_text() for name in ("max", "current", "stat"))
        kept = dict(line.split() for line in stat.splitlines())["inactive_file"]
        return max(0, int(limit) - int(used) + int(kept))
    except (OSError, ValueError, KeyError):  # none; "max"
        return sys.maxsize
