"""Measure what exchanging gradients costs two CPU processes (gloo), for each way of setting up DistributedDataParallel.

  python tools/benchmark_ddp.py            # 3D ResNet-18, 2 clips of 8x56x56 a process; wants two idle cores
  python tools/benchmark_ddp.py --json     # the last line is JSON

The ways take turns. `of the limit` is against the same steps without any exchange. Hidden is the part of the time spent
exchanging in which the backward pass was still at work; for the rest of it a step waits.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from benchmark_rows import Result, Row, table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from action_recognition.config import ModelSpec
from action_recognition.models import build_model
from action_recognition.training.distributed import DDP_OPTIONS

WAYS: dict[str, dict[str, Any]] = {
    "ours": DDP_OPTIONS,
    "torch's defaults": {},
    "buckets of 10 MB": {"bucket_cap_mb": 10},
    "buckets of 100 MB": {"bucket_cap_mb": 100},
    "static graph": {"static_graph": True},
    "no exchange": DDP_OPTIONS,
}
CLIPS, WARM_UP, STEPS = 2, 3, 2


class Exchange:
    """The exchange that DistributedDataParallel makes, with the times at which each bucket leaves and is back."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float]] = []

    def run(self, _: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        left = time.perf_counter()
        work = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)

        def back(future: torch.futures.Future[Any]) -> Tensor:
            self.spans.append((left, time.perf_counter()))
            return future.value()[0]

        return work.get_future().then(back)

    def hidden(self) -> float:
        """The share of the time in which buckets were on their way before the last one left, when all is computed."""
        computed = max(left for left, _ in self.spans)
        hidden = sum(min(back, computed) - left for left, back in self.spans)
        return hidden / sum(back - left for left, back in self.spans)


def steps_of(model: nn.Module, is_exchanging: bool) -> Callable[[], float]:
    """A function that makes a step and returns its seconds."""
    clips, labels = torch.randn(CLIPS, 3, 8, 56, 56), torch.zeros(CLIPS, dtype=torch.int64)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, 0.9, fused=True)

    def step() -> float:
        start = time.perf_counter()
        if isinstance(model, DistributedDataParallel):
            model.require_backward_grad_sync = is_exchanging
        cross_entropy(model(clips), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    return step


def process(rank: int, folder: Path, rounds: int) -> None:
    """One of the two: every way in turn, `rounds` times. The first process leaves the seconds in a file."""
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    bare = build_model(ModelSpec(model_type="rgb", input_type="3d", dropout_ratio=0.0), 5)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    hidden: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, options in WAYS.items():
            model = DistributedDataParallel(bare, **options)
            exchange = Exchange()
            model.register_comm_hook(None, exchange.run)
            step = steps_of(model, name != "no exchange")
            for i in range(WARM_UP + STEPS):
                exchange.spans.clear()
                dist.barrier()
                took = step()
                if i >= WARM_UP:
                    seconds[name].append(took)
                    if exchange.spans:
                        hidden[name].append(exchange.hidden())
    if rank == 0:
        (folder / "seconds.json").write_text(json.dumps([seconds, hidden]))
    dist.destroy_process_group()


def ddp(rounds: int) -> Result:
    """Each way of exchanging gradients beside torch's defaults; the limit is the same steps without any exchange."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(process, (Path(folder), rounds), nprocs=2)
        seconds, hidden = json.loads(Path(folder, "seconds.json").read_text())
    rates = {name: CLIPS / statistics.median(several) for name, several in seconds.items()}
    rows = [
        Row(f"two processes, {name}", "clips/s each", rate, rates["torch's defaults"], rate / rates["no exchange"])
        for name, rate in rates.items()
    ]
    notes = [f"{name}: {statistics.median(shares):.0%} hidden." for name, shares in hidden.items() if shares]
    return Result(rows, notes)


def main() -> int:
    """Measure, print the table, and with --json the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times that each way has its turn (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, as the last line")
    options = parser.parse_args()
    result = ddp(options.rounds)
    print(table(result))
    if options.json:
        print(json.dumps({"rows": [row.to_plain() for row in result.rows]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
