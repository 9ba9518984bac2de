"""The numbers of an evaluation report, out of scores and the confusion matrix. NumPy only, no files, no text."""

import math
from dataclasses import dataclass

import numpy as np

Counts = np.ndarray
NUM_CALIBRATION_BINS = 10
NUM_SCORE_BINS = 20


@dataclass(frozen=True)
class ClassFigures:
    """One class: how many videos it has, how many were taken for it, how many rightly so. Shares are in 0..1.

    A share is None where it means nothing: no video of the class (recall), none taken for it (precision), neither (f1).
    """

    videos: int
    predicted: int
    right: int

    @property
    def precision(self) -> float | None:
        return self.right / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        return self.right / self.videos if self.videos else None

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall."""
        return 2 * self.right / (self.videos + self.predicted) if self.videos + self.predicted else None


def class_figures(confusion: Counts) -> list[ClassFigures]:
    """The figures of each class from the (K, K) confusion matrix, rows = true class."""
    sums = zip(confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal(), strict=True)
    return [ClassFigures(int(videos), int(predicted), int(right)) for videos, predicted, right in sums]


@dataclass(frozen=True)
class Calibration:
    """How far scores can be taken for chances: by bin of the score, all (B,); an empty bin has nan.

    `ece`, the expected calibration error, is the mean of |accuracy - score| over the videos. Guo, Pleiss, Sun and
    Weinberger, On Calibration of Modern Neural Networks, ICML 2017.
    """

    counts: Counts
    scores: np.ndarray
    accuracies: np.ndarray
    ece: float


def calibration(scores: np.ndarray, right: np.ndarray, num_bins: int = NUM_CALIBRATION_BINS) -> Calibration:
    """`scores` (V,) of the answers in 0..1, `right` (V,) bool. Bins are (i / num_bins, (i + 1) / num_bins]."""
    bins = np.clip(np.ceil(scores * num_bins).astype(int) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        means, accuracies = (np.bincount(bins, x, num_bins) / counts for x in (scores, right))
    gaps = np.abs(accuracies - means)[counts > 0]
    ece = float((gaps * counts[counts > 0]).sum() / len(scores)) if len(scores) else float("nan")
    return Calibration(counts, means, accuracies, ece)


def score_histograms(scores: np.ndarray, right: np.ndarray, num_bins: int = NUM_SCORE_BINS) -> tuple[Counts, Counts]:
    """How many right and how many wrong answers had a score in each of `num_bins` bins of 0..1: two of (B,)."""
    hits, misses = (np.histogram(scores[chosen], num_bins, (0, 1))[0] for chosen in (right, ~right))
    return hits, misses


def roc(scores: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The ROC curve of one of two classes: false alarms and found in 0..1 by falling threshold, and the area under it.

    `scores` (V,) are those for the class, `own` (V,) says which videos are of it. nan where either has no video.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # of equal scores: no threshold parts them
    with np.errstate(invalid="ignore"):
        alarms, found = (np.concatenate([[0], np.cumsum(of[order])[last] / of.sum()]) for of in (~own, own))
    return alarms, found, float(((found[1:] + found[:-1]) / 2 * np.diff(alarms)).sum())


def at_thresholds(scores: np.ndarray, own: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall (B,) of a class whose answer is given from each threshold on; nan where there is none."""
    taken = scores >= thresholds[:, None]  # (B, V)
    right = (taken & own).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return right / taken.sum(axis=1), right / own.sum()


def confused_pairs(confusion: Counts) -> list[tuple[int, int, int]]:
    """(true class, predicted class, videos) of all that was taken for something else, the most frequent first."""
    wrong = confusion - np.diag(confusion.diagonal())
    pairs = [(int(t), int(p), int(wrong[t, p])) for t, p in zip(*np.nonzero(wrong), strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def hardest(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """All videos, the worst first, as positions (V,).

    First the wrong ones by how much higher than the right class the answer scored, then the right ones by how little.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    others = probabilities.copy()
    others[rows, labels] = -1
    wrong = probabilities.argmax(axis=1) != labels
    margin = others.max(axis=1) - own if probabilities.shape[1] > 1 else -own
    return np.lexsort((rows, -margin, ~wrong))


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """The shares in 0..1 between which a share of `right` in `total` lies, in 95 of 100 samples of this size.

    Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927. ValueError without samples.
    """
    if total < 1:
        raise ValueError(f"total must be >= 1, got {total}")
    z, share = 1.959964, right / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
