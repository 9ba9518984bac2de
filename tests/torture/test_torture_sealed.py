"""Sealed files of which anything was changed: never opened, and never a byte of them given out."""

import random
from collections.abc import Iterable, Iterator

import pytest
from mutate import forked, peak_bytes

from action_recognition import sealing
from action_recognition.errors import CheckpointError
from action_recognition.sealing import seal, unseal

pytest.importorskip("cryptography", reason="needs cryptography: pip install .[crypto]")
CONTENT, KEY = b"weights of three pieces, the last of them short", "a key"


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, and keys that take microseconds: what is tested does not depend on either."""
    monkeypatch.setattr(sealing, "PIECE", 20)
    monkeypatch.setattr(sealing, "LOG2_COST", 1)
    monkeypatch.setattr(sealing, "_MAX_LOG2_COST", 8)


def opened(changed: Iterable[tuple[str, bytes]]) -> tuple[int, int]:
    """How many files there were, and how many were opened or ended otherwise than in an error that names them."""
    made = lost = 0
    for what, content in changed:
        made += 1
        try:
            unseal(content, KEY, "file")
            fault = "was opened"
        except CheckpointError as error:
            fault = "" if str(error).startswith("file: ") else repr(error)
        except Exception as error:
            fault = repr(error)
        if fault:
            lost += 1
            print(f"{what}: {fault}: {content!r}")
    return made, lost


def test_sealed_file_with_any_byte_changed_is_not_opened(cheap: None, amount, ledger) -> None:
    sealed = seal(CONTENT, KEY)

    def changed() -> Iterator[tuple[str, bytes]]:
        for place in range(len(sealed)):
            others = [value for value in range(256) if value != sealed[place]]
            for value in random.Random(place).sample(others, amount(3, 255)):
                yield f"byte {place} is {value}", sealed[:place] + bytes([value]) + sealed[place + 1 :]

    assert unseal(sealed, KEY, "file") == CONTENT
    ledger.close("bytes of a sealed file changed", *opened(changed()), "a piece that fails its check is given out")


def test_sealed_file_cut_off_or_with_more_behind_it_is_not_opened(cheap: None, amount, ledger) -> None:
    sealed = seal(CONTENT, KEY)
    shorter = ((f"{n} bytes", sealed[:n]) for n in range(len(sealed)))
    longer = ((f"{n} bytes more", sealed + random.Random(n).randbytes(n)) for n in range(1, amount(50, 500)))
    body = range(sealing._HEADER.size, len(sealed))
    pieces = (
        (f"without {a}:{b}", sealed[:a] + sealed[b:]) for a in body for b in range(a + 1, len(sealed), amount(9, 1))
    )
    counts = [opened(files) for files in (shorter, longer, pieces)]
    ledger.close("sealed files with parts lost or added", *map(sum, zip(*counts, strict=True)),
                 "the last piece is not marked")  # fmt: skip


def test_sealed_file_with_parts_of_another_is_not_opened(cheap: None, amount, ledger) -> None:
    """The same key and the same content: what is swapped differs in salt, nonces or place only."""
    one, other = seal(CONTENT, KEY), seal(CONTENT, KEY)
    step, start = 20 + 16, sealing._HEADER.size

    def swapped() -> Iterator[tuple[str, bytes]]:
        yield "header of another", other[:start] + one[start:]
        for a in range(start, len(one), step):
            for b in range(a + step, len(one), step):
                first, second = one[a : a + step], one[b : b + step]
                yield f"pieces at {a} and {b} swapped", one[:a] + second + one[a + step : b] + first + one[b + step :]
            yield f"piece at {a} of another", one[:a] + other[a : a + step] + one[a + step :]
        for seed in range(amount(200, 5000)):
            a, b = sorted(random.Random(seed).sample(range(len(one) + 1), 2))
            spliced = one[:a] + other[a:b] + one[b:]
            if spliced not in (one, other):
                yield f"bytes {a}:{b} of another", spliced

    ledger.close("sealed files with parts of another", *opened(swapped()), "all pieces have one nonce")


def test_sealed_header_of_any_kind_takes_no_more_memory_and_time_than_an_own_one(amount, ledger) -> None:
    """A header decides how much scrypt takes: 1 KiB * 2**cost, and as much time."""
    sealed = seal(CONTENT, KEY)
    costs = [20, 18, 17, *random.Random(0).sample(range(21, 256), amount(4, 235))]

    def tried() -> Iterator[tuple[int, int]]:
        for cost in costs:
            before = peak_bytes()
            _, lost = opened([(f"cost {cost}", sealed[:9] + bytes([cost]) + sealed[10:])])
            yield lost, peak_bytes() - before

    told, end = forked(tried, 4 << 30, 10)
    print(end, told)
    lost = sum(bool(fault) or num_bytes > 200 << 20 for fault, num_bytes in told)
    ledger.close("headers that ask for memory", len(costs), len(costs) - len(told) + lost, "_MAX_LOG2_COST is 20")
