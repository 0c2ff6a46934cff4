"""A report as data: sections of blocks, written as one self-contained HTML page or as Markdown."""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

TEMPLATE = Path(__file__).with_name("page.html.jinja")


class Block:
    """A part of a section. The template chooses by `kind`, the name of the class."""

    @property
    def kind(self) -> str:
        return type(self).__name__


@dataclasses.dataclass(frozen=True)
class Text(Block):
    """A paragraph; a note is set smaller."""

    text: str
    note: bool = False


@dataclasses.dataclass(frozen=True)
class Facts(Block):
    """Names and what they are."""

    facts: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Numbers(Block):
    """The few large numbers: (number, what it is)."""

    numbers: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Notice(Block):
    """Something that is striking: severity is info, warning or error."""

    name: str
    severity: str
    text: str


@dataclasses.dataclass(frozen=True)
class Grid(Block):
    """A table of texts; the first `names` columns are names and stand left, the others are numbers and stand right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Picture(Block):
    """A figure in a PNG file that has an SVG beside it."""

    path: Path
    caption: str

    @property
    def uri(self) -> str:
        return data_uri("image/png", self.path.read_bytes())


@dataclasses.dataclass(frozen=True)
class Link(Block):
    """A file of the report's folder and what it holds."""

    target: str
    text: str


@dataclasses.dataclass(frozen=True)
class Example(Block):
    """One item: its audio, and a table of the answers to each version of it.

    Attributes:
        players: label and WAV file, as a data URI, of each version.
        answers: columns input, answer, and SEE. changed: for each row, whether its answer differs from the clean one.
    """

    players: Sequence[tuple[str, str]]
    answers: Grid
    changed: Sequence[bool]


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def to_html(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page, without any external resource: figures and audio are in it, every text is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(title=title, lead=lead, sections=sections)


def to_markdown(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The same as Markdown with tables and without audio; figures are linked from the folder `figures`."""
    parts = [f"# {plain(title)}", plain(lead)]
    for section in sections:
        parts += [f"## {plain(section.title)}", *map(_markdown, section.blocks)]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """A text that Markdown shows as it is, in one line."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|$~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)


def _markdown(block: Block) -> str:
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
            rows = ["| " + " | ".join(map(plain, line)) + " |" for line in (block.header, *block.rows)]
            sides = [":--" if i < block.names else "--:" for i in range(len(block.header))]
            rows.insert(1, "| " + " | ".join(sides) + " |")
            return "\n".join([f"**{plain(block.title)}**\n"] * bool(block.title) + rows)
        case Picture():
            png = f"figures/{block.path.name}"
            svg = png.removesuffix(".png") + ".svg"
            return f"![{plain(block.caption)}]({png})\n\n{plain(block.caption)} ([SVG]({svg}))"
        case Link():
            return f"[{plain(block.text)}]({block.target})"
        case Example():
            return _markdown(block.answers)
    raise TypeError(block)
