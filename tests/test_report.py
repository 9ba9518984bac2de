"""What a run writes down: read back with the json module, so strict JSON."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from action_recognition.training import report
from action_recognition.training.report import (
    ProgressBar,
    StatusFile,
    Stopwatch,
    duration,
    finite_or_none,
    what_limits,
    write_metrics,
)


def strict_json(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_status_file_with_a_kpi_holds_taos_keys(tmp_path: Path) -> None:
    StatusFile(tmp_path).write("RUNNING", "epoch 0 finished", {"train_loss": 0.5, "val_acc": 75.0})
    line = strict_json((tmp_path / "status.json").read_text())
    assert re.fullmatch(r"\d\d/\d\d/\d{4}", line.pop("date"))
    assert re.fullmatch(r"\d\d:\d\d:\d\d", line.pop("time"))
    assert line == {
        "status": "RUNNING",
        "verbosity": "INFO",
        "message": "epoch 0 finished",
        "kpi": {"train_loss": 0.5, "val_acc": 75.0},
    }


def test_status_file_written_twice_has_two_lines_and_a_failure_is_an_error(tmp_path: Path) -> None:
    status = StatusFile(tmp_path)
    status.write("STARTED", "training")
    status.write("FAILURE", "first line\nsecond line")
    started, failed = map(strict_json, (tmp_path / "status.json").read_text().splitlines())
    assert (started["status"], started["verbosity"], "kpi" in started) == ("STARTED", "INFO", False)
    assert (failed["status"], failed["verbosity"], failed["message"]) == ("FAILURE", "ERROR", "first line\nsecond line")


def test_status_file_not_enabled_writes_nothing(tmp_path: Path) -> None:
    StatusFile(tmp_path, enabled=False).write("STARTED", "training")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_status_file_with_a_figure_that_is_not_finite_says_null(tmp_path: Path, value: float) -> None:
    StatusFile(tmp_path).write("SUCCESS", "evaluation finished", {"accuracy": value, "m_accuracy": 1.5})
    assert strict_json((tmp_path / "status.json").read_text())["kpi"] == {"accuracy": None, "m_accuracy": 1.5}


def test_finite_or_none_leaves_what_is_no_float(tmp_path: Path) -> None:
    values = {"epoch": 3, "name": "a", "loss": math.nan, "acc": 0.0}
    assert finite_or_none(values) == {"epoch": 3, "name": "a", "loss": None, "acc": 0.0}


def test_write_metrics_again_after_a_resume_has_each_epoch_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows: list[dict[str, Any]] = [{"epoch": 0, "train_loss": 1.5}, {"epoch": 1, "train_loss": 1.0}]
    write_metrics(path, rows)
    write_metrics(path, rows[:1])
    write_metrics(path, [*rows[:1], {"epoch": 1, "train_loss": math.nan}])
    assert [strict_json(line) for line in path.read_text().splitlines()] == [
        {"epoch": 0, "train_loss": 1.5},
        {"epoch": 1, "train_loss": None},
    ]


def test_progress_bar_without_a_terminal_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar("epoch 1/2", 10)
    bar.advance(5, loss=0.5)
    bar.close()
    assert capsys.readouterr() == ("", "")


def test_progress_bar_on_a_terminal_shows_the_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    bar = ProgressBar("epoch 1/2", 10)
    bar._bar.mininterval = bar._bar.miniters = 0
    bar.advance(5, loss=0.51234)
    bar.close()
    shown = capsys.readouterr().err
    assert "epoch 1/2" in shown
    assert "5/10" in shown
    assert "loss=0.5123" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_duration_at_its_boundaries_changes_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_stopwatch_counts_laps_and_all_on_top_of_what_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 12.0, 17.0, 20.0])
    monkeypatch.setattr(report.time, "perf_counter", lambda: next(times))
    watch = Stopwatch(already=100.0)
    assert (watch.lap(), watch.lap(), watch.seconds) == (2, 5, 110)


@pytest.mark.parametrize(
    ("data_sec", "compute_sec", "num_workers", "limit"),
    [
        (49, 51, 0, "computing"),  # taking turns: the longer one
        (51, 49, 0, "data"),
        (9, 91, 2, "computing"),
        (11, 89, 2, "data"),  # workers that are waited for don't keep up
        (0, 0, 0, "computing"),
    ],
)
def test_what_limits_is_the_longer_or_with_workers_data_that_are_waited_for(
    data_sec: float, compute_sec: float, num_workers: int, limit: str
) -> None:
    assert what_limits(data_sec, compute_sec, num_workers).endswith(f": {limit} limits")


def test_what_limits_says_both_times() -> None:
    assert what_limits(4.2, 71, 2) == "data 4 s, computing 1 min 11 s: computing limits"
