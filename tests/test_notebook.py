"""The notebook: its text pair is in step, and it runs from top to bottom."""

from pathlib import Path

import pytest

COLAB = Path(__file__).parent.parent / "colab"


@pytest.mark.parametrize("text", sorted(COLAB.glob("*.py")), ids=lambda p: p.stem)
def test_notebook_matches_its_text_pair(text):
    jupytext = pytest.importorskip("jupytext")
    paired = jupytext.read(text.with_suffix(".ipynb"))
    source = [(c.cell_type, c.source) for c in jupytext.read(text).cells]
    assert source == [(c.cell_type, c.source) for c in paired.cells], (
        f"run `jupytext --sync colab/{text.name}` after editing the notebook or its text"
    )


@pytest.mark.parametrize("text", sorted(COLAB.glob("*.py")), ids=lambda p: p.stem)
def test_notebook_runs(text):
    nbclient = pytest.importorskip("nbclient")
    jupytext = pytest.importorskip("jupytext")
    notebook = jupytext.read(text)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(COLAB)}}
    ).execute()
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert any("SEEN" in o.get("text", "") for o in outputs)
