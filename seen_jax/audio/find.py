"""Turn what a user names (files, folders, globs, manifests) into a list of audio files with their texts."""

import ast
import contextlib
import csv
import glob
import io
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from seen_jax.errors import AudioError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
AUDIO_COLUMNS = ("path", "audio", "file", "audio_path", "filename", "file_name", "audio_id", "id")


@dataclass(frozen=True)
class AudioItem:
    """One audio file.

    id, path: the id is unique among the items of one `find_audio`.
    text, extra: its transcript, if known, and a manifest's other columns.
    >>> audio.AudioItem("a", folder / "a.wav", extra={"question": "which bird?"}).prompt
    'which bird?'
    """

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
        text = self.extra.get("choices")
        if not text:
            return ()
        for parse in (json.loads, ast.literal_eval):
            with contextlib.suppress(ValueError, SyntaxError):
                if isinstance(values := parse(text), list | tuple):
                    return tuple(map(str, values))
        raise AudioError(f"item {self.id}: choices must be a list, not {text[:80]!r}")


class Located(NamedTuple):
    """An item, where it comes from (the input, or table and line), and whether its id is explicit or a file's name."""

    item: AudioItem
    where: str
    explicit: bool = False


def find_audio(inputs: Sequence[str | Path]) -> list[AudioItem]:
    """List the audio files that the inputs name, in their order.

    inputs: one of the following, or several of them:
    - an audio file; its id is its name without the suffix (its whole path where two files share that name);
    - a folder: every audio file below it, sorted, hidden ones left out; the id is the path inside the folder. Where it
      holds a `metadata.csv` (or .jsonl) of which every row resolves to a file: that manifest;
    - a glob such as `data/**/*.wav`;
    - a manifest: CSV, TSV or JSONL with one of the columns path, audio, file, audio_path, filename, file_name, audio_id
      or id. Values are files relative to the manifest's folder; their suffix and a folder `clean/` may be left out. The
      columns `id` and `text` fill those fields, all others go to `extra` (lists as JSON).
    Raises AudioError: an input that does not exist or holds no audio; a manifest that cannot be read or has no audio
    column; rows without a file; two items of one id.
    >>> path = audio.write_audio(folder / "birds" / "wren.wav", clips[0])
    >>> [item.id for item in audio.find_audio([folder / "birds"])]
    ['wren']
    """
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    located = [one for each in inputs for one in _expand(each)]
    if not located:
        raise AudioError("No audio: the list of inputs is empty.")
    shared = Counter(one.item.id for one in located)
    by_id: dict[str, tuple[AudioItem, str]] = {}
    for one in located:
        item = one.item
        if shared[item.id] > 1 and not one.explicit:
            item = replace(item, id=item.path.as_posix())
        if item.id in by_id:
            raise AudioError(f"Two items have the id {item.id!r}: {by_id[item.id][1]} and {one.where}.")
        by_id[item.id] = item, one.where
    return [item for item, _ in by_id.values()]


def _expand(one: str | Path) -> Iterator[Located]:
    path = Path(os.path.expanduser(one))
    if os.path.isdir(path):
        yield from _folder(path)
    elif path.suffix.lower() in MANIFEST_SUFFIXES and os.path.isfile(path):
        yield from _manifest(path)
    elif os.path.isfile(path):
        if not _is_audio(path):
            known = ", ".join(AUDIO_SUFFIXES + MANIFEST_SUFFIXES)
            raise AudioError(f"{path} is neither audio nor a manifest by its suffix; known are {known}.")
        yield Located(AudioItem(path.stem, path), str(path))
    elif glob.has_magic(str(path)):
        matches = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
        audio = [p for p in matches if p.is_file() and _is_audio(p)]
        if not audio:
            raise AudioError(f"The pattern {one} matches {len(matches)} path(s) but no audio file.")
        yield from (Located(AudioItem(p.stem, p), str(p)) for p in audio)
    else:
        raise AudioError(f"There is no audio file, folder or manifest {path}.")


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def _folder(folder: Path) -> Iterator[Located]:
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
        yield Located(AudioItem(path.relative_to(folder).with_suffix("").as_posix(), path), str(path))


def _manifest(path: Path) -> list[Located]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AudioError(f"Cannot read the manifest {path} as UTF-8 text: {error}.") from error
    rows = list(_json_rows(path, text) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(path, text))
    if not rows:
        raise AudioError(f"The manifest {path} has no rows.")
    columns = {name for _, row in rows for name in row}
    if columns.isdisjoint(AUDIO_COLUMNS):
        raise AudioError(f"The manifest {path} has no audio column ({', '.join(AUDIO_COLUMNS)}): {sorted(columns)}.")
    return table_items(path, rows)


def table_items(
    table: Path,
    rows: Iterable[tuple[str, dict[str, str]]],
    elsewhere: Callable[[str], Sequence[tuple[Path, str]]] = lambda name: (),
) -> list[Located]:
    """The items of a table's rows; AudioError lists the first five without a file. rows: (where, columns): "line 3",
    and texts by the names of columns in lower case. elsewhere: given the file that a row names, other (folder, name) to
    try where the table's folder lacks it."""
    missing, items = [], []
    for where, row in rows:
        column = next((name for name in AUDIO_COLUMNS if row.get(name)), "")
        value = row.get(column, "")
        places = [(table.parent, value), *elsewhere(value)] if value else []
        file = next((file for folder, name in places if (file := resolve_audio(folder, name))), None)
        if file is None:
            missing.append(f"{where}: {value or '(empty)'}")
            continue
        extra = {k: v for k, v in row.items() if v and k not in ("id", "text", column)}
        item = AudioItem(row.get("id") or file.stem, file, row.get("text") or None, extra)
        items.append(Located(item, f"{table} {where}", explicit=bool(row.get("id"))))
    if missing:
        shown = "; ".join(missing[:5]) + ("; ..." if len(missing) > 5 else "")
        count = f"{len(missing)} of {len(missing) + len(items)} rows"
        raise AudioError(f"{table}: no file for {count}, looked up in its folder: {shown}.")
    return items


def resolve_audio(folder: Path, name: str) -> Path | None:
    """The audio file that a table in `folder` names: its suffix and a folder `clean/` may be left out."""
    bases, suffixes = (folder / name, folder / "clean" / name), ("", *AUDIO_SUFFIXES)
    files = (f"{base}{suffix}" for base in bases for suffix in suffixes)
    return next((Path(file) for file in files if os.path.isfile(file)), None)  # False for a name the system refuses


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    try:
        for row in reader:
            if None in row:
                raise AudioError(f"{path} line {reader.line_num}: more fields than columns; quote commas.")
            yield f"line {reader.line_num}", as_texts(row)
    except csv.Error as error:
        raise AudioError(f"{path} line {reader.reader.line_num}: not well-formed: {error}.") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise AudioError(f"{path} line {number}: not a line of JSON: {error}.") from error
        if not isinstance(row, dict):
            raise AudioError(f"{path} line {number}: expected an object with named fields, got {line.strip()[:60]}.")
        yield f"line {number}", as_texts(row)


def as_texts(row: Mapping[str, Any]) -> dict[str, str]:
    """A row of a table: names in lower case, values as texts, lists as JSON."""
    dumped = lambda v: json.dumps(v, ensure_ascii=False, default=str)  # parquet has dates
    text = lambda v: v.strip() if isinstance(v, str) else "" if v is None else dumped(v)
    return {name.strip().lower(): text(value) for name, value in row.items()}
