"""Learning rates by hand, and the guard against wrong bf16 gradients on CPUs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from action_recognition.config import ModelSpec, OptimSpec
from action_recognition.errors import SpecError
from action_recognition.models import build_model
from action_recognition.tasks.setting import supported_precision, trainable_precision
from action_recognition.training import optim
from action_recognition.training.optim import (
    Precision,
    Schedule,
    bf16_conv3d_is_right,
    conv3d_depths,
    default_precision,
    make_optimizer,
    memory_format,
    restart_schedule,
    restore_optimizer,
)

CPU = torch.device("cpu")
MULTI_STEP = OptimSpec(lr=1.0, lr_steps=(2, 4), lr_decay=0.1)
AUTO_REDUCE = OptimSpec(lr=1.0, lr_scheduler="AutoReduce", lr_decay=0.5, patience=1, min_lr=0.2)


def schedule_of(spec: OptimSpec) -> Schedule:
    return Schedule(make_optimizer(nn.Linear(1, 1), spec), spec)


def learning_rates(schedule: Schedule, rows: list[dict[str, float]]) -> list[float]:
    """The rate after each epoch whose measured figures are given."""
    rates = []
    for row in rows:
        schedule.optimizer.step()  # torch warns of a schedule that steps first
        schedule.epoch_done(row)
        rates.append(schedule.lr)
    return rates


def test_optimizer_with_constant_gradients_adds_momentum_and_weight_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    optimizer = make_optimizer(model, OptimSpec(lr=0.1, momentum=0.5, weight_decay=1.0))
    weights = []
    for _ in range(2):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
        weights.append(model.weight.item())
    # step 1: g = 1 + 1*1 = 2, v = 2, w = 1 - .2 = .8; step 2: g = 1 + .8 = 1.8, v = .5*2 + 1.8 = 2.8, w = .8 - .28
    assert weights == pytest.approx([0.8, 0.52])


def test_multi_step_at_epochs_2_and_4_lowers_the_rate_twice() -> None:
    rates = learning_rates(schedule_of(MULTI_STEP), [{}] * 6)
    assert rates == pytest.approx([1, 0.1, 0.1, 0.01, 0.01, 0.01])  # after epochs 0, 1, ...


def test_auto_reduce_on_a_plateau_waits_for_its_patience_and_stops_at_min_lr() -> None:
    losses = [1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    rates = learning_rates(schedule_of(AUTO_REDUCE), [{"val_loss": loss} for loss in losses])
    assert rates == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2])


@pytest.mark.parametrize(("patience", "lowered_after"), [(0, 1), (1, 2), (3, 4)])
def test_auto_reduce_without_progress_lowers_after_more_than_patience_epochs(patience: int, lowered_after: int) -> None:
    schedule = schedule_of(replace(AUTO_REDUCE, patience=patience))
    rates = learning_rates(schedule, [{"val_loss": 1.0}] * 6)
    assert rates.index(0.5) == lowered_after


def test_auto_reduce_after_an_epoch_that_did_not_measure_its_monitor_does_not_step() -> None:
    rows: list[dict[str, float]] = [{"val_loss": 1.0}, {}, {"train_loss": 5.0}, {"val_loss": 1.0}, {}, {"val_loss": 1}]
    assert learning_rates(schedule_of(AUTO_REDUCE), rows) == [1, 1, 1, 1, 1, 0.5]


def test_auto_reduce_that_watches_train_loss_ignores_val_loss() -> None:
    rows = [{"train_loss": 1.0, "val_loss": 1.0 / (i + 1)} for i in range(3)]
    assert learning_rates(schedule_of(replace(AUTO_REDUCE, lr_monitor="train_loss")), rows) == [1, 1, 0.5]


@pytest.mark.parametrize("spec", [MULTI_STEP, AUTO_REDUCE])
def test_schedule_restored_from_its_state_goes_on_as_it_would_have(spec: OptimSpec) -> None:
    rows = [{"val_loss": 1.0}] * 6
    whole, cut = schedule_of(spec), schedule_of(spec)
    expected = learning_rates(whole, rows)
    learning_rates(cut, rows[:3])
    resumed = schedule_of(spec)
    resumed.optimizer.load_state_dict(cut.optimizer.state_dict())
    resumed.load_state_dict(cut.state_dict())
    assert learning_rates(resumed, rows[3:]) == expected[3:]


@pytest.mark.parametrize(
    ("epochs_done", "now", "then"),
    [(1, 2.0, [0.2, 0.2, 0.2, 0.02]), (2, 0.2, [0.2, 0.2, 0.02, 0.02]), (5, 0.02, [0.02, 0.02, 0.02, 0.02])],
)
def test_restart_schedule_of_multi_step_is_as_if_the_new_spec_had_been_the_old(
    epochs_done: int, now: float, then: list[float]
) -> None:
    old = schedule_of(MULTI_STEP)
    learning_rates(old, [{}] * epochs_done)
    new = restart_schedule(old.optimizer, OptimSpec(lr=2.0, lr_steps=(2, 5), lr_decay=0.1), epochs_done)
    assert new.lr == pytest.approx(now)
    assert learning_rates(new, [{}] * 4) == pytest.approx(then)


def test_restart_schedule_of_auto_reduce_starts_from_the_new_rate() -> None:
    old = schedule_of(AUTO_REDUCE)
    learning_rates(old, [{"val_loss": 1.0}] * 5)
    new = restart_schedule(old.optimizer, replace(AUTO_REDUCE, lr=4.0), 5)
    assert new.lr == 4
    assert learning_rates(new, [{"val_loss": 9.0}] * 3) == [4, 4, 2]


def test_restart_schedule_takes_momentum_and_weight_decay_from_the_new_spec() -> None:
    old = schedule_of(MULTI_STEP)
    restart_schedule(old.optimizer, replace(MULTI_STEP, momentum=0.25, weight_decay=0.125), 0)
    assert (old.optimizer.param_groups[0]["momentum"], old.optimizer.param_groups[0]["weight_decay"]) == (0.25, 0.125)


# --- memory format ---


@pytest.mark.parametrize(
    ("name", "device", "precision", "is_3d", "expected"),
    [
        ("auto", "cpu", "fp32", True, torch.contiguous_format),
        ("auto", "cpu", "bf16", True, torch.contiguous_format),
        ("auto", "cuda", "fp32", True, torch.contiguous_format),
        ("auto", "cuda", "bf16", True, torch.channels_last_3d),
        ("auto", "cuda", "fp16", False, torch.channels_last),
        ("channels_last", "cpu", "fp32", True, torch.channels_last_3d),
        ("channels_last", "cpu", "fp32", False, torch.channels_last),
        ("contiguous", "cuda", "bf16", True, torch.contiguous_format),
    ],
)
def test_memory_format_is_what_was_given_or_goes_by_device_and_precision(
    name: str, device: str, precision: str, is_3d: bool, expected: torch.memory_format
) -> None:
    assert memory_format(name, Precision(precision, device), is_3d) == expected


def stepped(layout: torch.memory_format) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A convolution after one step, so that it has a momentum."""
    torch.manual_seed(0)
    model = nn.Conv3d(2, 3, 2).to(memory_format=layout)
    optimizer = make_optimizer(model, OptimSpec(lr=0.1))
    model(torch.ones(1, 2, 2, 2, 2)).square().sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_optimizer_restored_under_another_memory_format_makes_the_same_step(layout: torch.memory_format) -> None:
    saved_model, saved = stepped(torch.contiguous_format)
    model, optimizer = stepped(layout)
    model.load_state_dict(saved_model.state_dict())
    restore_optimizer(optimizer, saved.state_dict())
    momentum = optimizer.state[model.weight]["momentum_buffer"]
    assert momentum.stride() == model.weight.stride()
    for one in (saved, optimizer):
        one.step()  # with the gradients of before
    torch.testing.assert_close(model.weight, saved_model.weight)


