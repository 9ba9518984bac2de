"""Checkpoint files: names, which one is found again, writes and reads that fail. Whole runs are in test_train.py."""

import errno
import os
import random
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from tiny import RunsCode

from action_recognition.errors import CheckpointError
from action_recognition.training import checkpoint as files
from action_recognition.training.checkpoint import (
    CheckpointManager,
    differences,
    epoch_name,
    read_checkpoint,
    restore_rng,
    rng_state,
)

CPU = torch.device("cpu")


def content(value: float = 0.0, size: int = 1) -> dict[str, Any]:
    return {"format": 1, "state_dict": {"weight": torch.full((size,), value)}}


def value_in(path: Path) -> float:
    return float(read_checkpoint(path)["state_dict"]["weight"][0])


@pytest.mark.parametrize(
    ("epoch", "name"),
    [(0, "model_epoch_000.pth"), (9, "model_epoch_009.pth"), (1000, "model_epoch_1000.pth")],
)
def test_epoch_name_has_three_digits_or_more(epoch: int, name: str) -> None:
    assert epoch_name(epoch) == name


# --- saving ---


def test_save_under_several_names_makes_hard_links_and_never_a_symlink(tmp_path: Path) -> None:
    names = ["model_epoch_000.pth", "ar_model_best.pth", "ar_model_latest.pth"]
    assert CheckpointManager(tmp_path).save(content(), names) == tmp_path / names[0]
    paths = [tmp_path / name for name in names]
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    assert not any(path.is_symlink() for path in paths)
    assert len({path.stat().st_ino for path in paths}) == 1


def test_save_where_the_file_system_has_no_links_makes_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    CheckpointManager(tmp_path).save(content(3), ["model_epoch_000.pth", "ar_model_latest.pth"])
    first, latest = tmp_path / "model_epoch_000.pth", tmp_path / "ar_model_latest.pth"
    assert first.stat().st_ino != latest.stat().st_ino
    assert not latest.is_symlink()
    assert (value_in(first), value_in(latest)) == (3, 3)


