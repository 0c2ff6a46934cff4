"""Extension of griffe, which reads the source for the site: docstrings of this package as Markdown.

They are plain text: `name: what it is.` at the start of a line or sentence documents a parameter or attribute, and
examples are doctests. Parameters become a list, `Raises` a paragraph, examples code."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import griffe

HEAD = re.compile(r"(?:^|(?<=[.;:)] ))([*\w]+(?:(?:, | and )[*\w]+)*):(?= )")
EXAMPLE = re.compile(r"^ *>>> .*(?:\n(?! *$).*)*", re.MULTILINE)


def as_markdown(text: str, names: Collection[str]) -> str:
    """A docstring as Markdown. names: of parameters or attributes.

    >>> print(as_markdown("SEE of a clip.\\n\\nq: a basis. mask: valid\\nframes. Raises BasisError.", ["q", "mask"]))
    SEE of a clip.
    <BLANKLINE>
    - **q**: a basis.
    - **mask**: valid frames.
    <BLANKLINE>
    Raises BasisError.
    """
    parts, start = [], 0
    for example in EXAMPLE.finditer(text):
        parts += [_prose(text[start : example.start()], names), f"```pycon\n{example[0]}\n```"]
        start = example.end()
    return "\n\n".join(part for part in [*parts, _prose(text[start:], names)] if part)


def _prose(text: str, names: Collection[str]) -> str:
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        if re.search(r"^(?: {2,}|[-*|] )", paragraph, re.MULTILINE) and not re.search(HEAD.pattern, paragraph, re.M):
            paragraphs.append(paragraph.strip("\n"))  # a list, a table or code: as it stands
            continue
        line = " ".join(paragraph.split())
        for piece in re.split(r"(?<=[.)] )(?=Raises )", line):
            paragraphs += _listed(piece.strip(), names)
    return "\n\n".join(filter(None, paragraphs))


def _listed(line: str, names: Collection[str]) -> list[str]:
    """One paragraph, and the list of what it documents."""
    known = lambda head: any(name.lstrip("*") in names for name in re.split(", | and ", head))
    heads = [head for head in HEAD.finditer(line) if known(head[1])]
    if not heads:
        return [line]
    ends = [*(head.start() for head in heads[1:]), len(line)]
    items = [f"- **{h[1]}**: {line[h.end() : end].strip()}" for h, end in zip(heads, ends, strict=True)]
    return [line[: heads[0].start()].strip(), "\n".join(items)]


class Plain(griffe.Extension):
    """Rewrites every docstring once its module is loaded."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        self._rewrite(pkg)

    def _rewrite(self, value: griffe.Object) -> None:
        if value.docstring:
            value.docstring.value = as_markdown(value.docstring.value, self._names(value))
        for member in value.members.values():
            if not member.is_alias:
                self._rewrite(member)

    def _names(self, value: griffe.Object) -> set[str]:
        if not isinstance(value, griffe.Function):
            return {name.lstrip("_") for name in value.members} if value.is_class else set()
        names = {parameter.name for parameter in value.parameters}
        for parameter in value.parameters:  # **options: Unpack[Keys]
            kind = re.fullmatch(r"(?:\w+\.)?Unpack\[(\w+)\]", str(parameter.annotation or ""))
            target = value.module.members.get(kind[1]) if kind else None
            if target is not None:
                target = target.final_target if target.is_alias else target
                names |= set(target.members)
        return names