# --- precision ---


def test_precision_bf16_computes_in_bf16_and_keeps_the_weights_in_float32() -> None:
    model = nn.Linear(2, 2)
    with Precision("bf16", "cpu").autocast():
        assert model(torch.zeros(1, 2)).dtype == torch.bfloat16
    with Precision("fp32", "cpu").autocast():
        assert model(torch.zeros(1, 2)).dtype == torch.float32
    assert model.weight.dtype == torch.float32


@pytest.mark.parametrize(("name", "enabled"), [("fp32", False), ("bf16", False), ("fp16", True)])
def test_scaler_of_a_precision_scales_for_fp16_only(name: str, enabled: bool) -> None:
    assert Precision(name, "cpu").scaler().is_enabled() is enabled


def test_default_precision_on_a_cpu_is_fp32() -> None:
    assert default_precision(CPU) == "fp32"


def test_supported_precision_of_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^evaluate\.precision: fp16 needs a GPU; use fp32 or bf16 on a CPU$"):
        supported_precision("fp16", "evaluate.precision", CPU)


@pytest.fixture(scope="module")
def resnet3d() -> nn.Module:
    return build_model(ModelSpec(model_type="rgb", input_type="3d", dropout_ratio=0.0), 2)


@pytest.mark.parametrize(
    ("num_frames", "depth"), [(1, 1), (4, 1), (5, 2), (6, 2), (7, 2), (8, 2), (9, 3), (12, 3), (13, 4)]
)
def test_conv3d_depths_of_the_3d_resnet_are_a_quarter_of_the_clip_rounded_up(
    resnet3d: nn.Module, num_frames: int, depth: int
) -> None:
    assert conv3d_depths(resnet3d, [torch.zeros(1, 3, num_frames, 16, 16)]) == {depth}


