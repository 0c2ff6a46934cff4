"""Data sets as users hold them, as entries whose audio is read one by one."""

from __future__ import annotations

import json
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seen_jax.audio._find import AUDIO_COLUMNS, MANIFEST_SUFFIXES, AudioItem, as_text, find_audio, resolve_audio
from seen_jax.data.items import SUBSETS, Entry, clip_rows, entry_of
from seen_jax.data.parquet import parquet_columns, parquet_rows
from seen_jax.errors import AudioError, ConfigError
from seen_jax.models.folders import cache_folder

__all__ = ["KINDS", "DatasetConfig", "Entry", "load_dataset"]

KINDS = ("auto", "mmau", "librispeech", "manifest", "embedded")
EMBEDDED = "seen-tiny/"
FRESH = re.compile(r"seen-tiny/(train|test|validation)-(\d+)")  # so many new clips of each task of a split
FRESH_SEED = 1  # the shipped clips have 0
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")  # as `datasets` names the parquet files of a split
LOOKED_FOR = (
    "seen-tiny/demo, seen-tiny/validation or seen-tiny/calibration, or new ones as seen-tiny/test-50; "
    "MMAU: a .json list or .parquet with question and choices, or a folder that holds one; "
    "LibriSpeech: a folder with *.trans.txt below it; "
    "a manifest (.csv, .tsv, .jsonl) or a folder that holds one or audio"
)


@dataclass(frozen=True)
class DatasetConfig:
    """Which items to evaluate on.

    Args:
        path: a file or folder of the kind, or "seen-tiny/demo" (validation, calibration) for the clips that ship, or
            "seen-tiny/test-50" (validation-50, train-50) for 50 new ones of each task, made once (extra `train`).
        kind: "auto" recognises it. mmau: multiple choice, as JSON list, parquet or CSV. librispeech: the official tree
            or a CSV with `text`. manifest: anything `find_audio` takes.
        name: what tables call it; the name of the file or folder by default.
        task: only the items of this task; where the data names no task, that of all items.
        split: only this split, for instance "test-mini" or "test-clean".
        limit: at most so many items, after the choice of task and split.
        shuffle_seed: shuffle before skip and limit; None keeps the order of the data.
        skip: leave out so many items first, so that one data set can serve calibration and test.
    """

    path: str
    kind: str = "auto"
    name: str | None = None
    task: str | None = None
    split: str | None = None
    limit: int | None = None
    shuffle_seed: int | None = None
    skip: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"there is no kind of data set {self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"the limit of a data set must be 1 or more, not {self.limit}")
        if self.shuffle_seed is not None and self.shuffle_seed < 0:
            raise ConfigError(f"the shuffle seed of a data set must not be negative, not {self.shuffle_seed}")
        if self.skip < 0:
            raise ConfigError(f"a data set cannot skip {self.skip} items")


@dataclass(frozen=True)
class _Row:
    """A row of any kind: what a manifest has, its split if known, its row in a parquet file with the audio inside."""

    item: AudioItem
    split: str = ""
    parquet_row: int | None = None


def load_dataset(config: DatasetConfig) -> list[Entry]:
    """The entries of a data set, in its order unless shuffled. No audio is read.

    Raises:
        AudioError: data that cannot be recognised or read, rows without a file, answers that are none of the choices,
            two entries of one id.
        ConfigError: a task or split that nothing has, a kind that the path is not, a missing pyarrow.
    """
    kind, rows = _rows(config)
    if not rows:
        raise AudioError(f"{config.path} has no items.")
    if config.split is not None:
        splits = sorted({row.split for row in rows})
        rows = [row for row in rows if _same(config.split, row.split)]
        if not rows:
            raise ConfigError(f"{config.path} has no split {config.split!r}; it has {_listed(splits)}.")
    name = config.name or _name(config.path)
    entries = [entry_of(row.item, name, config.task, row.parquet_row) for row in rows]
    if config.task is not None:
        tasks = sorted({entry.task for entry in entries})
        entries = [entry for entry in entries if entry.task == config.task]
        if not entries:
            raise ConfigError(f"{config.path} has no items of task {config.task!r}; it has {_listed(tasks)}.")
    _check(entries, kind, config.path)
    if config.shuffle_seed is not None:
        order = np.random.default_rng(config.shuffle_seed).permutation(len(entries))
        entries = [entries[i] for i in order]
    if config.skip >= len(entries):
        raise ConfigError(f"{config.path} has {len(entries)} items: skipping {config.skip} leaves none.")
    return entries[config.skip :][: config.limit]


