"""Where the figures of an epoch go: TensorBoard, and Weights & Biases without a network."""

import builtins
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tiny import MakeTree, run_train, use_tiny_models

from action_recognition.errors import UserError
from action_recognition.tasks import train
from action_recognition.training.loggers import TensorBoard, WeightsAndBiases, open_loggers

ROW = {"epoch": 3, "train_loss": 0.5, "val_acc": 75.0}


class SimulatedRun:
    """Notes what it is given, as a W&B run would."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.logged, self.finished = settings, list[dict[str, Any]](), False
        self.axes: dict[str, str] = {}

    def define_metric(self, name: str, step_metric: str) -> None:
        self.axes[name] = step_metric

    def log(self, figures: dict[str, Any]) -> None:
        self.logged.append(figures)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def simulated_wandb(monkeypatch: pytest.MonkeyPatch) -> list[SimulatedRun]:
    """The runs that a wandb module which only simulates has opened."""
    runs: list[SimulatedRun] = []
    module = ModuleType("wandb")

    def init(**settings: Any) -> SimulatedRun:
        runs.append(SimulatedRun(settings))
        return runs[-1]

    module.Settings = SimpleNamespace  # type: ignore[attr-defined]
    module.Error = type("Error", (Exception,), {})  # type: ignore[attr-defined]
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return runs


def test_wandb_gets_the_spec_once_and_each_epochs_figures_by_epoch(
    simulated_wandb: list[SimulatedRun], tmp_path: Path
) -> None:
    folder = tmp_path / "falls" / "train"
    folder.mkdir(parents=True)
    logger = WeightsAndBiases(folder, "shop-floor", {"train": {"seed": 1}})
    logger.write(ROW)
    logger.close()
    (run,) = simulated_wandb
    assert (run.settings["project"], run.settings["name"]) == ("shop-floor", "falls")
    assert run.settings["config"] == {"train": {"seed": 1}}
    assert run.settings["settings"].x_disable_meta  # with the command line, where an encryption_key may stand
    assert (run.logged, run.axes) == ([ROW], {"*": "epoch"})
    assert run.finished


def test_wandb_run_of_the_same_folder_goes_on_and_of_another_or_an_emptied_one_does_not(
    simulated_wandb: list[SimulatedRun], tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in (folders[0], *folders):
        folder.mkdir(exist_ok=True)
        WeightsAndBiases(folder, "p", {})
    shutil.rmtree(folders[0])
    folders[0].mkdir()
    WeightsAndBiases(folders[0], "p", {})
    first, again, other, anew = (run.settings["id"] for run in simulated_wandb)
    assert first == again
    assert len({first, other, anew}) == 3
    assert {run.settings["resume"] for run in simulated_wandb} == {"allow"}


def test_wandb_that_refuses_says_what_to_do(simulated_wandb: list[SimulatedRun], tmp_path: Path) -> None:
    module: Any = sys.modules["wandb"]

    def refuse(**_: Any) -> None:
        raise module.Error("api_key not configured (no-tty)")

    module.init = refuse
    with pytest.raises(UserError, match=r"refuses \(api_key not configured .*WANDB_MODE=offline, or leave the key out"):
        WeightsAndBiases(tmp_path, "p", {})


def test_wandb_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'train\.wandb_project: needs Weights & Biases: pip install "\.\[wandb\]"'):
        open_loggers(tmp_path, "p", {})


def test_run_without_a_project_does_not_import_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def watched(name: str, *rest: Any, **named: Any) -> Any:
        assert name != "wandb"
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", watched)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # not installed, either
    (logger,) = open_loggers(tmp_path, None, {})
    logger.write(ROW)
    logger.close()
    assert list(tmp_path.iterdir()) == []


def test_training_run_logs_each_epoch_and_never_the_key(
    simulated_wandb: list[SimulatedRun], make_tree: MakeTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_them = train.open_loggers
    use_tiny_models(monkeypatch)
    monkeypatch.setattr(train, "open_loggers", open_them)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    root = make_tree(tmp_path / "data", {"a": 2, "b": 2}, num_frames=3, modalities=("rgb",))
    history, _ = run_train(root, tmp_path / "results", "train.num_epochs=2", "train.wandb_project=p")
    (run,) = simulated_wandb
    assert [row["epoch"] for row in run.logged] == [0, 1]
    assert run.logged[1]["train_loss"] == history[1]["train_loss"]
    assert "encryption_key" not in run.settings["config"]
    assert run.finished


@pytest.mark.slow
def test_wandb_itself_keeps_a_run_offline_without_the_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb", reason='needs Weights & Biases: pip install ".[wandb]"')
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["train.py", "encryption_key=a-secret-of-mine"])
    logger = WeightsAndBiases(tmp_path, "p", {"train": {"seed": 1}})
    logger.write(ROW)
    logger.close()
    (kept,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"train_loss" in kept.read_bytes()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if b"a-secret-of-mine" in path.read_bytes()] == []


@pytest.mark.slow
def test_tensorboard_of_one_epoch_writes_an_event_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason='needs TensorBoard: pip install ".[report]"')
    board = TensorBoard(tmp_path)
    board.write({"epoch": 0, "train_loss": 1.0})
    board.close()
    assert [path.name.split(".")[0] for path in tmp_path.iterdir()] == ["events"]
