"""The notebooks of colab/. `python tests/support/notebooks.py [NAME ...]` runs them, all or those named, and writes the
.ipynb of each with its outputs."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

COLAB = Path(__file__).parents[2] / "colab"
TEXTS = sorted(COLAB.glob("*.py"))
SECONDS = 180  # of one core that a notebook may take, from a fresh kernel
PATIENCE = 900  # seconds for one cell, on a machine that others use too


def executed(text: Path, folder: Path) -> tuple[Any, float]:
    """The notebook of a text pair after a run from top to bottom by a kernel of its own, which works in `folder`, and
    the processor's seconds that this took."""
    import jupytext
    from nbclient import NotebookClient

    notebook, before = jupytext.read(text), _seconds()
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # Jupyter's draws
    environment |= {"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore:IProgress"}  # bars, which a reader sees
    options = {"timeout": PATIENCE, "kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
    client = NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **options)
    client.execute(env=environment)
    return notebook, _seconds() - before


def _seconds() -> float:
    """Of the processor, in kernels that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write(text: Path) -> None:
    """Run a notebook and write its .ipynb, equal from run to run but for what its cells put out."""
    import jupytext

    with tempfile.TemporaryDirectory() as folder:
        notebook, seconds = executed(text, Path(folder))
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{text.stem}-{number}"
    notebook.metadata["language_info"] = {"name": "python"}
    jupytext.write(notebook, text.with_suffix(".ipynb"))
    print(f"{text.stem}: {seconds:.0f} s, {text.with_suffix('.ipynb').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    for path in [COLAB / f"{name}.py" for name in sys.argv[1:]] or TEXTS:
        write(path)
