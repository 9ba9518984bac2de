"""The arithmetic of the loops, against steps computed by hand on a model of four weights.

Input x = (1, 2), weights W = I, label 0: logits (1, 2), softmax (1, e) / (1 + e), so with q = e / (1 + e) the loss is
-log(1 - q) and the gradient of W is (-q, q)^T (1, 2).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from action_recognition.config import OptimSpec
from action_recognition.data.dataset import Sample
from action_recognition.data.index import FrameFiles, Video
from action_recognition.data.loader import Batch, TrainingPlan, window_batches
from action_recognition.training import loop, report
from action_recognition.training.loop import NonFiniteLossError, Run, State, Tally, evaluate, fit, train_one_epoch
from action_recognition.training.optim import Precision, Schedule

CPU = torch.device("cpu")
FP32 = Precision("fp32", "cpu")
Q = math.e / (1 + math.e)
GRADIENT = torch.tensor([[-Q, -2 * Q], [Q, 2 * Q]], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)


def as_float64(inputs: dict[str, Tensor]) -> list[Tensor]:
    return [inputs["x"].double()]


def linear() -> nn.Linear:
    model = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(EYE)
    return model


def run_of(model: nn.Module, clip_grad_norm: float = 0.0, **optim: float) -> Run:
    """A run with plain SGD at rate 0.5, no momentum and no weight decay unless given."""
    spec = OptimSpec(**{"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, **optim})  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), spec.lr, spec.momentum, weight_decay=spec.weight_decay)
    schedule = Schedule(optimizer, spec)
    return Run(model, optimizer, schedule, FP32.scaler(), FP32, as_float64, CPU, clip_grad_norm)


def batch_of(inputs: Sequence[Sequence[float]], labels: Sequence[int], weights: Sequence[float] | None = None) -> Batch:
    """A batch of the mean loss unless weights are given; its videos are v0, v1, ..."""
    shares = [1 / len(labels)] * len(labels) if weights is None else weights
    names = [f"v{i}" for i in range(len(labels))]
    x = torch.tensor(inputs, dtype=torch.float64)
    return Batch({"x": x}, torch.tensor(labels), torch.tensor(shares), list(range(len(labels))), names)


class FixedPlan:
    """A plan of as many batches as there are, which notes where epochs start."""

    def __init__(self, num_batches: int, accumulate_steps: int = 1) -> None:
        self.num_batches, self.accumulate_steps = num_batches, accumulate_steps
        self.starts: list[tuple[int, int]] = []

    def start_at(self, epoch: int, step: int) -> None:
        self.starts.append((epoch, step))

    def __len__(self) -> int:
        return self.num_batches


class Seen:
    """Events that are only noted."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, float]] = []
        self.rows: list[dict[str, Any]] = []

    def step_done(self, state: State, num_clips: int, lr: float, *_: object) -> None:
        self.steps.append((state.step, num_clips, lr))

    def epoch_done(self, state: State, row: dict[str, Any]) -> None:
        self.rows.append(row)


def train_on(run: Run, batches: list[Batch], accumulate_steps: int = 1) -> tuple[State, Seen]:
    state, seen = State(), Seen()
    train_one_epoch(run, state, FixedPlan(len(batches), accumulate_steps), batches, seen)
    return state, seen


# --- one step ---


def test_step_of_sgd_equals_the_one_computed_by_hand() -> None:
    model = linear()
    state, _ = train_on(run_of(model, weight_decay=0.1), [batch_of([[1, 2]], [0])])
    torch.testing.assert_close(model.weight.data, EYE - 0.5 * (GRADIENT + 0.1 * EYE))
    assert state.tally.loss == pytest.approx(-math.log(1 - Q))
    assert (state.tally.clips, state.tally.correct, state.step) == (1, 0, 1)


def test_step_of_two_clips_has_the_mean_of_their_gradients() -> None:
    model = linear()
    state, _ = train_on(run_of(model), [batch_of([[1, 2], [0, 0]], [0, 1])])
    # the second clip is (0, 0): logits (0, 0), loss log 2, no gradient
    torch.testing.assert_close(model.weight.data, EYE - 0.5 * GRADIENT / 2)
    assert state.tally.means()["train_loss"] == pytest.approx((-math.log(1 - Q) + math.log(2)) / 2)


