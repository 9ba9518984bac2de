"""From YAML text and `a.b=value` overrides to the values of a tree of dataclasses, with every problem at once.

A value is read as the type its key declares, never as YAML 1.1 would guess: `lr: 1e-4` is a number, a class called
`on` is text, `true` is no integer. Which keys there are, what old names mean and which keys contradict each other is
config.py's; nothing here knows about action recognition.
"""

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml

from action_recognition.errors import SpecError

MAX_BYTES = 1 << 18  # PyYAML reads some 200 kB a second; a label map of 700 classes is 20 kB
MAX_NODES = 10_000
MAX_DEPTH = 32
MAX_INT = 2**31 - 1
MISSING_MARK = "???"  # omegaconf's "must be given"

KIND_NAMES = {str: "text", int: "an integer", float: "a finite number", bool: "true or false"}
KIND_PLURALS = {str: "texts", int: "integers", float: "finite numbers", bool: "true or false"}
INT_FORM = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")  # no 010: octal in YAML 1.1, ten in YAML 1.2
FLOAT_FORM = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
SYNONYMS = {"learning_rate": "lr"}  # too far apart for difflib
NULLS = {"", "~", "null", "Null", "NULL"}


# --- keys: what a dataclass field says about itself ---


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
    refused: str = "",
) -> Any:
    """A dataclass field that is a key of the spec.

    `tidy` brings a value to the one form the program knows, before the check. `refused` says why no value is accepted;
    such a key's value is a secret and is shown nowhere.
    """
    metadata = {"meaning": meaning, "check": check, "tidy": tidy, "refused": refused}
    return field(default=default, repr=not refused, metadata=metadata)


@dataclass(frozen=True)
class Key:
    """A field made by `key`, as the reader sees it."""

    kind: Any  # str, int, float, bool, tuple[...] or Mapping[str, int], without "| None"
    optional: bool
    default: Any
    meaning: str
    check: Check | None
    tidy: Callable[[Any], Any] | None
    refused: str


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
    """All problems of a spec; the text lists `problems` in their order."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=Problem.position))
        count = len(self.problems)
        if count == 1 and not self.problems[0].key and not self.problems[0].origin:
            super().__init__(f"{source}: {self.problems[0].text}")
            return
        lines = [f"{source}: {count} problem{'s' if count > 1 else ''}", *(f"  {problem}" for problem in self.problems)]
        super().__init__("\n".join(lines))


def shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 20]}... ({len(text)} characters)"


def shorten_key(name: str) -> str:
    """A key as it may stand in a message: unprintable characters are escaped, a long one is cut."""
    return shorten(name if name.isprintable() else repr(name)[1:-1], 120)


def show(node: yaml.Node, depth: int = 3) -> str:
    """A value as the user wrote it, text in quotes, cut where it is long or deep (aliases may make it endless).

    A mapping shows its keys only: one with a wrong indent may hold the encryption key.
    """
    if isinstance(node, yaml.ScalarNode):
        plain_word = node.style is None and node.tag.rpartition(":")[2] in ("int", "float", "bool", "null")
        return shorten((node.value or "null") if plain_word else repr(node.value))
    if depth == 0:
        return "..."
    if isinstance(node, yaml.MappingNode):
        opening, closing = "{}"
        parts = [f"{show(name, depth - 1)}: ..." for name, _ in node.value[:6]]
    else:
        opening, closing = "[]"
        parts = [show(item, depth - 1) for item in node.value[:6]]
    return shorten(opening + ", ".join(parts + ["..."] * (len(node.value) > 6)) + closing)


# --- YAML text -> nodes ---


class _StrictLoader(yaml.SafeLoader):
    """Composes nodes only, and refuses tags and documents that are too deep or too large."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        self.depth += 1
        self.num_nodes += 1
        if self.depth > MAX_DEPTH or self.num_nodes > MAX_NODES:
            limit = f"deeper than {MAX_DEPTH} levels" if self.depth > MAX_DEPTH else f"more than {MAX_NODES} values"
            raise yaml.MarkedYAMLError(problem=f"{limit}: no spec needs that", problem_mark=event.start_mark)
        if getattr(event, "tag", None) is not None:
            problem = "tags (words that begin with !) are not accepted: remove the tag"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class UnreadableText(ValueError):
    """A text or file that is no spec; `line` is where, if that is known."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.line = line


def compose(text: str) -> yaml.Node | None:
    """The node of a YAML text, None if it has none. UnreadableText if it isn't YAML we accept."""
    try:
        loader = _StrictLoader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UnreadableText(f"not valid YAML: {error.reason} (character {error.character!r})", line) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # An alias, anchor or tag may be a misread secret: its name stays out of the message.
        what = re.sub(r"'[\w!.-]{2,}'", "'...'", error.problem or error.context or "cannot be read")
        raise UnreadableText(f"not valid YAML: {what}", mark.line + 1 if mark else None) from None
    except (ValueError, OverflowError):  # PyYAML lets these of chr() and int() through, for a bad "\U" escape or %YAML
        raise UnreadableText("not valid YAML: a character escape or number is out of range") from None


