"""Write docs/coverage.md from what coverage measured: `make coverage`.

Reads `coverage json`'s file, whose path is the one argument. A table of modules, then the lines of the package that no
fast test runs, by file, each stretch with its first line of code.
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

DOCUMENT = Path("docs/coverage.md")
HARDWARE = re.compile(r"cuda|tensorrt|\btrt\b|nccl|\bgpu|\bmps\b|nvof|\bengine\b", re.IGNORECASE)
HEAD = """# What the fast tests run

    make coverage

runs them under coverage, child processes included, and writes this file. A process that a test kills tells nothing of
what it ran. Lines of the package alone, not of the tools; that a line ran does not say that its result was checked.
`slow`, `gpu` and `trt` tests are not run.

"""
LINES_HEAD = """
## Lines that no fast test runs

*GPU*: the line, or the one before it that is run, speaks of CUDA, TensorRT or another device, by its words.

"""


def stretches(missing: list[int], code: list[int]) -> Iterator[list[int]]:
    """Missing lines that follow one another among the lines of code, blank lines and comments in between left out."""
    place = {line: at for at, line in enumerate(sorted(code))}
    for _, run in groupby(enumerate(missing), lambda pair: place[pair[1]] - pair[0]):
        yield [line for _, line in run]


@dataclass(frozen=True)
class Stretch:
    """Lines of a file that follow one another and were not run."""

    lines: list[int]
    text: str  # the first one's
    of_hardware: bool


def not_run(path: str, of_file: dict[str, Any]) -> list[Stretch]:
    """What of `path` was not run, in order."""
    source = Path(path).read_text(encoding="utf-8").splitlines()
    run, missing = of_file["executed_lines"], of_file["missing_lines"]
    found = []
    for lines in stretches(missing, run + missing):
        before = max((line for line in run if line < lines[0]), default=lines[0])
        of_hardware = HARDWARE.search("\n".join(source[before - 1 : lines[-1]])) is not None
        found.append(Stretch(lines, source[lines[0] - 1].strip(), of_hardware))
    return found


def report(measured: dict[str, Any]) -> str:
    """The document. `measured` is coverage's JSON."""
    total, files = measured["totals"], {p: f for p, f in measured["files"].items() if f["summary"]["num_statements"]}
    left = {path: not_run(path, files[path]) for path in sorted(files)}
    of_hardware = sum(len(s.lines) for of_file in left.values() for s in of_file if s.of_hardware)
    text = [
        f"{HEAD}{total['covered_lines']} of {total['num_statements']} lines are run: {total['percent_covered']:.1f} %. "
        f"Of the {total['missing_lines']} others, {of_hardware} are marked GPU below.\n\n",
        "| module | lines | not run | run, % |\n|---|---|---|---|\n",
    ]
    for path in left:
        sums = files[path]["summary"]
        text.append(
            f"| {path} | {sums['num_statements']} | {sums['missing_lines']} | {sums['percent_covered']:.1f} |\n"
        )
    text.append(LINES_HEAD)
    for path, of_file in left.items():
        if of_file:
            text.append("\n".join([f"**{path}**\n", *map(as_item, of_file)]) + "\n\n")
    return "".join(text).rstrip("\n") + "\n"


def as_item(stretch: Stretch) -> str:
    first, last = stretch.lines[0], stretch.lines[-1]
    where = f"{first}" if first == last else f"{first}-{last}"
    return f"- {where}{', GPU' if stretch.of_hardware else ''}: `{stretch.text}`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, help="what `coverage json` wrote")
    measured = json.loads(parser.parse_args().measured.read_text(encoding="utf-8"))
    DOCUMENT.write_text(report(measured), encoding="utf-8")
    print(f"wrote {DOCUMENT}")


if __name__ == "__main__":
    main()
