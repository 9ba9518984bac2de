"""Files that appear whole or not at all, and their second names."""

import os
import stat
from pathlib import Path
from typing import IO

import pytest

from action_recognition.errors import DataError, OutputError
from action_recognition.files import link_or_copy, new_folder, writable_parent, write_text, write_whole


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_whole_leaves_the_new_content_and_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.pth", lambda file: file.write(b"new"))
    assert (tmp_path / "a.pth").read_bytes() == b"new"
    assert names_in(tmp_path) == ["a.pth"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("torch")])
def test_write_whole_interrupted_midway_leaves_the_old_file_and_no_other(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"old")

    def half(file: IO[bytes]) -> None:
        file.write(b"half of the n")
        raise error

    with pytest.raises(type(error), match=r"No space left|torch|^$"):
        write_whole(path, half)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a.pth"]


def test_write_whole_shows_the_old_file_until_the_new_one_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, events, replace, fsync = tmp_path / "a", [], os.replace, os.fsync
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lambda fd: events.append(("fsync", path.read_bytes())) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: events.append(("replace", path.read_bytes())) or replace(a, b))
    write_whole(path, lambda file: file.write(b"new"))
    assert events == [("fsync", b"old"), ("replace", b"old"), ("fsync", b"new")]  # the last one is the folder's


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_write_whole_gives_the_mode_that_the_umask_asks_for(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a", "ä")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert (tmp_path / "a").read_bytes() == "ä".encode()


def test_write_whole_into_a_missing_folder_is_the_system_s_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file"):
        write_whole(tmp_path / "absent" / "a", lambda file: file.write(b"x"))


def test_write_text_that_fails_names_the_file_the_cause_and_the_free_space(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"/folder: can't be written: Is a directory \([\d,]+ MiB are free\)$"):
        write_text(tmp_path / "folder", "x")
    with pytest.raises(OutputError, match=r"/absent/a: can't be written: No such file .* \(the folder is gone\)$"):
        write_text(tmp_path / "absent" / "a", "x")


def no_links(*_: object) -> None:
    raise OSError(1, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_link_or_copy_gives_a_second_name_and_never_a_symlink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    source, target = tmp_path / "epoch.pth", tmp_path / "latest.pth"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    link_or_copy(source, target)
    assert target.read_bytes() == b"new"
    assert not target.is_symlink()
    assert target.samefile(source) is links
    assert names_in(tmp_path) == ["epoch.pth", "latest.pth"]


def test_link_or_copy_once_more_leaves_no_temporary_name(tmp_path: Path) -> None:
    source, target = tmp_path / "epoch.pth", tmp_path / "latest.pth"
    source.write_bytes(b"x")
    link_or_copy(source, target)
    link_or_copy(source, target)
    assert names_in(tmp_path) == ["epoch.pth", "latest.pth"]


def test_link_or_copy_replaces_a_symlink_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "latest").symlink_to("other")
    (tmp_path / "epoch").write_bytes(b"new")
    link_or_copy(tmp_path / "epoch", tmp_path / "latest")
    assert (tmp_path / "other").read_bytes() == b"other"
    assert not (tmp_path / "latest").is_symlink()


@pytest.mark.parametrize("links", [True, False])
def test_link_or_copy_that_fails_leaves_the_old_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    source, target = tmp_path / "epoch.pth", tmp_path / "latest.pth"
    source.write_bytes(b"new")
    target.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        link_or_copy(source, target)
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == ["epoch.pth", "latest.pth"]


@pytest.mark.parametrize(
    ("path", "writable"), [("", True), ("new", True), ("new/deep", True), ("file", False), ("file/x", False)]
)
def test_writable_parent_looks_at_the_nearest_folder_that_is_there(tmp_path: Path, path: str, writable: bool) -> None:
    (tmp_path / "file").touch()
    assert writable_parent(tmp_path / path) is writable
    assert names_in(tmp_path) == ["file"]


def test_writable_parent_asks_the_system_for_the_right_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((Path(path), mode)))
    assert not writable_parent(tmp_path / "new")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_new_folder_appears_with_all_its_files_when_the_block_ends(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "made") as folder:
        (folder / "a").write_text("content")
        assert not (tmp_path / "deep" / "made").exists()
    assert names_in(tmp_path / "deep") == ["made"]
    assert (tmp_path / "deep" / "made" / "a").read_text() == "content"


def test_new_folder_is_gone_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "made") as folder:  # noqa: PT012
        (folder / "a").touch()
        raise KeyboardInterrupt
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_new_folder_over_something_that_stands_there_is_refused(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "made"
    {"folder": target.mkdir, "file": target.touch, "dangling link": lambda: target.symlink_to("nowhere")}[kind]()
    with pytest.raises(DataError, match=r"made: exists already; choose another folder"), new_folder(target):
        pytest.fail("the block must not run")
    assert names_in(tmp_path) == ["made"]
