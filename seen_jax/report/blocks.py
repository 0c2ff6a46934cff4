"""A report as data: sections of blocks, written as one self-contained HTML page or as Markdown."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TEMPLATE = Path(__file__).with_name("page.html.jinja")


class Text(NamedTuple):
    text: str
    note: bool = False  # set smaller


class Facts(NamedTuple):
    facts: dict[str, str]  # names and what they are


class Numbers(NamedTuple):
    numbers: Sequence[tuple[str, str]]  # a few large ones, each with what it is


class Notice(NamedTuple):
    name: str
    severity: str  # info, warning or error
    text: str


class Grid(NamedTuple):
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1  # so many columns are names and stand left, the others are numbers and stand right
    title: str = ""


class Picture(NamedTuple):
    path: Path  # a PNG file that has an SVG beside it
    caption: str

    @property
    def uri(self) -> str:
        return data_uri("image/png", self.path.read_bytes())


class Link(NamedTuple):
    target: str  # a file in the report's folder
    text: str


class Example(NamedTuple):
    """One item. players: label and WAV file, as a data URI, of each version of its audio; answers: a table of input,
    answer and SEE; changed: for each of its rows, whether the answer differs from the clean one."""

    players: Sequence[tuple[str, str]]
    answers: Grid
    changed: Sequence[bool]


Block = Text | Facts | Numbers | Notice | Grid | Picture | Link | Example  # the template chooses by the class's name


class Section(NamedTuple):
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
            file, caption = f"figures/{block.path.stem}", plain(block.caption)
            return f"![{caption}]({file}.png)\n\n{caption} ([SVG]({file}.svg))"
        case Link():
            return f"[{plain(block.text)}]({block.target})"
        case Example():
            return _markdown(block.answers)
