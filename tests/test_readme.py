"""What README.md tells a new user to type."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_the_python_code_runs(capsys):
    [code] = blocks("python")
    exec(code, {})
    see, answer, shape = capsys.readouterr().out.strip().splitlines()
    assert 0 < float(see) < 1 and "see_after" in answer and shape.startswith("(4, ")
