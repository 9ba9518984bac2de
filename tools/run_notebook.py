"""Run docs/tour.ipynb from top to bottom and keep what it prints and draws: `make notebook`.

  python tools/run_notebook.py

The outputs are written into the notebook, without the time of day and what else differs from run to run for no reason.
Its files are in results/tour.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs/tour.ipynb"


def executed(path: Path, folder: Path) -> Any:
    """The notebook with its outputs; its commands are run in `folder`."""
    notebook = nbformat.read(path, as_version=4)
    metadata = dict(notebook.metadata)
    client = NotebookClient(notebook, timeout=1800, record_timing=False, resources={"metadata": {"path": str(folder)}})
    client.execute()
    notebook.metadata = nbformat.from_dict(metadata)  # the kernel's own versions are not of interest
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs: list[Any]) -> list[Any]:
    """Text that came in several pieces, as chance has it, in one."""
    kept: list[Any] = []
    for output in outputs:
        if kept and output.output_type == "stream" and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def main() -> int:
    """Run the notebook and write it."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    nbformat.write(executed(NOTEBOOK, NOTEBOOK.parent), NOTEBOOK)
    print(f"written to {NOTEBOOK}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
