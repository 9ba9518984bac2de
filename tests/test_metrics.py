"""Figures computed by hand, and by scikit-learn on random scores."""

import math

import numpy as np
import pytest

from action_recognition.training.metrics import (
    best_epoch,
    class_accuracies,
    confusion_matrix,
    log_softmax,
    mean_class_accuracy,
    top_k_accuracy,
    total_accuracy,
    video_scores,
)

LABELS = np.array([0, 0, 0, 0, 1, 1, 3])
PREDICTIONS = np.array([0, 0, 0, 2, 1, 0, 3])
CONFUSION = np.array([[3, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
LOG3 = math.log(3)


def test_confusion_matrix_of_seven_videos_has_true_classes_in_rows() -> None:
    np.testing.assert_array_equal(confusion_matrix(LABELS, PREDICTIONS, 4), CONFUSION)


def test_confusion_matrix_of_no_video_is_all_zero() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    np.testing.assert_array_equal(confusion_matrix(nothing, nothing, 2), [[0, 0], [0, 0]])


def test_class_accuracies_of_a_class_without_videos_is_nan() -> None:
    np.testing.assert_array_equal(class_accuracies(CONFUSION), [75, 50, np.nan, 100])


def test_mean_class_accuracy_with_an_absent_class_is_over_the_others() -> None:
    assert mean_class_accuracy(CONFUSION) == 75  # (75 + 50 + 100) / 3


def test_total_accuracy_of_five_right_in_seven() -> None:
    assert total_accuracy(CONFUSION) == pytest.approx(500 / 7)


def test_accuracies_without_videos_are_nan() -> None:
    nothing = np.zeros((2, 2), dtype=np.int64)
    assert math.isnan(total_accuracy(nothing))
    assert math.isnan(mean_class_accuracy(nothing))


@pytest.mark.parametrize(("k", "percent"), [(1, 0.0), (2, 50.0), (3, 100.0)])
def test_top_k_accuracy_counts_videos_whose_class_is_among_the_k_best(k: int, percent: float) -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    assert top_k_accuracy(np.array([1, 0]), probabilities, k) == percent


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_random_scores_are_those_of_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(7, size=200), rng.random((200, 7))
    confusion = confusion_matrix(labels, scores.argmax(axis=1), 7)
    classes = np.arange(7)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(labels, scores.argmax(axis=1), labels=classes))
    assert total_accuracy(confusion) == pytest.approx(100 * metrics.accuracy_score(labels, scores.argmax(axis=1)))
    balanced = metrics.balanced_accuracy_score(labels, scores.argmax(axis=1))
    assert mean_class_accuracy(confusion) == pytest.approx(100 * balanced)
    best5 = metrics.top_k_accuracy_score(labels, scores, k=5, labels=classes)
    assert top_k_accuracy(labels, scores, 5) == pytest.approx(100 * best5)


def test_log_softmax_of_huge_logits_is_finite() -> None:
    np.testing.assert_allclose(log_softmax(np.array([[1e4, 0.0], [0.0, LOG3]])), [[0, -1e4], np.log([0.25, 0.75])])


def test_video_scores_of_windows_in_any_order_are_means_by_video() -> None:
    # softmax([0, 0]) = 1/2, 1/2; softmax([0, log 3]) = 1/4, 3/4; softmax([log 3, 0]) = 3/4, 1/4
    logits = np.array([[0, 0], [0, LOG3], [LOG3, 0], [0, LOG3]])
    scores = video_scores([7, 2, 7, 2], [0, 1, 0, 1], logits)
    np.testing.assert_array_equal(scores.video_ids, [2, 7])
    np.testing.assert_array_equal(scores.labels, [1, 0])
    np.testing.assert_allclose(scores.probabilities, [[0.25, 0.75], [0.625, 0.375]])
    np.testing.assert_array_equal(scores.predictions, [1, 0])
    np.testing.assert_allclose(scores.windows[1], [[0.5, 0.5], [0.75, 0.25]])
    # cross entropy: video 2 -log 3/4 twice; video 7 the mean of -log 1/2 and -log 3/4
    assert scores.loss == pytest.approx((-math.log(0.75) + (math.log(2) - math.log(0.75)) / 2) / 2)


def test_video_scores_of_a_long_video_weigh_as_much_as_those_of_a_short_one() -> None:
    logits = np.array([[0, LOG3]] * 9 + [[LOG3, 0]])
    assert video_scores([0] * 9 + [1], [1] * 10, logits).loss == pytest.approx((-math.log(0.75) - math.log(0.25)) / 2)


def test_video_scores_without_labels_have_no_loss() -> None:
    scores = video_scores([0], [-1], np.array([[0.0, LOG3]]))
    np.testing.assert_array_equal(scores.predictions, [1])
    assert math.isnan(scores.loss)


def test_video_scores_of_no_window_are_empty() -> None:
    scores = video_scores([], [], np.zeros((0, 3)))
    assert (len(scores), scores.probabilities.shape) == (0, (0, 3))
    assert math.isnan(scores.loss)


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([(50.0, 1.0), (70.0, 2.0), (60.0, 0.5)], 1),  # accuracy before loss
        ([(70.0, 2.0), (70.0, 1.0), (70.0, 1.5)], 1),  # a tie: the lower loss
        ([(70.0, 1.0), (70.0, 1.0)], 0),  # a tie in both: the first
    ],
)
def test_best_epoch_with_validation_has_the_highest_accuracy_then_the_lowest_loss(
    rows: list[tuple[float, float]], best: int
) -> None:
    history = [{"epoch": i, "train_loss": 9.0 - i, "val_acc": a, "val_loss": b} for i, (a, b) in enumerate(rows)]
    assert best_epoch(history) is history[best]


def test_best_epoch_without_validation_has_the_lowest_train_loss() -> None:
    history = [{"epoch": i, "train_loss": loss} for i, loss in enumerate([0.5, 0.3, 0.4])]
    assert best_epoch(history) is history[1]
    assert best_epoch([]) is None


def test_best_epoch_of_some_validated_epochs_is_one_of_them() -> None:
    history = [{"epoch": 0, "train_loss": 0.1}, {"epoch": 1, "train_loss": 0.5, "val_acc": 10.0, "val_loss": 3.0}]
    assert best_epoch(history) is history[1]
