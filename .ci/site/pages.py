"""Hooks of mkdocs: what the site has beside docs/. Pages from files at the root, tutorials from the notebooks, and the
list of error messages, read from the source. Links are written as GitHub wants them, and are moved with the pages."""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
PAGES |= {"SECURITY.md": "security.md"}
NOTEBOOKS = {f"colab/{path.stem}.ipynb": f"tutorials/{path.stem}.md" for path in sorted(ROOT.glob("colab/*.py"))}
SOURCES = {page: source for source, page in (PAGES | NOTEBOOKS).items()}
LINK = re.compile(r"""(?:(?<=\]\()|(?<=src="))(?!\w+:|#)([^)#\s"]+)""")
MESSAGES = "<!-- every message -->"
SHIM, WORKER = "https://unpkg.com/iframe-worker/shim", "assets/javascripts/iframe-worker.js"
ERRORS = ("AudioError", "BasisError", "CheckpointError", "ConfigError", "SeenError")


class Message(NamedTuple):
    """A message in the source: its error, its words with … for what differs, and the module that raises it."""

    error: str
    words: str
    module: str


def site_path(path: str) -> str:
    """Where the site has a file of the repository."""
    return (PAGES | NOTEBOOKS).get(path, path.removeprefix("docs/"))


def moved(text: str, source: str) -> str:
    """A page with its relative links as the site needs them. source: its path in the repository.

    >>> moved("[glossary](docs/glossary.md#see) and [changes](CHANGELOG.md), a[0](x)", "README.md")
    '[glossary](glossary.md#see) and [changes](changelog.md), a[0](x)'
    """

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        if not (ROOT / target).exists():  # code, or a dead link, which the strict build refuses
            return match[1]
        return posixpath.relpath(site_path(target), posixpath.dirname(site_path(source)) or ".")

    return LINK.sub(link, text)


def notebook(path: Path) -> str:
    """A notebook's text pair as Markdown, with a line that says where the notebook is."""
    import jupytext

    text = jupytext.writes(jupytext.read(path), fmt="md").split("---\n", 2)[-1].lstrip()
    text = re.sub(r"^%matplotlib.*\n", "", text, flags=re.MULTILINE)
    title, _, rest = text.partition("\n")
    where = f"This page is the notebook `colab/{path.stem}.ipynb`, which you can open in Jupyter or Colab."
    return f"{title}\n\n{where}\n{rest}"


def messages() -> Iterator[Message]:
    """Every message of an error that seen_jax raises, where its words stand in the source."""
    for path in sorted((ROOT / "seen_jax").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS and node.args:
                words = re.sub(r"(…\s*)+…", "…", _words(node.args[0])).strip()
                if re.search(r"\w{2}", words):
                    yield Message(node.func.id, words, module)


def _words(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return " ".join(str(node.value).split("\n")) if isinstance(node.value, str) else "…"
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp):
        return _words(node.left) + _words(node.right)
    return "…"


def listed() -> str:
    """The messages as a table for each error, each with the page that explains it."""
    from seen_jax import errors

    parts = []
    for error in ERRORS:
        rows = [f"### {error}", "", "| message | raised in | explained in |", "| --- | --- | --- |"]
        for message in sorted({m for m in messages() if m.error == error}, key=lambda m: m.words.lstrip("…").lower()):
            page = errors.page_of(getattr(errors, error)(message.words)) or ""
            link = re.sub(r"docs/(.+)\.md(#.*)?", r"[\1](\1.md\2)", page)
            words = re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", message.words)
            rows.append(f"| {words} | `{message.module.removeprefix('seen_jax.')}` | {link} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for source, page in NOTEBOOKS.items():
        files.append(File.generated(config, page, content=notebook((ROOT / source).with_suffix(".py"))))
    files.append(File.generated(config, WORKER, abs_src_path=str(Path(__file__).with_name("worker.js"))))
    return files


def on_config(config: Any) -> Any:
    """Tutorials are those that are there."""
    for section in config.nav:
        if "Tutorials" in section:
            section["Tutorials"] = list(NOTEBOOKS.values())
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    text = moved(markdown, SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    return text.replace(MESSAGES, listed()) if MESSAGES in text else text


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The script that lets the search run in pages opened as files is ours, and not fetched from elsewhere."""
    return output.replace(SHIM, posixpath.relpath(WORKER, posixpath.dirname(page.url) or "."))


def on_post_template(output: str, template_name: str, config: Any) -> str:
    return output.replace(SHIM, f"/{WORKER}")
