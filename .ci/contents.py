"""Checks what a wheel and an sdist hold: python .ci/contents.py FOLDER. Exits 1 with the list of what is wrong."""

from __future__ import annotations

import email.parser
import email.policy
import re
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LARGEST = 15_000_000  # bytes of either file
PACKAGE = {path.relative_to(ROOT).as_posix() for path in (ROOT / "seen_jax").rglob("*") if path.is_file()}
SHIPPED = {name for name in PACKAGE if "__pycache__" not in name} | {"seen_jax/py.typed"}
SOURCES = SHIPPED | {"LICENSE", "NOTICE", "CITATION.cff", "README.md", "CHANGELOG.md", "pyproject.toml", "mkdocs.yml"}
LICENCES = ["LICENSE", "NOTICE"]


def problems(folder: Path) -> list[str]:
    """What is wrong with the one wheel and the one sdist of a folder."""
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        return [f"{folder} must hold one wheel and one sdist, not {len(wheels)} and {len(sdists)}"]
    [wheel], [sdist] = wheels, sdists
    wrong = [f"{p.name} has {p.stat().st_size:,} bytes" for p in (wheel, sdist) if p.stat().st_size >= LARGEST]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [info] = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = email.parser.BytesParser(policy=email.policy.default).parsebytes(archive.read(f"{info}/METADATA"))
    wrong += [f"the wheel lacks {name}" for name in sorted(SHIPPED - names)]
    extra = {name for name in names if not name.startswith(f"{info}/")} - SHIPPED
    wrong += [f"the wheel holds {name}, which is not of the package" for name in sorted(extra)]
    wrong += [f"the wheel lacks the licence {n}" for n in LICENCES if f"{info}/licenses/{n}" not in names]
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    return wrong + [f"the sdist lacks {name}" for name in sorted(SOURCES - inside)] + stated(metadata)


def stated(metadata: email.message.Message) -> list[str]:
    """What is wrong with the metadata of a wheel."""
    version = re.search(r'^__version__ = "(.+)"', (ROOT / "seen_jax/__init__.py").read_text(), re.MULTILINE)[1]
    wanted = {"Name": "seen-jax", "Version": version, "License-Expression": "Apache-2.0", "Requires-Python": ">=3.11"}
    wrong = [f"{key} is {metadata[key]}, not {value}" for key, value in wanted.items() if metadata[key] != value]
    lines = {key: metadata.get_all(key, []) for key in ("License-File", "Classifier", "Project-URL")}
    wrong += [] if lines["License-File"] == LICENCES else [f"licence files are {lines['License-File']}"]
    wrong += [f"there is no {key}" for key in ("Classifier", "Project-URL") if not lines[key]]
    return wrong


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]))
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(bool(found))
