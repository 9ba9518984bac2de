"""Batches on their way to a GPU while it computes on the one before."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from action_recognition.data.loader import Batch


class Prefetcher:
    """The batches of a loader; for a GPU, already there, copied as uint8 on a stream of their own, one batch ahead.

    The host does not wait for the copies, so the batches must lie in pinned memory. Elsewhere batches stay as they are.
    """

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self.batches, self.device = batches, device

    def __iter__(self) -> Iterator[Batch]:
        if self.device.type != "cuda":
            yield from self.batches
            return
        copying = torch.cuda.Stream(self.device)
        on_the_way: deque[tuple[Batch, torch.cuda.Event]] = deque()
        for batch in self.batches:
            with torch.cuda.stream(copying):
                on_the_way.append((_moved(batch, self.device), copying.record_event()))
            if len(on_the_way) > 1:
                yield self._arrived(*on_the_way.popleft())
        while on_the_way:
            yield self._arrived(*on_the_way.popleft())

    def _arrived(self, batch: Batch, event: torch.cuda.Event) -> Batch:
        """The batch, for use on the current stream."""
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(event)  # not wait_stream: that would wait for the next batch, too
        for tensor in (*batch.inputs.values(), batch.labels, batch.weights):
            tensor.record_stream(computing)  # else the copying stream would use its memory again once it is let go
        return batch


def _moved(batch: Batch, device: torch.device) -> Batch:
    inputs = {name: x.to(device, non_blocking=True) for name, x in batch.inputs.items()}
    labels, weights = (x.to(device, non_blocking=True) for x in (batch.labels, batch.weights))
    return replace(batch, inputs=inputs, labels=labels, weights=weights)
