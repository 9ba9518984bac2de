"""Training runs end to end on a dataset of a few images: files, resume, what is refused and what is said."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import MakeTree, RunsCode, run_evaluate, run_infer, run_train, spec_of, use_tiny_models
from torch import nn

from action_recognition import load_checkpoint
from action_recognition.config import ModelSpec
from action_recognition.errors import CheckpointError, DataError, Interrupted, OutputError, SpecError
from action_recognition.tasks import train, train_setup
from action_recognition.tasks.train import Trainer
from action_recognition.training.checkpoint import read_checkpoint
from action_recognition.training.loop import NonFiniteLossError, State
from action_recognition.training.metrics import best_epoch


@pytest.fixture
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_models(monkeypatch)


@pytest.fixture(scope="module")
def tree(make_tree: MakeTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 videos of 3 frames, rgb and flow: 4 steps of 2 clips, the last one of 1."""
    return make_tree(tmp_path_factory.mktemp("train") / "data", {"a": 4, "b": 3}, num_frames=3)


def names_in(results: Path) -> list[str]:
    return sorted(path.name for path in (results / "train").glob("*.pth"))


def status_of(results: Path, task: str = "train") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / task / "status.json").read_text().splitlines()]


# --- the files of a run ---


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize(
    ("num_epochs", "interval", "unit", "epochs"),
    [
        (10, 5, "epoch", ["004", "009"]),
        (3, 2, "epoch", ["001", "002"]),
        (2, 1, "epoch", ["000", "001"]),
        (2, 7, "epoch", ["001"]),
        (2, 1, "step", ["001"]),
    ],
)
def test_run_leaves_a_checkpoint_every_interval_one_of_the_last_epoch_best_and_latest(
    num_epochs: int, interval: int, unit: str, epochs: list[str], tree: Path, tmp_path: Path
) -> None:
    how = (f"train.checkpoint_interval={interval}", f"train.checkpoint_interval_unit={unit}")
    run_train(tree, tmp_path, f"train.num_epochs={num_epochs}", *how)
    numbered = [f"model_epoch_{epoch}.pth" for epoch in epochs]
    assert names_in(tmp_path) == ["ar_model_best.pth", "ar_model_latest.pth", *numbered]
    latest, last = (tmp_path / "train" / name for name in ("ar_model_latest.pth", numbered[-1]))
    assert not latest.is_symlink()
    assert latest.read_bytes() == last.read_bytes()
    assert read_checkpoint(last)["epoch"] == num_epochs


@pytest.mark.usefixtures("tiny_models")
def test_run_writes_status_metrics_spec_and_says_each_epoch(tree: Path, tmp_path: Path) -> None:
    history, lines = run_train(tree, tmp_path, f"dataset.val_dataset_dir={tree}", "train.num_epochs=2")
    losses = ["train_loss", "train_acc", "data_sec", "compute_sec", "val_loss", "val_acc", "val_m_acc"]
    names = ["epoch", "lr", *losses]
    assert [list(row) for row in history] == [names, names]
    metrics = (tmp_path / "train" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in metrics] == history
    status = status_of(tmp_path)
    assert [line["status"] for line in status] == ["STARTED", "RUNNING", "RUNNING", "SUCCESS"]
    assert status[-1]["kpi"] == {name: history[-1][name] for name in names[1:]}
    assert (tmp_path / "train" / "spec.yaml").read_text().startswith("model:\n  model_type: rgb\n")
    assert lines[0] == "classes, from the sorted folder names: a, b"
    assert lines[1:3] == [f"{tree}: 7 videos, 21 frames"] * 2
    row = history[0]
    figures = f"train loss {row['train_loss']:.3f}, accuracy {row['train_acc']:.1f} %; validation loss "
    (line,) = (line for line in lines if line.startswith(f"epoch 1/2: {figures}"))
    assert re.search(r"; lr 0\.0005, \d s \(data \d s, computing \d s: (data|computing) limits\)", line)
    assert re.fullmatch(r"finished in .*; the best model is .*/train/ar_model_best\.pth", lines[-1])


@pytest.mark.usefixtures("tiny_models")
def test_run_with_validation_saves_the_best_epoch_as_best(tree: Path, tmp_path: Path) -> None:
    history, _ = run_train(tree, tmp_path, f"dataset.val_dataset_dir={tree}", "train.num_epochs=3", "train.optim.lr=1")
    best = best_epoch(history)
    assert best is not None
    assert read_checkpoint(tmp_path / "train" / "ar_model_best.pth")["epoch"] == best["epoch"] + 1


@pytest.mark.usefixtures("tiny_models")
def test_report_gets_the_answers_of_the_epoch_that_was_validated_also_of_a_finished_run(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int | None] = []
    monkeypatch.setattr(train, "check_plots", lambda *_: None)
    monkeypatch.setattr(train, "write_training_report", lambda *given: told.append(given[-1].epoch))
    run_train(tree, tmp_path, "train.num_epochs=2")
    for _ in range(2):
        how = (f"dataset.val_dataset_dir={tree}", "train.report=true")
        run_train(tree, tmp_path, "train.num_epochs=4", "train.validation_interval=3", *how)
    assert told == [3, 4, 4]