@pytest.mark.parametrize(
    ("bound", "factor"),
    [(1.0, 1 / (Q * math.sqrt(10))), (0.1, 0.1 / (Q * math.sqrt(10))), (2.32, 1.0), (0.0, 1.0)],
)
def test_clip_grad_norm_scales_the_gradient_to_the_bound_where_it_is_longer(bound: float, factor: float) -> None:
    # the gradient's norm is sqrt(2 q^2 (1 + 4)) = q sqrt(10) = 2.3118; torch adds 1e-6 to it
    model = linear()
    train_on(run_of(model, clip_grad_norm=bound), [batch_of([[1, 2]], [0])])
    torch.testing.assert_close(model.weight.data, EYE - 0.5 * factor * GRADIENT, rtol=1e-6, atol=0)


def test_clip_of_weight_0_counts_for_nothing() -> None:
    inputs, labels = [[1.0, 2.0], [5.0, 1.0]], [0, 0]  # the second one would be right
    model, alone = linear(), linear()
    state, _ = train_on(run_of(model), [batch_of(inputs, labels, [1.0, 0.0])])
    expected, _ = train_on(run_of(alone), [batch_of(inputs[:1], labels[:1])])
    torch.testing.assert_close(model.weight, alone.weight, rtol=0, atol=0)
    assert state.tally == expected.tally


def test_batch_that_lost_all_its_clips_makes_a_step_that_moves_nothing() -> None:
    model = linear()
    black = Batch({"x": torch.zeros(1, 2)}, torch.zeros(1, dtype=torch.int64), torch.zeros(1), [], [], [("v", "bad")])
    state, seen = train_on(run_of(model), [black])
    torch.testing.assert_close(model.weight.data, EYE, rtol=0, atol=0)
    assert (state.tally.clips, state.tally.loss, state.problems, seen.steps) == (0, 0.0, {"v": "bad"}, [(1, 0, 0.5)])


def test_train_acc_counts_right_clips_of_all_batches() -> None:
    frozen = run_of(linear(), lr=1e-9)  # W = I: the prediction is where x is larger
    batches = [batch_of([[2, 1], [1, 2], [3, 0]], [0, 0, 0]), batch_of([[0, 1]], [1])]
    state, _ = train_on(frozen, batches)
    assert (state.tally.correct, state.tally.clips) == (3, 4)
    assert state.tally.means()["train_acc"] == 75


def test_train_acc_of_mixed_clips_counts_the_class_with_the_larger_share() -> None:
    run = run_of(linear(), lr=1e-9)
    run.mix = lambda inputs, labels: (inputs, torch.tensor([[0.3, 0.7], [0.3, 0.7]], dtype=torch.float64))
    state, _ = train_on(run, [batch_of([[1, 2], [2, 1]], [0, 0])])  # predictions 1 and 0
    assert (state.tally.correct, state.tally.clips) == (1, 2)


# --- accumulation ---