def read_document(path: str | Path) -> yaml.MappingNode:
    """The root mapping of a spec file. SpecProblems if there is no such thing."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        return _root_mapping(data)
    except UnreadableText as error:
        problem = Problem("", str(error), origin=Origin(error.line) if error.line else None)
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#04x} at {error.start}"
        problem = Problem("", f"not UTF-8 text ({byte}); give the path of a spec (YAML)")
    except FileNotFoundError:
        problem = Problem("", "no such file; give the path of a spec (YAML)")
    except OSError as error:
        problem = Problem("", f"cannot be read: {error.strerror}; give the path of a spec (YAML)")
    except ValueError as error:  # open() of a path with a NUL or a lone surrogate
        problem = Problem("", f"not a path: {error}")
    raise SpecProblems(shorten_key(str(path)), [problem])


def _root_mapping(data: bytes) -> yaml.MappingNode:
    if len(data) > MAX_BYTES:
        raise UnreadableText(f"larger than {MAX_BYTES} bytes; give the path of a spec (YAML)")
    root = compose(data.decode("utf-8-sig"))
    if root is None or is_null(root):
        raise UnreadableText("the spec is empty: it needs at least a section such as model or dataset")
    if not isinstance(root, yaml.MappingNode):
        got = "a list" if isinstance(root, yaml.SequenceNode) else "plain text"
        raise UnreadableText(f"a spec is a mapping of sections (model: ...), got {got}")
    return root


# --- nodes -> values, as the key's type says ---


class UnreadableValue(ValueError):
    """A node that isn't what its key's type wants."""


def is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value in NULLS


def is_missing_mark(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == MISSING_MARK


def is_unset(node: yaml.Node) -> bool:
    """Null, an empty text, or ???: what an optional key may be left at."""
    return is_null(node) or is_missing_mark(node) or (isinstance(node, yaml.ScalarNode) and not node.value)


def read_value(node: yaml.Node, wanted: Key) -> Any:
    """The node's value in the key's type, tidied and checked. UnreadableValue says what is wrong."""
    if wanted.optional and is_unset(node):
        return None
    if wanted.refused:
        raise UnreadableValue(wanted.refused)
    if is_null(node) or is_missing_mark(node):
        raise UnreadableValue(
            f"no value ({show(node)}): give one, or leave the key out for {show_plain(wanted.default)}"
        )
    return _tidied(_read(node, wanted.kind), wanted)


def _read(node: yaml.Node, kind: Any) -> Any:
    if kind in KIND_NAMES:
        return _read_scalar(node, kind)
    return _read_list(node, kind) if get_origin(kind) is tuple else _read_mapping(node)


def _read_scalar(node: yaml.Node, kind: type) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise UnreadableValue(f"must be {KIND_NAMES[kind]}, got {show(node)}")
    if kind is str:
        return _text(node.value)
    value = _number_or_bool(node.value, kind)
    if value is None or node.style is not None:
        hint = "" if value is None else " (without quotes)"
        raise UnreadableValue(f"must be {KIND_NAMES[kind]}{hint}, got {show(node)}")
    return value


def _text(value: str) -> str:
    if not value:
        raise UnreadableValue("must not be empty")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise UnreadableValue(f"has a character no file name or log can hold: {shorten(repr(value))}")
    if "${" in value:
        raise UnreadableValue(f"{shorten(repr(value))}: ${{...}} is not filled in here; write the value out")
    return value


def _number_or_bool(text: str, kind: type) -> int | float | bool | None:
    """The value of a plain word, None if it isn't of that kind."""
    if kind is bool:
        return BOOLS.get(text.lower())
    if kind is int:
        if not INT_FORM.fullmatch(text):
            return None
        if len(text) > 20 or abs(int(text)) > MAX_INT:
            raise UnreadableValue(f"must be between {-MAX_INT} and {MAX_INT}, got {shorten(text)}")
        return int(text)
    if not FLOAT_FORM.fullmatch(text):
        return None
    value = float(text.replace("_", ""))
    return value if math.isfinite(value) else None


