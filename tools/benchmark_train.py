"""Training steps, and on a GPU the network's answers. See tools/benchmark.py.

Ours goes through training/loop.py with what tasks/train.py gives it; batches lie in memory, so no disk is measured. On
a CPU it all runs on one core and rates are for a second of CPU time; on a GPU they are by the clock.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import benchmark_reference as reference
import torch
from benchmark_rows import Result, Row, rates
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from action_recognition.clip.contract import Contract
from action_recognition.config import Spec
from action_recognition.data.agreement import contract_of
from action_recognition.data.loader import Batch, ToInput
from action_recognition.data.prefetch import Prefetcher
from action_recognition.models import build_model
from action_recognition.training.compiling import compiled
from action_recognition.training.loop import Run, State, train_one_epoch
from action_recognition.training.optim import Precision, Schedule, make_optimizer, memory_format

CLASS_NAMES = ("a", "b", "c", "d", "e")
MATMUL_SIDE = {"cpu": 1024, "cuda": 8192}


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies matrices in bf16."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 has none
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def train(spec: Spec, rounds: int) -> Result:
    """Training steps on the device at hand."""
    if torch.cuda.is_available():
        return _on_gpu(spec, rounds)
    torch.set_num_threads(1)
    precisions = ["fp32", "bf16"] if cpu_has_bf16() else ["fp32"]
    notes = ["Limits: the rate of matrix products in the same format, for the work that torch's flop counter counts."]
    if "bf16" not in precisions:
        notes.append("bf16: not run, since this CPU has no bf16.")
    steps = {name: Steps(spec, torch.device("cpu"), name) for name in precisions}
    plain = ReferenceSteps(spec, torch.device("cpu"))
    ways = {name: partial(one.run, 1) for name, one in steps.items()}
    measured = rates({**ways, "reference": partial(plain.run, 1)}, rounds)
    rows = []
    for name, wanted in zip(precisions, (0.97, 1.5), strict=False):
        limit = measured[name] * steps[name].flops_a_clip / _matmul_flops(torch.device("cpu"), name)
        what = f"{_what(spec)}, {name}"
        rows.append(Row(what, "clips/s a core", measured[name], measured["reference"], limit, wanted_ratio=wanted))
    return Result(rows, notes)


def _what(spec: Spec) -> str:
    model = spec.model
    size = f"{model.rgb_seq_length}x{model.input_height}x{model.input_width}"
    return f"training step, {model.input_type} {model.backbone}, {size}, batch {spec.dataset.batch_size}"


@dataclass
class Plan:
    """The loop's plan: so many steps."""

    num_steps: int
    accumulate_steps: int = 1

    def start_at(self, epoch: int, step: int) -> None:
        """Every epoch is the same."""

    def __len__(self) -> int:
        return self.num_steps


class NoEvents:
    """The loop's events, of which none matters here."""

    def step_done(self, state: State, num_clips: int, lr: float, settle: Callable[[], None]) -> None: ...
    def epoch_done(self, state: State, row: dict[str, object]) -> None: ...


class Steps:
    """Our training steps: `run` makes so many and returns the clips that went in."""

    def __init__(
        self, spec: Spec, device: torch.device, precision: str, layout: str = "auto", is_compiled: bool = False
    ) -> None:
        self.batch_size, contract = spec.dataset.batch_size, contract_of(spec, CLASS_NAMES)
        how = Precision(precision, device.type)
        order = memory_format(layout, how, contract.is_3d)
        model = build_model(spec.model, len(CLASS_NAMES)).to(device).to(memory_format=order)
        optimizer = make_optimizer(model, spec.train.optim)
        to_input = ToInput(contract, device, order)
        called = compiled(model) if is_compiled else model
        schedule = Schedule(optimizer, spec.train.optim)
        self.net_run = Run(called, optimizer, schedule, how.scaler(), how, to_input, device)
        self.batch = _batch(contract, self.batch_size, device)
        self.flops_a_clip = _flops(model, to_input(self.batch.inputs)) / self.batch_size

    def run(self, num_steps: int) -> float:
        batches = Prefetcher(_repeated(self.batch, num_steps), self.net_run.device)
        train_one_epoch(self.net_run, State(), Plan(num_steps), batches, NoEvents())
        return num_steps * self.batch_size


class ReferenceSteps:
    """The reference's, of the same network on clips that its worker has normalised already."""

    def __init__(self, spec: Spec, device: torch.device) -> None:
        contract = contract_of(spec, CLASS_NAMES)
        self.model = build_model(spec.model, len(CLASS_NAMES)).to(device)
        self.optimizer = reference.make_optimizer(self.model)
        cpu = torch.device("cpu")
        batch = _batch(contract, spec.dataset.batch_size, cpu)
        self.clips, self.labels = ToInput(contract, cpu)(batch.inputs)[0], batch.labels

    def run(self, num_steps: int) -> float:
        for _ in range(num_steps):
            reference.training_step(self.model, self.optimizer, self.clips, self.labels)
        return num_steps * len(self.labels)


def _batch(contract: Contract, batch_size: int, device: torch.device) -> Batch:
    """Clips of noise, half of them to be mirrored, as a loader gives them."""
    shape = (batch_size, contract.lengths["rgb"], contract.height, contract.width, 3)
    inputs = {"rgb": torch.randint(0, 256, shape, dtype=torch.uint8), "mirrored": torch.arange(batch_size) % 2 == 1}
    labels = torch.arange(batch_size) % len(CLASS_NAMES)
    weights = torch.full((batch_size,), 1 / batch_size)
    batch = Batch(inputs, labels, weights, list(range(batch_size)), ["a video"] * batch_size)
    return batch.pin_memory() if device.type == "cuda" else batch


