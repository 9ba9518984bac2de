"""The main plots as PNG, for slides and papers: by matplotlib, which the extra `report` brings."""

import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from action_recognition.data.survey import printable
from action_recognition.errors import UserError
from action_recognition.files import write_errors_told, write_whole
from action_recognition.report.figures import Calibration

_EAST_ASIAN = (  # fonts of Linux, Windows and macOS
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei"),
    *("Malgun Gothic", "PingFang SC", "PingFang HK", "Arial Unicode MS"),
)
_MAX_NAMES = 60  # classes whose names, and numbers, are written beside a confusion matrix


def check_plots(key: str, wanted: bool) -> None:
    """UserError where a report is wanted, by the spec's `key`, and there is nothing to draw its plots with."""
    if wanted and find_spec("matplotlib") is None:
        raise UserError(f'{key}: the plots of a report need matplotlib: pip install ".[report]"')


def plot_history(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss, accuracy, learning rate and time by epoch."""
    figure = _figure(11, 7)
    loss, accuracy, rate, time = figure.subplots(2, 2).flat
    epochs = np.array([row["epoch"] + 1 for row in history])
    for axes, title, names in (
        (loss, "loss", ("train_loss", "val_loss")),
        (accuracy, "accuracy, %", ("train_acc", "val_acc", "val_m_acc")),
        (rate, "learning rate", ("lr",)),
    ):
        for name in names:
            known = np.array([row.get(name) is not None for row in history])
            if known.any():
                values = [row[name] for row in history if row.get(name) is not None]
                axes.plot(epochs[known], values, ".-", label=name)
        axes.set(xlabel="epoch", title=title)
        axes.legend(frameon=False)
    data, compute = ([row.get(name, 0) for row in history] for name in ("data_sec", "compute_sec"))
    time.bar(epochs, data, label="waiting for data")
    time.bar(epochs, compute, bottom=data, label="computing")
    time.set(xlabel="epoch", title="seconds")
    time.margins(y=0.2)  # room for the legend
    time.legend(frameon=False, ncols=2, loc="upper left")
    _save(figure, path)


def plot_confusion(confusion: np.ndarray, names: Sequence[str], path: Path) -> None:
    """The confusion matrix, coloured by the share of each true class."""
    side = min(20, 3.5 + 0.45 * len(names))
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="answer", ylabel="class")
    if len(names) <= _MAX_NAMES:
        shown = [printable(name).replace("$", r"\$") for name in names]  # a dollar begins mathematics
        fonts = _fonts()
        axes.set_xticks(range(len(names)), shown, rotation=45, ha="right", fontfamily=fonts)
        axes.set_yticks(range(len(names)), shown, fontfamily=fonts)
        for i, j in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[i, j] > 0.6 else "black"
            axes.text(j, i, str(confusion[i, j]), ha="center", va="center", color=colour)
    _save(figure, path)


def plot_scores(found: Calibration, right: np.ndarray, wrong: np.ndarray, path: Path) -> None:
    """The reliability diagram beside the histogram of the scores of right and wrong answers."""
    figure = _figure(11, 4.5)
    reliability, scores = figure.subplots(1, 2)
    bins = np.arange(len(found.counts)) / len(found.counts)
    width = 1 / len(found.counts)
    reliability.bar(bins, np.nan_to_num(found.accuracies), width, align="edge", edgecolor="white", label="right")
    reliability.plot(found.scores, found.accuracies, "o", color="C1", label="mean score")
    reliability.plot((0, 1), (0, 1), "--", color="grey")
    reliability.set(xlabel="score", ylabel="share of right answers", title=f"calibration error {100 * found.ece:.1f} %")
    reliability.legend(frameon=False)
    edges = np.arange(len(right)) / len(right)
    scores.bar(edges, right, 1 / len(right), align="edge", label=f"right ({right.sum()})")
    scores.bar(edges, wrong, 1 / len(right), bottom=right, align="edge", label=f"wrong ({wrong.sum()})")
    scores.set(xlabel="score of the answer", ylabel="videos", title="scores")
    scores.legend(frameon=False)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _fonts() -> list[str]:
    """The font of matplotlib, and those of this system that have the letters which it lacks."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in _EAST_ASIAN if name in installed)]


def _save(figure: Any, path: Path) -> None:
    with write_errors_told(path), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for a letter that no font here has
        path.parent.mkdir(exist_ok=True)
        write_whole(path, lambda file: figure.savefig(file, format="png", dpi=120))
