"""Print the lowest versions that setup.py admits of what a user installs, as constraints for pip.

    python tools/lowest.py > lowest.txt && pip install -e ".[all]" -c lowest.txt

Reads the metadata of the installed package, so that bounds stand in setup.py alone. Left out: dev tools, which are
taken at their newest, and the extras that `all` leaves out. `make test-lowest` runs the fast tests on these versions.
"""

import argparse
import re
from importlib.metadata import requires

EXTRAS = ("video", "flow", "deploy", "report", "crypto")
NEED = re.compile(r"(?P<name>[\w.-]+)>=(?P<version>[\d.]+)(?:; extra == \"(?P<extra>\w+)\")?")


def lowest(needs: list[str]) -> list[str]:
    """`name==version` of every need of the core and of EXTRAS, once and sorted.

    ValueError for one that has no lower bound: its lowest version would be any.
    """
    pins = set()
    for need in needs:
        extra = need.partition('extra == "')[2].rstrip('"')
        if extra and extra not in EXTRAS:
            continue
        match = NEED.fullmatch(need)
        if match is None:
            raise ValueError(f"setup.py: {need!r} is not of the form name>=version, which says what the lowest is")
        pins.add(f"{match['name']}=={match['version']}")
    return sorted(pins)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("\n".join(lowest(requires("action-recognition") or [])))


if __name__ == "__main__":
    main()
