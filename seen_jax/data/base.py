"""What a kind of data set is: how to recognise it, read its rows and check them. The plainest one is `Manifest`."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seen_jax.audio.find import MANIFEST_SUFFIXES, AudioItem, find_audio
from seen_jax.data.items import Entry

OTHERS = (".json", ".parquet", ".txt")  # files that are no manifest


@dataclass(frozen=True)
class Row:
    """One item of a data set, as its table has it.
    item: the audio file, its transcript, and the table's other columns, which `entry_of` interprets. split: used where
    the columns name none. parquet_row, audio_column: where the audio is inside a parquet file; None: "audio" or the
    only one that can hold it."""

    item: AudioItem
    split: str = ""
    parquet_row: int | None = None
    audio_column: str | None = None


class Dataset:
    """A kind of data set. Subclass it and make one instance, in a module of this package or in another package's entry
    point of the group "seen_jax.datasets".
    name: what `DatasetConfig.kind` calls it. looks_for: one line for messages that says what a path of this kind is.
    order: where the kind is not given, those of lower order are tried first."""

    name: str
    looks_for: str
    order: int = 50

    def rows(self, path: str) -> list[Row] | None:
        """All items of a path, in order, or None if the path is not of this kind. Reads no audio. Raises AudioError or
        ConfigError for a path of this kind that cannot be read."""
        raise NotImplementedError

    def check(self, entries: Sequence[Entry], path: str) -> None:
        """Raise AudioError for entries that this kind cannot have."""

    def label(self, path: str) -> str:
        """What tables call the data set unless the configuration names it."""
        return Path(os.path.expanduser(path)).resolve().stem


def manifest_items(path: Path) -> list[AudioItem]:
    """The items of a manifest, or of the metadata.csv or metadata.jsonl in a folder; none if there is no such file.
    Unlike `find_audio` on a folder, every row must have its file."""
    places = (path / "metadata.csv", path / "metadata.jsonl") if path.is_dir() else (path,)
    manifest = next((p for p in places if p.suffix.lower() in MANIFEST_SUFFIXES and p.is_file()), None)
    return find_audio([manifest]) if manifest else []


def rows_inside(path: Path, rows: Iterable[dict[str, str]], split: str, audio_column: str | None = None) -> list[Row]:
    """The items of a parquet file that holds their audio. rows: its other columns, as texts."""
    made = []
    for number, row in enumerate(rows):
        file = row.get("audio_id") or row["audio"]
        name = row.get("id") or (Path(file).stem if file else f"{path.stem}-{number}")
        extra = {key: value for key, value in row.items() if value and key not in ("id", "text", "audio")}
        made.append(Row(AudioItem(name, path, row.get("text") or None, extra), split, number, audio_column))
    return made


class Manifest(Dataset):
    """Any file or folder that `find_audio` takes."""

    name = "manifest"
    looks_for = "a manifest (.csv, .tsv, .jsonl) or a folder that holds one or audio"
    order = 100

    def rows(self, path: str) -> list[Row] | None:
        if not os.path.exists(path) or (os.path.isfile(path) and path.lower().endswith(OTHERS)):
            return None
        return [Row(item) for item in manifest_items(Path(path)) or find_audio([path])]


KIND = Manifest()
