"""Turn what a user names (files, folders, globs, manifests) into a list of audio files with their texts."""

import ast
import csv
import glob
import io
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seen_jax.errors import AudioError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
AUDIO_COLUMNS = ("path", "audio", "file", "audio_path", "filename", "file_name", "audio_id", "id")


@dataclass(frozen=True)
class AudioItem:
    """One audio file: a unique id, where it is, its transcript if known, and a manifest's other columns."""

    id: str
    path: Path
    text: str | None = None
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def prompt(self) -> str | None:
        """The column `prompt`, or else `question`."""
        return self.extra.get("prompt", self.extra.get("question"))

    @property
    def choices(self) -> tuple[str, ...]:
        """The column `choices`: a list as JSON or as Python prints it. AudioError if it is none."""
        text = self.extra.get("choices", "")
        for parse in (json.loads, ast.literal_eval) if text else ():
            try:
                values = parse(text)
            except (ValueError, SyntaxError):
                continue
            if isinstance(values, list | tuple):
                return tuple(str(value) for value in values)
        if text:
            raise AudioError(f"item {self.id}: choices must be a list, not {text[:80]!r}")
        return ()


@dataclass(frozen=True)
class _Found:
    item: AudioItem
    where: str  # for messages: the input, or the manifest and line
    derived: bool = True  # the id comes from the file's name and may be made longer


def find_audio(inputs: Sequence[str | Path]) -> list[AudioItem]:
    """List the audio files that the inputs name, in their order.

    Each input is one of:

    - an audio file; its id is its name without the suffix (its whole path where two files share that name);
    - a folder: every audio file below it, sorted, hidden ones left out; the id is the path inside the folder.
      Where it holds a `metadata.csv` (or .jsonl) of which every row resolves to a file: that manifest;
    - a glob such as `data/**/*.wav`;
    - a manifest: CSV, TSV or JSONL with one of the columns path, audio, file, audio_path, filename,
      file_name, audio_id or id. Values are files relative to the manifest's folder; their suffix and a folder
      `clean/` may be left out. The columns `id` and `text` fill those fields, all others go to `extra` (lists
      as JSON).

    Raises:
        AudioError: an input that does not exist or holds no audio; a manifest that cannot be read or has no
            audio column; rows without a file; two items of one id.
    """
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    found = [f for one in inputs for f in _expand(one)]
    if not found:
        raise AudioError("No audio: the list of inputs is empty.")
    shared = Counter(f.item.id for f in found)
    items: list[AudioItem] = []
    seen: dict[str, str] = {}
    for f in found:
        item = f.item
        if shared[item.id] > 1 and f.derived:
            item = replace(item, id=item.path.as_posix())
        if item.id in seen:
            raise AudioError(f"Two items have the id {item.id!r}: {seen[item.id]} and {f.where}.")
        seen[item.id] = f.where
        items.append(item)
    return items


def _expand(one: str | Path) -> Iterator[_Found]:
    path = Path(os.path.expanduser(one))
    if os.path.isdir(path):
        yield from _folder(path)
    elif path.suffix.lower() in MANIFEST_SUFFIXES and os.path.isfile(path):
        yield from _manifest(path)
    elif os.path.isfile(path):
        if not _is_audio(path):
            known = ", ".join((*AUDIO_SUFFIXES, *MANIFEST_SUFFIXES))
            raise AudioError(f"{path} is neither audio nor a manifest by its suffix; known are {known}.")
        yield _Found(AudioItem(path.stem, path), str(path))
    elif glob.has_magic(str(path)):
        matches = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
        audio = [p for p in matches if p.is_file() and _is_audio(p)]
        if not audio:
            raise AudioError(f"The pattern {one} matches {len(matches)} path(s) but no audio file.")
        yield from (_Found(AudioItem(p.stem, p), str(p)) for p in audio)
    else:
        raise AudioError(f"There is no audio file, folder or manifest {path}.")


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def _folder(folder: Path) -> Iterator[_Found]:
    trouble = ""
    for name in ("metadata.csv", "metadata.jsonl"):
        if (folder / name).is_file():
            try:
                yield from list(_manifest(folder / name))
                return
            except AudioError as error:
                trouble = str(error)
    files = sorted(p for p in folder.rglob("*") if _is_audio(p) and p.is_file())
    if not files:
        raise AudioError(trouble or f"There is no audio file in the folder {folder}.")
    if trouble:
        warnings.warn(f"{trouble} Taking every audio file of the folder instead, without texts.", stacklevel=2)
    for path in files:
        yield _Found(AudioItem(path.relative_to(folder).with_suffix("").as_posix(), path), str(path))


def _manifest(path: Path) -> Iterator[_Found]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AudioError(f"Cannot read the manifest {path} as UTF-8 text: {error}.") from error
    rows = list(_json_rows(path, text) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(path, text))
    if not rows:
        raise AudioError(f"The manifest {path} has no rows.")
    columns = {name for _, row in rows for name in row}
    column = next((name for name in AUDIO_COLUMNS if name in columns), None)
    if column is None:
        raise AudioError(f"The manifest {path} has no audio column ({', '.join(AUDIO_COLUMNS)}): {sorted(columns)}.")
    missing, items = [], []
    for line, row in rows:
        value = row.get(column, "")
        file = resolve_audio(path.parent, value)
        if file is None:
            missing.append(f"line {line}: {value or '(empty)'}")
            continue
        explicit = bool(row.get("id"))
        extra = {k: v for k, v in row.items() if v and k not in ("id", "text", column)}
        item = AudioItem(row["id"] if explicit else file.stem, file, row.get("text") or None, extra)
        items.append(_Found(item, f"{path} line {line}", derived=not explicit))
    if missing:
        shown = "; ".join(missing[:5]) + ("; ..." if len(missing) > 5 else "")
        raise AudioError(f"{path}: no file for {len(missing)} of {len(rows)} rows, looked up in its folder: {shown}.")
    yield from items


def resolve_audio(folder: Path, value: str) -> Path | None:
    """The audio file that a table in `folder` means: its suffix and a folder `clean/` may be left out."""
    if not value:
        return None
    for base in (folder / value, folder / "clean" / value):
        for suffix in ("", *AUDIO_SUFFIXES):
            if os.path.isfile(f"{base}{suffix}"):  # unlike Path.is_file, False for a name the system refuses
                return Path(f"{base}{suffix}")
    return None


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row:
                raise AudioError(f"{path} line {reader.line_num}: more fields than columns; quote commas.")
            yield reader.line_num, {k.strip().lower(): (v or "").strip() for k, v in row.items()}
    except csv.Error as error:
        raise AudioError(f"{path} line {reader.reader.line_num}: not well-formed: {error}.") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise AudioError(f"{path} line {number}: not a line of JSON: {error}.") from error
        if not isinstance(row, dict):
            raise AudioError(f"{path} line {number}: expected an object with named fields, got {line.strip()[:60]}.")
        yield number, {k.strip().lower(): as_text(v) for k, v in row.items()}


def as_text(value: Any) -> str:
    """A field of a table as text, lists as JSON."""
    if isinstance(value, str):
        return value.strip()
    return "" if value is None else json.dumps(value, ensure_ascii=False)