@pytest.mark.usefixtures("tiny_models")
def test_two_runs_with_one_seed_are_equal_and_with_another_are_not(tree: Path, tmp_path: Path) -> None:
    first, second, third = (
        run_train(tree, tmp_path / str(i), "train.num_epochs=1", f"train.seed={seed}")[0]
        for i, seed in enumerate((5, 5, 6))
    )
    assert untimed(first) == untimed(second)
    assert untimed(first) != untimed(third)


@pytest.mark.usefixtures("tiny_models")
def test_run_with_profile_writes_the_timeline_of_five_steps_and_trains_as_without(tree: Path, tmp_path: Path) -> None:
    how = ("train.num_epochs=2", "dataset.batch_size=1")  # 14 steps
    plain, _ = run_train(tree, tmp_path / "plain", *how)
    profiled, lines = run_train(tree, tmp_path / "profiled", *how, "train.profile=true")
    path = tmp_path / "profiled" / "train" / "trace.json"
    assert lines.count(f"train.profile: the timeline of 5 steps is in {path}") == 1
    names = [event.get("name", "") for event in json.loads(path.read_text())["traceEvents"]]
    assert {name for name in names if "ProfilerStep" in name} == {f"ProfilerStep#{i}" for i in range(5, 10)}
    assert names.count("Optimizer.step#SGD.step") == 5
    assert untimed(profiled) == untimed(plain)
    assert not (tmp_path / "plain" / "train" / "trace.json").exists()


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize(
    ("num_steps", "line"),
    [
        (5, "no trace, because the run ended before the end of its step 6"),
        (6, "the timeline of 1 step is in "),
        (7, "the timeline of 2 steps is in "),
    ],
)
def test_run_with_profile_that_ends_early_writes_what_steps_there_are_and_says_so(
    num_steps: int, line: str, tree: Path, tmp_path: Path
) -> None:
    _, lines = run_train(tree, tmp_path, f"train.num_epochs={num_steps}", "train.profile=true")
    assert len([text for text in lines if text.startswith(f"train.profile: {line}")]) == 1
    assert (tmp_path / "train" / "trace.json").exists() is (num_steps > 5)


# --- going on after an interruption ---

RUN = (
    "train.num_epochs=3",
    "dataset.batch_size=2",
    "model.dropout_ratio=0.5",
    "train.validation_interval=2",
    "train.optim.lr=0.05",
    "train.optim.lr_steps=[1]",
)


class Stopped(Exception):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, epoch: int, step: int) -> None:
    """End the run once `step` steps of `epoch` are done and saved; step 0 is the end of the epoch before."""
    step_done, epoch_done = Trainer.step_done, Trainer.epoch_done

    def stop(trainer: Trainer) -> None:
        if (trainer.state.epoch, trainer.state.step) == (epoch, step):
            raise Stopped

    def step_and_stop(self: Trainer, *args: Any) -> None:
        step_done(self, *args)
        stop(self)

    def epoch_and_stop(self: Trainer, *args: Any) -> None:
        epoch_done(self, *args)
        stop(self)

    monkeypatch.setattr(Trainer, "step_done", step_and_stop)
    monkeypatch.setattr(Trainer, "epoch_done", epoch_and_stop)


