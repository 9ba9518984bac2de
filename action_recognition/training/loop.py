"""The training loop and the evaluation loop. No files, no spec, no printing: all of that comes in as arguments.

`fit` goes through epochs; `train_one_epoch` through the optimizer steps of one; `evaluate` through all windows of all
videos. What happens at each step and epoch besides (progress, checkpoints) is the business of the `Events` given.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from action_recognition.errors import UserError
from action_recognition.training.distributed import gather
from action_recognition.training.metrics import VideoScores, video_scores
from action_recognition.training.optim import Precision, Schedule
from action_recognition.training.recipe import Loss, Mix, clip_losses, unmixed
from action_recognition.training.report import Stopwatch


class NonFiniteLossError(UserError, RuntimeError):
    """The loss has become NaN or infinite."""


class Batch(Protocol):
    """What the loops need of a batch; data.loader.Batch is one."""

    inputs: dict[str, Tensor]
    labels: Tensor
    weights: Tensor
    video_ids: list[int]
    videos: list[str]
    problems: list[tuple[str, str]]


class Plan(Protocol):
    """What the loop needs of a training plan; data.loader.TrainingPlan is one."""

    accumulate_steps: int

    def start_at(self, epoch: int, step: int) -> None: ...
    def __len__(self) -> int: ...


@dataclass
class Run:
    """What is trained and how. `model` is what is called: the bare network or its DistributedDataParallel.

    `loss` (N, K) logits and targets -> (N,); `mix` makes new clips of a batch's; the `frozen` modules are not trained;
    `stepped` is called after each step, and `gives_up` looks at the history after each epoch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    precision: Precision
    to_input: Callable[[dict[str, Tensor]], list[Tensor]]
    device: torch.device
    clip_grad_norm: float = 0.0
    loss: Loss = clip_losses
    mix: Mix = unmixed
    frozen: Sequence[nn.Module] = ()
    stepped: Callable[[], object] = lambda: None
    gives_up: Callable[[list[dict[str, Any]]], bool] = lambda history: False


@dataclass
class Tally:
    """Running sums of an epoch: of clips, their cross entropy and correct ones; and where the time went.

    The seconds are saved with the rest, so an epoch that was resumed counts all that went into its result.
    """

    loss: float = 0.0
    correct: int = 0
    clips: int = 0
    data_sec: float = field(default=0.0, compare=False)
    compute_sec: float = field(default=0.0, compare=False)

    def add(self, loss: float, correct: float, clips: float) -> None:
        self.loss, self.correct, self.clips = self.loss + loss, self.correct + round(correct), self.clips + round(clips)

    def means(self) -> dict[str, float]:
        """train_loss, and train_acc in percent."""
        clips = max(self.clips, 1)
        return {"train_loss": self.loss / clips, "train_acc": 100 * self.correct / clips}


@dataclass
class State:
    """Where a run stands: `step` optimizer steps into `epoch`, and what was measured so far."""

    epoch: int = 0
    step: int = 0
    tally: Tally = field(default_factory=Tally)
    history: list[dict[str, Any]] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


class Events(Protocol):
    """What happens beside the arithmetic. `settle` waits until state.tally has every batch up to this step."""

    def step_done(self, state: State, num_clips: int, lr: float, settle: Callable[[], None]) -> None: ...
    def epoch_done(self, state: State, row: dict[str, Any]) -> None: ...


def fit(
    run: Run,
    state: State,
    num_epochs: int,
    plan: Plan,
    batches: Iterable[Batch],
    validate: Callable[[], Mapping[str, float]] | None,
    validation_interval: int,
    events: Events,
) -> None:
    """Train from `state` to the end of epoch `num_epochs - 1`, which is always validated, or until the run gives up."""
    while state.epoch < num_epochs and not run.gives_up(state.history):
        plan.start_at(state.epoch, state.step)
        train_one_epoch(run, state, plan, batches, events)
        row: dict[str, Any] = {"epoch": state.epoch, "lr": run.schedule.lr, **_over_processes(state.tally, run.device)}
        due = (state.epoch + 1) % validation_interval == 0 or state.epoch + 1 == num_epochs
        if validate and due:
            row |= validate()
        run.schedule.epoch_done(row)
        state.history.append(row)
        state.epoch, state.step, state.tally = state.epoch + 1, 0, Tally()
        events.epoch_done(state, row)


