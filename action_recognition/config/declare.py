"""How a key of the spec is declared: its type, default, meaning and check, in a field of a dataclass.

Also what a Problem is, and how values are shown in one. Nothing here knows about YAML or about action recognition.
"""

import dataclasses
import difflib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Union, get_args, get_origin

from action_recognition.errors import SpecError

MAX_LISTED = 100


@dataclass(frozen=True)
class Check:
    """What a value of the right type must fulfil: `fault` returns what is wrong with it, or None."""

    accepted: str
    fault: Callable[[Any], str | None]


def one_of(*choices: str) -> Check:
    def fault(value: str) -> str | None:
        if value in choices:
            return None
        near = difflib.get_close_matches(value[:64].lower(), choices, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{shorten(repr(value))} is not one of {', '.join(choices)}{hint}"

    return Check(", ".join(choices), fault)


def in_range(low: int, high: int) -> Check:
    return Check(f"{low}..{high}", lambda v: None if low <= v <= high else f"must be between {low} and {high}, got {v}")


def at_least(low: int) -> Check:
    return Check(f">= {low}", lambda v: None if v >= low else f"must be >= {low}, got {v}")


def positive(cap: int | None = None) -> Check:
    """`cap` keeps absurd values from filling the memory; the help doesn't name it."""

    def fault(value: float) -> str | None:
        if value <= 0:
            return f"must be > 0, got {value}"
        return f"must be <= {cap}, got {value}" if cap is not None and value > cap else None

    return Check("> 0", fault)


def each(check: Check) -> Check:
    """Applies `check` to every element of a list."""

    def fault(values: Iterable[Any]) -> str | None:
        return next((f"element {i + 1} {text}" for i, v in enumerate(values) if (text := check.fault(v))), None)

    return Check(f"each {check.accepted}", fault)


def both(first: Check, second: Check) -> Check:
    return Check(f"{first.accepted}, {second.accepted}", lambda value: first.fault(value) or second.fault(value))


def key(
    default: Any,
    meaning: str,
    check: Check | None = None,
    *,
    tidy: Callable[[Any], Any] | None = None,
    auto: Any = None,
    secret: bool = False,
) -> Any:
    """A dataclass field that is a key of the spec.

    `tidy` brings a value to the one form the program knows, before the check. Where `auto` is given, the word auto
    stands for that value. The value of a `secret` is shown and
    written nowhere.
    """
    metadata = {"meaning": meaning, "check": check, "tidy": tidy, "auto": auto, "secret": secret}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True)
class Key:
    """A field made by `key`, as the reader sees it."""

    kind: Any  # str, int, float, bool, tuple[...] or Mapping[str, int], without "| None"
    optional: bool
    default: Any
    meaning: str
    check: Check | None
    tidy: Callable[[Any], Any] | None
    auto: Any
    secret: bool


def keys_of(cls: Any, prefix: str = "") -> dict[str, Key]:
    """Dotted name -> Key for every key of a dataclass and of the dataclasses inside it, in their order."""
    found: dict[str, Key] = {}
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(f.type):
            found.update(keys_of(f.type, f"{prefix}{f.name}."))
        elif "meaning" in f.metadata:
            kind, optional = _without_none(f.type)
            assert f.default is not MISSING, f"{prefix}{f.name} has no default"
            found[prefix + f.name] = Key(kind, optional, f.default, **f.metadata)
    return found


def _without_none(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) not in (Union, types.UnionType):
        return kind, False
    (inner,) = (arg for arg in get_args(kind) if arg is not type(None))
    return inner, True


def build(cls: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """The dataclass with `values` (dotted name -> value) in place; its defaults elsewhere."""
    arguments = {}
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(f.type):
            arguments[f.name] = build(f.type, values, f"{prefix}{f.name}.")
        elif prefix + f.name in values:
            arguments[f.name] = values[prefix + f.name]
    return cls(**arguments)


# --- problems ---


@dataclass(frozen=True)
class Origin:
    """Where a value stands: a line of the spec, or the command line (line None)."""

    line: int | None = None

    def __str__(self) -> str:
        return "command line" if self.line is None else f"line {self.line}"


@dataclass(frozen=True)
class Problem:
    """What is wrong with a key; dropped where the key, or one of those it `involves`, has another problem already."""

    key: str
    text: str
    involves: tuple[str, ...] = ()
    origin: Origin | None = None

    def __str__(self) -> str:
        parts = (str(self.origin) if self.origin else "", shorten_key(self.key), self.text)
        return ": ".join(part for part in parts if part)

    def position(self) -> tuple[int, int]:
        """Sorts the spec's lines first, then the command line, then what stands nowhere."""
        if self.origin is None:
            return (2, 0)
        return (1, 0) if self.origin.line is None else (0, self.origin.line)


class SpecProblems(SpecError):
    """All problems of a spec; the text lists `problems` in their order, the first MAX_LISTED of them."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=Problem.position))
        count = len(self.problems)
        if count == 1 and not self.problems[0].key and not self.problems[0].origin:
            super().__init__(f"{source}: {self.problems[0].text}")
            return
        lines = [f"{source}: {count} problem{'s' if count > 1 else ''}"]
        lines += [f"  {problem}" for problem in self.problems[:MAX_LISTED]]
        lines += [f"  ... and {count - MAX_LISTED} more"] * (count > MAX_LISTED)
        super().__init__("\n".join(lines))


def shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 20]}... ({len(text)} characters)"


def shorten_key(name: str) -> str:
    """A key as it may stand in a message: unprintable characters are escaped, a long one is cut."""
    return shorten(name if name.isprintable() else repr(name)[1:-1], 120)


def show_plain(value: Any) -> str:
    """A default as YAML would write it."""
    if isinstance(value, tuple):
        return f"[{', '.join(show_plain(item) for item in value)}]"
    for word, meant in (("null", None), ("true", True), ("false", False)):
        if value is meant:
            return word
    return str(value)
