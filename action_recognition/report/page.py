"""A page from its parts: one HTML file that holds its style, its script and its pictures, and loads nothing.

In: sections of HTML and the data of the script. Out: the text of the file. `text` makes HTML of any string: names of
files and classes come from anywhere, and stay text. Its rules for itself (Content-Security-Policy) let the page's own
script run and nothing else, and no address be asked for.
"""

import base64
import hashlib
import html
import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from itertools import islice
from string import Template
from typing import Any

from action_recognition.data.survey import printable

_MAX_SETTINGS = 400
_MAX_VALUE = 200  # characters
_REPR = reprlib.Repr()
_REPR.maxlist = 40


@dataclass(frozen=True)
class Section:
    """A part of the page under its own title; `body` is HTML."""

    name: str
    title: str
    body: str


@dataclass(frozen=True)
class Column:
    """A column of a table that can be sorted by it: as text, or by the numbers of its cells."""

    title: str
    is_text: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell: its HTML, and the number that it is sorted by, nan for none."""

    body: str
    value: float | None = None


def page(title: str, subtitle: str, sections: Sequence[Section], data: Mapping[str, Any]) -> str:
    """The whole file. `title` is text, `subtitle` HTML; `data` is what the script reads, plain values."""
    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(_resource("page.html")).substitute(
        title=text(title),
        subtitle=subtitle,
        style=_resource("page.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        links="".join(f'<li><a href="#{part.name}">{text(part.title)}</a></li>' for part in sections),
        sections="\n".join(_section(part) for part in sections),
        data=script_data(data),
        footer=f"Written {datetime.now():%Y-%m-%d %H:%M}. This file holds all that it shows and loads nothing.",
    )


def text(value: object) -> str:
    """Any value as HTML that shows it, in a place of text or of an attribute."""
    return html.escape(printable(str(value)))


def script_data(data: Mapping[str, Any]) -> str:
    """JSON inside a script element: no string in it can end the element, or begin a comment in it."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def tiles(facts: Iterable[tuple[str, str, str]]) -> str:
    """The figures that come first: (name, figure, what to know of it), all text."""
    inner = (
        f"<div><dt>{text(name)}</dt><dd>{text(figure)}{f'<small>{text(note)}</small>' if note else ''}</dd></div>"
        for name, figure, note in facts
    )
    return f'<dl class="tiles">{"".join(inner)}</dl>'


def table(columns: Sequence[Column], rows: Iterable[tuple[str, Sequence[Cell]]]) -> str:
    """A table whose heads sort it. A row is its name, as text, and the cells of the columns behind the first."""
    heads = "".join(
        f'<th scope="col"{_kind(column)}><button type="button">{text(column.title)}</button></th>' for column in columns
    )
    body = "".join(
        f'<tr><th scope="row" title="{text(name)}">{text(name)}</th>{"".join(map(_cell, cells))}</tr>'
        for name, cells in rows
    )
    whole = f'<table class="rows"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="box" tabindex="0" role="region" aria-label="Table">{whole}</div>'


def settings(plain: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> str:
    """Nested settings, the first 400, as a table of dotted keys; those that differ from the defaults stand out."""
    usual = dict(_flat(defaults or {}))
    found = list(islice(_flat(plain), _MAX_SETTINGS))
    marks = (' class="set"' if defaults is not None and usual.get(key) != value else "" for key, value in found)
    rows = "".join(
        f'<tr{mark}><th scope="row">{text(key)}</th><td>{text(value)}</td></tr>'
        for mark, (key, value) in zip(marks, found, strict=True)
    )
    return f'<table class="settings"><tbody>{rows}</tbody></table>'


def meter(share: float) -> str:
    """A share in 0..1 as a bar."""
    return f'<span class="meter"><i style="width:{100 * share:.1f}%"></i></span>'


def folded(title: str, body: str) -> str:
    """HTML that opens at a press on its title; printed open."""
    return f"<details><summary>{text(title)}</summary>{body}</details>"


def _flat(plain: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Dotted key and value as text; a checkpoint may hold anything, also without end."""
    for key, value in plain.items():
        name = f"{prefix}{key}"[:_MAX_VALUE]
        if isinstance(value, Mapping) and value and depth < 5:
            yield from _flat(value, f"{name}.", depth + 1)
        elif value is None or isinstance(value, bool | str):
            yield name, json.dumps(value, ensure_ascii=False)[:_MAX_VALUE]
        else:
            yield name, _REPR.repr(value)[:_MAX_VALUE]


def _section(part: Section) -> str:
    head = f'<h2 id="{part.name}-title">{text(part.title)}</h2>'
    return f'<section id="{part.name}" aria-labelledby="{part.name}-title">{head}{part.body}</section>'


def _kind(column: Column) -> str:
    return ' class="text"' if column.is_text else ""


def _cell(cell: Cell) -> str:
    if cell.value is None:
        return f'<td class="wrap">{cell.body}</td>'
    return f'<td data-value="{cell.value:.6g}">{cell.body}</td>'


def _resource(name: str) -> str:
    return files("action_recognition.report").joinpath(name).read_text(encoding="utf-8").strip()