def same(a: Any, b: Any) -> bool:
    """Bit for bit, tensors and all."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def untimed(value: Any) -> Any:
    """`value` without the seconds that were measured, which no two runs share."""
    if isinstance(value, dict):
        return {name: untimed(v) for name, v in value.items() if not str(name).endswith("_sec")}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def check_resumed_run_is_the_whole_run(
    monkeypatch: pytest.MonkeyPatch, tree: Path, tmp_path: Path, stop: tuple[int, int], *overrides: str
) -> None:
    how = (f"dataset.val_dataset_dir={tree}", *RUN, *overrides)
    with monkeypatch.context() as patch:
        stop_after(patch, *stop)
        with pytest.raises(Stopped):
            run_train(tree, tmp_path / "cut", *how)
    check_resumed_equals_whole(tree, tmp_path, how)


def check_resumed_equals_whole(tree: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    """Go on with the run in `cut`, and compare it with one that nothing has disturbed."""
    run_train(tree, tmp_path / "whole", *how)
    torch.manual_seed(99)  # what a new process would not find in place
    run_train(tree, tmp_path / "cut", *how)
    whole, cut = (read_checkpoint(tmp_path / name / "train" / "ar_model_latest.pth") for name in ("whole", "cut"))
    for part in ("state_dict", "optimizer", "schedule", "rng", "history", "epoch", "step", "tally"):
        assert same(untimed(whole[part]), untimed(cut[part])), part
    metrics = [(tmp_path / name / "train" / "metrics.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    rows = [[json.loads(line) for line in lines] for lines in metrics]
    assert untimed(rows[0]) == untimed(rows[1])
    assert [row["epoch"] for row in rows[1]] == [0, 1, 2]


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize("stop", [(1, 0), (2, 0), (1, 3)])
def test_run_stopped_and_resumed_from_an_epochs_checkpoint_equals_the_whole_run_bit_for_bit(
    stop: tuple[int, int], tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_resumed_run_is_the_whole_run(monkeypatch, tree, tmp_path, stop)


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize("stop", [(0, 2), (1, 2), (1, 3), (2, 0)])
def test_run_stopped_and_resumed_in_the_middle_of_an_epoch_equals_the_whole_run_bit_for_bit(
    stop: tuple[int, int], tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_step = ("train.checkpoint_interval_unit=step", "train.checkpoint_interval=2")
    check_resumed_run_is_the_whole_run(monkeypatch, tree, tmp_path, stop, *by_step)


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize(
    "how",
    [
        ("train.accumulate_steps=2", "dataset.batch_size=1", "dataset.clips_per_video=2"),
        ("train.optim.lr_scheduler=AutoReduce", "train.optim.patience=0", "train.optim.lr_monitor=train_loss"),
        ("train.precision=bf16", "model.model_type=joint"),
    ],
)
def test_run_of_another_kind_stopped_in_the_middle_of_an_epoch_equals_the_whole_run(
    how: tuple[str, ...], tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_step = ("train.checkpoint_interval_unit=step", "train.checkpoint_interval=1")
    check_resumed_run_is_the_whole_run(monkeypatch, tree, tmp_path, (1, 3), *by_step, *how)


def told_to_stop(monkeypatch: pytest.MonkeyPatch, number: int, epoch: int, step: int, in_validation: bool) -> None:
    """A signal comes before `step` of `epoch` is done, or once, with all steps done, the epoch is being validated."""
    step_done, windows = Trainer.step_done, train.window_batches

    def tell(state: State) -> None:
        if (state.epoch, state.step) == (epoch, step):
            os.kill(os.getpid(), number)

    def step_and_tell(self: Trainer, state: State, *args: Any) -> None:
        if not in_validation:
            tell(state)
        self_of.append(self)
        step_done(self, state, *args)

    def windows_and_tell(*args: Any) -> Any:
        for batch in windows(*args):
            if in_validation:
                tell(self_of[-1].state)
            yield batch

    self_of: list[Trainer] = []
    monkeypatch.setattr(Trainer, "step_done", step_and_tell)
    monkeypatch.setattr(train, "window_batches", windows_and_tell)


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize(
    ("number", "epoch", "step", "in_validation"),
    [
        (signal.SIGTERM, 0, 1, False),
        (signal.SIGINT, 1, 3, False),
        (signal.SIGTERM, 1, 4, False),  # the last step of an epoch
        (signal.SIGTERM, 2, 4, True),
    ],
)
def test_run_told_to_stop_saves_at_the_next_step_and_goes_on_as_the_whole_run(
    number: int, epoch: int, step: int, in_validation: bool, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = (f"dataset.val_dataset_dir={tree}", *RUN)
    latest = tmp_path / "cut" / "train" / "ar_model_latest.pth"
    with monkeypatch.context() as patch:
        told_to_stop(patch, number, epoch, step, in_validation)
        with pytest.raises(
            Interrupted,
            match=rf"^stopped by {signal.Signals(number).name} at epoch {epoch}, step {step}: saved as {latest}; the "
            r"same command goes on from there$",
        ) as caught:
            run_train(tree, tmp_path / "cut", *how)
    assert caught.value.number == number
    assert (read_checkpoint(latest)["epoch"], read_checkpoint(latest)["step"]) == (epoch, step)
    status = status_of(tmp_path / "cut")[-1]
    assert (status["status"], status["message"]) == ("FAILURE", str(caught.value))
    check_resumed_equals_whole(tree, tmp_path, how)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_models")
def test_run_with_workers_stopped_in_the_middle_of_an_epoch_equals_the_whole_run(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "workers_here", lambda *_: 2)
    by_step = ("train.checkpoint_interval_unit=step", "train.checkpoint_interval=1")
    check_resumed_run_is_the_whole_run(monkeypatch, tree, tmp_path, (1, 3), *by_step)


@pytest.mark.usefixtures("tiny_models")
def test_epoch_that_was_resumed_counts_the_time_of_both_parts(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_step = (*RUN, "train.checkpoint_interval_unit=step", "train.checkpoint_interval=2")
    with monkeypatch.context() as patch:
        stop_after(patch, 0, 2)
        with pytest.raises(Stopped):
            run_train(tree, tmp_path, *by_step)
    latest = tmp_path / "train" / "ar_model_latest.pth"
    content = read_checkpoint(latest)
    assert content["tally"][0]["compute_sec"] > 0
    content["tally"][0] |= {"data_sec": 100.0, "compute_sec": 200.0}
    latest.unlink()
    torch.save(content, latest)
    history, lines = run_train(tree, tmp_path, *by_step)
    assert (history[0]["data_sec"], history[0]["compute_sec"]) == pytest.approx((100, 200), abs=5)
    (line,) = (line for line in lines if line.startswith("epoch 1/3"))
    assert re.search(r", 5 min 0\d s \(data 1 min 4\d s, computing 3 min 2\d s: computing limits\)", line)
    assert history[1]["compute_sec"] < 5


@pytest.mark.usefixtures("tiny_models")
def test_run_stopped_in_its_first_epoch_leaves_only_latest_and_says_failure(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 0, 3)
    with pytest.raises(Stopped):
        run_train(tree, tmp_path, *RUN, "train.checkpoint_interval_unit=step", "train.checkpoint_interval=3")
    assert names_in(tmp_path) == ["ar_model_latest.pth"]
    content = read_checkpoint(tmp_path / "train" / "ar_model_latest.pth")
    assert (content["epoch"], content["step"], content["history"]) == (0, 3, [])
    assert [line["status"] for line in status_of(tmp_path)] == ["STARTED", "FAILURE"]


@pytest.mark.usefixtures("tiny_models")
def test_resume_path_in_the_spec_wins_over_the_newest_file(tree: Path, tmp_path: Path) -> None:
    run_train(tree, tmp_path, *RUN)
    first = tmp_path / "train" / "model_epoch_000.pth"
    history, lines = run_train(tree, tmp_path, *RUN, f"train.resume_training_checkpoint_path={first}")
    assert f"resuming from {first} at epoch 1" in lines
    assert [row["epoch"] for row in history] == [0, 1, 2]


@pytest.mark.usefixtures("tiny_models")
def test_run_started_again_after_its_last_epoch_has_nothing_to_do(tree: Path, tmp_path: Path) -> None:
    first, _ = run_train(tree, tmp_path, "train.num_epochs=2")
    before = (tmp_path / "train" / "ar_model_latest.pth").stat().st_mtime_ns
    again, lines = run_train(tree, tmp_path, "train.num_epochs=2")
    assert lines[-1] == f"nothing to do: {tmp_path / 'train'} holds 2 finished epochs of 2"
    assert again == first
    assert (tmp_path / "train" / "ar_model_latest.pth").stat().st_mtime_ns == before


@pytest.mark.usefixtures("tiny_models")
def test_run_killed_right_after_its_last_checkpoint_gets_its_last_figures_when_it_is_started_again(
    tree: Path, tmp_path: Path
) -> None:
    history, _ = run_train(tree, tmp_path, "train.num_epochs=2")
    (tmp_path / "train" / "metrics.jsonl").write_text(json.dumps(history[0]) + "\n")
    (tmp_path / "train" / "status.json").unlink()
    run_train(tree, tmp_path, "train.num_epochs=2")
    metrics = (tmp_path / "train" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in metrics] == history
    assert [line["status"] for line in status_of(tmp_path)] == ["SUCCESS"]


@pytest.mark.usefixtures("tiny_models")
def test_resume_with_other_rate_epochs_and_workers_says_one_line_each_and_uses_them(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_train(tree, tmp_path, "train.num_epochs=1", "train.optim.lr=0.05")
    monkeypatch.setattr(train, "workers_here", lambda *_: 0)
    changes = ("train.num_epochs=2", "train.optim.lr=0.25", "dataset.workers=1", "evaluate.batch_size=9")
    history, lines = run_train(tree, tmp_path, *changes)
    assert [line for line in lines if line.startswith("changed since the checkpoint: ")] == [
        "changed since the checkpoint: dataset.workers: 0 -> 1",
        "changed since the checkpoint: train.num_epochs: 1 -> 2",
        "changed since the checkpoint: train.optim.lr: 0.05 -> 0.25",
    ]
    assert [row["lr"] for row in history] == [0.05, 0.25]


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("model.backbone=resnet34", "model.backbone: resnet18 there, resnet34 in the spec"),
        ("model.model_type=of", "model.model_type: rgb there, of in the spec"),
        ("model.rgb_seq_length=3", "model.rgb_seq_length: 2 there, 3 in the spec"),
        ("train.optim.name=AdamW", "train.optim.name: SGD there, AdamW in the spec"),
        ("dataset.label_map={b: 0, a: 1}", "classes: a, b there, b, a in the spec"),
        ("dataset.label_map={a: 0, b: 1, c: 2}", "classes: a, b there, a, b, c in the spec"),
    ],
)
def test_resume_with_another_model_is_refused_naming_both_values(
    change: str, line: str, tree: Path, tmp_path: Path
) -> None:
    run_train(tree, tmp_path, "train.num_epochs=1")
    with pytest.raises(
        CheckpointError,
        match=r"ar_model_latest\.pth: is of another model or optimizer than the spec describes; use its values, or "
        rf"another train\.results_dir to start anew:\n  {re.escape(line)}$",
    ):
        run_train(tree, tmp_path, "train.num_epochs=2", change)


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize("change", ["dataset.batch_size=3", "train.seed=77", "train.seed=-1"])
def test_resume_in_the_middle_of_an_epoch_with_other_batches_starts_the_epoch_over(
    change: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = (*RUN, "train.checkpoint_interval_unit=step", "train.checkpoint_interval=2")
    how = (*how, change) if change == "train.seed=-1" else how  # equal in the spec, another order at each start
    with monkeypatch.context() as patch:
        stop_after(patch, 1, 2)
        with pytest.raises(Stopped):
            run_train(tree, tmp_path, *how)
    history, lines = run_train(tree, tmp_path, *how, change)
    assert "the batches have changed since the checkpoint: epoch 1 starts over" in lines
    assert [row["epoch"] for row in history] == [0, 1, 2]


@pytest.mark.usefixtures("tiny_models")
def test_resume_with_another_joint_head_is_refused_and_without_one_it_is_a_line(tree: Path, tmp_path: Path) -> None:
    run_train(tree, tmp_path / "joint", "train.num_epochs=1", "model.model_type=joint")
    with pytest.raises(CheckpointError, match=r"\n  model\.num_fc: 64 there, 7 in the spec$"):
        run_train(tree, tmp_path / "joint", "train.num_epochs=2", "model.model_type=joint", "model.num_fc=7")
    run_train(tree, tmp_path / "rgb", "train.num_epochs=1")
    _, lines = run_train(tree, tmp_path / "rgb", "train.num_epochs=2", "model.num_fc=7")
    assert "changed since the checkpoint: model.num_fc: 64 -> 7" in lines


# --- what is kept ---


@pytest.mark.usefixtures("tiny_models")
def test_run_that_keeps_two_checkpoints_leaves_the_newest_two_and_the_best(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "best_epoch", lambda history: next((row for row in history if row["epoch"] == 1), None))
    run_train(tree, tmp_path, "train.num_epochs=6", "train.keep_checkpoints=2")
    epochs = [f"model_epoch_{epoch:03d}.pth" for epoch in (1, 4, 5)]
    assert names_in(tmp_path) == ["ar_model_best.pth", "ar_model_latest.pth", *epochs]
    first = tmp_path / "train" / epochs[0]
    how = ("train.num_epochs=3", "train.keep_checkpoints=1", f"train.resume_training_checkpoint_path={first}")
    run_train(tree, tmp_path, *how)  # those after the epoch that was gone back to are nobody's to remove
    epochs.insert(1, "model_epoch_002.pth")
    assert names_in(tmp_path) == ["ar_model_best.pth", "ar_model_latest.pth", *epochs]


@pytest.mark.usefixtures("tiny_models")
def test_run_started_again_removes_what_a_killed_one_left_half_written_and_nothing_else(
    tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "train").mkdir()
    leftovers = [".model_epoch_000.pth.ab_1x.tmp", ".ar_model_latest.pth.12.tmp", ".metrics.jsonl.zz.tmp"]
    others = [".notes.tmp", "model_epoch_000.pth.tmp"]
    for name in (*leftovers, *others):
        (tmp_path / "train" / name).touch()
    run_train(tree, tmp_path, "train.num_epochs=1")
    left = [path.name for path in (tmp_path / "train").iterdir() if path.suffix == ".tmp"]
    assert sorted(left) == sorted(others)


@pytest.mark.usefixtures("tiny_models")
def test_run_whose_figures_cannot_be_written_names_file_cause_and_free_space(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "train" / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"metrics\.jsonl: can't be written: Is a directory \([\d,]+ MiB are free\)$"):
        run_train(tree, tmp_path, "train.num_epochs=1")


# --- files that can't be used ---


@pytest.mark.usefixtures("tiny_models")
def test_resume_from_a_damaged_latest_stops_and_names_the_one_before_it(tree: Path, tmp_path: Path) -> None:
    run_train(tree, tmp_path, "train.num_epochs=2")
    (tmp_path / "train" / "ar_model_latest.pth").unlink()
    (tmp_path / "train" / "ar_model_latest.pth").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"\nto go on without it, use .*_path=.*model_epoch_001\.pth$"):
        run_train(tree, tmp_path, "train.num_epochs=3")


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize("missing", ["optimizer", "history", "rng", "schedule", "state_dict"])
def test_resume_from_a_checkpoint_without_a_part_is_an_error_that_names_the_file(
    missing: str, tree: Path, tmp_path: Path
) -> None:
    run_train(tree, tmp_path, "train.num_epochs=1")
    latest = tmp_path / "train" / "ar_model_latest.pth"
    content = read_checkpoint(latest)
    del content[missing]
    latest.unlink()
    torch.save(content, latest)
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(latest))}: "):
        run_train(tree, tmp_path, "train.num_epochs=2")


def malicious(path: Path, tmp_path: Path) -> Path:
    torch.save({"format": 1, "state_dict": {"w": torch.zeros(1)}, "extra": RunsCode(tmp_path / "ran")}, path)
    return path


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize("way", ["resume path", "latest", "pretrained", "evaluate", "inference", "load_checkpoint"])
def test_checkpoint_with_code_inside_is_refused_whichever_way_it_comes(way: str, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    file = malicious(tmp_path / "train" / "ar_model_latest.pth" if way == "latest" else tmp_path / "evil.pth", tmp_path)
    load: dict[str, Callable[[], object]] = {
        "resume path": lambda: run_train(tree, tmp_path, f"train.resume_training_checkpoint_path={file}"),
        "latest": lambda: run_train(tree, tmp_path),
        "pretrained": lambda: run_train(tree, tmp_path, f"model.rgb_pretrained_model_path={file}"),
        "evaluate": lambda: run_evaluate(file, tree, tmp_path),
        "inference": lambda: run_infer(file, tree / "a", tmp_path),
        "load_checkpoint": lambda: load_checkpoint(file),
    }
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(file))}: asks to run code while loading: refused"):
        load[way]()
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("tiny_models")
def test_resumed_run_does_without_the_weights_that_it_started_from(tree: Path, tmp_path: Path) -> None:
    run_train(tree, tmp_path / "first", "train.num_epochs=1")
    weights = tmp_path / "first/train/ar_model_latest.pth"
    how = f"model.rgb_pretrained_model_path={weights}"
    _, lines = run_train(tree, tmp_path / "second", "train.num_epochs=1", how)
    assert any("tensors loaded" in line for line in lines)
    weights.unlink()
    history, lines = run_train(tree, tmp_path / "second", "train.num_epochs=2", how)
    assert len(history) == 2
    assert not any("tensors loaded" in line for line in lines)


@pytest.mark.usefixtures("tiny_models")
def test_run_whose_checkpoint_cannot_be_written_ends_with_failure_and_keeps_the_one_before(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_train(tree, tmp_path, "train.num_epochs=1")
    before = names_in(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("action_recognition.training.checkpoint.torch.save", full)
    with pytest.raises(
        CheckpointError, match=r"model_epoch_001\.pth: the checkpoint can't be written: .*No space left"
    ):
        run_train(tree, tmp_path, "train.num_epochs=2")
    assert names_in(tmp_path) == before
    assert read_checkpoint(tmp_path / "train" / "ar_model_latest.pth")["epoch"] == 1
    assert status_of(tmp_path)[-1]["status"] == "FAILURE"


# --- data ---


@pytest.fixture
def twenty(make_tree: MakeTree, tmp_path: Path) -> Path:
    """20 videos of 2 frames: one of them may be bad."""
    return make_tree(tmp_path / "data", {"a": 10, "b": 10}, num_frames=2, modalities=("rgb",))


def spoil(root: Path, video_id: int) -> Path:
    """Cut an image short."""
    (image,) = root.glob(f"*/video_{video_id:03d}/rgb/000001.png")
    image.write_bytes(image.read_bytes()[:40])
    return image


@pytest.mark.usefixtures("tiny_models")
def test_training_on_a_corrupt_image_stops_and_names_it(twenty: Path, tmp_path: Path) -> None:
    image = spoil(twenty, 3)
    with pytest.raises(
        DataError, match=rf"^{re.escape(str(image))}: the image can't be read .*\nmend or remove the video .*video_003"
    ):
        run_train(twenty, tmp_path)
    assert status_of(tmp_path)[-1]["message"].startswith(f"{image}: the image can't be read")


@pytest.mark.usefixtures("tiny_models")
def test_training_that_skips_bad_videos_counts_them_and_trains_on_the_others(twenty: Path, tmp_path: Path) -> None:
    image = spoil(twenty, 3)
    how = ("dataset.on_bad_video=skip", "train.num_epochs=2", "dataset.batch_size=1")
    _, lines = run_train(twenty, tmp_path, *how)
    skipped = [line for line in lines if "skipped" in line]
    assert skipped[0].startswith(f"skipped {image.parent.parent}: {image}: the image can't be read")
    assert skipped[1:] == ["1 of 20 videos skipped"]
    assert status_of(tmp_path)[-1]["status"] == "SUCCESS"


@pytest.mark.usefixtures("tiny_models")
def test_training_that_skips_more_than_5_percent_stops(twenty: Path, tmp_path: Path) -> None:
    spoil(twenty, 3)
    spoil(twenty, 11)
    with pytest.raises(DataError, match=r"^2 of 20 videos can't be used"):
        run_train(twenty, tmp_path, "dataset.on_bad_video=skip")


@pytest.mark.usefixtures("tiny_models")
def test_training_that_skips_too_many_says_that_validation_counts_too(
    make_tree: MakeTree, twenty: Path, tmp_path: Path
) -> None:
    val = make_tree(tmp_path / "val", {"a": 1, "b": 1}, num_frames=2, modalities=("rgb",))
    spoil(twenty, 3)
    spoil(val, 1)
    with pytest.raises(DataError, match=r"^2 of 22 training and validation videos can't be used, more than the 5%"):
        run_train(twenty, tmp_path, "dataset.on_bad_video=skip", f"dataset.val_dataset_dir={val}")


@pytest.mark.usefixtures("tiny_models")
def test_validation_on_a_corrupt_image_stops_and_names_it(make_tree: MakeTree, twenty: Path, tmp_path: Path) -> None:
    val = make_tree(tmp_path / "val", {"a": 1, "b": 1}, num_frames=2, modalities=("rgb",))
    image = spoil(val, 1)
    with pytest.raises(DataError, match=rf"^{re.escape(str(image))}: the image can't be read"):
        run_train(twenty, tmp_path, f"dataset.val_dataset_dir={val}")


@pytest.mark.usefixtures("tiny_models")
def test_validation_data_without_a_class_is_said_in_one_line(make_tree: MakeTree, tree: Path, tmp_path: Path) -> None:
    val = make_tree(tmp_path / "val", {"b": 2}, num_frames=3)
    _, lines = run_train(tree, tmp_path, f"dataset.val_dataset_dir={val}", "train.num_epochs=1")
    assert [line for line in lines if "no video of" in line] == [f"{val}: no video of 1 of 2 classes: a"]


@pytest.mark.usefixtures("tiny_models")
def test_loss_that_is_not_finite_ends_the_run_and_names_its_videos(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"^epoch 0, batch \d: the loss is (nan|inf)\..*/[ab]/video_00\d"):
        run_train(tree, tmp_path, "train.optim.lr=1e38", "dataset.batch_size=2")
    assert names_in(tmp_path) == []
    assert status_of(tmp_path)[-1]["message"].startswith("epoch 0, batch ")


# --- streams, settings, real networks ---


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize("model_type", ["of", "joint"])
def test_training_and_validation_of_flow_and_of_both_streams_run(model_type: str, tree: Path, tmp_path: Path) -> None:
    how = (f"model.model_type={model_type}", f"dataset.val_dataset_dir={tree}", "train.num_epochs=1")
    history, _ = run_train(tree, tmp_path, *how)
    assert history[0]["val_loss"] > 0
    results, _ = run_evaluate(tmp_path / "train" / "ar_model_latest.pth", tree, tmp_path)
    assert results["loss"] == pytest.approx(history[0]["val_loss"], rel=1e-6)


def test_training_in_bf16_where_this_cpu_would_get_gradients_wrong_is_in_fp32_and_says_so(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch)
    layers = [nn.Conv3d(3, 2, 3, padding=1), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 2)]
    monkeypatch.setattr(train_setup, "build_model", lambda spec, num_classes: nn.Sequential(*layers))
    monkeypatch.setattr("action_recognition.tasks.setting.bf16_conv3d_is_right", lambda depth: depth != 2)
    how = ("model.input_type=3d", "train.precision=bf16", "train.num_epochs=1")
    _, lines = run_train(tree, tmp_path / "2", *how)
    assert [line for line in lines if "in place of bf16" in line]
    assert [line for line in lines if line.startswith("training in fp32: ")]
    _, lines = run_train(tree, tmp_path / "3", *how, "model.rgb_seq_length=3")
    assert [line for line in lines if line.startswith("training in bf16: ")]


@pytest.fixture
def conv3d_models(tiny_models: None, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """A network of two 3D convolutions in place of the real ones. Returns the overrides that go with it."""

    def build(spec: ModelSpec, num_classes: int) -> nn.Module:
        first, second = nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)
        norms = nn.BatchNorm3d(4), nn.Dropout(spec.dropout_ratio)
        return nn.Sequential(first, *norms, second, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, num_classes))

    monkeypatch.setattr(train_setup, "build_model", build)
    return (*RUN, "model.input_type=3d", "model.dropout_ratio=0")  # dropout goes by the place in memory


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, dict):
        return [tensor for entry in value.values() for tensor in tensors(entry)]
    return [value] if isinstance(value, torch.Tensor) else []


def test_checkpoint_of_a_run_in_channels_last_is_laid_out_as_that_of_a_contiguous_one(
    conv3d_models: tuple[str, ...], tree: Path, tmp_path: Path
) -> None:
    checkpoints = []
    for name in ("contiguous", "channels_last"):
        _, lines = run_train(tree, tmp_path / name, *conv3d_models, f"train.memory_format={name}")
        assert any("in fp32, channels last: " in line for line in lines) is (name == "channels_last")
        checkpoints.append(read_checkpoint(tmp_path / name / "train" / "ar_model_latest.pth"))
    for part in ("state_dict", "optimizer"):
        contiguous, channels_last = (tensors(checkpoint[part]) for checkpoint in checkpoints)
        assert len(contiguous) > 5
        for ours, theirs in zip(channels_last, contiguous, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, check_stride=True)


def test_run_in_channels_last_stopped_in_the_middle_of_an_epoch_equals_the_whole_run(
    conv3d_models: tuple[str, ...], tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = (*conv3d_models, "train.checkpoint_interval_unit=step", "train.memory_format=channels_last")
    how = (*how, "model.dropout_ratio=0.5")
    check_resumed_run_is_the_whole_run(monkeypatch, tree, tmp_path, (1, 3), *how)


@pytest.mark.parametrize("formats", [("contiguous", "channels_last"), ("channels_last", "contiguous")])
def test_resume_in_another_memory_format_goes_on_as_before_and_says_so(
    formats: tuple[str, str], conv3d_models: tuple[str, ...], tree: Path, tmp_path: Path
) -> None:
    first, second = (f"train.memory_format={name}" for name in formats)
    whole, _ = run_train(tree, tmp_path / "whole", *conv3d_models, first)
    run_train(tree, tmp_path / "cut", *conv3d_models, first, "train.num_epochs=1")
    cut, lines = run_train(tree, tmp_path / "cut", *conv3d_models, second)
    assert f"changed since the checkpoint: train.memory_format: {formats[0]} -> {formats[1]}" in lines
    assert [row["train_loss"] for row in cut] == pytest.approx([row["train_loss"] for row in whole], rel=1e-4)


# --- torch.compile ---


def use_backend(monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    """torch.compile with a backend that compiles nothing, for what does not depend on it."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_(model, backend=backend))