def train_one_epoch(run: Run, state: State, plan: Plan, batches: Iterable[Batch], events: Events) -> None:
    """The optimizer steps of an epoch, from state.step on. NonFiniteLossError names the epoch, batch and videos.

    The time between asking for a batch and having it is waiting for data, the rest computing. On a GPU too, where the
    host only queues the work: when data are slow, it waits for them here; when the GPU is, its queue fills up, and the
    host waits in a launch. So the larger share shows what limits, though what the GPU does meanwhile is not seen.
    """
    run.model.train()
    for module in run.frozen:
        module.eval()  # statistics of batch norms that moved on would make another network of frozen weights
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    readback = Readback(state, run.device, state.step * plan.accumulate_steps)
    run.optimizer.zero_grad(set_to_none=True)
    num_batches, clips, tally, watch = len(plan), 0, state.tally, Stopwatch()
    for i, batch in enumerate(batches, start=1):
        tally.data_sec += watch.lap()
        is_step = i % plan.accumulate_steps == 0 or i == num_batches
        state.problems.update(batch.problems)
        clips += len(batch.videos)
        with _gradients_in_sync(run.model, is_step):
            loss = _forward(run, batch, readback)
            run.scaler.scale(loss).backward()
        if is_step:
            run.schedule.step_begins(state.epoch, state.step)
            _optimizer_step(run)
        tally.compute_sec += watch.lap()
        if is_step:
            state.step += 1
            events.step_done(state, clips, run.schedule.lr, readback.finish)
            watch.lap()  # saving a checkpoint is neither
            clips = 0
    readback.finish()
    tally.compute_sec += watch.lap()


def _forward(run: Run, batch: Batch, readback: "Readback") -> Tensor:
    """The batch's share of the step's mean loss."""
    labels, weights = (x.to(run.device, non_blocking=True) for x in (batch.labels, batch.weights))
    inputs, targets = run.mix(run.to_input(batch.inputs), labels)
    with run.precision.autocast():
        logits = run.model(*inputs)  # (N, K)
    losses = run.loss(logits.float(), targets)
    counted = weights > 0
    truth = targets if targets.ndim == 1 else targets.argmax(dim=1)  # of mixed clips the one with the larger share
    correct = (logits.detach().argmax(dim=1) == truth) & counted
    readback.add(torch.stack([(losses.detach() * counted).sum(), correct.sum(), counted.sum()]), batch.videos)
    return (losses * weights).sum()


def _optimizer_step(run: Run) -> None:
    if run.clip_grad_norm > 0:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.model.parameters(), run.clip_grad_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.stepped()


def _gradients_in_sync(model: nn.Module, is_step: bool) -> AbstractContextManager[Any]:
    """Processes exchange gradients at the last backward pass of a step only."""
    no_sync = getattr(model, "no_sync", None)
    return nullcontext() if is_step or no_sync is None else no_sync()


