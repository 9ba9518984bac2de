"""Charts as inline SVG whose colours are the page's: lines, stacked bars, histograms, and the reliability diagram.

Small and drawn for the width of a phone, so that their text can be read there. Each has a text for those who don't see
it. What stands in a chart is numbers and words of ours alone; names of files and classes are not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 10, 40


@dataclass(frozen=True)
class Line:
    """A named line; places without a value are left out."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]


class Axes:
    """A frame with ticks; `x` and `y` turn values to places. `logarithmic` is the y axis by powers of ten."""

    def __init__(
        self,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        labels: tuple[str, str],
        logarithmic: bool = False,
        height: int = HEIGHT,
    ) -> None:
        self.x_range, self.logarithmic, self.labels, self.height = x_range, logarithmic, labels, height
        self.y_range = (math.log10(y_range[0]), math.log10(y_range[1])) if logarithmic else y_range

    def x(self, value: float) -> float:
        low, high = self.x_range
        return round(_LEFT + (value - low) / ((high - low) or 1) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.y_range
        place = math.log10(value) if self.logarithmic else value
        return round(self.height - _BOTTOM - (place - low) / ((high - low) or 1) * (self.height - _BOTTOM - _TOP), 1)

    def frame(self, x_ticks: Sequence[float], y_ticks: Sequence[float], percent: tuple[bool, bool]) -> str:
        """Grid lines, the numbers at them, and what the axes are."""
        left, right, bottom = _LEFT, WIDTH - _RIGHT, self.height - _BOTTOM
        parts = []
        for value in y_ticks:
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{tick_text(value, percent[1])}</text>')
        for value in x_ticks:
            x = self.x(value)
            parts.append(f'<line class="tick" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>')
            parts.append(f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{tick_text(value, percent[0])}</text>')
        parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        middle = (left + right) / 2
        parts.append(
            f'<text class="what" x="{middle}" y="{self.height - 4}" text-anchor="middle">{self.labels[0]}</text>'
        )
        across = (bottom + _TOP) / 2
        turned = f'transform="rotate(-90 10 {across})"'
        parts.append(
            f'<text class="what" x="10" y="{across + 4}" text-anchor="middle" {turned}>{self.labels[1]}</text>'
        )
        return "".join(parts)


def lines(
    series: Sequence[Line],
    title: str,
    labels: tuple[str, str],
    y_range: tuple[float, float] | None = None,
    percent: bool = False,
    logarithmic: bool = False,
) -> str:
    """A line chart with a legend. Without `y_range` the y axis holds all values, and 0 unless it is logarithmic."""
    xs = [x for line in series for x in line.xs]
    ys = [y for line in series for y in line.ys if y is not None and math.isfinite(y)]
    if not ys:
        return f'<p class="note">{escape(title)}: no values.</p>'
    low, high = y_range or _span(ys, logarithmic)
    y_ticks = _decades(low, high) if logarithmic else nice_ticks(low, high)
    axes = Axes((min(xs), max(xs)), (low, high), labels, logarithmic)
    whole = [x for x in nice_ticks(min(xs), max(xs), 6) if x == round(x)]
    drawn = [_drawn(line, i, axes) for i, line in enumerate(series)]
    return figure(axes.frame(whole, y_ticks, (False, percent)) + "".join(drawn), title, [line.name for line in series])


def _drawn(line: Line, number: int, axes: Axes) -> str:
    known = [(x, y) for x, y in zip(line.xs, line.ys, strict=True) if y is not None and math.isfinite(y)]
    places = " ".join(f"{axes.x(x)},{axes.y(y)}" for x, y in known)
    dots = known if len(known) <= 40 else known[-1:]
    circles = "".join(
        f'<circle cx="{axes.x(x)}" cy="{axes.y(y)}" r="3"><title>{escape(line.name)}: {y:.4g} at {x:g}</title></circle>'
        for x, y in dots
    )
    return f'<g class="s{number}"><polyline points="{places}"/>{circles}</g>'


def stacked_bars(names: Sequence[str], columns: Sequence[Sequence[float]], title: str, labels: tuple[str, str]) -> str:
    """Bars of one value a name, one upon the other, a column for each of `columns` (epochs from 1 on)."""
    highest = max((sum(column) for column in columns), default=0) or 1
    axes = Axes((0.5, len(columns) + 0.5), (0, highest), labels)
    bars = []
    width = max(0.5, (axes.x(2) - axes.x(1)) * 0.8)
    for i, column in enumerate(columns, start=1):
        low = 0.0
        for number, value in enumerate(column):
            top, bottom = axes.y(low + value), axes.y(low)
            bars.append(
                f'<rect class="s{number}" x="{axes.x(i) - width / 2:.1f}" y="{top}" width="{width:.1f}" '
                f'height="{bottom - top:.1f}"><title>{escape(names[number])}, {i}: {value:.3g}</title></rect>'
            )
            low += value
    ticks = [x for x in nice_ticks(1, max(2, len(columns)), 6) if x == round(x) and x <= len(columns)]
    return figure(axes.frame(ticks, nice_ticks(0, highest), (False, False)) + "".join(bars), title, names, solid=True)


def histogram(counts: Sequence[int], kind: str, title: str, labels: tuple[str, str]) -> str:
    """Bars over 0..1; `kind` is the class of their colour."""
    highest = max(max(counts), 1)
    height = 180
    axes = Axes((0, 1), (0, highest), labels, height=height)
    bars = []
    for i, count in enumerate(counts):
        left, right = axes.x(i / len(counts)), axes.x((i + 1) / len(counts))
        top = axes.y(count)
        where = f"{100 * i / len(counts):.0f} to {100 * (i + 1) / len(counts):.0f} %"
        bars.append(
            f'<rect class="{kind}" x="{left + 0.5:.1f}" y="{top}" width="{right - left - 1:.1f}" '
            f'height="{axes.y(0) - top:.1f}"><title>{where}: {count}</title></rect>'
        )
    ticks = [t for t in nice_ticks(0, highest, 4) if t == round(t)]
    return figure(axes.frame((0, 0.25, 0.5, 0.75, 1), ticks, (True, False)) + "".join(bars), title, (), height)


def reliability(
    counts: Sequence[int], scores: Sequence[float], accuracies: Sequence[float], title: str, labels: tuple[str, str]
) -> str:
    """Accuracy by bin of the score beside the diagonal, where both are equal; their gap has its own colour."""
    axes = Axes((0, 1), (0, 1), labels, height=300)
    bars = []
    for i, (count, score, accuracy) in enumerate(zip(counts, scores, accuracies, strict=True)):
        if not count:
            continue
        left, right = axes.x(i / len(counts)) + 1, axes.x((i + 1) / len(counts)) - 1
        low, high = sorted((score, accuracy))
        text = f"{count} videos: mean score {100 * score:.1f} %, right {100 * accuracy:.1f} %"
        across = f'x="{left:.1f}" width="{right - left:.1f}"'
        bars.append(
            f"<g><title>{text}</title>"
            f'<rect class="s0" {across} y="{axes.y(low)}" height="{axes.y(0) - axes.y(low):.1f}"/>'
            f'<rect class="gap" {across} y="{axes.y(high)}" height="{axes.y(low) - axes.y(high):.1f}"/>'
            f'<text class="count" x="{(left + right) / 2:.1f}" y="{axes.y(0) - 5}" text-anchor="middle">{count}</text>'
            "</g>"
        )
    diagonal = f'<line class="diagonal" x1="{axes.x(0)}" y1="{axes.y(0)}" x2="{axes.x(1)}" y2="{axes.y(1)}"/>'
    ticks = (0, 0.25, 0.5, 0.75, 1)
    return figure(axes.frame(ticks, ticks, (True, True)) + "".join(bars) + diagonal, title, (), 300)


def figure(inside: str, title: str, names: Sequence[str], height: int = HEIGHT, solid: bool = False) -> str:
    """The chart with its title above and a legend below (`solid`: of areas), where there is more than one name."""
    keys = "".join(f'<li><i class="s{i}"></i>{escape(name)}</li>' for i, name in enumerate(names))
    legend = f'<ul class="legend{" solid" * solid}">{keys}</ul>' if len(names) > 1 else ""
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{inside}</svg>{legend}</figure>'
    )


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers 1, 2, 2.5 or 5 times a power of ten apart that lie in low..high, about `about` of them."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1, 2, 2.5, 5) if m * power >= rough), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_text(value: float, percent: bool) -> str:
    """A number at an axis; a share in 0..1 as percent."""
    return f"{100 * value:.0f} %" if percent else f"{value:g}"


def _span(ys: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    if logarithmic:
        low, high = min(ys), max(ys)
        return (10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high * 1.001)))
    return (min(0.0, *ys), max(*ys, 1e-9) * 1.05)


def _decades(low: float, high: float) -> list[float]:
    return [10.0**i for i in range(round(math.log10(low)), round(math.log10(high)) + 1)]
