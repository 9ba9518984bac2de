"""Write docs/coverage.md from what coverage measured: `make coverage`.

Reads `coverage json`'s file, whose path is the one argument. A table of modules, then the lines of the package that no
fast test runs, by file, each stretch with its first line of code.
"""

import json
import re
import sys
from collections.abc import Iterator
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


def missing_lines(path: str, measured: dict[str, Any]) -> Iterator[str]:
    """A line of Markdown for each stretch of `path` that was not run."""
    source = Path(path).read_text(encoding="utf-8").splitlines()
    run = measured["executed_lines"]
    for stretch in stretches(measured["missing_lines"], run + measured["missing_lines"]):
        first, last = stretch[0], stretch[-1]
        before = max((line for line in run if line < first), default=first)
        gpu = ", GPU" if HARDWARE.search("\n".join(source[before - 1 : last])) else ""
        yield f"- {first if first == last else f'{first}-{last}'}{gpu}: `{source[first - 1].strip()}`"


def report(measured: dict[str, Any]) -> str:
    """The document. `measured` is coverage's JSON."""
    total, files = measured["totals"], sorted(measured["files"].items())
    text = [HEAD, f"{total['covered_lines']} of {total['num_statements']} lines: {total['percent_covered']:.1f} %.\n\n"]
    text.append("| module | lines | not run | run, % |\n|---|---|---|---|\n")
    for path, of_file in files:
        sums = of_file["summary"]
        if sums["num_statements"]:
            text.append(
                f"| {path} | {sums['num_statements']} | {sums['missing_lines']} | {sums['percent_covered']:.1f} |\n"
            )
    text.append(LINES_HEAD)
    for path, of_file in files:
        if of_file["missing_lines"]:
            text.append(f"**{path}**\n\n" + "\n".join(missing_lines(path, of_file)) + "\n\n")
    return "".join(text).rstrip("\n") + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(report(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {DOCUMENT}")