def _repeated(batch: Batch, times: int) -> Iterator[Batch]:
    for _ in range(times):
        yield batch


def _flops(model: nn.Module, inputs: list[Tensor]) -> float:
    """The floating point operations of a forward and a backward pass."""
    with FlopCounterMode(display=False) as counter:
        model.train()(*inputs).sum().backward()
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


def _matmul_flops(device: torch.device, precision: str) -> float:
    """Operations a second of square matrix products: the best of several, of CPU time on a CPU."""
    side, dtype = MATMUL_SIDE[device.type], torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    clock = time.process_time if device.type == "cpu" else _gpu_clock
    times = []
    for _ in range(12):
        start = clock()
        a @ b
        times.append(clock() - start)
    return 2 * side**3 / min(times[2:])


# --- on a GPU ---


def _gpu_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def _on_gpu(spec: Spec, rounds: int) -> Result:
    """Steps of ResNet-18 and 50, what the layout and torch.compile give, and inference."""
    device = torch.device("cuda", 0)
    torch.backends.cudnn.benchmark = spec.train.cudnn.benchmark
    torch.backends.cudnn.deterministic = spec.train.cudnn.deterministic
    matmul = _matmul_flops(device, "bf16")
    result = Result([], ["By the clock. Limits: the rate of bf16 matrix products of this run, for the work counted."])
    result.notes.append(f"{torch.cuda.get_device_name(device)}: bf16 matrix products at {matmul / 1e12:.0f} TFLOP/s.")
    for backbone in ("resnet18", "resnet50"):
        this = replace(spec, model=replace(spec.model, backbone=backbone))
        _steps_on_gpu(this, device, rounds, matmul, result)
        _layouts_and_compiling(this, device, rounds, result)
        result.rows += _inference(this, device, rounds)
    return result


def _steps_on_gpu(spec: Spec, device: torch.device, rounds: int, matmul: float, result: Result) -> None:
    ours, plain = Steps(spec, device, "bf16"), ReferenceSteps(spec, device)
    measured = rates({"ours": lambda: ours.run(10), "reference": lambda: plain.run(10)}, rounds, _gpu_clock)
    mine, other = measured["ours"], measured["reference"]
    limit = mine * ours.flops_a_clip / matmul
    result.rows.append(Row(_what(spec), "clips/s", mine, other, limit, wanted_ratio=4.0, wanted_limit=0.45))
    peaks = f"{_peak_gb(ours.run)} GB, the reference's {_peak_gb(plain.run)} GB"
    result.notes.append(f"{spec.model.backbone}: peak memory {peaks}.")


def _layouts_and_compiling(spec: Spec, device: torch.device, rounds: int, result: Result) -> None:
    backbone = spec.model.backbone
    ways = {
        "contiguous": Steps(spec, device, "bf16", "contiguous"),
        "channels last": Steps(spec, device, "bf16", "channels_last"),
        "compiled": Steps(spec, device, "bf16", is_compiled=True),
    }
    start = _gpu_clock()
    ways["compiled"].run(2)
    warm_up = _gpu_clock() - start
    measured = rates({name: partial(steps.run, 10) for name, steps in ways.items()}, rounds, _gpu_clock)
    contiguous, last, faster = (measured[name] for name in ways)
    result.rows += [
        Row(f"{backbone}, channels last against contiguous", "clips/s", last, contiguous),
        Row(f"{backbone}, torch.compile against not", "clips/s", faster, last),
    ]
    peaks = ", ".join(f"{name} {_peak_gb(steps.run)} GB" for name, steps in ways.items())
    result.notes.append(f"{backbone}: peak memory {peaks}; torch.compile's first two steps took {warm_up:.0f} s.")


def _peak_gb(run: Callable[[int], float]) -> str:
    torch.cuda.reset_peak_memory_stats()
    run(2)
    torch.cuda.synchronize()
    return f"{torch.cuda.max_memory_allocated() / 1e9:.1f}"


def _inference(spec: Spec, device: torch.device, rounds: int) -> list[Row]:
    """A batch of one by its latency, larger ones by the best rate: bf16 in a CUDA graph, against plain fp32 calls."""
    model = build_model(spec.model, len(CLASS_NAMES)).to(device).eval()
    contract = contract_of(spec, CLASS_NAMES)
    order = memory_format("auto", Precision("bf16", "cuda"), contract.is_3d)
    fast = build_model(spec.model, len(CLASS_NAMES)).to(device, torch.bfloat16).to(memory_format=order).eval()
    rows, best = [], (0.0, 0.0, 0)
    with torch.inference_mode():
        for batch_size in (1, 4, 16, 64):
            clips = ToInput(contract, device)(_batch(contract, batch_size, device).inputs)[0]
            replay = _graph(fast, clips.to(torch.bfloat16).contiguous(memory_format=order))
            ways = {"ours": partial(_repeat, replay), "reference": partial(_repeat, partial(model, clips))}
            measured = rates(ways, rounds, _gpu_clock)
            mine, other = measured["ours"], measured["reference"]
            if batch_size == 1:
                rows.append(Row(f"{spec.model.backbone}, one clip", "ms", 1000 / mine, 1000 / other, is_cost=True))
            best = max(best, (mine * batch_size, other * batch_size, batch_size))
    rows.append(Row(f"{spec.model.backbone}, batches of {best[2]}", "clips/s", best[0], best[1]))
    return rows


def _graph(model: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """The model's answer to `inputs` as one launch."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(inputs)
    return graph.replay


def _repeat(call: Callable[[], object], times: int = 20) -> int:
    for _ in range(times):
        call()
    return times
