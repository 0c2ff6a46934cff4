"""The pages that GitHub and the docs site show. `mkdocs build`, which is strict, checks the site itself (.ci/run)."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

import seen_jax
from seen_jax import errors
from seen_jax.errors import PAGES, SeenError
from seen_jax.subspace.card import CITE

ROOT = Path(__file__).parents[1]
TEXTS = {path.relative_to(ROOT): path.read_text() for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])}
ERRORS = TEXTS[Path("docs/errors.md")]


def prose(text: str) -> str:
    """A page without its code."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> list[str]:
    """Those that GitHub and the site make of headings."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", re.sub(r"\]\(.*?\)", "", head).lower()).replace(" ", "-") for head in heads]


@pytest.mark.parametrize("page", TEXTS, ids=str)
def test_links_lead_somewhere(page):
    links = re.findall(r"""(?:\]\(|src=")(?!\w+:)([^)#\s"]*)(?:#([^)\s"]*))?""", prose(TEXTS[page]))
    for target, anchor in links:
        path = (ROOT / page.parent / target).resolve() if target else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text()), f"{target}#{anchor}"


def test_the_reference_has_every_public_name():
    listed = re.findall(r"^::: seen_jax\.(\w+)$", TEXTS[Path("docs/reference/seen_jax.md")], re.MULTILINE)
    assert sorted(listed) == sorted(seen_jax.__all__)


def test_the_page_of_errors_has_every_error_and_every_explanation():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|(?: \[.*\]\((.*)\) \|)?$", ERRORS, re.MULTILINE)
    kinds = {kind.__name__ for kind in (SeenError, *SeenError.__subclasses__()) if kind.__module__ == errors.__name__}
    assert {name for name, _, page in rows if not page} == kinds
    listed = [
        (name, words, f"docs/{page}")
        for name, cell, page in rows
        if page
        for words in re.findall(r'"(.+?)"', cell) or [""]
    ]
    assert sorted(listed) == sorted((kind.__name__, words, page) for kind, words, page in PAGES)


def test_the_site_lists_the_messages_of_the_source():
    spec = importlib.util.spec_from_file_location("pages", ROOT / ".ci" / "site" / "pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    kinds = {kind.__name__ for kind in SeenError.__subclasses__() if kind.__module__ == errors.__name__}
    assert set(pages.ERRORS) == kinds | {"SeenError"} and pages.MESSAGES in ERRORS
    words = "there is no ….… Known: …."
    assert pages.Message("ConfigError", words, "seen_jax.registry") in set(pages.messages())
    assert "seen_jax" not in pages.listed() and "[howto](howto.md#use-data-from-the-hub)" in pages.listed()
    assert pages.moved("[a](docs/method.md#protocol)", "README.md") == "[a](method.md#protocol)"
    assert pages.moved("[a](../../CONTRIBUTING.md)", "docs/reference/audio.md") == "[a](../contributing.md)"


def test_one_paper_is_cited_everywhere():
    assert CITE in TEXTS[Path("docs/cite.md")]
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    named = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    words = " ".join(CITE.split())
    assert f"{{{named}}}" in words and f"{{{paper['title']}}}" in words and str(paper["year"]) in words
