"""Files that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from action_recognition.errors import DataError, OutputError


def write_whole(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, force it to disk, then rename it to `path`.

    Whatever fails, the file that stood at `path` is still there and the temporary one is gone.
    """
    with whole_file(path) as file:
        write(file)


@contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A file that takes the name `path` when the block ends well, as in write_whole."""
    folder = Path(path).parent
    descriptor, temporary = tempfile.mkstemp(prefix=f".{Path(path).name}.", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner may read
        os.replace(temporary, path)
        _sync_folder(folder)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """`text` as UTF-8, whole or not at all; OutputError says why not."""
    with write_errors_told(path):
        write_whole(path, lambda file: file.write(text.encode()))


@contextmanager
def write_errors_told(path: str | Path) -> Iterator[None]:
    """Whatever keeps `path` from being written becomes an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {why_unwritable(path, error)}") from error


def why_unwritable(path: str | Path, error: BaseException, num_bytes: int | None = None) -> str:
    """What keeps `path` from being written, and the space there is, in one line: "No space left on device (needs ...".

    `num_bytes` is the space it needs, where that is known.
    """
    # A library that writes through a file of ours tells of its own trouble, and has the system's error as its reason.
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    reasons = [e.strerror for e in reversed(chain) if isinstance(e, OSError) and e.strerror]
    reason = reasons[0] if reasons else next(iter(str(error).splitlines()), type(error).__name__)
    need = "" if num_bytes is None else f"needs {_mib(num_bytes)}, "
    try:
        return f"{reason} ({need}{_mib(shutil.disk_usage(Path(path).parent).free)} are free)"
    except OSError:
        return f"{reason} ({need}the folder is gone)"


def _mib(num_bytes: int) -> str:
    mib = num_bytes / 2**20
    return f"{mib:,.0f} MiB" if mib >= 10 else f"{mib:.2g} MiB"


def link_or_copy(source: Path, target: Path) -> None:
    """Give `source` a second name: a hard link, or a copy where the file system has no links. Never a symlink."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        with source.open("rb") as content:
            write_whole(target, lambda file: shutil.copyfileobj(content, file))
        return
    try:
        os.replace(temporary, target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)  # still there where target was a link to source already: POSIX


@contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """A folder beside `target` that takes its name when the block ends well, and is gone when it does not.

    DataError where something stands at `target` already: nothing is ever overwritten.
    """
    target = Path(target)
    if os.path.lexists(target):
        raise DataError(f"{target}: exists already; choose another folder or remove it")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def writable_parent(folder: str | Path) -> bool:
    """True where `folder` can be written to or made."""
    existing = Path(folder).absolute()
    while not os.path.exists(existing):  # Path.exists raises where a parent may not be searched
        existing = existing.parent
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows can't open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