def steps_by_plan(
    num_clips: int, batch_size: int, accumulate_steps: int
) -> tuple[Tensor, list[tuple[int, int, float]]]:
    """The weights after an epoch over fixed random clips with momentum, and the steps seen."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(num_clips, 2)), rng.integers(2, size=num_clips)
    plan = TrainingPlan(num_clips, batch_size, accumulate_steps, seed=0)
    batches = []
    for keys in plan:
        ids = [key.clip_id for key in keys]
        batches.append(batch_of(x[ids].tolist(), labels[ids].tolist(), [key.weight for key in keys]))
    model, seen = linear(), Seen()
    train_one_epoch(run_of(model, momentum=0.9), State(), plan, batches, seen)
    return model.weight.detach(), seen.steps


@pytest.mark.parametrize(
    ("num_clips", "steps"),
    [(8, [(1, 8, 0.5)]), (16, [(1, 8, 0.5), (2, 8, 0.5)]), (13, [(1, 8, 0.5), (2, 5, 0.5)]), (3, [(1, 3, 0.5)])],
)
def test_accumulation_of_2_batches_of_4_equals_1_batch_of_8_also_in_a_short_last_step(
    num_clips: int, steps: list[tuple[int, int, float]]
) -> None:
    accumulated, seen = steps_by_plan(num_clips, 4, 2)
    at_once, _ = steps_by_plan(num_clips, 8, 1)
    torch.testing.assert_close(accumulated, at_once, rtol=1e-6, atol=1e-9)  # the weights are float32
    assert seen == steps


# --- a loss that is not finite ---


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_before_the_weights_are_touched_and_names_batch_and_videos(bad: float) -> None:
    model = linear()
    state = State(epoch=3, step=2)
    batches = [batch_of([[1, 2]], [0]), batch_of([[1, 2], [bad, 0]], [0, 1])]
    run = run_of(model, momentum=0.9)
    with pytest.raises(
        NonFiniteLossError,
        match=r"^epoch 3, batch 5: the loss is nan\. Lower train\.optim\.lr, set train\.clip_grad_norm \(1\.0 is "
        r"usual\) or train\.precision=fp32\. The videos: v0, v1$",
    ):
        train_one_epoch(run, state, FixedPlan(2, accumulate_steps=2), batches, Seen())
    torch.testing.assert_close(model.weight.data, EYE, rtol=0, atol=0)
    assert (state.step, run.optimizer.state) == (2, {})


# --- epochs ---


def fit_empty(num_epochs: int, interval: int, validate: Callable[[], dict[str, float]] | None) -> tuple[State, Seen]:
    state, seen, batches = State(), Seen(), [batch_of([[2, 1]], [0])]
    fit(run_of(linear()), state, num_epochs, FixedPlan(1), batches, validate, interval, seen)
    return state, seen


@pytest.mark.parametrize(
    ("num_epochs", "interval", "validated"),
    [(3, 1, [0, 1, 2]), (4, 2, [1, 3]), (5, 2, [1, 3, 4]), (3, 10, [2]), (1, 5, [0])],
)
def test_validation_runs_every_interval_and_after_the_last_epoch(
    num_epochs: int, interval: int, validated: list[int]
) -> None:
    _, seen = fit_empty(num_epochs, interval, lambda: {"val_loss": 1.0})
    assert [row["epoch"] for row in seen.rows if "val_loss" in row] == validated


def test_fit_without_validation_has_rows_of_rate_loss_and_accuracy() -> None:
    state, seen = fit_empty(2, 1, None)
    names = ["epoch", "lr", "train_loss", "train_acc", "data_sec", "compute_sec"]
    assert [list(row) for row in seen.rows] == [names] * 2
    assert state.history == seen.rows
    assert (state.epoch, state.step, state.tally.clips) == (2, 0, 0)


def test_fit_lowers_the_rate_between_epochs_and_notes_the_one_that_was_used() -> None:
    model, seen = linear(), Seen()
    spec = OptimSpec(lr=1.0, momentum=0.0, weight_decay=0.0, lr_steps=(1, 2), lr_decay=0.5)
    optimizer = torch.optim.SGD(model.parameters(), spec.lr)
    run = Run(model, optimizer, Schedule(optimizer, spec), FP32.scaler(), FP32, as_float64, CPU)
    fit(run, State(), 3, FixedPlan(1), [batch_of([[2, 1]], [0])], None, 1, seen)
    assert [row["lr"] for row in seen.rows] == [1.0, 0.5, 0.25]
    assert [lr for _, _, lr in seen.steps] == [1.0, 0.5, 0.25]


def test_fit_from_the_middle_of_an_epoch_starts_the_plan_there() -> None:
    plan = FixedPlan(1)
    fit(run_of(linear()), State(epoch=1, step=4), 3, plan, [batch_of([[2, 1]], [0])], None, 1, Seen())
    assert plan.starts == [(1, 4), (2, 0)]


# --- where the time goes ---


class Clock:
    """A clock in place of time.perf_counter that stands still but where it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(report.time, "perf_counter", lambda: self.now)

    def slow(self, batches: list[Batch], seconds: float) -> Iterator[Batch]:
        for batch in batches:
            self.now += seconds
            yield batch

    def slow_run(self, seconds: float) -> Run:
        def to_input(inputs: dict[str, Tensor]) -> list[Tensor]:
            self.now += seconds
            return as_float64(inputs)

        run = run_of(linear())
        run.to_input = to_input
        return run