def _read_list(node: yaml.Node, kind: Any) -> tuple[Any, ...]:
    item_kind, *rest = get_args(kind)
    length = None if rest == [Ellipsis] else len(rest) + 1
    what = f"a list of {length or ''} {KIND_PLURALS[item_kind]}".replace("  ", " ")
    if not isinstance(node, yaml.SequenceNode) or length not in (None, len(node.value)):
        raise UnreadableValue(f"must be {what}{' such as [1]' if length is None else ''}, got {show(node)}")
    try:
        return tuple(_read(item, item_kind) for item in node.value)
    except UnreadableValue as error:
        raise UnreadableValue(f"must be {what}; an element {error}") from None


def _read_mapping(node: yaml.Node) -> dict[str, int]:
    """Name -> integer; names are text whatever YAML takes them for (`on`, `no`, `1`)."""
    if not isinstance(node, yaml.MappingNode):
        raise UnreadableValue(f"must be a mapping of names to integers, got {show(node)}")
    found: dict[str, int] = {}
    for name_node, value_node in node.value:
        if not isinstance(name_node, yaml.ScalarNode):
            raise UnreadableValue(f"a name must be text, got {show(name_node)}")
        name = _text(name_node.value)
        if name in found:
            raise UnreadableValue(f"{shorten(repr(name))} is given twice (line {name_node.start_mark.line + 1})")
        try:
            found[name] = _read_scalar(value_node, int)
        except UnreadableValue as error:
            raise UnreadableValue(f"{shorten(repr(name))} {error}") from None
    return found


def read_plain(value: Any, wanted: Key) -> Any:
    """A value that is no YAML node, e.g. of a checkpoint, read as strictly. UnreadableValue says what is wrong."""
    if value is None and wanted.optional:
        return None
    if type(value) is int and abs(value) > MAX_INT:
        raise UnreadableValue(f"must be between {-MAX_INT} and {MAX_INT}")
    if type(value) is int and wanted.kind is float:
        value = float(value)
    if type(value) is not wanted.kind or (wanted.kind is float and not math.isfinite(value)):
        got = repr(value) if isinstance(value, (str, bool, int, float)) else f"a {type(value).__name__}"
        raise UnreadableValue(f"must be {KIND_NAMES[wanted.kind]}, got {shorten(got)}")
    return _tidied(_text(value) if wanted.kind is str else value, wanted)


def _tidied(value: Any, wanted: Key) -> Any:
    value = wanted.tidy(value) if wanted.tidy else value
    if wanted.check and (fault := wanted.check.fault(value)):
        raise UnreadableValue(fault)
    return value


def show_plain(value: Any) -> str:
    """A default as YAML would write it."""
    if isinstance(value, tuple):
        return f"[{', '.join(show_plain(item) for item in value)}]"
    for word, meant in (("null", None), ("true", True), ("false", False)):
        if value is meant:
            return word
    return str(value)


# --- placing: which key a name in the spec stands for ---


@dataclass(frozen=True)
class Given:
    """A value the user wrote, under the name they wrote."""

    node: yaml.Node
    origin: Origin
    spelled: str


