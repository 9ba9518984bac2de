"""The API reference as HTML, from the docstrings, by pdoc.

  python tools/api_reference.py                 # writes docs/api/action_recognition.html
  python tools/api_reference.py --folder site

The pages have a search field, and the source of each name.
"""

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

import pdoc
import pdoc.render

import action_recognition
from action_recognition.config import keys
from action_recognition.config.declare import keys_of

ROOT = Path(__file__).resolve().parents[1]


def show_all_modules() -> None:
    """pdoc leaves out what `__all__` does not name, modules too, and does not look up names when they are used."""
    for name in action_recognition.__all__:
        setattr(action_recognition, name, getattr(action_recognition, name))
    for found in pkgutil.walk_packages(action_recognition.__path__, "action_recognition."):
        package, _, name = found.name.rpartition(".")
        exported = getattr(importlib.import_module(package), "__all__", None)
        if exported is not None:
            exported.append(name)


def show_meanings_of_keys() -> None:
    """They stand in the fields of the spec's classes, which have no docstrings for that reason."""
    for cls in vars(keys).values():
        if isinstance(cls, type) and cls.__module__ == keys.__name__:
            cls.__doc__ = "\n".join(f"- `{name}`: {key.meaning}" for name, key in keys_of(cls).items())


def main() -> int:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs/api", help="(docs/api)")
    options = parser.parse_args()
    pdoc.render.configure(docformat="markdown", footer_text="action_recognition", search=True)
    show_all_modules()
    show_meanings_of_keys()
    pdoc.pdoc("action_recognition", output_directory=options.folder)
    print(f"written to {options.folder / 'action_recognition.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
