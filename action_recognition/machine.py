"""The machine's cores, and this process's place among those that torchrun started. Imports nothing heavy."""

import os
from dataclasses import dataclass

# Noted as early as can be: a parent that has gone before is not missed. A fork adds its own when it first asks.
_PARENTS = {os.getpid(): os.getppid()}


@dataclass(frozen=True)
class Place:
    """The rank of this process among `num_processes`, and among the `num_local` of this machine."""

    rank: int = 0
    num_processes: int = 1
    local_rank: int = 0
    num_local: int = 1


def under_torchrun() -> bool:
    """True where a launcher has started this process as one of several.

    A WORLD_SIZE without a RANK comes from a scheduler, not from a launcher of processes.
    """
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launcher_has_gone() -> bool:
    """True where torchrun has started this process and was killed since, so that nobody would stop the process.

    Whatever else sets torchrun's variables may end while its processes work.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != _PARENTS.setdefault(os.getpid(), os.getppid())


def place() -> Place:
    """Where this process stands; alone without torchrun."""
    names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    values = (int(os.environ.get(name, alone)) for name, alone in names.items())
    return Place(*values) if under_torchrun() else Place()


def num_cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1