def _same(wanted: str, split: str) -> bool:
    return wanted.replace("_", "-").lower() == split.replace("_", "-").lower()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name or "(none)" for name in names[:10]) + (", ..." if len(names) > 10 else "")


def _name(path: str) -> str:
    return path if path.startswith(EMBEDDED) else Path(path).expanduser().resolve().stem


def _check(entries: Sequence[Entry], kind: str, path: str) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            raise AudioError(f"{path}: two items have the id {entry.id!r}.")
        seen.add(entry.id)
        if kind == "mmau" and not (entry.question and entry.choices):
            raise AudioError(f"{path}: item {entry.id} has no question or no choices, so this is no MMAU.")
        if kind == "librispeech" and not entry.answer:
            raise AudioError(f"{path}: item {entry.id} has no transcript in the column `text`.")


def _rows(config: DatasetConfig) -> tuple[str, list[_Row]]:
    """The kind and all rows of a path."""
    if config.kind in ("auto", "embedded") and (match := FRESH.fullmatch(config.path)):
        items = find_audio([fresh_clips(match[1], int(match[2])) / "manifest.jsonl"])
        return "embedded", [_Row(item, item.extra["split"]) for item in items]
    if config.kind == "embedded" or (config.kind == "auto" and config.path.startswith(EMBEDDED)):
        subset = config.path.removeprefix(EMBEDDED)
        if subset not in SUBSETS or subset == config.path:
            raise ConfigError(f"there are no clips {config.path!r}: choose {_listed([EMBEDDED + s for s in SUBSETS])}.")
        return "embedded", [_Row(item, item.extra["split"]) for item in clip_rows(subset)]
    path = Path(config.path).expanduser()
    if not path.exists():
        raise AudioError(f"There is no data set {path}. Looked for {LOOKED_FOR}.")
    readers: dict[str, Callable[[Path], list[_Row] | None]] = {
        "mmau": _mmau,
        "librispeech": _librispeech,
        "manifest": _manifest,
    }
    for kind in readers if config.kind == "auto" else [config.kind]:
        rows = readers[kind](path)
        if rows is not None:
            return kind, rows
    as_kind = "" if config.kind == "auto" else f" of kind {config.kind}"
    raise AudioError(f"{path} is no data set{as_kind} that can be recognised. Looked for {LOOKED_FOR}.")


