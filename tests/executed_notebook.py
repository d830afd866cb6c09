"""Executes the notebook of the documentation and keeps it with its outputs.

    python tests/executed_notebook.py

Run it when the notebook or what it shows is changed; the site shows the outputs that are kept.
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FILE = Path(__file__).parents[1] / "docs" / "gallery" / "python_api.ipynb"
# Longest time for one cell, in seconds.
_SECONDS = 600


def kept() -> NotebookNode:
    """The notebook with its outputs."""
    return nbformat.read(FILE, as_version=4)


def executed(notebook: NotebookNode) -> NotebookNode:
    """The notebook with new outputs, executed in its folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an exception.
    """
    client = NotebookClient(
        notebook,
        timeout=_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(FILE.parent)}},
        record_timing=False,
        coalesce_streams=True,
        # The log messages of TensorFlow are not part of the notebook.
        extra_arguments=["--IPKernelApp.capture_fd_output=False"],
    )
    return client.execute()


if __name__ == "__main__":
    nbformat.write(executed(kept()), FILE)
