"""What an experiment has done so far: whole units of work, appended one line each, that survive being killed."""

import contextlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from seen_jax.errors import ConfigError
from seen_jax.files import LOCK, digest, parse_json, to_json, write_file

DIGEST = ', "digest": "'  # of what stands before it, at the end of a line
MANIFEST, ANSWERS = "manifest.json", "answers.jsonl"
FOLDERS = ("studies", "tables", "figures")
WRITTEN = ["answers*.jsonl", "index.html", "report.md", "summary.json", "studies/*.json", "mitigations/*/*.safetensors"]
WRITTEN += ["calibration/*/*/card.json", "calibration/*/*/statistics.safetensors"]  # and TABLES
TABLES = ["conditions", "correlations", "comparisons", "overall", "similarities", "layers", "failures", "answers"]
TABLES += ["bases", "diagnoses"]


class Ledger:
    """The unit is the least that is done or not done: its rows go to disk together, in one line. Each of several
    processes appends to a file of its own and reads those of all, also of an earlier run with more of them. A unit
    that two of them did counts once, as process 0 has it, else the one with the lower index."""

    def __init__(self, path: Path, process: int = 0):
        """path: of process 0. Takes off a line that this process did not finish. ConfigError for a damaged file."""
        self.path = path
        self.appended = path.with_name(f"{path.stem}-{process:05d}{path.suffix}") if process else path
        self._ends: dict[Path, int] = {}  # of the whole lines that were read
        self._places: dict[str, tuple[Path, int, int]] = {}  # of units: file, first byte, length
        self._damaged = 0  # lines that do not count
        self.refresh()
        self._repair()

    @property
    def done(self) -> Set[str]:
        """The units that some process has done, as far as was known at the last refresh."""
        return self._places.keys()

    def refresh(self) -> None:
        """Take in what all processes have added since the last time; a line that is not whole yet is left for later."""
        for path in (self.path, *self._others()):
            self._read(path)

    def _read(self, path: Path) -> None:
        rank = lambda path: (path != self.path, path.name)
        try:
            file = path.open("rb")
        except FileNotFoundError:  # nothing is done yet, or it was gathered just now
            return
        with file:
            start = file.seek(self._ends.get(path, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    break
                unit = _unit(line)
                if unit is None:
                    self._damaged += 1
                    warnings.warn(f"a line of {path} is damaged: its answers are made again", stacklevel=2)
                elif unit not in self._places or rank(path) < rank(self._places[unit][0]):
                    self._places[unit] = path, start, len(line)
                start += len(line)
            self._ends[path] = start

    def _others(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}-*{self.path.suffix}"))

    def _repair(self) -> None:
        """Only of this process's file: others may be writing theirs."""
        end = self._ends.get(self.appended, 0)
        if self.appended.exists() and end < self.appended.stat().st_size:
            os.truncate(self.appended, end)

    def add(self, unit: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of a unit. ConfigError where the disk refuses; what was written before stays."""
        text = json.dumps({"unit": unit, "rows": list(rows)}, ensure_ascii=False, allow_nan=False)
        try:
            _append(self.appended, [f'{text[:-1]}{DIGEST}{digest([text])}"}}\n'.encode()])
        except OSError as e:
            self._repair()
            raise ConfigError(f"cannot write {self.appended}: {e.strerror or e}; what was done is kept") from None
        self._read(self.appended)

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows, each once."""
        for unit in self._places:
            yield from json.loads(self._line(unit))["rows"]

    def _line(self, unit: str) -> bytes:
        path, start, length = self._places[unit]
        with path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def gather(self, units: Sequence[str]) -> None:
        """Put what all processes did into the file of process 0, in the order of `units`, as one alone would have.
        Wherever this is cut, nothing is lost and nothing counts twice."""
        others = self._others()
        if not others and not self._damaged and list(self._places) == list(units):
            return
        write_file(self.path, lambda path: _append(path, map(self._line, units)))
        for path in others:
            path.unlink(missing_ok=True)
        self._ends, self._places, self._damaged = {}, {}, 0
        self.refresh()


def _unit(line: bytes) -> str | None:
    """The unit of a line, None for one that is not as it was written."""
    text, separator, end = line.removesuffix(b"\n").rpartition(DIGEST.encode())
    if separator and end != digest([text + b"}"]).encode() + b'"}':
        return None
    try:
        values = parse_json(line)
        before = values.keys() == {"unit", "rows"}  # version 0.2.0 wrote no digests
        return values["unit"] if separator or before else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _append(path: Path, lines: Iterable[bytes]) -> None:
    with path.open("ab") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def claim(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Make `folder` the home of this experiment, or find that it is; returns the manifest that lies there. ConfigError
    for the folder of another experiment, one that is in use, and a disk that refuses."""
    path, there = folder / MANIFEST, {}
    wanted = json.loads(json.dumps(manifest))
    if path.is_file():
        try:
            there = parse_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is damaged ({error}): choose another folder with --out") from None
    elif folder.exists() and any(not path.name.startswith(LOCK) for path in folder.iterdir()):
        raise ConfigError(f"{folder} is in use and holds no experiment: choose another folder with --out")
    if not there:  # a new folder, or `remove_experiment` was here
        write_file(path, to_json(wanted))
        return wanted
    identity, before = wanted["identity"], there.get("identity", {})
    if different := ", ".join(key for key in identity if before.get(key) != identity[key]):
        advice = "choose another folder with --out, or replace it with --overwrite"
        raise ConfigError(f"{folder} holds another experiment (different: {different}): {advice}")
    if there.get("parts") != wanted["parts"]:
        raise ConfigError(f"the audio has other lengths here than when {folder} was begun: is it the same everywhere?")
    return there


def remove_experiment(folder: Path) -> None:
    """Delete what an experiment wrote into its folder, and nothing else; a folder without a manifest stays as it is. An
    empty manifest remains, which says that the folder may be claimed although it holds files of somebody else."""
    if not (folder / MANIFEST).is_file():
        return
    tables = [f"tables/{name}.csv" for name in (*TABLES, "study_*")]
    written = [path for name in (*WRITTEN, *tables) for path in folder.glob(name)]
    pictures = [path for path in folder.glob("figures/*.png") if path.with_suffix(".svg").is_file()]
    for path in (*written, *pictures, *(path.with_suffix(".svg") for path in pictures)):
        path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):  # folders that are empty now, the deepest first
        if path.is_dir() and path.relative_to(folder).parts[0] in ("calibration", "mitigations", *FOLDERS):
            with contextlib.suppress(OSError):  # it holds files of somebody else
                path.rmdir()
    write_file(folder / MANIFEST, to_json({}))


def check_contents(folder: Path, contents: Mapping[str, str]) -> None:
    """Remember what the audio of an experiment was, or compare: {what: digest}. ConfigError names what has changed."""
    path = folder / MANIFEST
    there = parse_json(path.read_bytes())
    before = there.get("contents") or {}
    if changed := [name for name in contents if before and before.get(name) != contents[name]]:
        advice = "put it back, choose another folder with --out, or begin anew with --overwrite"
        raise ConfigError(f"the audio of {', '.join(changed)} is not what {folder} was begun with: {advice}")
    if not before:
        write_file(path, to_json({**there, "contents": dict(contents)}))