def fresh_clips(split: str, per_task: int) -> Path:
    """The folder of new clips of seen-tiny's recipe, synthesised on first use: the same ones everywhere.

    Raises ConfigError where espeak-ng is missing, and where the cache cannot be written.
    """
    from seen_jax.train.clips import Subset, make_clips

    if per_task < 1:
        raise ConfigError(f"seen-tiny/{split}-{per_task}: ask for one clip of each task or more")
    folder = cache_folder() / "clips" / f"{split}-{per_task}"
    if folder.is_dir():
        return folder
    fresh = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    print(f"synthesising {per_task} clips of each task of seen-tiny's {split} split, once", file=sys.stderr)
    try:
        make_clips(fresh, FRESH_SEED, {split: Subset(split, per_task)}, most_bytes=None)
        fresh.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # another process may have been faster
            raise ConfigError(f"cannot write {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _mmau(path: Path) -> list[_Row] | None:
    """JSON lists, parquet files and manifests of multiple choice; None if the path has none."""
    if path.is_dir():
        tables = sorted(p for p in (*path.glob("*.json"), *path.glob("*.parquet"), *path.glob("*/*.parquet")))
        found = [rows for table in tables if (rows := _mmau(table)) is not None]
        if found:
            return [row for rows in found for row in rows]
        manifest = _inside(path)
        return None if manifest is None else _mmau(manifest)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        columns = parquet_columns(path)
        return _parquet(path) if {"question", "choices"} <= set(columns) else None
    if suffix == ".json":
        return _json(path)
    if suffix in MANIFEST_SUFFIXES:
        items = find_audio([path])
        asked = all("question" in item.extra and "choices" in item.extra for item in items)
        return [_Row(item, item.extra.get("split", "")) for item in items] if asked else None
    return None


def _json(path: Path) -> list[_Row] | None:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AudioError(f"Cannot read {path} as JSON: {error}.") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return None
    if not all({"question", "choices"} <= row.keys() for row in rows):
        return None
    return [_Row(item, item.extra.get("split", "")) for item in _located(path, rows)]


def _parquet(path: Path) -> list[_Row]:
    inside, rows = parquet_rows(path)
    shard = SHARD.fullmatch(path.stem)
    split = shard[1] if shard else ""
    if not inside:
        return [_Row(item, item.extra.get("split", split)) for item in _located(path, rows)]
    found = []
    for number, row in enumerate(rows):
        named = row.get("id") or Path(row.get("audio_id") or row["audio"] or f"{path.stem}/{number}").stem
        item = _item(row, str(named), path)
        found.append(_Row(item, item.extra.get("split", split), number))
    return found


def _item(row: dict[str, Any], name: str, path: Path) -> AudioItem:
    texts = {key.strip().lower(): as_text(value) for key, value in row.items()}
    text = texts.get("text") or None
    return AudioItem(name, path, text, {k: v for k, v in texts.items() if v and k not in ("id", "text", "audio")})


def _located(path: Path, rows: Iterable[dict[str, Any]]) -> Iterator[AudioItem]:
    """Rows whose audio is in files: relative to the table's folder or the one above, or beside the table."""
    missing, count = [], 0
    for count, row in enumerate(rows, start=1):
        value = next((as_text(row[key]) for key in AUDIO_COLUMNS if row.get(key)), "")
        places = ((path.parent, value), (path.parent.parent, value), (path.parent, Path(value).name))
        file = next((found for place in places if (found := resolve_audio(*place))), None)
        if file is None:
            missing.append(f"row {count}: {value or '(empty)'}")
        else:
            yield _item(row, as_text(row.get("id")) or file.stem, file)
    if missing:
        shown = "; ".join(missing[:5]) + ("; ..." if len(missing) > 5 else "")
        raise AudioError(f"{path}: no file for {len(missing)} of {count} rows, looked up in its folder: {shown}.")


def _librispeech(path: Path) -> list[_Row] | None:
    """SPEAKER/CHAPTER/*.trans.txt below a folder, each line an id and a transcript; or a manifest with `text`."""
    if path.is_dir() and (tables := sorted(path.rglob("*.trans.txt"))):
        return [row for table in tables for row in _chapter(table)]
    manifest = _inside(path) if path.is_dir() else path
    if manifest is None or manifest.suffix.lower() not in MANIFEST_SUFFIXES:
        return None
    items = find_audio([manifest])
    spoken = all(item.text and item.prompt is None and not item.choices for item in items)
    return [_Row(item, item.extra.get("split", "")) for item in items] if spoken else None


def _chapter(table: Path) -> Iterator[_Row]:
    split = table.absolute().parents[2].name
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AudioError(f"Cannot read {table} as UTF-8 text: {error}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, text = line.strip().partition(" ")
        file = resolve_audio(table.parent, name)
        if file is None or not text:
            what = f"no audio file {name}" if file is None else "no transcript"
            raise AudioError(f"{table} line {number}: {what}. Is the data set complete?")
        yield _Row(AudioItem(name, file, text.strip()), split)


def _manifest(path: Path) -> list[_Row] | None:
    manifest = _inside(path) if path.is_dir() else None
    if manifest is None and path.is_file() and path.suffix.lower() in (".json", ".parquet", ".txt"):
        return None
    return [_Row(item, item.extra.get("split", "")) for item in find_audio([manifest or path])]


def _inside(folder: Path) -> Path | None:
    """The manifest in a folder. Unlike `find_audio`, its rows must all have their files."""
    return next((p for name in ("metadata.csv", "metadata.jsonl") if (p := folder / name).is_file()), None)
