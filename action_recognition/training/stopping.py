"""SIGINT and SIGTERM in training: noted when they come, agreed on by all processes, acted on at the end of a step.

Launchers and schedulers may tell one process of a run or all of them. A launcher that was killed tells none: its end
counts as a signal, too. In: signals. Out: at the end of which step all stop.
"""

import os
import signal
import threading
import time
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from action_recognition.machine import launcher_has_gone

ORPHANED = 1  # SIGHUP's number, which Windows lacks: whoever has started this process is gone
# A terminal and a launcher may both pass the same Ctrl-C on: what comes so soon is no second one.
_SAME_SIGNAL_SEC = 1.0


class StopRequest:
    """While the block lasts, SIGINT and SIGTERM are noted in `number`; a second one ends this process at once.

    Every step the processes sum up who has been told, on the CPU and without waiting: the answer is read one step
    later, when it has long arrived. So all stop at the end of the same step, and a GPU's queue is never emptied for it.
    `timeout_sec` is how long one waits for another before it gives up, with an error of torch's.
    """

    def __init__(self, timeout_sec: float) -> None:
        self.number = 0
        self._noted_at = 0.0
        self._before: dict[int, Any] = {}
        self._group: Any = None
        self._waiting: tuple[torch.Tensor, Any] | None = None
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_sec))

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python gives signals to no other
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self._waiting:
            self._waiting[1].wait()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number, self._noted_at = number, time.monotonic()
        elif time.monotonic() - self._noted_at > _SAME_SIGNAL_SEC:
            os.write(
                2, b"left at once; the checkpoints are whole\n"
            )  # not sys.stderr: it may be in the middle of a line
            os._exit(128 + number)

    def after_step(self) -> int:
        """The signal on which all processes stop after this step, 0 for none. To be called by all, once a step."""
        if self._group is None:
            return self._told()
        before, self._waiting = self._waiting, self._vote()
        return _result(before) if before else 0

    def now(self) -> int:
        """The same, but waits for all processes to ask."""
        return self._told() if self._group is None else _result(self._vote())

    def _told(self) -> int:
        return self.number or ORPHANED * launcher_has_gone()

    def _vote(self) -> tuple[torch.Tensor, Any]:
        told = torch.tensor([self._told()])
        return told, dist.all_reduce(told, dist.ReduceOp.MAX, group=self._group, async_op=True)


def _result(vote: tuple[torch.Tensor, Any]) -> int:
    told, work = vote
    work.wait()
    return int(told)