@pytest.mark.usefixtures("tiny_models")
def test_compiled_run_equals_the_one_that_is_not_and_says_how_long_compiling_took(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_backend(monkeypatch, "eager")
    val = f"dataset.val_dataset_dir={tree}"
    run_train(tree, tmp_path / "plain", *RUN, val)
    _, lines = run_train(tree, tmp_path / "compiled", *RUN, val, "train.compile=true")
    plain, compiled = (
        read_checkpoint(tmp_path / name / "train" / "ar_model_latest.pth") for name in ("plain", "compiled")
    )
    for part in ("state_dict", "optimizer", "history", "rng"):
        assert same(untimed(plain[part]), untimed(compiled[part])), part
    (line,) = (line for line in lines if line.startswith("train.compile"))
    assert re.fullmatch(r"train\.compile: the first step took \d+ s, nearly all of it compiling", line)


@pytest.mark.usefixtures("tiny_models")
def test_compiled_run_that_goes_on_from_a_plain_one_equals_the_whole_run(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_backend(monkeypatch, "eager")
    whole, _ = run_train(tree, tmp_path / "whole", *RUN)
    run_train(tree, tmp_path / "cut", *RUN, "train.num_epochs=1")
    cut, lines = run_train(tree, tmp_path / "cut", *RUN, "train.compile=true")
    assert untimed(cut) == untimed(whole)
    assert "changed since the checkpoint: train.compile: False -> True" in lines


@pytest.mark.usefixtures("tiny_models")
def test_compile_where_it_cannot_work_is_refused_and_says_what_to_install(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    use_backend(monkeypatch, no_compiler)
    with pytest.raises(
        SpecError,
        match=r"^train\.compile: the model can't be compiled here \(No working C\+\+ compiler found\); torch\.compile "
        r"needs a C\+\+ compiler \(g\+\+\), and Triton on a GPU: install them, or set train\.compile=false$",
    ):
        run_train(tree, tmp_path, "train.compile=true")
    assert status_of(tmp_path)[-1]["message"].startswith("train.compile: the model can't be compiled here")


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_models")
def test_run_compiled_by_the_real_compiler_and_stopped_in_an_epoch_equals_the_whole_run(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("g++"):
        pytest.skip("needs a C++ compiler")
    by_step = ("train.checkpoint_interval_unit=step", "train.checkpoint_interval=1", "train.compile=true")
    check_resumed_run_is_the_whole_run(monkeypatch, tree, tmp_path, (1, 3), *by_step)


# --- what is refused ---


@pytest.mark.usefixtures("tiny_models")
def test_num_nodes_without_torchrun_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"^command line: train\.num_nodes is 2 machines, but this is 1: start each with torchrun; make"
    ):
        run_train(tree, tmp_path, "train.num_nodes=2")


@pytest.mark.usefixtures("tiny_models")
def test_gpu_ids_on_a_cpu_are_ignored_with_one_line(tree: Path, tmp_path: Path) -> None:
    _, lines = run_train(tree, tmp_path, "train.gpu_ids=[0]", "train.num_epochs=1")
    assert [line for line in lines if line.startswith("train.gpu_ids")] == ["train.gpu_ids is ignored: running on cpu"]


@pytest.mark.usefixtures("tiny_models")
def test_fp16_on_a_cpu_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^train\.precision: fp16 needs a GPU; use fp32 or bf16 on a CPU$"):
        run_train(tree, tmp_path, "train.precision=fp16")


def test_world_size_of_a_scheduler_without_a_rank_is_not_taken_for_torchruns(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch)
    monkeypatch.setenv("WORLD_SIZE", "4")
    _, lines = run_train(tree, tmp_path, "train.num_epochs=1")
    assert not [line for line in lines if "torchrun" in line]
    assert read_checkpoint(tmp_path / "train" / "ar_model_latest.pth")["tally"] == [
        {"loss": 0.0, "correct": 0, "clips": 0, "data_sec": 0.0, "compute_sec": 0.0}
    ]


def test_real_2d_resnet18_trains_validates_evaluates_and_infers(make_tree: MakeTree, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "data", {"walk": 2, "fall": 2}, num_frames=2, modalities=("rgb",))
    how = ("dataset.output_shape=[32, 32]", "dataset.augmentation_config.crop_smaller_edge=36", "dataset.batch_size=4")
    history, lines = run_train(root, tmp_path, *how, "train.num_epochs=1", f"dataset.val_dataset_dir={root}")
    assert "model: 2d resnet18 for rgb, 2 classes, 11,186,946 parameters, on cpu" in lines
    checkpoint = tmp_path / "train" / "ar_model_latest.pth"
    results, _ = run_evaluate(checkpoint, root, tmp_path)
    assert (results["videos"], results["loss"]) == (4, pytest.approx(history[0]["val_loss"], rel=1e-5))
    rows, _ = run_infer(checkpoint, root / "walk", tmp_path)
    assert [os.path.basename(row["path"]) for row in rows] == ["video_002", "video_003"]
    model, contract = load_checkpoint(checkpoint)
    assert (contract.class_names, model.training) == (("fall", "walk"), False)


def test_training_batch_of_one_clip_that_batch_norm_cannot_take_is_refused_at_the_start(
    make_tree: MakeTree, tmp_path: Path
) -> None:
    root = make_tree(tmp_path / "data", {"walk": 2, "fall": 1}, num_frames=2, modalities=("rgb",))
    how = ("dataset.augmentation_config.crop_smaller_edge=36", "dataset.batch_size=2", "train.num_epochs=1")
    with pytest.raises(SpecError, match=r"^dataset\.batch_size: the last batch of an epoch holds one clip, too little"):
        run_train(root, tmp_path / "32", *how, "dataset.output_shape=[32, 32]")
    run_train(root, tmp_path / "33", *how, "dataset.output_shape=[33, 33]")
    run_train(root, tmp_path / "3", *how, "dataset.output_shape=[32, 32]", "dataset.batch_size=3")


@pytest.mark.slow
def test_real_joint_2d_resnet18_trains_and_validates(make_tree: MakeTree, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "data", {"walk": 2, "fall": 2}, num_frames=3)
    how = ("dataset.output_shape=[32, 32]", "dataset.augmentation_config.crop_smaller_edge=36", "dataset.batch_size=4")
    joint = ("model.model_type=joint", "train.num_epochs=1", f"dataset.val_dataset_dir={root}")
    history, _ = run_train(root, tmp_path, *how, *joint)
    assert history[0]["val_loss"] > 0


def test_state_of_a_new_run_is_the_first_step_of_the_first_epoch() -> None:
    assert (State().epoch, State().step, State().history) == (0, 0, [])


def test_spec_of_a_training_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"dataset\.train_dataset_dir: train needs it"):
        spec_of("train", tmp_path)
