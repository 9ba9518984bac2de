"""Do damage for real, count what was lost, and write docs/reliability.md.

  python tools/torture.py                    # all parts, under 40 minutes on 2 cores
  python tools/torture.py kill disk          # some of them; the lines of the others stay as they were
  python tools/torture.py --list

A part is tests/torture/test_torture_<part>.py; `make test` runs a short form of each. Exits with 1 where anything was
lost. The ledger, docs/reliability.jsonl, keeps the newest line of each kind of damage.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TESTS, LEDGER, PAGE = ROOT / "tests/torture", ROOT / "docs/reliability.jsonl", ROOT / "docs/reliability.md"

Line = dict[str, Any]


def parts() -> list[str]:
    """The names of all parts."""
    return sorted(path.stem.removeprefix("test_torture_") for path in TESTS.glob("test_torture_*.py"))


def run(part: str) -> tuple[list[Line], bool]:
    """The ledger's lines of one part in its long form, and whether its tests passed."""
    print(f"--- {part}", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder, "ledger.jsonl")
        environment = {**os.environ, "AR_TORTURE": "long", "AR_TORTURE_LEDGER": str(ledger)}
        command = [sys.executable, "-m", "pytest", "-n", "2", "-m", "not gpu and not trt", "-p", "no:cacheprovider"]
        done = subprocess.run([*command, str(TESTS / f"test_torture_{part}.py")], cwd=ROOT, env=environment)
        lines = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    minutes = round((time.monotonic() - start) / 60, 1)
    when = datetime.now(UTC).date().isoformat()
    return [{**line, "date": when, "part_minutes": minutes} for line in lines], done.returncode == 0


def merged(old: list[Line], new: list[Line]) -> list[Line]:
    """The old lines without those of the parts that were run again, and the new ones."""
    again = {line["part"] for line in new}
    lines = [line for line in old if line["part"] not in again] + new
    return sorted(lines, key=lambda line: (line["part"], line["damage"]))


def page(lines: list[Line]) -> str:
    """docs/reliability.md."""
    made, lost = sum(line["made"] for line in lines), sum(line["lost"] for line in lines)
    rows = [
        f"| {line['part']} | {line['damage']} | {line['made']:,} | {line['made'] - line['lost']:,} | {line['lost']} "
        f"| {line['fails_when']} | {line['date']} |"
        for line in lines
    ]
    minutes = {line["part"]: line["part_minutes"] for line in lines}
    took = ", ".join(f"{part} {value:g}" for part, value in sorted(minutes.items()))
    return "\n".join([
        "# Nothing is lost",
        "",
        "Damage that was done for real, how often, and what was lost by it. Written by",
        "",
        "```sh",
        "make torture",
        "```",
        "",
        f"{made:,} faults made, {made - lost:,} survived, {lost} lost. {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}. Minutes: {took}.",
        "",
        "The last columns: what was broken in the program on purpose to see the test fail; when the counts were taken.",
        "",
        "| part | damage | made | survived | lost | seen to fail when | date |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


def main() -> int:
    """Run the parts that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"({' '.join(parts())})")
    parser.add_argument("--list", action="store_true", help="name the parts and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(parts()))
        return 0
    if unknown := set(options.parts) - set(parts()):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(parts())}")
    old = [json.loads(line) for line in LEDGER.read_text().splitlines()] if LEDGER.exists() else []
    new, failed = [], []
    for part in options.parts or parts():
        lines, passed = run(part)
        new += lines
        failed += [] if passed else [part]
        everything = merged(old, new)
        LEDGER.write_text("".join(json.dumps(line) + "\n" for line in everything))
        PAGE.write_text(page(everything), encoding="utf-8")
    print(f"written to {PAGE.relative_to(ROOT)}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
