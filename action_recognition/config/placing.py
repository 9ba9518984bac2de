"""Which key a name in the spec, or an `a.b=value` on the command line, stands for; every problem at once.

Which keys there are and what old names mean is told by the caller.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from action_recognition.config.declare import Key, Origin, Problem
from action_recognition.config.yaml_values import UnreadableText, UnreadableValue, compose, is_unset, read_value, show

MAX_HINTS = 100  # each takes a millisecond; a spec with more unknown keys is none of ours
SYNONYMS = {"learning_rate": "lr"}  # too far apart for difflib


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
            is_hinted = len(self.problems) < MAX_HINTS
            hint = unknown_key(name, [*self.keys, *sorted(self.sections)]) if is_hinted else "unknown key"
            self._report(spelled, hint, origin)

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