class Readback:
    """Brings each batch's sums to the host without waiting for the GPU, and stops the run at a loss that is not finite.

    On a CPU that is before the optimizer sees the batch; on a GPU some batches later, with the right batch named.
    """

    def __init__(self, state: State, device: torch.device, batch_id: int) -> None:
        self.state, self.is_cuda = state, device.type == "cuda"
        self.batch_id = batch_id
        self._waiting: deque[tuple[int, Tensor, Any, list[str]]] = deque()

    def add(self, sums: Tensor, videos: list[str]) -> None:
        """Note a batch's (loss, correct, clips); take in those that have arrived."""
        event = None
        if self.is_cuda:
            host = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True)
            sums = host.copy_(sums, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._waiting.append((self.batch_id, sums, event, videos))
        self.batch_id += 1
        while self._waiting and (self._waiting[0][2] is None or self._waiting[0][2].query()):
            self._take()

    def finish(self) -> None:
        """Wait for what is still on its way."""
        while self._waiting:
            if self._waiting[0][2] is not None:
                self._waiting[0][2].synchronize()
            self._take()

    def _take(self) -> None:
        batch_id, sums, _, videos = self._waiting.popleft()
        loss, correct, clips = sums.tolist()
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"epoch {self.state.epoch}, batch {batch_id}: the loss is {loss}. Lower train.optim.lr, set "
                f"train.clip_grad_norm (1.0 is usual) or train.precision=fp32. The videos: {', '.join(videos)}"
            )
        self.state.tally.add(loss, correct, clips)


def _over_processes(tally: Tally, device: torch.device) -> dict[str, float]:
    """The figures of an epoch, the same on every process."""
    parts: list[tuple[Tally, float]] = gather((tally, _peak_gpu_mib(device)))
    total, tallies = Tally(), [part for part, _ in parts]
    for part in tallies:
        total.add(part.loss, part.correct, part.clips)
    # They go in step: the one that waits longest for data holds up the others, which count that as computing. So does
    # one that comes late from saving a checkpoint; its time is the epoch's.
    data_sec = max(part.data_sec for part in tallies)
    epoch_sec = min(part.data_sec + part.compute_sec for part in tallies)
    times = {"data_sec": round(data_sec, 2), "compute_sec": round(max(0.0, epoch_sec - data_sec), 2)}
    peak = max(mib for _, mib in parts)
    return {**total.means(), **times, **({"peak_gpu_mib": peak} if peak else {})}


def _peak_gpu_mib(device: torch.device) -> float:
    """The most that tensors took of the GPU in training this epoch; 0 on a CPU."""
    return round(torch.cuda.max_memory_allocated(device) / 2**20, 1) if device.type == "cuda" else 0.0


def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    to_input: Callable[[dict[str, Tensor]], list[Tensor]],
    precision: Precision,
    num_classes: int,
    progress: Callable[[list[int]], object] = lambda video_ids: None,
) -> tuple[VideoScores, dict[str, str]]:
    """The scores of all videos of all processes, the same on each, and {path: problem} of those that had none.

    RuntimeError where a video was scored by two processes.
    """
    model.eval()
    video_ids: list[int] = []
    labels: list[int] = []
    logits: list[np.ndarray] = [np.zeros((0, num_classes), np.float32)]
    problems: dict[str, str] = {}
    with torch.inference_mode():
        for batch in batches:
            problems.update(batch.problems)
            if batch.video_ids:
                with precision.autocast():
                    output = model(*to_input(batch.inputs))
                logits.append(output.float().cpu().numpy())
                video_ids += batch.video_ids
                labels += batch.labels.tolist()
            progress(batch.video_ids)
    return _merge(gather((video_ids, labels, np.concatenate(logits), problems)))


def _merge(parts: list[tuple[list[int], list[int], np.ndarray, dict[str, str]]]) -> tuple[VideoScores, dict[str, str]]:
    seen = [set(ids) for ids, *_ in parts]
    doubled = sum(map(len, seen)) - len(set().union(*seen))
    if doubled:
        raise RuntimeError(f"{doubled} videos were evaluated by more than one process")
    scores = video_scores(
        [i for ids, *_ in parts for i in ids],
        [label for _, labels, *_ in parts for label in labels],
        np.concatenate([logits for _, _, logits, _ in parts]),
    )
    return scores, {path: problem for *_, problems in parts for path, problem in problems.items()}
