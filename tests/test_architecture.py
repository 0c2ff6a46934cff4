"""Modules import downwards only, in the order of the table in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXCEPTIONS = {("data/embedded.py", "train")}


def rooms() -> dict[str, int]:
    """The row of every room in the table of the architecture's page."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text[text.index("| folder | holds |") :].split("\n\n")[0].splitlines()[2:]
    cells = [re.findall(r"`(\w+)/?`", line.split("|")[1]) for line in table]
    return {room: row for row, names in enumerate(cells) for room in names}


def test_no_module_imports_from_a_room_below_its_own():
    row, upward = rooms(), set()
    for path in sorted((ROOT / "seen_jax").rglob("*.py")):
        place = path.relative_to(ROOT / "seen_jax")
        room = place.parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seen_jax."):
                other = node.module.split(".")[1]
                if row[other] > row[room]:
                    upward.add((place.as_posix(), other))
    assert upward == EXCEPTIONS


def test_every_room_of_the_table_is_there():
    package = {path.name.removesuffix(".py") for path in (ROOT / "seen_jax").iterdir()}
    assert package - set(rooms()) <= {"__init__", "__pycache__", "py.typed"} and set(rooms()) <= package
