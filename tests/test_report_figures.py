"""Numbers of the report by hand and against scikit-learn; scores to calibration; which videos are the hardest."""

import math

import numpy as np
import pytest

from action_recognition.report.figures import (
    at_thresholds,
    calibration,
    class_figures,
    confused_pairs,
    hardest,
    roc,
    score_histograms,
    wilson_interval,
)

# Rows are true classes: 3 of a, 4 of b, none of c; c was answered twice, d is neither in the data nor answered.
CONFUSION = np.array([[2, 0, 1, 0], [1, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_precision_recall_and_f1_by_hand() -> None:
    a, b, c, d = class_figures(CONFUSION)
    assert (a.precision, a.recall, a.f1) == (pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (b.precision, b.recall, b.f1) == (1, 0.5, pytest.approx(2 / 3))
    assert (c.precision, c.recall, c.f1) == (0, None, 0)
    assert (d.precision, d.recall, d.f1) == (None, None, None)


@pytest.mark.slow  # scikit-learn takes 4 s to load
def test_precision_recall_and_f1_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install scikit-learn")
    labels, answers = np.random.default_rng(0).integers(4, size=(2, 200))
    expected = metrics.precision_recall_fscore_support(labels, answers)
    confusion = metrics.confusion_matrix(labels, answers)
    found = [(c.precision, c.recall, c.f1, c.videos) for c in class_figures(confusion)]
    assert np.array(found) == pytest.approx(np.array(expected).T)


def test_calibration_error_by_hand() -> None:
    """Two bins: scores 0.3 and 0.5 with one right, 0.9, 1.0, 0.8 and 0.7 with all right."""
    found = calibration(np.array([0.3, 0.5, 0.9, 1.0, 0.8, 0.7]), np.array([True, False, True, True, True, True]), 2)
    assert found.counts.tolist() == [2, 4]
    assert found.scores == pytest.approx([0.4, 0.85])
    assert found.accuracies == pytest.approx([0.5, 1])
    assert found.ece == pytest.approx((2 * 0.1 + 4 * 0.15) / 6)


def test_calibration_of_scores_that_are_as_often_right_as_they_say_is_zero() -> None:
    assert calibration(np.full(4, 0.75), np.array([True, True, True, False])).ece == pytest.approx(0)


def test_calibration_puts_a_score_on_an_edge_into_the_lower_bin_and_zero_into_the_first() -> None:
    assert calibration(np.array([0.0, 0.5, 1.0]), np.ones(3, bool), 2).counts.tolist() == [2, 1]


def test_calibration_without_videos_is_nan() -> None:
    found = calibration(np.zeros(0), np.zeros(0, bool))
    assert math.isnan(found.ece)
    assert found.counts.sum() == 0


def test_roc_by_hand() -> None:
    """Of four pairs of own (0.9, 0.5) and other (0.6, 0.5) three are in order, and one is tied: half."""
    alarms, found, area = roc(np.array([0.9, 0.6, 0.5, 0.5]), np.array([True, False, True, False]))
    assert (alarms.tolist(), found.tolist()) == ([0, 0, 0.5, 1], [0, 0.5, 0.5, 1])
    assert area == pytest.approx((1 + 1 + 0 + 0.5) / 4)


def test_precision_and_recall_at_thresholds_by_hand() -> None:
    """A score on the threshold is taken; above all scores nothing is, and a share of nothing is nan."""
    scores, own = np.array([0.9, 0.6, 0.5, 0.2]), np.array([True, False, True, False])
    precision, recall = at_thresholds(scores, own, np.array([0, 0.5, 0.7, 1]))
    assert precision == pytest.approx([2 / 4, 2 / 3, 1, math.nan], nan_ok=True)
    assert recall.tolist() == [1, 1, 0.5, 0]


def test_score_histograms_keep_right_and_wrong_apart() -> None:
    right, wrong = score_histograms(np.array([0.1, 0.6, 0.9, 1.0]), np.array([False, True, False, True]), 2)
    assert (right.tolist(), wrong.tolist()) == ([0, 2], [1, 1])


def test_confused_pairs_are_sorted_by_how_often() -> None:
    assert confused_pairs(np.array([[5, 1, 0], [3, 5, 1], [0, 0, 5]])) == [(1, 0, 3), (0, 1, 1), (1, 2, 1)]


def test_hardest_are_the_surest_mistakes_then_the_least_sure_right_ones() -> None:
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.45, 0.55]])
    assert hardest(np.array([0, 1, 0, 1]), probabilities).tolist() == [1, 2, 3, 0]


def test_interval_of_a_share_is_wilsons() -> None:
    """8 of 10, by hand: (0.8 + 0.19207 -+ 0.28597) / 1.38415."""
    assert wilson_interval(8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson_interval(10, 10)[1] == pytest.approx(1)
    with pytest.raises(ValueError, match="total must be >= 1, got 0"):
        wilson_interval(0, 0)
