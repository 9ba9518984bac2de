"""tools/audit.py in front of a pip-audit that says what the test wants."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "audit.py"
CLEAN = {"name": "numpy", "version": "2.4.6", "vulns": []}
WEAK = {"name": "pillow", "version": "9.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["9.0.1", "9.1"]}]}
UNKNOWN = {"name": "mine", "skip_reason": "Dependency not found on PyPI"}

Audit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """`audit(packages, said)` runs the tool where pip-audit prints `packages` as JSON, and `said` to stderr."""

    def run(packages: list[object] | None, said: str = "") -> "subprocess.CompletedProcess[str]":
        fake = tmp_path / "pip-audit"
        out = "" if packages is None else json.dumps({"dependencies": packages})
        fake.write_text(
            f"#!{sys.executable}\nimport sys\nprint({out!r})\nprint({said!r}, file=sys.stderr)\nsys.exit(1)\n"
        )
        fake.chmod(0o755)
        environment = {**os.environ, "PATH": str(tmp_path)}
        return subprocess.run([sys.executable, TOOL], env=environment, capture_output=True, text=True)

    return run


def test_audit_when_a_version_is_weak_names_it_and_fails(audit: Audit) -> None:
    ran = audit([CLEAN, WEAK, UNKNOWN])
    assert ran.returncode == 1
    assert ran.stderr == "pillow 9.0: PYSEC-1, mended in 9.0.1, 9.1\n"
    assert ran.stdout == "audit: 2 packages looked up, known weaknesses: 1; not in the list: mine\n"


def test_audit_when_nothing_is_known_passes(audit: Audit) -> None:
    ran = audit([CLEAN])
    assert (ran.returncode, ran.stdout) == (0, "audit: 1 packages looked up, known weaknesses: 0\n")


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ([UNKNOWN], ""),
        (None, "requests.exceptions.ConnectionError: Failed to resolve 'pypi.org'"),
        (None, "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed"),
        (None, "ERROR:pip_audit._cli:"),
    ],
)
def test_audit_when_the_list_is_out_of_reach_says_that_it_skipped(
    audit: Audit, packages: list[object] | None, said: str
) -> None:
    ran = audit(packages, said)
    assert ran.returncode == 0
    assert ran.stdout.startswith("audit skipped: the list of known weaknesses")


def test_audit_when_pip_audit_itself_fails_fails(audit: Audit) -> None:
    ran = audit(None, "ERROR:pip_audit._cli:invalid requirements input: constraints.txt")
    assert ran.returncode == 1
    assert "invalid requirements input: constraints.txt" in ran.stderr
