"""What damage to inputs has in common: seeded mutations of bytes and texts; limits on time and memory."""

import multiprocessing
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[2]
_Change = Callable[[bytearray, random.Random], None]


class Hung(BaseException):
    """Nothing in the program may catch it."""


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """Hung where the block takes longer."""

    def stop(*_: object) -> None:
        raise Hung(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with one to four changes: bits, bytes and numbers changed, parts lost, doubled, zeroed, cut off."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        rng.choice(_CHANGES)(changed, rng)
    return bytes(changed)


def _flip_bit(content: bytearray, rng: random.Random) -> None:
    if content:
        content[_place(content, rng)] ^= 1 << rng.randrange(8)


def _set_byte(content: bytearray, rng: random.Random) -> None:
    if content:
        content[_place(content, rng)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])


def _huge_number(content: bytearray, rng: random.Random) -> None:
    start = _place(content, rng)
    content[start : start + 4] = rng.choice(
        [b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\x50\xc3\0\0", b"\0\0\xc3\x50"]
    )


def _lose(content: bytearray, rng: random.Random) -> None:
    start = _place(content, rng)
    del content[start : start + rng.randint(1, 40)]


def _double(content: bytearray, rng: random.Random) -> None:
    start = _place(content, rng)
    content[start:start] = content[start : start + rng.randint(1, 40)]


def _zero(content: bytearray, rng: random.Random) -> None:
    start = _place(content, rng)
    end = min(len(content), start + rng.randint(1, 200))
    content[start:end] = bytes(end - start)


def _cut_off(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content) + 1) :]


def _place(content: bytearray, rng: random.Random) -> int:
    """Anywhere, half of the time among the first bytes, which say what the others mean."""
    return rng.randrange(max(1, rng.choice([len(content), min(len(content), 200)])))


_CHANGES: list[_Change] = [_flip_bit, _flip_bit, _set_byte, _set_byte, _huge_number, _lose, _double, _zero, _cut_off]


def damaged_lines(text: str, rng: random.Random, odd_words: list[str]) -> str:
    """The text with one to three changes: lines lost, doubled, swapped, indented; words put in or exchanged."""
    lines = text.splitlines(keepends=True)
    for _ in range(rng.choice([1, 1, 2, 3])):
        i = rng.randrange(len(lines)) if lines else 0
        line = lines[i] if lines else ""
        key, colon, _ = line.partition(":")
        column = rng.randrange(len(line) + 1)
        lines[i : i + 1] = rng.choice([
            [],
            [line, line],
            [lines[rng.randrange(len(lines))], line] if lines else [],
            [" " * rng.randint(1, 4) + line],
            [line.lstrip()],
            [f"{key}{colon} {rng.choice(odd_words)}\n"],
            [f"{key}{colon} {rng.choice(odd_words)}\n"],
            [line[:column] + rng.choice(odd_words) + line[column:]],
            [line[:column]],
        ])  # fmt: skip
    return "".join(lines)


def forked(work: Callable[[], Iterator[Any]], more_bytes: int, seconds: float) -> tuple[list[Any], str]:
    """What `work` yields in a forked process that may take so much more memory, and how that ended ("" if well).

    A thing that takes longer than `seconds` ends it.
    """
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(work, writer, more_bytes))
    process.start()
    writer.close()
    told: list[Any] = []
    end = f"took more than {seconds} s"
    try:
        while reader.poll(seconds):
            told.append(reader.recv())
    except EOFError:
        end = ""
    if end:
        process.kill()
    process.join()
    return told, end or ("" if process.exitcode == 0 else f"ended with {process.exitcode}")


def _tell(work: Callable[[], Iterator[Any]], writer: Any, more_bytes: int) -> None:
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more_bytes, now + more_bytes))
    for item in work():
        writer.send(item)


def peak_bytes() -> int:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
