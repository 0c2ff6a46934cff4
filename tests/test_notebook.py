"""The notebooks: text pairs in step, outputs stored, and each runs from top to bottom in a folder that stays empty."""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from notebooks import COLAB, SECONDS, TEXTS, executed

jupytext = pytest.importorskip("jupytext")
pytest.importorskip("nbclient")
ROOT = COLAB.parent
NAMES = [text.stem for text in TEXTS]
BYTES = 400_000  # of an .ipynb
COMMON = (1, 2)  # the cells that install the package and look at the devices
PATH = re.compile(
    r"""(?:^|[\s"'(=])(?:/(?:home|root|tmp|usr|var|opt|work|mnt|content|Users)/|[A-Z]:\\)""", re.MULTILINE
)
NOISE = re.compile(r"\bwarn|it/s\]|%\|", re.IGNORECASE)  # warnings, and bars of tqdm


def stored(name: str) -> Any:
    return jupytext.read(COLAB / f"{name}.ipynb")


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: Any) -> set[str]:
    """What a cell puts out: "stdout", "stderr", "error", or kinds of data such as "image/png"."""
    names = [[one.name] if one.output_type == "stream" else one.get("data", {"error": ""}) for one in cell.outputs]
    return {kind for some in names for kind in some}


def text(cell: Any) -> str:
    return "\n".join(one.get("text", "") + one.get("data", {}).get("text/plain", "") for one in cell.outputs)


def test_the_tutorial_leads_through_all_notebooks():
    spec = importlib.util.spec_from_file_location("pages", ROOT / ".ci" / "site" / "pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    ordered = [path.stem for path in pages.tutorial()]
    assert sorted(ordered) == sorted(NAMES), "the last cell of a notebook links to the next one"
    assert re.findall(r"\(\.\./colab/(\w+)\.ipynb\)", (ROOT / "docs" / "start.md").read_text()) == ordered
    page, pictures = pages.notebook(COLAB / "quickstart.ipynb")
    assert pages.BLOB not in page and "badge" not in page and "(../docs/concepts.md)" in page
    assert set(re.findall(r"!\[.*\]\((\w+\.png)\)", page)) == set(pictures) != set()
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values()) and "```text\n1 x " in page


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_in_step_with_its_text(name):
    cells = lambda notebook: [(cell.cell_type, cell.source) for cell in notebook.cells]
    advice = f"run `python tests/support/notebooks.py {name}` after a change of colab/{name}.py"
    assert cells(jupytext.read(COLAB / f"{name}.py")) == cells(stored(name)), advice


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_begins_as_all_do(name):
    first, notebook = jupytext.read(COLAB / "quickstart.py"), jupytext.read(COLAB / f"{name}.py")
    title, badge = notebook.cells[0].source.splitlines()[0:3:2]
    assert title.startswith("# ") and "colab-badge.svg" in badge
    assert badge.endswith(f"(https://colab.research.google.com/github/seen-jax/seen-jax/blob/main/colab/{name}.ipynb)")
    sources = [cell.source for cell in notebook.cells]
    early = "XLA_FLAGS" in sources[1]  # a cell that must run before JAX starts
    assert [sources[i + early] for i in COMMON] == [first.cells[i].source for i in COMMON]
    assert notebook.metadata == first.metadata, "the headers differ"


def test_colab_keeps_its_jax(monkeypatch):
    cell, commands = jupytext.read(COLAB / "quickstart.py").cells[COMMON[0]].source, []
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
    exec(cell, {})
    assert not commands, "elsewhere nothing is installed"
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    exec(cell, {})
    [command] = commands
    assert any(word.startswith("seen-jax @ git+https://") for word in command)
    assert {f"{name}=={metadata.version(name)}" for name in ("jax", "jaxlib")} <= set(command)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stored_and_clean(name):
    notebook = stored(name)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "not from a fresh kernel"
    for cell in cells:
        assert "plt.show()" not in cell.source or "image/png" in kinds(cell), cell.source
        assert not re.search(r"^print\(", cell.source, re.MULTILINE) or "stdout" in kinds(cell), cell.source
        assert not kinds(cell) & {"error", "stderr"}, text(cell)
        for unwanted in (PATH, NOISE):
            assert not unwanted.search(text(cell)), text(cell)
    assert any("image/png" in kinds(cell) for cell in cells), "there is no picture"
    assert (COLAB / f"{name}.ipynb").stat().st_size < BYTES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, tmp_path: Path, record_property):
    notebook, seconds = executed(COLAB / f"{name}.py", tmp_path)
    record_property("notebook", f"colab/{name}.py took {seconds:.0f} s of one core")
    assert [kinds(cell) for cell in code(notebook)] == [kinds(cell) for cell in code(stored(name))]
    assert seconds < SECONDS
    assert not list(tmp_path.iterdir()), "a notebook leaves files behind"