def test_save_again_replaces_latest_and_leaves_the_epochs_own_file(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(content(1), ["model_epoch_000.pth", "ar_model_latest.pth"])
    manager.save(content(2), ["ar_model_latest.pth"])
    assert value_in(tmp_path / "model_epoch_000.pth") == 1
    assert value_in(tmp_path / "ar_model_latest.pth") == 2


# torch.save in the manager's module is replaced by these: what a full disk looks like from there
def write_fails(_: object, file: IO[bytes]) -> None:
    file.write(b"half a checkpoint")
    raise OSError(errno.ENOSPC, "No space left on device")


def zip_writer_fails(_: object, file: IO[bytes]) -> None:
    file.write(b"half a checkpoint")
    raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 704 vs 598\nmore")


def fails_without_a_word(_: object, file: IO[bytes]) -> None:
    raise RuntimeError


@pytest.mark.parametrize(
    ("save", "cause"),
    [
        (write_fails, "No space left on device"),
        (zip_writer_fails, r"\[enforce fail at inline_container\.cc:664\] \. unexpected pos 704 vs 598"),
        (fails_without_a_word, "RuntimeError"),
    ],
)
def test_save_on_a_full_disk_keeps_the_old_file_and_says_what_is_needed_and_free(
    save: Callable[..., None], cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save(content(1), ["ar_model_latest.pth"])
    monkeypatch.setattr(files.torch, "save", save)
    latest = tmp_path / "ar_model_latest.pth"
    big = {"format": 1, "state_dict": {"w": torch.zeros(2**18)}, "optimizer": [{"m": torch.zeros(2**18)}]}
    with pytest.raises(
        CheckpointError,
        match=rf"^{re.escape(str(latest))}: the checkpoint can't be written: {cause} \(needs 2 MiB, "
        r"[\d,]+ MiB are free\); earlier checkpoints are untouched$",
    ):
        manager.save(big, ["ar_model_latest.pth"])
    assert os.listdir(tmp_path) == ["ar_model_latest.pth"]
    assert value_in(latest) == 1


def test_save_cut_off_by_the_system_leaves_no_file_behind(tmp_path: Path) -> None:
    """A limit on the size of files is the one way to make a real write fail without a disk of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(
            CheckpointError, match=r"model_epoch_000\.pth: the checkpoint can't be written: .*needs 1 MiB"
        ):
            CheckpointManager(tmp_path).save(content(size=2**18), ["model_epoch_000.pth", "ar_model_latest.pth"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_save_to_a_folder_that_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No such file or directory.*the folder is gone"):
        CheckpointManager(tmp_path / "gone").save(content(), ["ar_model_latest.pth"])


# --- finding the newest ---


@pytest.mark.parametrize(
    ("names", "newest"),
    [
        ([], None),
        (["model_epoch_009.pth", "model_epoch_010.pth"], "model_epoch_010.pth"),
        (["model_epoch_999.pth", "model_epoch_1000.pth"], "model_epoch_1000.pth"),
        (["model_epoch_003.pth", "model_epoch_004_step_00120.pth"], "model_epoch_004_step_00120.pth"),
        (["model_epoch_004_step_00120.pth", "model_epoch_004_step_01000.pth"], "model_epoch_004_step_01000.pth"),
        (["model_epoch_009.pth", "ar_model_latest.pth"], "ar_model_latest.pth"),
        (["ar_model_best.pth", "model_epoch_1.pth.tmp", "notes.txt"], None),
    ],
)
def test_latest_is_the_highest_number_whatever_text_order_and_times_say(
    names: list[str], newest: str | None, tmp_path: Path
) -> None:
    for age, name in enumerate(names):  # the first file is the youngest
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (10**9 - age, 10**9 - age))
    assert CheckpointManager(tmp_path).latest() == (tmp_path / newest if newest else None)


def test_latest_in_a_folder_that_does_not_exist_is_none(tmp_path: Path) -> None:
    assert CheckpointManager(tmp_path / "none").latest() is None


# --- reading ---


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def test_read_of_a_damaged_latest_is_an_error_that_names_the_one_before_it(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for epoch in (8, 9):
        manager.save(content(epoch), [epoch_name(epoch)])
    manager.save(content(10), ["ar_model_latest.pth"])
    latest, older = tmp_path / "ar_model_latest.pth", tmp_path / "model_epoch_009.pth"
    cut_off(latest)
    with pytest.raises(
        CheckpointError,
        match=rf"^{re.escape(str(latest))}: cut off, damaged, or not saved by PyTorch .*\n"
        rf"to go on without it, use train\.resume_training_checkpoint_path={re.escape(str(older))}$",
    ):
        manager.read(latest)
    cut_off(older)
    with pytest.raises(CheckpointError, match=r"\nto go on without it, use .*=.*model_epoch_008\.pth$"):
        manager.read(older)


def test_read_of_a_damaged_file_that_is_the_only_one_names_another_way_out(tmp_path: Path) -> None:
    (tmp_path / "model_epoch_000.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"\nto go on without it, use another train\.results_dir$"):
        CheckpointManager(tmp_path).read(tmp_path / "model_epoch_000.pth")


def test_read_checkpoint_of_weights_alone_says_what_they_are_good_for(tmp_path: Path) -> None:
    torch.save({"state_dict": {"model.fc.weight": torch.zeros(1)}}, tmp_path / "tao.pth")
    with pytest.raises(CheckpointError, match=r"tao\.pth: has weights but no training state.*pretrained_model_path"):
        read_checkpoint(tmp_path / "tao.pth")


def test_read_checkpoint_that_asks_to_run_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    torch.save({**content(), "extra": RunsCode(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth: asks to run code while loading: refused"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


# --- random generators and specs ---


def draw() -> tuple[Any, ...]:
    return (random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(2).tolist())


def test_rng_state_saved_loaded_and_restored_draws_the_same_numbers(tmp_path: Path) -> None:
    random.gauss(0, 1)  # these keep a second number back
    np.random.randn()
    torch.save({**content(), "rng": rng_state(CPU)}, tmp_path / "state.pth")
    expected = [draw() for _ in range(3)]
    draw()
    restore_rng(read_checkpoint(tmp_path / "state.pth")["rng"], CPU)
    assert [draw() for _ in range(3)] == expected


def test_differences_of_nested_specs_are_dotted_keys_with_both_values_but_for_keys_that_came_later() -> None:
    old = {"lr": 0.1, "optim": {"steps": [1, 2], "decay": 0.1}, "gone": 1, "map": {"a": 0}}
    new = {"lr": 0.1, "optim": {"steps": [1, 3], "decay": 0.1}, "added": 2, "map": None}
    assert differences(old, new) == {
        "optim.steps": ([1, 2], [1, 3]),
        "gone": (1, None),
        "map": ({"a": 0}, None),
    }
