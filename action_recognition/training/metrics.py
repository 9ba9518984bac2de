"""From scores to figures: video scores, the confusion matrix and what is read off it. NumPy only, no files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class VideoScores:
    """Scores of V videos: `probabilities` (V, K), the mean softmax of each video's windows; `windows[v]` (S, K)."""

    video_ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    windows: list[np.ndarray]
    loss: float

    @property
    def predictions(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)

    def __len__(self) -> int:
        return len(self.video_ids)


def video_scores(video_ids: Sequence[int], labels: Sequence[int], logits: np.ndarray) -> VideoScores:
    """Windows in any order, `logits` (windows, K), to one score a video, sorted by video id.

    The loss is the mean over videos of the mean cross entropy of their windows (nan without labels or videos).
    """
    ids, label_of = np.asarray(video_ids, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    log_p = log_softmax(logits.astype(np.float64))
    unique, first = np.unique(ids, return_index=True)
    windows = [np.exp(log_p[ids == i]) for i in unique]
    video_labels = label_of[first]
    known = (video_labels >= 0).all() and len(unique) > 0
    losses = [-log_p[ids == i, label].mean() for i, label in zip(unique, video_labels, strict=True)] if known else []
    means = np.stack([w.mean(axis=0) for w in windows]) if windows else np.zeros((0, logits.shape[1]))
    return VideoScores(unique, video_labels, means, windows, float(np.mean(losses)) if known else float("nan"))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log(softmax) over the last axis."""
    with np.errstate(invalid="ignore"):  # of an overflow the answer is NaN, which its users look for
        shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """(K, K) counts: row = true class, column = predicted class."""
    return np.bincount(labels * num_classes + predictions, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_accuracies(confusion: np.ndarray) -> np.ndarray:
    """The percentage of each class's videos that were recognised, (K,); nan for a class without videos."""
    totals = confusion.sum(axis=1)
    return np.where(totals > 0, 100 * confusion.diagonal() / np.maximum(totals, 1), np.nan)


def total_accuracy(confusion: np.ndarray) -> float:
    """The percentage of all videos that were recognised; nan without videos."""
    return float(100 * confusion.diagonal().sum() / confusion.sum()) if confusion.sum() else float("nan")


def mean_class_accuracy(confusion: np.ndarray) -> float:
    """The mean over the classes that have videos, in percent; nan without videos."""
    accuracies = class_accuracies(confusion)
    return float(np.nanmean(accuracies)) if confusion.sum() else float("nan")


def top_k_accuracy(labels: np.ndarray, probabilities: np.ndarray, k: int) -> float:
    """The percentage of videos whose class is among the k best scores."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float(100 * (best == labels[:, None]).any(axis=1).mean())


def best_epoch(history: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first epoch of highest validation accuracy (at a tie, lowest loss); else of lowest training loss."""
    validated = [row for row in history if "val_acc" in row]
    if validated:
        return max(validated, key=lambda row: (row["val_acc"], -row["val_loss"]))
    return min(history, key=lambda row: row["train_loss"], default=None)
