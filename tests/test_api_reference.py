"""`make api` has a page for every module, and says what the keys of the spec mean."""

import html
import subprocess
import sys
from pathlib import Path

import pytest

from action_recognition.config.keys import KEYS

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_api_reference_has_a_page_for_every_module_and_the_meaning_of_every_key(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason='needs pdoc: pip install ".[dev]"')
    command = [sys.executable, ROOT / "tools/api_reference.py", "--folder", tmp_path]
    subprocess.run(command, capture_output=True, text=True, check=True)
    modules = [path.relative_to(ROOT) for path in sorted((ROOT / "action_recognition").rglob("*.py"))]
    pages = [module.parent if module.name == "__init__.py" else module for module in modules]
    assert [str(page) for page in pages if not (tmp_path / page).with_suffix(".html").is_file()] == []
    keys = html.unescape((tmp_path / "action_recognition/config/keys.html").read_text("utf-8"))
    assert [name for name, key in KEYS.items() if f"</code>: {key.meaning}" not in keys] == []
