"""Disks that are full, read-only or gone, and quotas: the last good checkpoint stays, nothing half-written is left, the
message names the file and the space, and the same command goes on once there is room.
"""

import errno
import itertools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_run
from conftest import Amount, Ledger
from outside import check_equal, damaged
from tiny import MakeTree

from action_recognition import files
from action_recognition.tasks import train

TWO, FOUR = "train.num_epochs=2", "train.num_epochs=4"
# What was broken in the program to see the tests fail.
HALF = "half-written files stay, or the old file is removed first"
UNCAUGHT = "the system's error is not caught"
SPACE = r"\((needs [\d.,]+ MiB, )?([\d.,e-]+ MiB are free|the folder is gone)\)"


@pytest.fixture(scope="module")
def data(make_tree: MakeTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 videos: 4 steps of 2 clips."""
    return make_tree(tmp_path_factory.mktemp("disk") / "data", {"a": 4, "b": 3}, num_frames=3, modalities=("rgb",))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_run, "PAUSE_SEC", 0)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("undisturbed") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_run, "PAUSE_SEC", 0)
        for num_epochs in (TWO, FOUR):
            assert tiny_run.run(data, results, num_epochs) == 0
    return results


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here ({done.stderr.decode().strip()}); RLIMIT_FSIZE stands for it")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


class Damage:
    """Runs of four epochs that meet trouble after two; what was lost of each."""

    def __init__(self, data: Path, undisturbed: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.data, self.undisturbed, self.capfd = data, undisturbed, capfd
        self.lost: list[str] = []

    def begin(self, results: Path) -> None:
        """Two epochs."""
        assert tiny_run.run(self.data, results, TWO) == 0

    def fails(self, results: Path, reason: str) -> None:
        """The run goes on, and ends for `reason`; what was saved before is whole."""
        self.capfd.readouterr()
        before = self._numbered(results)
        code, message = tiny_run.run(self.data, results, FOUR), self.capfd.readouterr().err
        folder = re.escape(str(results / "train"))
        if code != 1 or not re.match(rf"error: {folder}/\S+: .*can't be written: {reason} {SPACE}", message):
            self.lost.append(f"exit code {code}: {message}")
        if results.exists():
            self.lost += damaged(results)
            after = self._numbered(results)
            self.lost += [name for name in before if before[name] != after.get(name)]
            self.lost += [path.name for path in (results / "train").glob(".*")]
            self.lost += ["no newest checkpoint"] * (not (results / "train" / "ar_model_latest.pth").is_file())

    def goes_on(self, results: Path) -> None:
        """With the trouble gone, the same command ends as if nothing had been."""
        code = tiny_run.run(self.data, results, FOUR)
        self.lost += [f"exit code {code}: {self.capfd.readouterr().err}"] * (code != 0)
        self.lost += check_equal(results, self.undisturbed, 4)

    @staticmethod
    def _numbered(results: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (results / "train").glob("model_epoch_*.pth")}


@pytest.fixture
def damage(data: Path, undisturbed: Path, capfd: pytest.CaptureFixture[str]) -> Damage:
    return Damage(data, undisturbed, capfd)


def fill(disk: Path, num_bytes_free: int) -> Path:
    """Leave so much room on a disk, to a page of 4 KiB."""
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - num_bytes_free)))
    return filler


def test_full_disk_loses_nothing(small_disk: Path, amount: Amount, ledger: Ledger, damage: Damage) -> None:
    times, rng = amount(2, 40), random.Random(4)
    for i in range(times):
        results = small_disk / f"run{i}" / "results"
        damage.begin(results)
        size = (results / "train" / "ar_model_latest.pth").stat().st_size
        filler = fill(small_disk, rng.randrange(2 * size))
        damage.fails(results, "No space left on device")
        filler.unlink()
        damage.goes_on(results)
        shutil.rmtree(results.parent)
    print(damage.lost)
    ledger.close("full disk", times, len(damage.lost), HALF)


def test_read_only_disk_loses_nothing(
    small_disk: Path,
    tmp_path: Path,
    amount: Amount,
    ledger: Ledger,
    damage: Damage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = amount(1, 10)
    for i in range(times):
        results, on_disk = tmp_path / f"run{i}" / "results", small_disk / f"run{i}"
        on_disk.mkdir()
        results.parent.mkdir()
        results.symlink_to(on_disk)  # tiny_run's own files, which stay open, lie elsewhere
        damage.begin(results)
        with at_step(monkeypatch, 1 + i % 4, lambda: remount(small_disk, "ro")):
            damage.fails(results, "Read-only file system")
        remount(small_disk, "rw")
        damage.goes_on(results)
        shutil.rmtree(on_disk)
    print(damage.lost)
    ledger.close("disk turned read-only in a run", times, len(damage.lost), UNCAUGHT)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


@contextmanager
def at_step(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[], object]) -> Iterator[None]:
    """In the block, something befalls a run before its step of that number is saved."""
    step_done, steps = train.Trainer.step_done, itertools.count(1)

    def step_and_do(self: Any, *args: Any) -> None:
        if next(steps) == number:
            do()
        step_done(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "step_done", step_and_do)
        yield


def test_folder_that_vanishes_is_told_and_what_was_moved_away_is_whole(
    tmp_path: Path, amount: Amount, ledger: Ledger, damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = amount(1, 10)
    for i in range(times):
        results, elsewhere = tmp_path / f"run{i}" / "results", tmp_path / f"run{i}" / "elsewhere"
        damage.begin(results)
        with at_step(monkeypatch, 1 + i % 4, lambda a=results, b=elsewhere: os.rename(a, b)):  # type: ignore[misc]
            damage.fails(results, "No such file or directory")
        os.rename(elsewhere, results)
        damage.lost += damaged(results)
        damage.goes_on(results)
    print(damage.lost)
    ledger.close("results folder vanishes in a run", times, len(damage.lost), UNCAUGHT)


def test_quota_that_is_used_up_loses_nothing(
    tmp_path: Path, amount: Amount, ledger: Ledger, damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulated EDQUOT: as some file systems do it while a file is written, as others when it goes to the disk."""
    times = amount(2, 10)
    for i in range(times):
        results = tmp_path / f"run{i}" / "results"
        damage.begin(results)
        with monkeypatch.context() as patch:
            after = itertools.count(-2 * (i // 2))  # a run has a dozen such calls
            patch.setattr(
                files.os, "fsync" if i % 2 else "fdopen", refused_after(after, "fsync" if i % 2 else "fdopen")
            )
            damage.fails(results, os.strerror(errno.EDQUOT))
        damage.goes_on(results)
    print(damage.lost)
    ledger.close("quota used up (simulated EDQUOT)", times, len(damage.lost), HALF)


def refused_after(calls: Iterator[int], name: str) -> Callable[..., Any]:
    """os.fsync, or os.fdopen whose files can't be written, once the count is above 0."""
    original = getattr(os, name)

    def refuse(descriptor: int, *args: Any) -> Any:
        if next(calls) <= 0:
            return original(descriptor, *args)
        if name == "fsync":
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        os.close(descriptor)
        return Refusing()

    return refuse


class Refusing:
    """A file that takes a little and then no more."""

    def __enter__(self) -> "Refusing":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def flush(self) -> None:
        pass

    def write(self, content: bytes) -> int:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def test_limit_on_the_size_of_files_loses_nothing(
    tmp_path: Path, amount: Amount, ledger: Ledger, damage: Damage
) -> None:
    times, rng = amount(2, 20), random.Random(5)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for i in range(times):
        results = tmp_path / f"run{i}" / "results"
        damage.begin(results)
        size = (results / "train" / "ar_model_latest.pth").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(size // 2, size), hard))
        try:
            damage.fails(results, "File too large")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        damage.goes_on(results)
    signal.signal(signal.SIGXFSZ, handler)
    print(damage.lost)
    ledger.close("limit on the size of files", times, len(damage.lost), HALF)


def test_retention_never_removes_the_newest_or_the_best(
    data: Path, tmp_path: Path, amount: Amount, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs with drawn accuracies, looked at after each one."""
    epochs, rng, lost = amount(6, 60), random.Random(6), list[str]()
    results, accuracies, done = tmp_path / "run" / "results", list[float](), train.Trainer.epoch_done

    def look(self: Any, state: Any, row: dict[str, Any]) -> None:
        row["val_acc"] = float(rng.randrange(5))
        accuracies.append(row["val_acc"])
        row["val_loss"] = 1.0
        done(self, state, row)
        best = accuracies.index(max(accuracies))  # at a tie, the first
        kept = {best, *range(len(accuracies))[-2:]}
        names = {f"model_epoch_{epoch:03d}.pth" for epoch in kept} | {"ar_model_best.pth", "ar_model_latest.pth"}
        lost.extend(sorted(names ^ {path.name for path in (results / "train").glob("*.pth")}))
        for link, epoch in (("best", best), ("latest", len(accuracies) - 1)):
            same = os.path.samefile(
                results / "train" / f"ar_model_{link}.pth", results / "train" / f"model_epoch_{epoch:03d}.pth"
            )
            lost.extend([f"{link} of epoch {epoch}"] * (not same))

    monkeypatch.setattr(train.Trainer, "epoch_done", look)
    how = (f"train.num_epochs={epochs}", "train.keep_checkpoints=2", "train.checkpoint_interval_unit=epoch")
    assert tiny_run.run(data, results, *how) == 0
    print(lost)
    ledger.close("epochs with train.keep_checkpoints=2", epochs, len(lost), "the best epoch's file is removed, too")
