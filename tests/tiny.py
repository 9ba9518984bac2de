"""A network of a few hundred weights in place of the real ones, and runs of the tasks on datasets of a few images."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from action_recognition import loading
from action_recognition.config import ModelSpec, Spec, load_spec, to_plain
from action_recognition.data.agreement import contract_of
from action_recognition.models.joint import Joint
from action_recognition.tasks import evaluate, inference, scoring, train, train_setup

MakeTree = Callable[..., Path]
# What every run here has: 2 rgb frames of 8x8 pixels, read in this process, on the CPU.
BASE = (
    "model.model_type=rgb",
    "model.rgb_seq_length=2",
    "model.of_seq_length=2",
    "dataset.output_shape=[8, 8]",
    "dataset.augmentation_config.crop_smaller_edge=10",
    "dataset.workers=0",
)


class TinyNet(nn.Module):
    """(N, C*T, H, W): batch norm, mean over the pixels, dropout, one linear layer."""

    def __init__(self, num_channels: int, num_classes: int, dropout_ratio: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(num_channels)
        self.dropout = nn.Dropout(dropout_ratio)
        self.fc_cls = nn.Linear(num_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_cls(self.dropout(self.norm(x).mean(dim=(2, 3))))


def build_tiny(spec: ModelSpec, num_classes: int) -> nn.Module:
    """In place of models.build_model, for 2D input."""
    rgb, of = (
        TinyNet(channels, num_classes, spec.dropout_ratio)
        for channels in (3 * spec.rgb_seq_length, 2 * spec.of_seq_length)
    )
    return {"rgb": rgb, "of": of, "joint": Joint(rgb, of, num_classes, spec.num_fc)}[spec.model_type]


def use_tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tasks build a tiny network, and nothing imports TensorBoard."""
    for module in (train_setup, scoring, loading):
        monkeypatch.setattr(module, "build_model", build_tiny)
    monkeypatch.setattr(train, "open_loggers", lambda *_: [])


def spec_of(task: str, results: Path, *overrides: str) -> Spec:
    """The spec of `task` on the CPU with its results in `results`/<task>."""
    return load_spec(None, [f"results_dir={results}", f"{task}.device=cpu", *overrides], task=task)


def run_train(root: Path, results: Path, *overrides: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The history of a training run on `root`, and what it said."""
    lines: list[str] = []
    spec = spec_of("train", results, f"dataset.train_dataset_dir={root}", *BASE, *overrides)
    return train.train(spec, lines.append), lines


def run_evaluate(checkpoint: Path, root: Path, results: Path, *overrides: str) -> tuple[dict[str, Any], list[str]]:
    """The results of an evaluation on `root`, and what it said; the checkpoint alone says what the model is."""
    lines: list[str] = []
    paths = (f"evaluate.checkpoint={checkpoint}", f"evaluate.test_dataset_dir={root}", "dataset.workers=0")
    return evaluate.evaluate(spec_of("evaluate", results, *paths, *overrides), lines.append), lines


def run_infer(checkpoint: Path, root: Path, results: Path, *overrides: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of an inference on the videos of `root`, and what it said."""
    lines: list[str] = []
    paths = (f"inference.checkpoint={checkpoint}", f"inference.inference_dataset_dir={root}", "dataset.workers=0")
    return inference.infer(spec_of("inference", results, *paths, *overrides), lines.append), lines


class RunsCode:
    """An object whose unpickling makes a file: what a malicious checkpoint would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def save_sigmoid_model(path: Path, class_names: tuple[str, ...] = ("a", "b"), **extra: Any) -> dict[str, Any]:
    """A checkpoint whose scores can be computed by hand: sigmoid((i + j) / 10 - 0.6) for the second class.

    i and j are the ids of the clip's two frames, read from the green of make_tree's pixels. Classes from the third on
    score next to nothing. Returns what was saved.
    """
    plain = ("dataset.augmentation_config.rgb_input_mean=[0]", "dataset.augmentation_config.rgb_input_std=[1]")
    spec = load_spec(None, [*BASE, *plain])
    model = TinyNet(6, len(class_names), 0.0)
    weight = torch.zeros(len(class_names), 6)
    weight[1, 2:4] = 25.5  # channels are R0 R1 G0 G1 B0 B1, pixels are in 0..1
    bias = torch.tensor([0, -0.6, *[-1e3] * (len(class_names) - 2)])
    state = {**model.state_dict(), "norm.running_var": torch.full((6,), 1 - model.norm.eps)}
    content = {
        "format": 1,
        "epoch": 1,
        "state_dict": {**state, "fc_cls.weight": weight, "fc_cls.bias": bias},
        "spec": to_plain(spec),
        "contract": contract_of(spec, class_names).to_plain(),
        **extra,
    }
    torch.save(content, path)
    return content


def second_score(*windows: tuple[int, int]) -> float:
    """The score of the second class for a video of these windows, by the model above."""
    return sum(1 / (1 + math.exp(0.6 - (i + j) / 10)) for i, j in windows) / len(windows)
