"""YAML text to nodes, and nodes to values of the type that a key declares, never as YAML 1.1 would guess.

`lr: 1e-4` is a number, a class called `on` is text, `true` is no integer. Tags, aliases that explode and duplicate keys
are refused.
"""

import math
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from action_recognition.config.declare import Key, Origin, Problem, SpecProblems, shorten, shorten_key, show_plain

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
NULLS = {"", "~", "null", "Null", "NULL"}


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
    if wanted.secret:
        return _read_secret(node)
    if is_null(node) or is_missing_mark(node):
        raise UnreadableValue(
            f"no value ({show(node)}): give one, or leave the key out for {show_plain(wanted.default)}"
        )
    if wanted.auto is not None and isinstance(node, yaml.ScalarNode) and node.value == "auto":
        return wanted.auto
    return _tidied(_read(node, wanted.kind), wanted)


def _read_secret(node: yaml.Node) -> str:
    """Text as it stands there, whatever is in it; it is never shown, so that an error can only say what is wanted."""
    if not isinstance(node, yaml.ScalarNode) or any("\ud800" <= char <= "\udfff" for char in node.value):
        raise UnreadableValue("must be text (what was given is not shown)")
    return node.value


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
