"""Objects display themselves, in a kernel too; the tutorial runs, and the outputs it is stored with are its own.

`python tests/test_notebook.py` executes the tutorial and stores its outputs.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def execute(book, folder):
    """The notebook with the outputs that a kernel gives in that folder; an error in a cell raises."""
    from nbclient import NotebookClient

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(book, timeout=300, kernel_name="python3", resources=resources).execute()


def digest(cell):
    return hashlib.sha256(cell.source.encode()).hexdigest()[:16]


def store(book):
    """Execute in a folder of its own, and write with the outputs that stay: no progress, no times of execution."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        execute(book, folder)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("data", {}).get("text/html") != ""]
            cell.metadata = {"source_digest": digest(cell)}
    book.metadata.pop("widgets", None)
    book.metadata.language_info = {"name": "python"}
    nbformat.write(book, TUTORIAL)


if __name__ == "__main__":
    store(nbformat.read(TUTORIAL, 4))
    sys.exit()