class SlowSaving(Seen):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def step_done(self, state: State, num_clips: int, lr: float, *_: object) -> None:
        super().step_done(state, num_clips, lr)
        self.clock.now += 1000


@pytest.mark.parametrize("accumulate_steps", [1, 2, 3])
def test_epoch_counts_waiting_for_batches_and_computing_apart_and_saving_as_neither(
    accumulate_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, state = Clock(monkeypatch), State(tally=Tally(data_sec=100, compute_sec=200))  # of before a resume
    batches = clock.slow([batch_of([[2, 1]], [0])] * 3, 5)
    train_one_epoch(clock.slow_run(7), state, FixedPlan(3, accumulate_steps), batches, SlowSaving(clock))
    assert (state.tally.data_sec, state.tally.compute_sec) == (100 + 3 * 5, 200 + 3 * 7)


def test_row_of_several_processes_has_the_longest_wait_in_the_time_of_the_one_that_came_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = [
        (Tally(1.0, 1, 2, data_sec=9, compute_sec=4), 700.5),
        (Tally(2.0, 2, 2, data_sec=1, compute_sec=11), 900.0),
    ]
    monkeypatch.setattr(loop, "gather", lambda value: parts)
    _, seen = fit_empty(1, 1, None)
    figures = {"train_loss": 0.75, "train_acc": 75, "data_sec": 9, "compute_sec": 3, "peak_gpu_mib": 900}
    assert seen.rows == [{"epoch": 0, "lr": 0.5, **figures}]


# --- evaluation ---


def windows_of(*counts: int, seed: int = 0) -> list[Sample]:
    """A video for each count of windows, with random x; video i has label i % 2."""
    rng = np.random.default_rng(seed)
    samples = []
    for i, count in enumerate(counts):
        video = Video(f"v{i}", i % 2, {"rgb": FrameFiles(9)})
        clips: dict[str, Any] = {"x": torch.from_numpy(rng.normal(size=(count, 2)))}
        samples.append(Sample(video, i, clips))
    return samples


def mean_softmax(sample: Sample) -> np.ndarray:
    """The mean over windows of softmax(x), which are the scores of a model with W = I."""
    x = np.asarray(sample.clips["x"])
    return (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)).mean(axis=0)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 100])
def test_evaluate_with_any_batch_size_scores_each_window_once(batch_size: int) -> None:
    samples = windows_of(3, 1, 4, 2, 5)
    batches = window_batches(samples, batch_size)
    scores, problems = evaluate(linear(), batches, as_float64, FP32, 2)
    assert [len(w) for w in scores.windows] == [3, 1, 4, 2, 5]
    np.testing.assert_allclose(scores.probabilities, [mean_softmax(sample) for sample in samples], rtol=1e-6)
    np.testing.assert_array_equal(scores.labels, [0, 1, 0, 1, 0])
    assert problems == {}


def test_evaluate_with_an_unreadable_video_reports_it_and_scores_the_others() -> None:
    first, second, third = windows_of(1, 1, 1)
    bad = Sample(second.video, 1, problem="x.png: the image can't be read")
    scores, problems = evaluate(linear(), window_batches([first, bad, third], 2), as_float64, FP32, 2)
    np.testing.assert_array_equal(scores.video_ids, [0, 2])
    assert problems == {"v1": "x.png: the image can't be read"}


def test_evaluate_puts_the_model_into_evaluation_mode_and_reports_progress() -> None:
    model, done = nn.Sequential(linear(), nn.Dropout(0.9)), list[list[int]]()
    scores, _ = evaluate(model, window_batches(windows_of(2, 1), 2), as_float64, FP32, 2, done.append)
    np.testing.assert_allclose(scores.probabilities[1], mean_softmax(windows_of(2, 1)[1]), rtol=1e-6)
    assert done == [[0, 0], [1]]


def test_evaluate_of_no_video_is_empty() -> None:
    def nothing() -> Iterator[Batch]:
        yield from ()

    scores, _ = evaluate(linear(), nothing(), as_float64, FP32, 2)
    assert len(scores) == 0


def test_evaluate_of_a_video_by_two_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "gather", lambda value: [value, value])
    with pytest.raises(RuntimeError, match=r"^2 videos were evaluated by more than one process$"):
        evaluate(linear(), window_batches(windows_of(1, 1), 2), as_float64, FP32, 2)
