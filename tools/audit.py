"""Look the versions in constraints.txt up in PyPI's list of known weaknesses, with pip-audit: `make audit`.

Exit code 1 names each weakness with the version that mends it. Where the list can't be reached, or holds none of the
packages, as behind an index of one's own, a line says that nothing was looked up, and the exit code is 0.
"""

import argparse
import json
import re
import subprocess
import sys

COMMAND = ["pip-audit", "--requirement", "constraints.txt", "--no-deps", "--disable-pip"]
UNREACHABLE = re.compile(r"connect|timed? ?out|resolve|redirect|proxy|ssl|:\s*$", re.IGNORECASE)  # ":": an HTTP error


def main() -> str | None:
    """What is wrong, else None."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    ran = subprocess.run([*COMMAND, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True)
    if not ran.stdout.strip():
        said = (ran.stderr.strip().splitlines() or [""])[-1]
        if not UNREACHABLE.search(said):
            return ran.stderr
        print(f"audit skipped: the list of known weaknesses was not reached: {said}")
        return None
    packages = json.loads(ran.stdout)["dependencies"]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        print(f"audit skipped: the list of known weaknesses holds none of the {len(packages)} packages")
        return None
    found = [
        f"{package['name']} {package['version']}: {weakness['id']}, "
        f"mended in {', '.join(weakness['fix_versions']) or 'no version yet'}"
        for package in packages
        for weakness in package.get("vulns", [])
    ]
    left_out = f"; not in the list: {', '.join(unknown)}" if unknown else ""
    print(f"audit: {len(packages) - len(unknown)} packages looked up, known weaknesses: {len(found)}{left_out}")
    return "\n".join(found) or None


if __name__ == "__main__":
    sys.exit(main())