def test_conv3d_depths_leave_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv3d(1, 1, 3, padding=1), nn.BatchNorm3d(1)).train()
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    assert conv3d_depths(model, [torch.ones(1, 1, 7, 2, 2)]) == {7}
    assert model.training
    assert not model[0]._forward_pre_hooks
    assert all(torch.equal(entry, before[name]) for name, entry in model.state_dict().items())


@pytest.fixture
def faulty_conv3d(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 convolution as on a CPU with the fault: at depth 2 the right result, and twice the weight's gradient."""
    right = nn.functional.conv3d

    def conv3d(x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.dtype == torch.bfloat16 and x.shape[2] == 2:
            weight = weight + (weight - weight.detach())
        return right(x, weight, *args, **kwargs)

    monkeypatch.setattr(optim.nn.functional, "conv3d", conv3d)


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_bf16_conv3d_at_a_depth_without_the_fault_is_right(depth: int) -> None:
    assert bf16_conv3d_is_right(depth)


@pytest.mark.usefixtures("faulty_conv3d")
@pytest.mark.parametrize(("depth", "right"), [(1, True), (2, False), (3, True)])
def test_bf16_conv3d_with_a_wrong_gradient_at_depth_2_is_noticed(depth: int, right: bool) -> None:
    assert bf16_conv3d_is_right(depth) is right


@pytest.mark.usefixtures("faulty_conv3d")
@pytest.mark.parametrize("num_frames", [5, 8])
def test_trainable_precision_of_bf16_for_clips_that_meet_the_fault_is_fp32_and_says_so(
    resnet3d: nn.Module, num_frames: int
) -> None:
    lines: list[str] = []
    clip = [torch.zeros(1, 3, num_frames, 16, 16)]
    assert trainable_precision("bf16", CPU, resnet3d, clip, lines.append) == "fp32"
    assert lines == [
        "train.precision: fp32 is used in place of bf16: this CPU's bf16 convolution has wrong gradients at 2 frames "
        "deep, which clips of this length reach (those of 9 frames or more do not)"
    ]


@pytest.mark.usefixtures("faulty_conv3d")
@pytest.mark.parametrize("num_frames", [4, 9])
def test_trainable_precision_of_bf16_for_clips_that_do_not_meet_the_fault_is_bf16(
    resnet3d: nn.Module, num_frames: int
) -> None:
    lines: list[str] = []
    clip = [torch.zeros(1, 3, num_frames, 16, 16)]
    assert trainable_precision("bf16", CPU, resnet3d, clip, lines.append) == "bf16"
    assert lines == []


@pytest.mark.usefixtures("faulty_conv3d")
def test_trainable_precision_of_a_2d_model_is_what_was_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    assert trainable_precision("bf16", CPU, model, [torch.zeros(1, 3, 4, 4)], lambda text: None) == "bf16"


def test_trainable_precision_of_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^train\.precision: fp16 needs a GPU"):
        trainable_precision("fp16", CPU, nn.Identity(), [], lambda text: None)
