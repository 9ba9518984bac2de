"""What a recipe adds to the plain loop: against numbers computed by hand; what is off or undone leaves no trace."""

import math
from pathlib import Path

import pytest
import torch
from tiny import MakeTree, run_train, use_tiny_models
from torch import nn

from action_recognition.config import ModelSpec, OptimSpec
from action_recognition.errors import SpecError
from action_recognition.models import build_model
from action_recognition.models.stages import stages
from action_recognition.training import memory
from action_recognition.training.checkpoint import read_checkpoint
from action_recognition.training.memory import bytes_per_clip, fitting_batch_size
from action_recognition.training.optim import Precision, Schedule, make_optimizer, parameter_groups
from action_recognition.training.recipe import (
    RunningMean,
    balanced_weights,
    clip_losses,
    compute_twice,
    freeze,
    mixing,
    stalled,
    unmixed,
)

GIB = 2**30


@pytest.fixture(scope="module")
def tree(make_tree: MakeTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 videos of 3 frames: 4 steps of 2 clips, the last one of 1."""
    return make_tree(tmp_path_factory.mktemp("recipe") / "data", {"a": 5, "b": 2}, num_frames=3, modalities=("rgb",))


def resnet(input_type: str = "2d") -> nn.Module:
    torch.manual_seed(0)
    spec = ModelSpec(model_type="rgb", input_type=input_type, rgb_seq_length=2, dropout_ratio=0.5)
    return build_model(spec, 3).train()


# --- the loss ---


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0]])
    norm = math.log(math.exp(2) + 2)
    expected = 0.7 * (norm - 2) + 0.3 / 3 * ((norm - 2) + norm + norm)
    assert clip_losses(logits, torch.tensor([0]), label_smoothing=0.3).item() == pytest.approx(expected)


def test_balanced_weights_are_inverse_to_the_classes_shares_with_mean_one_over_the_clips() -> None:
    assert balanced_weights([6, 3, 0]) == [0.75, 1.5, 0.0]
    assert 6 * 0.75 + 3 * 1.5 == 9


def test_class_weights_multiply_the_loss_of_their_class() -> None:
    logits, labels, weights = torch.randn(4, 2), torch.tensor([0, 1, 1, 0]), torch.tensor([0.5, 3.0])
    plain, weighted = clip_losses(logits, labels), clip_losses(logits, labels, class_weights=weights)
    torch.testing.assert_close(weighted, plain * torch.tensor([0.5, 3.0, 3.0, 0.5]))


# --- mixing ---


def test_mixing_when_both_alphas_are_zero_does_nothing() -> None:
    assert mixing(0.0, 0.0, 3) is unmixed


@pytest.mark.parametrize("shape", [(2, 3, 4, 6, 6), (2, 12, 6, 6)])
def test_mixup_adds_the_neighbour_with_the_share_that_its_target_gets(shape: tuple[int, ...]) -> None:
    clips = torch.stack([torch.zeros(shape[1:]), torch.ones(shape[1:])])
    (mixed,), targets = mixing(0.4, 0.0, 2)([clips], torch.tensor([0, 1]))
    share = mixed[0].flatten()[0]
    assert 0 < share < 1
    torch.testing.assert_close(mixed, torch.stack([torch.full(shape[1:], share), torch.full(shape[1:], 1 - share)]))
    torch.testing.assert_close(targets, torch.tensor([[1 - share, share], [share, 1 - share]]))


def test_cutmix_pastes_one_rectangle_into_all_frames_of_all_streams_and_targets_are_its_area() -> None:
    torch.manual_seed(3)
    rgb, of = (torch.stack([torch.zeros(c, 4, 16, 16), torch.ones(c, 4, 16, 16)]) for c in (3, 2))
    (mixed_rgb, mixed_of), targets = mixing(0.0, 1.0, 2)([rgb, of], torch.tensor([0, 1]))
    window = mixed_rgb[0, 0, 0]
    assert 0 < window.sum() < 256
    assert (mixed_rgb[0] == window).all()
    assert (mixed_of[0] == window).all()
    assert (mixed_of[1] == 1 - window).all()
    torch.testing.assert_close(targets[0], torch.stack([1 - window.mean(), window.mean()]))


def test_loss_of_mixed_targets_is_the_mix_of_the_losses() -> None:
    logits, shares = torch.randn(1, 3), torch.tensor([[0.25, 0.0, 0.75]])
    first, third = (clip_losses(logits, torch.tensor([label])) for label in (0, 2))
    torch.testing.assert_close(clip_losses(logits, shares), 0.25 * first + 0.75 * third)


# --- stages ---


def test_stage_lr_decay_gives_each_stage_its_share_of_the_next_ones_rate_the_head_first() -> None:
    parts = [(name, [nn.Linear(1, 1)]) for name in ("stem", "layer1", "head")]
    groups = parameter_groups(parts, OptimSpec(lr=0.4, stage_lr_decay=0.5))
    assert [group["lr"] for group in groups] == [0.4, 0.2, 0.1]
    assert groups[0]["params"] == list(parts[2][1][0].parameters())


def test_schedule_keeps_the_stages_shares_of_the_rate() -> None:
    parts = [(name, [nn.Linear(1, 1)]) for name in ("stem", "head")]
    spec = OptimSpec(lr=0.4, stage_lr_decay=0.5, lr_scheduler="Cosine", warmup_epochs=1)
    optimizer = make_optimizer(nn.Linear(1, 1), spec, parts)
    schedule = Schedule(optimizer, spec, num_epochs=3, steps_per_epoch=2)
    rates = []
    for epoch in range(3):
        for step in range(2):
            schedule.step_begins(epoch, step)
            rates.append([round(group["lr"], 6) for group in optimizer.param_groups])
            optimizer.step()
        schedule.epoch_done({"epoch": epoch})
    quarter = 0.5 * (1 + math.cos(math.pi / 4))  # of the way down, which begins at epoch 1
    head = [0.2, 0.4, 0.4, 0.4 * quarter, 0.2, 0.4 * (1 - quarter)]
    assert rates == [[pytest.approx(rate, abs=1e-6), pytest.approx(rate / 2, abs=1e-6)] for rate in head]


def test_warm_up_of_multi_step_rises_by_step_to_lr_and_leaves_the_steps_where_they_are() -> None:
    spec = OptimSpec(lr=1.0, warmup_epochs=2, lr_steps=(3,), lr_decay=0.1)
    optimizer = make_optimizer(nn.Linear(1, 1), spec)
    schedule, rates = Schedule(optimizer, spec, num_epochs=5, steps_per_epoch=2), []
    for epoch in range(5):
        for step in range(2):
            schedule.step_begins(epoch, step)
            rates.append(schedule.lr)
            optimizer.step()
        schedule.epoch_done({"epoch": epoch})
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1])


def test_auto_reduce_looks_at_no_epoch_of_the_warm_up() -> None:
    spec = OptimSpec(lr=1.0, warmup_epochs=2, lr_scheduler="AutoReduce", patience=0, lr_decay=0.5, min_lr=0.0)
    optimizer = make_optimizer(nn.Linear(1, 1), spec)
    schedule, rates = Schedule(optimizer, spec, num_epochs=5), []
    for epoch, loss in enumerate([1.0, 2.0, 3.0, 4.0, 1.0]):
        schedule.step_begins(epoch, 0)
        rates.append(schedule.lr)
        schedule.epoch_done({"epoch": epoch, "val_loss": loss})
    assert rates == pytest.approx(
        [0.5, 1.0, 1.0, 1.0, 0.5]
    )  # 3.0 is the first one it sees, 4.0 the first that is worse


def test_adamw_has_momentum_as_its_first_beta() -> None:
    optimizer = make_optimizer(nn.Linear(1, 1), OptimSpec(name="AdamW", lr=0.1, momentum=0.8, weight_decay=0.3))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["betas"], optimizer.defaults["weight_decay"]) == ((0.8, 0.999), 0.3)


def step(model: nn.Module, frozen: list[nn.Module]) -> None:
    """One training step on two clips, as the loop takes it."""
    torch.manual_seed(1)
    model.train()
    for module in frozen:
        module.eval()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    clips = torch.randn(4, 6, 32, 32) if "2d" in type(model).__name__ else torch.randn(2, 3, 2, 32, 32)
    clip_losses(model(clips), torch.zeros(len(clips), dtype=torch.int64)).mean().backward()
    optimizer.step()


def test_frozen_stages_keep_weights_and_statistics_and_the_others_learn() -> None:
    model = resnet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, freeze(stages(model), "layer2"))
    changed = {name.partition(".")[0] for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed == {"layer3", "layer4", "fc_cls"}


def test_network_that_is_computed_twice_has_the_same_weights_and_statistics_after_a_step() -> None:
    plain, twice = resnet(), resnet()
    compute_twice(stages(twice))
    for model in (plain, twice):
        step(model, [])
    states = plain.state_dict(), twice.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(value.equal(states[1][name]) for name, value in states[0].items())


def test_synchronised_batch_norms_can_be_computed_twice() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(resnet())
    compute_twice(stages(model))
    step(model, [])  # on one CPU they are plain ones, but insist on their counters
    assert {int(m.num_batches_tracked) for m in model.modules() if isinstance(m, nn.SyncBatchNorm)} == {1}


def test_network_that_is_computed_twice_holds_less_for_the_backward_pass() -> None:
    clips, fp32 = [torch.zeros(2, 6, 32, 32)], Precision("fp32", "cpu")
    plain = bytes_per_clip(resnet(), clips, fp32)
    model = resnet()
    compute_twice(stages(model))
    assert bytes_per_clip(model, clips, fp32) < 0.6 * plain
    foreseen = bytes_per_clip(resnet(), clips, fp32, stages(resnet()))
    assert foreseen == plain  # their hooks are on another network
    model = resnet()
    assert bytes_per_clip(model, clips, fp32, stages(model)) < 0.8 * plain


def test_bytes_per_clip_of_stages_computed_twice_are_their_inputs_and_the_largest_of_them() -> None:
    stem, layer, head = (
        nn.Sequential(nn.Linear(4, 8), nn.ReLU()),
        nn.Sequential(nn.Linear(8, 8), nn.ReLU()),
        nn.Linear(8, 2),
    )
    model, parts = nn.Sequential(stem, layer, head), [("stem", [stem]), ("layer1", [layer]), ("head", [head])]
    # inputs of 4 and 8 numbers; the layer holds its input (8) and its ReLU's output (8), the stem 4 and 8
    assert bytes_per_clip(model, [torch.zeros(2, 4)], Precision("fp32", "cpu"), parts) == 4 * (4 + 8 + 8 + 8)
    assert not any(module._forward_pre_hooks for module in model.modules())


# --- the running mean ---


def test_running_mean_after_two_steps_is_the_one_computed_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    mean = RunningMean(model, decay=0.9)
    for weight in (1.0, 3.0, 5.0):
        model.weight.data.fill_(weight)
        mean.update()
    # the first step is taken as it is; then the old has the shares 2 / 11 and 3 / 12
    expected = 3 / 12 * (2 / 11 * 1 + 9 / 11 * 3) + 9 / 12 * 5
    assert next(mean.model.parameters()).item() == pytest.approx(expected)
    assert mean.num_steps == 3


def test_running_mean_of_batch_norm_has_mean_statistics_and_the_newest_count() -> None:
    model = nn.BatchNorm1d(1)
    mean = RunningMean(model, decay=0.9)
    mean.update()
    model.running_mean.fill_(11.0)  # type: ignore[union-attr]
    model.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    mean.update()
    state = mean.model.state_dict()
    assert state["running_mean"].item() == pytest.approx(9.0)
    assert state["num_batches_tracked"].item() == 7


def test_run_with_a_running_mean_saves_it_and_resumes_to_the_same_weights(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch)
    how = ("train.ema_decay=0.9", "dataset.batch_size=2", f"dataset.val_dataset_dir={tree}")
    whole, _ = run_train(tree, tmp_path / "whole", "train.num_epochs=3", *how)
    run_train(tree, tmp_path / "halves", "train.num_epochs=1", *how)
    resumed, _ = run_train(tree, tmp_path / "halves", "train.num_epochs=3", *how)
    contents = [read_checkpoint(tmp_path / name / "train/ar_model_latest.pth") for name in ("whole", "halves")]
    for part in ("state_dict", "trained_state_dict"):
        assert all(value.equal(contents[1][part][name]) for name, value in contents[0][part].items())
    weights = (contents[0][part]["fc_cls.weight"] for part in ("state_dict", "trained_state_dict"))
    assert not torch.equal(*weights)
    assert [row["val_loss"] for row in whole] == [row["val_loss"] for row in resumed]


def test_run_that_leaves_the_running_mean_goes_on_with_the_weights_that_were_trained(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch)
    run_train(tree, tmp_path / "mean", "train.num_epochs=1", "train.ema_decay=0.9")
    run_train(tree, tmp_path / "mean", "train.num_epochs=2")
    run_train(tree, tmp_path / "plain", "train.num_epochs=2")
    left, plain = (read_checkpoint(tmp_path / name / "train/ar_model_latest.pth") for name in ("mean", "plain"))
    assert all(value.equal(left["state_dict"][name]) for name, value in plain["state_dict"].items())
    assert "trained_state_dict" not in left


# --- when a run ends ---


def test_stalled_where_the_best_epoch_lies_patience_epochs_back() -> None:
    history = [{"epoch": epoch} for epoch in range(4)]
    assert [stalled(history, history[i], 2) for i in range(4)] == [True, True, False, False]
    assert not stalled(history, history[0], None)
    assert not stalled([], None, 1)


def test_run_with_early_stopping_ends_saves_and_says_so_also_when_started_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch)
    first = "action_recognition.tasks.train_setup.best_epoch"
    monkeypatch.setattr(first, lambda history: history[0] if history else None)
    how = ("train.early_stopping=2", "train.num_epochs=9")
    history, lines = run_train(tree, tmp_path, *how, "train.checkpoint_interval=5")
    assert len(history) == 3
    assert lines[-2] == "ended early: 3 finished epochs of 9, the last 2 without a better one"
    assert read_checkpoint(tmp_path / "train/ar_model_latest.pth")["epoch"] == 3
    _, lines = run_train(tree, tmp_path, *how)
    assert lines[-1].endswith("holds 3 finished epochs of 9, the last 2 without a better one")
    more, _ = run_train(tree, tmp_path, *how, "train.early_stopping=4")
    assert len(more) == 5


def test_early_stopping_between_two_validations_waits_for_the_next(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch)
    first = "action_recognition.tasks.train_setup.best_epoch"
    monkeypatch.setattr(first, lambda history: history[0] if history else None)
    how = ("train.early_stopping=1", "train.num_epochs=9", "train.validation_interval=3")
    history, _ = run_train(tree, tmp_path, *how, f"dataset.val_dataset_dir={tree}")
    assert ["val_acc" in row for row in history] == [False, False, True]


# --- balance and batch size ---


def test_run_that_balances_the_loss_says_the_weight_of_each_class(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch)
    _, lines = run_train(tree, tmp_path, "train.num_epochs=1", "dataset.balance=loss")
    assert "dataset.balance: a clip's loss weighs by class: a 0.70, b 1.75" in lines


@pytest.mark.parametrize(
    ("clip_bytes", "free_bytes", "size"),
    [(GIB, 100 * GIB, 32), (GIB, 20 * GIB, 8), (GIB, 19 * GIB, 4), (GIB, GIB, 1), (0, 0, 1)],
)
def test_fitting_batch_size_is_the_power_of_two_that_four_tenths_of_the_memory_hold(
    clip_bytes: int, free_bytes: int, size: int
) -> None:
    assert fitting_batch_size(clip_bytes, free_bytes) == size


def test_bytes_per_clip_counts_what_a_layer_holds_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    # the input (4 numbers), the linear layer's output (8), the ReLU's (8), 4 bytes each
    assert bytes_per_clip(model, [torch.zeros(2, 4)], Precision("fp32", "cpu")) == 4 * (4 + 8 + 8)
    assert torch.get_rng_state().equal(before)
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert model.training


def test_run_with_automatic_batch_size_says_it_and_resumes_in_mid_epoch_with_the_same(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch)
    _, lines = run_train(tree, tmp_path, "train.num_epochs=1", "dataset.batch_size=auto")
    (line,) = (line for line in lines if line.startswith("dataset.batch_size: 32 (auto: a clip holds 0 MiB, "))
    assert line.endswith(" GiB is free)")
    monkeypatch.setattr("action_recognition.tasks.train_setup.free_memory", lambda *_: 0)
    _, lines = run_train(tree, tmp_path, "train.num_epochs=2", "dataset.batch_size=auto")
    assert "dataset.batch_size: 32, as before, where 1 would be chosen now; give a number to change it" in lines
    assert read_checkpoint(tmp_path / "train/ar_model_latest.pth")["batch_size"] == 32


def test_automatic_batch_size_where_two_clips_do_not_fit_is_one(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch)

    def does_not_fit(*_: object) -> int:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr("action_recognition.tasks.train_setup.bytes_per_clip", does_not_fit)
    _, lines = run_train(tree, tmp_path, "train.num_epochs=1", "dataset.batch_size=auto", "train.sync_bn=false")
    assert any(line.startswith("dataset.batch_size: 1 (auto: ") for line in lines)


@pytest.mark.parametrize(("limit", "free"), [("3000\n", 1300), ("max\n", None), ("10\n", 0)])
def test_free_memory_in_a_container_is_what_its_limit_leaves_and_what_files_take_that_were_read(
    limit: str, free: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlimited = memory.free_memory(torch.device("cpu"), 1)
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("2000\n")
    (tmp_path / "memory.stat").write_text("anon 1500\nfile 400\ninactive_file 300\nactive_file 100\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    found = memory.free_memory(torch.device("cpu"), 1)
    assert found == free if free is not None else found is not None and unlimited is not None and found > unlimited / 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.label_smoothing=1"], "must be >= 0 and < 1, got 1"),
        (["train.optim.name=AdamW", "train.optim.momentum=1"], "must be >= 0 and < 1, got 1"),
        (["train.optim.warmup_epochs=10"], "train.optim.warmup_epochs: must be less than train.num_epochs 10, got 10"),
        (["train.optim.warmup_epochs=6", "train.optim.lr_steps=[5]"], "train.optim.lr_steps: lr would fall at epoch 5"),
        (["train.gradient_checkpointing=true", "train.compile=true"], "does not go with train.compile"),
        (["train.freeze=head"], "'head' is not one of stem, layer1, layer2, layer3, layer4"),
        (["train.ema_decay=1"], "must be >= 0 and < 1, got 1"),
        (["dataset.augmentation_config.color_jitter=[0, 0, 0, 0.6]"], r"element 4 \(hue\) must be between 0 and 0.5"),
        (["evaluate.video_num_crops=2"], "must be 1 or 3, got 2"),
    ],
)
def test_recipe_that_can_not_be_is_refused(overrides: list[str], message: str) -> None:
    from action_recognition.config import load_spec

    with pytest.raises(SpecError, match=message):
        load_spec(None, overrides)
