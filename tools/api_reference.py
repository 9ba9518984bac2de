"""The API reference as HTML, from the docstrings, by pdoc.

  python tools/api_reference.py                 # writes docs/api/action_recognition.html
  python tools/api_reference.py --folder site

The pages have a search field, and the source of each name.
"""

import argparse
import pkgutil
import sys
from pathlib import Path

import pdoc
import pdoc.render

import action_recognition

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs/api", help="(docs/api)")
    options = parser.parse_args()
    pdoc.render.configure(docformat="markdown", footer_text="action_recognition", search=True)
    for name in action_recognition.__all__:  # looked up when they are used, which pdoc does not do
        setattr(action_recognition, name, getattr(action_recognition, name))
    modules = [m.name for m in pkgutil.iter_modules(action_recognition.__path__, "action_recognition.")]
    pdoc.pdoc("action_recognition", *modules, output_directory=options.folder)
    print(f"written to {options.folder / 'action_recognition.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
