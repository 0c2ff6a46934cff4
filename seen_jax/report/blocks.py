"""A report as data: sections of blocks, written as one self-contained HTML page or as Markdown."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seen_jax.evaluate.report import data_uri

TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph; a note is set smaller."""

    text: str
    note: bool = False
    kind: str = "text"


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    facts: dict[str, str]
    kind: str = "facts"


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The few large numbers: (number, what it is)."""

    numbers: Sequence[tuple[str, str]]
    kind: str = "numbers"


@dataclasses.dataclass(frozen=True)
class Notice:
    """Something that was found: severity is info, warning or error."""

    name: str
    severity: str
    text: str
    kind: str = "notice"


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table of texts; the first `names` columns are names and stand left, the others are numbers and stand right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    title: str = ""
    kind: str = "grid"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure in a PNG file that has an SVG beside it; folder: of the report."""

    path: Path
    caption: str
    kind: str = "picture"

    @property
    def uri(self) -> str:
        return data_uri("image/png", self.path.read_bytes())


@dataclasses.dataclass(frozen=True)
class Link:
    """A file of the report's folder and what it holds."""

    target: str
    text: str
    kind: str = "link"


Block = Text | Facts | Numbers | Notice | Grid | Picture | Link


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def to_html(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page, without any external resource: figures are in it, every text is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    return template.render(title=title, lead=lead, sections=sections)


def to_markdown(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The same as Markdown with tables; figures are linked from the folder `figures`."""
    parts = [f"# {plain(title)}", plain(lead)]
    for section in sections:
        parts.append(f"## {plain(section.title)}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """A text that Markdown shows as it is, in one line."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|$~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)


def _block(block: Any) -> str:
    match block:
        case Text():
            return plain(block.text)
        case Facts():
            return "\n".join(f"- **{plain(name)}**: {plain(fact)}" for name, fact in block.facts.items())
        case Numbers():
            return "\n".join(f"- **{plain(number)}** {plain(what)}" for number, what in block.numbers)
        case Notice():
            return f"> **{plain(block.severity)}, {plain(block.name)}**: {plain(block.text)}"
        case Grid():
            lines = [block.header, *block.rows]
            rows = ["| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines]
            sides = [":--" if i < block.names else "--:" for i in range(len(block.header))]
            rows.insert(1, "| " + " | ".join(sides) + " |")
            return "\n".join([f"**{plain(block.title)}**\n"] * bool(block.title) + rows)
        case Picture():
            png = f"figures/{block.path.name}"
            svg = png.removesuffix(".png") + ".svg"
            return f"![{plain(block.caption)}]({png})\n\n{plain(block.caption)} ([SVG]({svg}))"
        case Link():
            return f"[{plain(block.text)}]({block.target})"
    raise TypeError(block)
