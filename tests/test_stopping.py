"""Signals in training, in one process: noted, asked for, the second one. Whole runs are in test_train.py."""

import os
import signal

import pytest

from action_recognition import machine
from action_recognition.training import stopping
from action_recognition.training.stopping import ORPHANED, StopRequest


class Left(Exception):
    pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_is_noted_and_told_after_each_step_and_the_handlers_are_put_back(number: int) -> None:
    before = signal.getsignal(number)
    with StopRequest(60) as stop:
        assert (stop.after_step(), stop.now()) == (0, 0)
        os.kill(os.getpid(), number)
        assert (stop.after_step(), stop.now()) == (number, number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("delay_sec", "leaves"), [(0.2, False), (1.5, True)])
def test_second_signal_leaves_at_once_but_the_same_one_passed_on_twice_does_not(
    delay_sec: float, leaves: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    codes, now = list[int](), [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(stopping.os, "_exit", codes.append)
    with StopRequest(60) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        now[0] += delay_sec
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
    assert codes == [130] * leaves
    assert capfd.readouterr().err == "left at once; the checkpoints are whole\n" * leaves


def test_launcher_that_has_gone_stops_what_it_started_but_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequest(60) as stop:
        monkeypatch.setattr(machine.os, "getppid", lambda: 1)
        assert (stop.after_step(), stop.now()) == (0, 0)
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
        assert (stop.after_step(), stop.now()) == (ORPHANED, ORPHANED)
