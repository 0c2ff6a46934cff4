"""What a folder's tokenizer may ask for. The library that runs it knows no limits, and cannot be interrupted."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seen_jax.errors import CheckpointError
from seen_jax.models.folders import LARGEST, read_json

GROWTH = 1_000  # times that a text may become longer, by all replacements together
PATTERN = 10_000  # characters of a regular expression
PARTS = ("normalizer", "pre_tokenizer", "decoder", "post_processor")
PIECES = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|[()|]|[+*?]|\{\d*,?\d*\}|.", re.DOTALL)  # of a regular expression


def check_tokenizer(folder: Path) -> None:
    """CheckpointError for a vocabulary file that is too large, and for a tokenizer.json whose replacements or regular
    expressions could take for ever."""
    for path in folder.iterdir():
        if path.suffix in (".json", ".txt", ".model", ".jinja") and path.is_file() and path.stat().st_size > LARGEST:
            raise CheckpointError(f"{path} has more than {LARGEST >> 20} MiB; no tokenizer needs that.")
    path = folder / "tokenizer.json"
    content = read_json(path, "tokenizer") if path.is_file() else {}
    growth = 1.0
    for step in (step for part in PARTS for step in _steps(content.get(part))):
        pattern = step.get("pattern")
        kind, text = next(iter(pattern.items()), ("", "")) if isinstance(pattern, Mapping) else ("", "")
        shortest = len(str(text)) if kind == "String" else 1
        growth *= max(1.0, len(str(step.get("content", ""))) / max(shortest, 1))
        if kind == "Regex" and (len(str(text)) > PATTERN or can_backtrack_for_ever(str(text))):
            raise CheckpointError(f"{path}: the regular expression {text!r:.80} could take for ever on some texts.")
    if growth > GROWTH:
        raise CheckpointError(f"{path}: its replacements could make a text {growth:,.0f} times as long.")


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    """The steps of a part of a tokenizer, at all depths."""
    if isinstance(part, Mapping):
        yield part
        for value in part.values():
            yield from _steps(value)
    elif isinstance(part, list):
        for value in part:
            yield from _steps(value)


def can_backtrack_for_ever(pattern: str) -> bool:
    """Whether a regular expression repeats a group that can match the same text in many ways: one that holds a
    repetition or alternatives, as in `(a+)+` and `(a|aa)*`. No published tokenizer has one.

    >>> can_backtrack_for_ever("(a+)+$"), can_backtrack_for_ever("(?i:'s|'t)|[a+]+")
    (True, False)
    """
    open_groups, closed = [False], False  # whether each open group, and the one that has just ended, is ambiguous
    for piece in PIECES.findall(pattern):
        if piece == "(":
            open_groups.append(False)
        elif piece == ")" and len(open_groups) > 1:
            closed = open_groups.pop()
            open_groups[-1] |= closed
            continue
        elif piece in ("+", "*") or piece.startswith("{"):
            if closed:
                return True
            open_groups[-1] = True
        elif piece == "|" or (piece == "?" and closed):
            open_groups[-1] = True
        closed = False
    return False
