"""What this machine has for this program: versions, GPU, decoders, optical flow, runtimes, disk and shared memory.

  python tools/doctor.py
  python tools/doctor.py --folder /data/results     # where data and results are to lie
  python tools/doctor.py --json

Says of each missing thing what it would make possible, and how to get it. Ends with 1 where something is broken, or
where a package is missing that nothing works without.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from action_recognition import __version__
from action_recognition.doctor import BROKEN, OK, Finding, examine


def shown(finding: Finding) -> str:
    """A line, and one of advice below it where there is any."""
    line = f"  {finding.state:<8} {finding.name:<14} {finding.seen}".rstrip()
    return f"{line}\n{'':<26}{finding.advice}" if finding.advice else line


def main() -> int:
    """Print what was found, part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(), help="where data and results are to lie (here)")
    parser.add_argument("--json", action="store_true", help="one JSON list")
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"--folder: {options.folder} is no folder")
    findings: list[Finding] = []
    if not options.json:
        print(f"action_recognition {__version__}")
    for finding in examine(options.folder.resolve()):
        if not options.json:
            if not findings or findings[-1].part != finding.part:
                print(finding.part)
            print(shown(finding), flush=True)
        findings.append(finding)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    return int(any(f.state == BROKEN or (f.needed and f.state != OK) for f in findings))


if __name__ == "__main__":
    sys.exit(main())
