"""Processes and devices: who am I among how many, on which device, and how to hear from the others.

torchrun (or anything that sets its variables) starts the processes; `launch` starts them through the same elastic
launcher. Alone, every function here is a no-op or answers for one process.
"""

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from action_recognition.errors import SpecError, UserError
from action_recognition.machine import num_cores, place, under_torchrun

# An error that befalls all processes is the first one's to tell, and one that a process has from losing another is
# nobody's: the launcher ends the processes that wait as soon as it sees the end of one. Under load that takes seconds.
_TURN_SEC = 15.0
# How much longer than all else a GPU's exchange may take. NCCL ends a process that has waited too long without a word;
# by then the waiting for signals (stopping.py), which is no GPU's, has told which process it was.
_MORE_ON_GPUS_SEC = 120.0

# Views save a second copy of all gradients. Buckets stay at torch's 25 MB: with those of 10 or 25 MB about 90 % of the
# exchange takes place during the backward pass, of 100 MB 50 to 80 % (two CPU processes; tools/benchmark_ddp.py).
DDP_OPTIONS: dict[str, Any] = {"gradient_as_bucket_view": True}


@dataclass(frozen=True)
class Process:
    """This process: its rank among `num_processes`, its rank among those on this machine, its device."""

    rank: int
    num_processes: int
    local_rank: int
    num_local: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def launch(script: str, arguments: Sequence[str], num_processes: int) -> int:
    """Run `script` as `num_processes` local processes under torch's elastic launcher. Returns the exit code."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // num_processes)))
    try:
        torchrun(["--standalone", f"--nproc-per-node={num_processes}", script, *arguments])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise UserError(
                f"rank {rank} (pid {failure.pid}) was ended by {signal.Signals(-failure.exitcode).name}, and so all "
                "are: SIGKILL mostly means too little memory. The same command goes on from the newest checkpoint"
            ) from error
        return failure.exitcode or 1
    except SignalException as error:  # the launcher has passed it on and waited for the processes' end
        return 128 + error.sigval
    return 0


@contextmanager
def connected(device_name: str, gpu_ids: Sequence[int], key: str, timeout_sec: float = 1800.0) -> Iterator[Process]:
    """Join the group of processes for the time of the block; `key` names the spec's device key in errors.

    UserError names the processes that do not come, or that the others have waited `timeout_sec` for.
    """
    here = place()
    device = choose_device(device_name, gpu_ids, here.local_rank, key)
    process = Process(here.rank, here.num_processes, here.local_rank, here.num_local, device)
    if not under_torchrun():
        yield process
        return
    store = _join(process, timeout_sec)
    try:
        yield process
    except Exception as error:
        if process.num_processes > 1:
            _wait_for_a_turn(store, process, error, timeout_sec)
        raise
    finally:
        dist.destroy_process_group()


def _join(process: Process, timeout_sec: float) -> dist.Store:
    """The group of processes, joined; returns what they all can read and write without being in step."""
    timeout = timedelta(seconds=timeout_sec)
    start = time.monotonic()
    store, rank, num_processes = next(dist.rendezvous("env://", timeout=timeout))
    if process.num_local == num_processes:
        # torchrun's store outlives a restart, and still holds the addresses of those that are gone. Machines count
        # their restarts each for itself, so that several must do without: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    store.set(f"here/{rank}", f"{socket.gethostname()}, pid {os.getpid()}")
    is_cuda = process.device.type == "cuda"
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if is_cuda else "gloo",
            store=store,
            rank=rank,
            world_size=num_processes,
            timeout=timeout + timedelta(seconds=_MORE_ON_GPUS_SEC * is_cuda),
        )
    except RuntimeError as error:
        absent = _without(store, "here", num_processes)
        if absent and time.monotonic() - start >= timeout_sec:
            raise UserError(f"{_ranks(absent)} did not start within {timeout_sec:g} s: all stop") from error
        raise
    return store


def _wait_for_a_turn(store: dist.Store, process: Process, error: Exception, timeout_sec: float) -> None:
    """Leave it to the first process to tell an error of all; UserError where one comes of a process that is lost."""
    rank, num_processes = process.rank, process.num_processes
    with suppress(RuntimeError):  # the store may be lost, too
        store.set(f"left/{rank}", "")
    if process.is_first and isinstance(error, UserError):
        return
    time.sleep(_TURN_SEC)
    if isinstance(error, UserError) or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
        return
    lost, who = list[int](), list[str]()
    with suppress(RuntimeError):
        lost = _without(store, "left", num_processes)
        if lost and rank != min(set(range(num_processes)) - set(lost)):
            time.sleep(_TURN_SEC)  # the first one tells
        who = [f"{_ranks([r])} ({store.get(f'here/{r}').decode()})" for r in lost]
    if lost:
        raise UserError(
            f"{', '.join(who)} has ended, or has not answered for {timeout_sec:g} s (train.timeout_sec): all stop. The "
            "same command goes on from the newest checkpoint"
        ) from error


def _without(store: dist.Store, word: str, num_processes: int) -> list[int]:
    """The processes that have not left their word in the store."""
    return [rank for rank in range(num_processes) if not store.check([f"{word}/{rank}"])]


def _ranks(ranks: list[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))


def choose_device(name: str, gpu_ids: Sequence[int], local_rank: int, key: str) -> torch.device:
    """The device that `name` (auto, cpu, cuda, cuda:N, mps) means here: auto is CUDA where there is a GPU, else CPU.

    Raises SpecError where the device asked for is not there.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise SpecError(f"{key}: 'mps' is not available on this machine; use auto or cpu")
        return torch.device("mps")
    if not torch.cuda.is_available():
        raise SpecError(f"{key}: {name!r} needs a CUDA GPU and torch sees none; use auto or cpu")
    index = int(name.partition(":")[2] or gpu_ids[local_rank % len(gpu_ids)])
    if index >= torch.cuda.device_count():
        raise SpecError(
            f"{key}: GPU {index} is not there; this machine has {torch.cuda.device_count()} (0 is the first)"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def gather(value: Any) -> list[Any]:
    """`value` of every process, by rank, on every process. Values must be picklable."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """`model`, with its gradients averaged over the processes in each backward pass; alone, the model itself."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return model
    return DistributedDataParallel(model, [device] if device.type == "cuda" else None, **DDP_OPTIONS)


def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers: after a step, the running statistics of batch norms differ."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def from_first(value: Any) -> Any:
    """The first process's value, on every process."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
