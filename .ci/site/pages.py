"""Hooks of mkdocs: what the site has beside docs/. Pages from files at the root, tutorials from the notebooks, and the
list of error messages, read from the source. Links are written as GitHub wants them, and are moved with the pages."""

from __future__ import annotations

import ast
import base64
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
PAGES |= {"SECURITY.md": "security.md"}
BLOB = "https://github.com/seen-jax/seen-jax/blob/main/"  # how notebooks name files, also where they run on Colab
LINK = re.compile(r"""(?:(?<=\]\()|(?<=src="))(?!\w+:|#)([^)#\s"]+)""")
MESSAGES = "<!-- every message -->"
SHIM, WORKER = "https://unpkg.com/iframe-worker/shim", "assets/javascripts/iframe-worker.js"
ERRORS = ("AudioError", "BasisError", "CheckpointError", "ConfigError", "SeenError")


class Message(NamedTuple):
    """A message in the source: its error, its words with … for what differs, and the module that raises it."""

    error: str
    words: str
    module: str


def tutorial(folder: Path = ROOT / "colab") -> list[Path]:
    """The notebooks in the order of the tutorial: the last cell of each links to the next one."""
    path, ordered = folder / "quickstart.ipynb", list[Path]()
    while path.is_file() and path not in ordered:
        ordered.append(path)
        last = "".join(json.loads(path.read_text())["cells"][-1]["source"])
        name = re.search(rf"{re.escape(BLOB)}colab/(\w+\.ipynb)", last)
        path = folder / (name[1] if name else "")
    return ordered


NOTEBOOKS = {f"colab/{path.name}": f"tutorials/{path.stem}.md" for path in tutorial()}
SOURCES = {page: source for source, page in (PAGES | NOTEBOOKS).items()}


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


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown with its outputs, and the pictures {name: PNG} that it shows."""
    parts, pictures = list[str](), dict[str, bytes]()
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            source = re.sub(r"\[!\[(Open in Colab)\]\(.*?\)\]", r"[\1]", source)  # its picture is on another server
            parts.append(re.sub(rf"\]\({re.escape(BLOB)}([^)#]+)", _relative, source))
            continue
        parts.append(f"```python\n{source}\n```")
        for i, output in enumerate(cell["outputs"]):
            data = {"text/plain": output.get("text", ""), **output.get("data", {})}
            data = {kind: "".join(text) for kind, text in data.items()}
            name = f"{path.stem}_{number}_{i}.png"
            if "image/png" in data:
                pictures[name] = base64.b64decode(data["image/png"])
            parts.append(_output(data, name))
    where = f"This page is the notebook `colab/{path.name}` with its outputs."
    return "\n\n".join([*parts[:1], where, *parts[1:]]) + "\n", pictures


def _relative(link: re.Match[str]) -> str:
    """A link of a notebook to a file of the repository, as it is from colab/."""
    return f"](../{link[1]}" if (ROOT / link[1]).exists() else link[0]


def _output(data: dict[str, str], picture: str) -> str:
    """What a cell put out, in the richest form that a page can show. data: {kind: text}."""
    if "image/png" in data:
        return f"![what the cell above draws]({picture})"
    if "text/html" in data and re.search("<(table|audio)", data["text/html"]):
        return re.sub(r"\n\s*", "\n", data["text/html"]).strip()  # indented lines would be code
    return f"```text\n{data['text/plain'].rstrip()}\n```" if data["text/plain"] else ""


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
        text, pictures = notebook(ROOT / source)
        contents = {page: text} | {posixpath.join(posixpath.dirname(page), name): png for name, png in pictures.items()}
        for name, content in contents.items():
            files.append(File.generated(config, name, content=content))
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