class Placer:
    """Collects what the user gave, under today's names: first the spec's pairs, then one override after the other.

    `translate(spelled, node)` returns the key's name today and its node; `ignored` are the names (and all below them)
    to accept without a meaning.
    """

    def __init__(
        self,
        keys: Mapping[str, Key],
        ignored: Iterable[str] = (),
        translate: Callable[[str, yaml.Node], tuple[str, yaml.Node]] = lambda spelled, node: (spelled, node),
    ) -> None:
        self.keys = keys
        self.sections = {name.rsplit(".", depth)[0] for name in keys for depth in range(1, name.count(".") + 1)}
        self.ignored_names = tuple(ignored)
        self.translate = translate
        self.given: dict[str, Given] = {}
        self.doubles: dict[str, list[Given]] = {}  # further spellings of the same key in the spec
        self.renamed: dict[str, str] = {}
        self.ignored: list[str] = []
        self.problems: list[Problem] = []

    def place_document(self, root: yaml.MappingNode) -> None:
        self._place_pairs("", root, from_spec=True)

    def place_override(self, text: str) -> None:
        """`a.b=value`; a mapping or list replaces what stood there."""
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not re.fullmatch(r"[\w.+~-]+", name):
            # Only its first word is repeated: the rest may be the value of a mistyped encryption_key.
            word = "encryption_key" if name.startswith("encryption_key") else re.split(r"[^\w./+~-]", name)[0]
            self._report(word, "an override is section.key=value", Origin())
            return
        try:
            node = compose(value) or yaml.ScalarNode("tag:yaml.org,2002:null", "")
        except UnreadableText as error:
            self._report(name, f"{error} (put text in quotes)", Origin())
            return
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            node.value = value.strip()  # the value to its end: what YAML takes for a comment is part of a path here
        self._place(name, node, Origin())

    def _report(self, name: str, text: str, origin: Origin) -> None:
        self.problems.append(Problem(name, text, origin=origin))

    def _place_pairs(self, section: str, node: yaml.MappingNode, *, from_spec: bool) -> None:
        lines: dict[str, int] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            origin = Origin(line) if from_spec else Origin()
            if not isinstance(name_node, yaml.ScalarNode):
                self._report(section, f"a key must be a word, got {show(name_node)}", origin)
                continue
            name = f"{section}.{name_node.value}" if section else name_node.value
            if name in lines:
                self._report(name, f"given twice (first on line {lines[name]}): keep one", origin)
                continue
            lines[name] = line
            self._place(name, value_node, origin)

    def _place(self, spelled: str, node: yaml.Node, origin: Origin) -> None:
        name, node = self.translate(spelled, node)
        if any(name == ignored or name.startswith(f"{ignored}.") for ignored in self.ignored_names):
            self.ignored.append(spelled)
        elif name in self.sections:
            self._note_rename(spelled, name)
            self._place_section(spelled, name, node, origin)
        elif name in self.keys:
            self._note_rename(spelled, name)
            self._put(name, Given(node, origin, spelled))
        else:
            self._report(spelled, unknown_key(name, [*self.keys, *sorted(self.sections)]), origin)

    def _note_rename(self, spelled: str, name: str) -> None:
        """Remembers a mapped name, but not those that only follow from their section's."""
        section = spelled
        while section and section not in self.renamed:
            section = section.rpartition(".")[0]
        if spelled != name and self.renamed.get(section, section) + spelled[len(section) :] != name:
            self.renamed[spelled] = name

    def _place_section(self, spelled: str, name: str, node: yaml.Node, origin: Origin) -> None:
        if not isinstance(node, yaml.MappingNode) and not is_unset(node):
            self._report(spelled, f"must be a section of keys, got {show(node)}", origin)
            return
        if origin.line is None:
            for key_name in [key_name for key_name in self.given if key_name.startswith(f"{name}.")]:
                del self.given[key_name]
                self.doubles.pop(key_name, None)
        if isinstance(node, yaml.MappingNode):
            self._place_pairs(spelled, node, from_spec=origin.line is not None)

    def _put(self, name: str, given: Given) -> None:
        if given.origin.line is None:
            self.given[name] = given
            self.doubles.pop(name, None)
        elif name in self.given:
            self.doubles.setdefault(name, []).append(given)
        else:
            self.given[name] = given

    def read_values(self) -> dict[str, Any]:
        """Dotted name -> value for every key that was given and can be read; the others become problems."""
        values: dict[str, Any] = {}
        for name, given in self.given.items():
            try:
                values[name] = read_value(given.node, self.keys[name])
                for other in self.doubles.get(name, ()):
                    if read_value(other.node, self.keys[name]) != values[name]:
                        raise UnreadableValue(
                            f"{given.spelled} and {other.spelled} are the same key and differ: keep one"
                        )
            except UnreadableValue as error:
                values.pop(name, None)
                self._report(name, str(error), given.origin)
        return values


def unknown_key(name: str, valid: Iterable[str]) -> str:
    """What to say about a key nobody knows: its right place, or the nearest name."""
    section, _, last = name.rpartition(".")
    if last == "<<":
        return "YAML merge keys are not accepted: write the keys out"
    last = SYNONYMS.get(last, last)
    valid = list(valid)
    same_name = [key_name for key_name in valid if key_name.rpartition(".")[2] == last]
    if same_name:
        place = "did you mean " if len(same_name) > 1 or same_name[0].rpartition(".")[0] == section else "its place is "
        return f"unknown key ({place}{' or '.join(same_name)}{'?' if place.startswith('did') else ''})"
    siblings = {key_name.rpartition(".")[2]: key_name for key_name in valid if key_name.rpartition(".")[0] == section}
    anywhere = {key_name.rpartition(".")[2]: key_name for key_name in valid}
    for candidates, cutoff in ((siblings, 0.6), (anywhere, 0.75)):
        if near := difflib.get_close_matches(last[:64], candidates, 1, cutoff):
            return f"unknown key (did you mean {candidates[near[0]]}?)"
    return "unknown key; see -h for the keys"
