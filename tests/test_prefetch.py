"""The order of copies, waits and uses, on simulated streams: no GPU is needed. tests/test_gpu.py has the real ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from action_recognition.data.loader import Batch
from action_recognition.data.prefetch import Prefetcher

CUDA = torch.device("cuda", 0)


class SimulatedStream:
    """What was put on it, in order, and what of other streams it has waited for."""

    def __init__(self) -> None:
        self.work: list[str] = []
        self.waited_for: list[str] = []

    def record_event(self) -> list[str]:
        return list(self.work)

    def wait_event(self, event: list[str]) -> None:
        self.waited_for = event


class SimulatedTensor:
    def __init__(self, name: str, cuda: "SimulatedCuda") -> None:
        self.name, self.cuda = name, cuda
        self.used_on: list[SimulatedStream] = []

    def to(self, device: torch.device, non_blocking: bool) -> "SimulatedTensor":
        assert (device, non_blocking) == (CUDA, True)
        self.cuda.current.work.append(self.name)
        return SimulatedTensor(f"{self.name} there", self.cuda)

    def record_stream(self, stream: SimulatedStream) -> None:
        self.used_on.append(stream)


class SimulatedCuda:
    """torch.cuda with two streams: the one to compute on, and the one that is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.computing, self.copying = SimulatedStream(), SimulatedStream()
        self.current = self.computing
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self.copying)
        monkeypatch.setattr(torch.cuda, "stream", self.use)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)

    @contextmanager
    def use(self, stream: SimulatedStream) -> Iterator[None]:
        self.current = stream
        yield
        self.current = self.computing

    def batch(self, i: int) -> Batch:
        rgb, labels, weights = (SimulatedTensor(f"{name} {i}", self) for name in ("rgb", "labels", "weights"))
        tensors: dict[str, Any] = {"inputs": {"rgb": rgb}, "labels": labels, "weights": weights}
        return Batch(**tensors, video_ids=[i], videos=[f"v{i}"])


def copies(*ids: int) -> list[str]:
    return [f"{name} {i}" for i in ids for name in ("rgb", "labels", "weights")]


def test_simulated_batch_is_used_after_its_copy_and_while_the_next_and_no_other_is_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = SimulatedCuda(monkeypatch)
    batches = Prefetcher([cuda.batch(i) for i in range(4)], CUDA)
    for i, batch in enumerate(batches):
        assert batch.videos == [f"v{i}"]
        assert cuda.computing.waited_for == copies(*range(i + 1))
        assert cuda.copying.work == copies(*range(min(i + 2, 4)))
        for tensor in (batch.inputs["rgb"], batch.labels, batch.weights):
            assert tensor.name.endswith(" there")
            assert tensor.used_on == [cuda.computing]
    assert i == 3
    assert cuda.computing.work == []


@pytest.mark.parametrize("num_batches", [0, 1, 2])
def test_simulated_prefetcher_of_few_batches_yields_them_all_each_time(
    num_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = SimulatedCuda(monkeypatch)
    batches = Prefetcher([cuda.batch(i) for i in range(num_batches)], CUDA)
    for _ in range(2):
        assert [batch.video_ids for batch in batches] == [[i] for i in range(num_batches)]


def test_prefetcher_for_a_cpu_leaves_batches_as_they_are_and_asks_for_none_ahead() -> None:
    asked: list[int] = []

    def loader() -> Iterator[Batch]:
        for i in range(3):
            asked.append(i)
            yield Batch({}, torch.zeros(1), torch.ones(1), [i], ["v"])

    batches = iter(Prefetcher(loader(), torch.device("cpu")))
    first = next(batches)
    assert first.video_ids == [0]
    assert asked == [0]
