"""Scores of windows to events."""

import numpy as np
import pytest

from action_recognition.deploy.events import Event, Scores, Smoothing, events_of, labelled

NAMES = ("walk", "fall")


def windows(*fall: float) -> list[Scores]:
    """Windows of 2 seconds, one a second, with these probabilities of the second class."""
    return [Scores(i, i + 2.0, i, i + 2, np.array([1 - p, p])) for i, p in enumerate(fall)]


def test_events_of_a_change_of_label_are_two_with_the_middles_of_their_windows() -> None:
    events = list(events_of(windows(0.1, 0.2, 0.9, 0.7), NAMES, Smoothing()))
    assert events == [Event("walk", 1.0, 2.0, 0.9), Event("fall", 3.0, 4.0, 0.9)]


def test_events_below_the_threshold_are_unknown_and_not_told() -> None:
    events = list(events_of(windows(0.9, 0.55, 0.9), NAMES, Smoothing(), threshold=0.6))
    assert events == [Event("fall", 1.0, 1.0, 0.9), Event("fall", 3.0, 3.0, 0.9)]


def test_events_of_no_windows_are_none() -> None:
    assert list(events_of([], NAMES, Smoothing())) == []


def test_event_is_told_as_soon_as_the_next_label_comes() -> None:
    events = events_of(iter(windows(0.1, 0.9)), NAMES, Smoothing())
    assert next(events).label == "walk"


def test_smoothing_by_mean_takes_the_latest_windows() -> None:
    smooth = Smoothing(num_windows=2)
    assert [float(smooth(np.array([p]))[0]) for p in (1.0, 0.0, 0.0)] == [1.0, 0.5, 0.0]


def test_smoothing_by_ema_starts_at_the_first_window() -> None:
    smooth = Smoothing(ema=0.5)
    assert [float(smooth(np.array([p]))[0]) for p in (1.0, 0.0, 0.0)] == [1.0, 0.5, 0.25]


def test_smoothing_hides_a_single_odd_window() -> None:
    assert [e.label for e in events_of(windows(0.1, 0.8, 0.1), NAMES, Smoothing(3))] == ["walk"]


@pytest.mark.parametrize(("num_windows", "ema"), [(0, None), (1, 0.0), (1, 1.5)])
def test_smoothing_that_makes_no_sense_is_refused(num_windows: int, ema: float | None) -> None:
    with pytest.raises(ValueError, match=r"needs num_windows >= 1 and 0 < ema <= 1, got"):
        Smoothing(num_windows, ema)


def test_labelled_at_the_threshold_is_known() -> None:
    assert labelled(np.array([0.4, 0.6]), NAMES, 0.6) == ("fall", 0.6)
