"""What an experiment has done so far: whole units of work, appended one line each, that survive being killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seen_jax.errors import ConfigError

MANIFEST, ANSWERS = "manifest.json", "answers.jsonl"
Row = dict[str, Any]


class Ledger:
    """The unit is the least that is done or not done: its rows go to disk together, in one line."""

    def __init__(self, path: Path):
        self.path = path
        self.done: set[str] = set()
        if path.exists():
            self._repair()

    def _repair(self) -> None:
        """Read the keys of whole lines, and cut off a last one that was not finished."""
        good = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    self.done.add(json.loads(line)["unit"])
                except (ValueError, KeyError, TypeError) as error:
                    raise ConfigError(f"{self.path} is damaged ({error}): move it away to start anew") from None
                good += len(line)
        if good < self.path.stat().st_size:
            os.truncate(self.path, good)

    def add(self, unit: str, rows: Sequence[Row]) -> None:
        """Write the rows of a unit. ConfigError where the disk refuses; what was written before stays."""
        line = json.dumps({"unit": unit, "rows": list(rows)}, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._repair()
            raise ConfigError(f"cannot write {self.path}: {error.strerror or error}; what was done is kept") from None
        self.done.add(unit)

    def rows(self) -> Iterator[Row]:
        """All rows, in the order in which the units were done."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield from json.loads(line)["rows"]


def claim(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make `folder` the home of this experiment, or find that it is. ConfigError if it is another's or in use."""
    path = folder / MANIFEST
    wanted = json.loads(json.dumps(manifest))
    if path.is_file():
        try:
            found = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path} is damaged ({error}): choose another folder with --out") from None
        keys = [k for k in wanted["identity"] if found.get("identity", {}).get(k) != wanted["identity"][k]]
        if keys:
            raise ConfigError(
                f"{folder} holds another experiment (different: {', '.join(keys)}): choose another folder with --out"
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is in use and holds no experiment: choose another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(wanted, indent=1, ensure_ascii=False) + "\n", "utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror or error}") from None
